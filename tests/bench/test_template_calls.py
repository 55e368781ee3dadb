"""Real articles keep the words that their templates print."""

import gzip
import json
from pathlib import Path

import pytest

from bench.template_calls import measure
from tests.helpers import ROOT

ARTICLES = ROOT.parent / "shared" / "data" / "wikitext" / "jawiki-country-2015.json.gz"


def test_calls_in_running_text_are_counted_by_what_becomes_of_them(tmp_path: Path) -> None:
    text = "{{Infobox|名={{JPN}}}}\n塔は{{JPN}}の{{foo}}で{{sfn|a}}{{small|{{fr|Tour}}}}。橋は「」。\n* {{foo}}\n"
    with gzip.open(tmp_path / "a.json.gz", "wt", encoding="utf-8") as f:
        f.write(json.dumps({"title": "塔", "text": text}) + "\n")
    found = measure(tmp_path / "a.json.gz")
    assert (found.pages, found.sentences, found.losses.sentences) == (1, 1, 1)
    assert (found.kind("words"), found.kind("silent"), found.kind("unknown")) == (3, 1, 1)
    assert found.losses.templates == {"foo": 1} and found.share == 0.75
    assert found.signs == {"empty brackets or quotes": ["橋は「」。"]}


@pytest.mark.skipif(not ARTICLES.is_file(), reason="needs ../shared/data/wikitext, which the project does not ship")
def test_of_206_real_articles_nearly_all_words_of_templates_are_kept_and_no_new_hole_is_left() -> None:
    found = measure(ARTICLES)
    assert found.pages == 206 and found.sentences > 50_500
    assert found.share > 0.995 and found.losses.sentences < 50
    # Their authors wrote these themselves: a list in mid-sentence, a slip, "()内は首都".
    assert sum(map(len, found.signs.values())) <= 30
