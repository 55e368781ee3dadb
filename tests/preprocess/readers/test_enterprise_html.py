"""The HTML dumps of Wikimedia Enterprise: articles are documents, each once, and all other pages are counted by reason."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jadeberta.shards import InputError
from preprocess import compressed, readers
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.executors.executor import Executor
from preprocess.readers import enterprise_html, input_split
from preprocess.readers.bad_records import BadRecords
from preprocess.stages.extract import extract
from preprocess.workdir import list_parts, read_documents
from tests.preprocess.archive_files import ARCHIVES
from tests.preprocess.source_files import article, jsonl


def read(path: Path, bad: BadRecords | None = None) -> tuple[dict[str, str], Counter[str]]:
    dropped: Counter[str] = Counter()
    config = CorpusConfig("enterprise_html", str(path))
    found = [d for split in readers.splits("wiki", config) for d in readers.documents(split, dropped, bad)]
    return {document["id"]: document["text"] for document in found}, dropped


ROWS = [
    article(
        1,
        '<p><b>東京</b>は<a href="./日本">日本</a>の首都<sup class="mw-ref reference">[1]</sup>である。</p><h2>脚注</h2><p>x</p>',
    ),
    article(2, "<p>利用者。</p>", 2),
    article(3, "<p>曖昧。</p>", templates=[{"name": "Template:Aimai", "url": "x"}]),
    article(4, '<meta property="mw:PageProp/disambiguation"><p>曖昧。</p>'),
    article(5, '<link rel="mw:PageProp/redirect" href="./東京">'),
    article(6, "<table><tr><td>箱</td></tr></table>"),
    article(7, "<p>最初の版。</p>", templates=[{"name": "Template:曖昧さ回避ではない"}]),
    article(7, "<p>次の版。</p>"),
    article(8, "".join(f"<b id={n}><p>" for n in range(4000))),
    article(9, "<p>半分の\ud83d文字。</p>"),
]
TEXTS = {"wiki-1": "東京は日本の首都である。", "wiki-7": "最初の版。", "wiki-9": "半分の文字。"}
DROPPED = {"namespace": 1, "disambiguation": 2, "redirect": 1, "empty": 1, "duplicate": 1, "unparsable": 1}


def written(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_articles_are_documents_and_other_pages_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(written(ROWS))
    assert read(tmp_path / "a.ndjson") == (TEXTS, DROPPED)
    # As they are published: members of one archive, in any of which a page may stand again.
    path = tmp_path / "jawiki-NS0-20240101-ENTERPRISE-HTML.json.tar.gz"
    members = [("jawiki_0.ndjson", written(ROWS[:7])), ("jawiki_1.ndjson", written(ROWS[7:]))]
    path.write_bytes(ARCHIVES[".tar.gz"](members))
    assert read(path) == (TEXTS, DROPPED)


@pytest.mark.parametrize(
    "row, said",
    [
        ({"text": "本文。"}, 'no "identifier" that is a number'),
        (article(1, "", identifier=True), 'no "identifier" that is a number'),
        (article(1, "", identifier="1"), 'no "identifier" that is a number'),
        (article(1, "", article_body=None), 'no string under "html"'),
        (article(1, "", article_body={"html": 5}), 'no string under "html"'),
        ([1], "a JSON list"),
    ],
)
def test_a_line_that_is_no_article_is_refused_or_excluded(tmp_path: Path, row: Any, said: str) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(written([ROWS[0], row, article(2, "<p>文。</p>")]))
    with pytest.raises(InputError, match=rf"^{path}: line 2: {said}"):
        read(path)
    found, dropped = read(path, BadRecords("exclude"))
    assert list(found) == ["wiki-1", "wiki-2"] and sum(dropped.values()) == 1


def test_a_version_without_a_text_does_not_stand_for_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(written([article(1, "", article_body={}), article(1, "<p>文。</p>")]))
    assert read(tmp_path / "a.ndjson", BadRecords("exclude"))[0] == {"wiki-1": "文。"}


@pytest.mark.parametrize(
    "others", [{"namespace": None}, {"namespace": 0}, {"name": 5}, {"templates": "x"}, {"templates": [None, {"name": 5}]}]
)
def test_fields_of_other_types_do_no_harm(tmp_path: Path, others: dict[str, Any]) -> None:
    (tmp_path / "a.ndjson").write_bytes(written([article(1, "<p>文。</p>", **others)]))
    assert read(tmp_path / "a.ndjson")[0] == {"wiki-1": "文。"}


def test_a_very_long_page_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enterprise_html, "MAX_PAGE_CHARACTERS", 1000)
    (tmp_path / "a.ndjson").write_bytes(written([article(1, "<p>文。</p>" * 200), article(2, "<p>文。</p>")]))
    assert read(tmp_path / "a.ndjson") == ({"wiki-2": "文。"}, {"too large": 1})


@pytest.mark.parametrize("name", ["a.ndjson.gz", "a.ndjson", "a.json.tar.gz"])
def test_a_large_dump_gives_each_page_once_whatever_the_size_of_its_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rng = random.Random(5)
    pages = [rng.randrange(70) for _ in range(120)]
    rows = [article(n, f"<p>{at}番{rng.randbytes(rng.randrange(200)).hex()}。</p>", n % 9 // 8) for at, n in enumerate(pages)]
    path = tmp_path / name
    if name.endswith(".tar.gz"):
        path.write_bytes(ARCHIVES[".tar.gz"]([(f"jawiki_{n}.ndjson", jsonl(rows[n * 30 : n * 30 + 30])) for n in range(4)]))
    else:
        path.write_bytes(gzip.compress(jsonl(rows)) if name.endswith(".gz") else jsonl(rows))
    whole, dropped = read(path)
    assert set(whole) == {f"wiki-{n}" for n in pages if n % 9 < 8}
    assert dropped["duplicate"] == len(pages) - len(set(pages))
    for span in (3000, 9000):
        monkeypatch.setattr(input_split, "SPLIT_BYTES", span)
        monkeypatch.setattr(compressed, "CHUNK_BYTES", 1000)
        config = PreprocessConfig({"wiki": CorpusConfig("enterprise_html", str(path))}, heldout_documents=5)
        out = tmp_path / f"out{span}"
        report = extract(config, out, Executor())["wiki"]
        assert {d["id"]: d["text"] for part in list_parts(out, "wiki") for d in read_documents(part)} == whole
        assert report["dropped"] == dict(sorted(dropped.items()))
