"""The site of the pages: its navigation has every page, it is built without a warning, and it loads nothing from other hosts."""

import html.parser
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.helpers import ROOT
from tests.test_repository import _locked

MKDOCS = next(
    (
        command
        for command, there in (
            ([os.environ.get("MKDOCS", "")], bool(os.environ.get("MKDOCS"))),
            ([str(ROOT / "build/docs/bin/mkdocs")], (ROOT / "build/docs/bin/mkdocs").exists()),
            ([sys.executable, "-m", "mkdocs"], importlib.util.find_spec("material") is not None),
        )
        if there
    ),
    None,
)


def settings() -> dict:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return yaml.safe_load(re.sub(r"!!python/object/apply:\S+", "", text))


def test_the_navigation_has_every_page_once_and_the_overview_first() -> None:
    places = [place for section in settings()["nav"] for pages in section.values() for page in pages for place in page.values()]
    outside = ["index.md", "contributing.md", "security.md"]
    assert places[0] == "index.md" and sorted(places) == sorted([p.name for p in (ROOT / "docs").glob("*.md")] + outside)


def test_git_ignores_the_site_and_its_tools() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert settings()["site_dir"].startswith("build/") and "build/" in ignored


def test_the_lock_of_the_site_has_its_extra_with_hashes() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]["docs"]
    locked = _locked("docs.lock")
    for line in extra:
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[requirement.name]) and "<" in str(requirement.specifier)


class Loads(html.parser.HTMLParser):
    """What a browser loads for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object"):
            self.found += [given.get("src") or given.get("data") or ""]
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.found += [given.get("href") or ""]


@pytest.mark.long  # `make docs` builds the site in CI; this looks at what it has built
@pytest.mark.skipif(MKDOCS is None, reason="mkdocs-material is not installed: 'make docs' installs it")
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    assert MKDOCS is not None
    built = subprocess.run(
        [*MKDOCS, "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    pages = sorted((tmp_path / "site").glob("*.html"))
    assert {"index.html", "pre-train.html", "contributing.html"} <= {page.name for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loads = Loads()
        loads.feed(text)
        assert [place for place in loads.found if re.match(r"(https?:)?//", place)] == [], page.name
        assert text.index("Content-Security-Policy") < text.index("<link"), page.name
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text(encoding="utf-8")), style.name
    # A file that a page links to is beside it; a list in a list item, and a block in one, are what they are in the repository.
    assert (tmp_path / "site/source/recipes/large.yaml.txt").read_bytes() == (ROOT / "recipes/large.yaml").read_bytes()
    extend = (tmp_path / "site/extend.html").read_text(encoding="utf-8")
    assert "```" not in extend and extend.count("<ol") >= 3
