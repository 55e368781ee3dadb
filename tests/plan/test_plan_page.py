"""The page of a plan: every figure is on it, hostile texts stay texts, and a browser shows it without an error or a request."""

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jadeberta.plan.cli import main
from tests.helpers import ROOT
from tests.report.browser import CHROMIUM, browser

LARGE = ROOT / "recipes" / "large.yaml"
HOSTILE = "<script>alert(1)<\u2215script>.yaml"


class Balance(HTMLParser):
    """Elements that are open, and texts."""

    VOID = frozenset({"meta", "link", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Of a recipe with a hostile name, on several world sizes."""
    folder = tmp_path_factory.mktemp("page")
    recipe = folder / HOSTILE
    recipe.write_text(LARGE.read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["--config", str(recipe), "--nodes", "1,2,5", "--html", str(folder / "plan.html")]) == 0
    return folder / "plan.html"


def test_every_figure_is_on_the_page_with_formula_and_source(page: Path, capsys) -> None:
    text = page.read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(text)
    assert parser.open == [] and any(HOSTILE in found for found in parser.texts) and "<script>alert" not in text
    data = json.loads(re.search(r'id="figures">(.*?)</script>', text)[1])  # type: ignore[index]
    assert data["format"] == "jadeberta-plan" and len(data["figures"]) > 30
    for figure in data["figures"].values():
        assert all(escape(figure[part], quote=True) in text for part in ("label", "text", "formula", "source"))
    assert main(["--config", str(LARGE), "--nodes", "1,2,5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == data["figures"]


def test_the_page_loads_nothing_and_says_first_whether_it_fits(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "http://" not in text and re.findall(r'https?://[^"<\s]+', text) == [] and "default-src 'none'" in text
    assert "class='verdict ok'" in text and "the batch does not divide" in text
    small, unknown = tmp_path / "small.html", tmp_path / "unknown.html"
    assert main(["--config", str(LARGE), "--gpu-memory-gb", "8", "--html", str(small)]) == 0
    assert "class='verdict needs-you'" in small.read_text() and "does NOT fit" in small.read_text()
    other = ("--device", "MI300X", "--tokens-per-second-per-gpu", "50000")
    assert main(["--config", str(LARGE), *other, "--html", str(unknown)]) == 0
    text = unknown.read_text()
    assert "class='verdict attention'" in text and "not known: give --gpu-watts" in text


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_a_browser_shows_the_page_at_both_widths_and_changes_its_theme(page: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as chromium:
        for width in (1280, 390):
            chromium.open(page, width)
            assert chromium.ask("document.documentElement.scrollWidth") <= width
        colour = "getComputedStyle(document.body).backgroundColor"
        for _ in range(2):
            chromium.ask("document.querySelector('#theme').click()")
        assert chromium.ask(colour) == "rgb(20, 23, 26)"
        assert chromium.ask("document.querySelectorAll('svg rect').length") >= 9
        assert chromium.messages == [] and set(chromium.requests) - {"data:,"} == {page.as_uri()}
