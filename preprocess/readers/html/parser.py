"""The parser of HTML: resiliparse, of the extra `web`, which not every installation has."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jadeberta.shards import ConfigError


def library(corpus: str, format: str) -> str:
    """Returns the parser with its version, on which the documents depend.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return f"resiliparse {version('resiliparse')}"
    except PackageNotFoundError:
        problem = f"preprocess.corpora.{corpus}.format: {format} needs resiliparse, which is not installed"
        raise ConfigError(f"{problem}. Install it with: pip install 'jadeberta[web]'.") from None


def parse(page: str) -> Any:
    """Returns the tree of a page, as a browser makes it."""
    from resiliparse.parse.html import HTMLTree

    return HTMLTree.parse(page)
