"""The pictures of the pages are small, each is shown by a page, and their script still makes them."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.pages.page_commands import PAGES
from tests.report.browser import CHROMIUM

FOLDER = ROOT / "docs/pictures"


def test_pictures_are_few_and_small_and_each_is_shown_with_words_for_those_who_cannot_see_it() -> None:
    shown = {
        (page.parent / place).resolve(): words
        for page in PAGES
        for words, place in re.findall(r"!\[(.*?)\]\((\S+?)\)", page.read_text(encoding="utf-8"))
    }
    pictures = set(FOLDER.glob("*.png"))
    assert shown.keys() == pictures and len(pictures) == 4 and min(map(len, shown.values())) > 20
    assert {p.name: p.stat().st_size for p in pictures if p.stat().st_size > 150_000} == {}


@pytest.mark.long  # needs chromium
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_the_script_makes_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("make_pictures", FOLDER / "make_pictures.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "HERE", tmp_path)
    script.main()
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in FOLDER.glob("*.png")}
    assert all(5_000 < p.stat().st_size < script.LARGEST for p in tmp_path.iterdir())
