"""Optional filters: drops documents that one of HojiChar's quality filters rejects, counted under the filter's name.

Off in the faithful recipe. Each document is judged alone, so the result does not depend on other documents, ranks or restarts.
"""

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jadeberta.shards import ConfigError
from preprocess.readers.input_split import Document

KEY = "preprocess.quality"
INSTALL = "Install it with: pip install 'jadeberta[quality]'."
_RANDOM = ("p", "random_state")


def describe(filters: dict[str, dict[str, Any] | None]) -> dict[str, Any] | None:
    """Returns the library's version and the filters with their options, on which the documents depend; None: no filters.

    Raises:
        ConfigError: HojiChar is not installed.
    """
    if not filters:
        return None
    try:
        return {"hojichar": version("hojichar"), "filters": [[name, options or {}] for name, options in filters.items()]}
    except PackageNotFoundError:
        raise ConfigError(f"{KEY} names {next(iter(filters))}, a filter of HojiChar, which is not installed. {INSTALL}") from None


def keep(documents: Iterator[Document], filters: dict[str, dict[str, Any] | None], dropped: Counter[str]) -> Iterator[Document]:
    """Yields the documents that no filter rejects.

    Args:
        documents: the documents to judge.
        filters: names and options of the filters.
        dropped: counts the rejected documents by the first filter that rejects them.

    Raises:
        ConfigError: a filter is unknown, cannot be made with its options, or changes a text.
    """
    if not filters:
        yield from documents
        return
    from hojichar import Document as Judged

    # Opened once for a split: some filters load word lists.
    opened = [_open(name, options or {}) for name, options in filters.items()]
    for document in documents:
        judged = Judged(document["text"])
        for filter in opened:
            judged = filter.apply(judged)
            if judged.is_rejected:
                dropped[f"quality: {filter.name}"] += 1
                break
            # The text must stay what the reader made of it: the normaliser alone changes texts.
            if judged.text != document["text"]:
                raise ConfigError(f"{KEY} names {filter.name}, which changes texts. Name filters that only drop documents.")
        else:
            yield document


def _open(name: str, options: dict[str, Any]) -> Any:
    from hojichar import Filter
    from hojichar.filters import document_filters

    known = {
        found.__name__: found
        for found in vars(document_filters).values()
        if isinstance(found, type) and issubclass(found, Filter)
    }
    if name not in known:
        likely = ", ".join(sorted(n for n in known if n.startswith(("Accept", "Discard")) or n.endswith("RatioFilter")))
        raise ConfigError(f"{KEY} names {name}, which HojiChar does not have; it has {likely}, and others.")
    # A filter that draws numbers would drop other documents after a restart.
    if drawn := [option for option in _RANDOM if option in options]:
        raise ConfigError(f"{KEY}.{name}.{drawn[0]}: no filter may depend on chance here. Take the option out.")
    try:
        return known[name](**options)
    except Exception as e:
        raise ConfigError(f"{KEY}.{name} cannot be used ({e}). Correct its options or take it out.") from e
