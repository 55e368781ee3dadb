"""Wikipedia dumps with a bad page, of old schemas, and with sentences whose words are not known: what is read, excluded and reported."""

import bz2
from pathlib import Path

import pytest

from jadeberta.shards import InputError
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.corpus_report import print_report
from preprocess.executors.executor import Executor
from preprocess.readers.bad_records import BadRecords
from preprocess.stages.extract import extract
from preprocess.workdir import read_markers
from tests.preprocess.source_files import FOOTER, HEADER, dump, page, read, said_about, write_multistream

OLD = HEADER.format("0.3").replace("  <siteinfo><dbname>jawiki</dbname></siteinfo>\n", "")


def old_page(number: int, title: str, text: str) -> str:
    """A page of the export schemas before 0.6: no <ns>, and no <redirect>."""
    return f"  <page><title>{title}</title><id>{number}</id><revision><id>9</id><text>{text}</text></revision></page>\n"


def test_a_dump_of_a_schema_without_namespaces_is_read_by_its_titles(tmp_path: Path) -> None:
    titles = [
        "塔",
        "Re:塔",
        "ノート:塔",
        "利用者‐会話:山田",
        "Template:塔",
        "画像:塔.jpg",
        "Category:塔",
        "プロジェクト:塔",
        "橋",
    ]
    pages = [old_page(number, title, f"'''{title}'''は高い。") for number, title in enumerate(titles, 1)]
    pages.append(old_page(20, "タワー", "#REDIRECT [[塔]]"))
    path = tmp_path / "jawiki-20060801-pages-articles.xml.bz2"
    path.write_bytes(bz2.compress((OLD + "".join(pages) + FOOTER).encode()))
    documents, dropped = read("w", "wikipedia", path)
    assert [d["title"] for d in documents] == ["塔", "Re:塔", "橋"] and documents[0]["text"] == "塔は高い。"
    assert dropped == {"namespace": 6, "redirect": 1}


@pytest.mark.parametrize(
    "bad, kind, reason",
    [
        (page(2, "二\x0c").replace("二", "二&#12;"), "not XML", "not valid XML (reference to invalid character number"),
        (page(2, "二\x0c"), "not XML", "not valid XML (not well-formed (invalid token)"),
        (page(2, "二").replace("二", "二&nbsp;"), "not XML", "not valid XML (undefined entity"),
        (page(2, "二").replace("</revision>", ""), "not XML", "not valid XML (mismatched tag"),
        (page(2, "二").replace("</page>", ""), "not XML", "</page> is missing before the next page begins"),
        (page(2, "二").replace("<page>", ""), "not XML", "</page> without <page>"),
        (page(2, "二").replace("<id>2</id>", ""), "no id", "a page without <title> or <id>"),
    ],
    ids=["character number", "control character", "entity of HTML", "tags", "no end", "no beginning", "no id"],
)
def test_after_a_bad_page_reading_goes_on_at_the_next_one(tmp_path: Path, bad: str, kind: str, reason: str) -> None:
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(1, "一。"), bad, page(3, "三。"), page(4, "四。")]))
    assert f"{path}: page 2 after byte 0: {reason}" in said_about("w", "wikipedia", path)
    records = BadRecords("exclude")
    documents, dropped = read("w", "wikipedia", path, records)
    assert [d["id"] for d in documents] == ["w-1", "w-3", "w-4"]
    assert dropped == {f"bad input: {kind}": 1} and records.count == 1 and records.records[0]["place"] == "page 2 after byte 0"


def test_pages_that_are_no_utf8_are_excluded_alone(tmp_path: Path) -> None:
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(1, "一。"), page(2, "X。"), page(3, "三。")]).replace("X。".encode(), b"\xe3\x81X"))
    assert [d["id"] for d in read("w", "wikipedia", path, BadRecords("exclude"))[0]] == ["w-1", "w-3"]


def test_a_bad_page_in_a_stream_of_a_multistream_dump_costs_that_page_alone(tmp_path: Path) -> None:
    path = write_multistream(tmp_path, 40, index=False)
    data = bz2.decompress(path.read_bytes()).replace("本文20。".encode(), b"\x01")
    path.write_bytes(b"".join(bz2.compress(part) for part in data.partition(b"  <page>\n    <title>\xe9\xa1\x8c40")))
    documents, dropped = read("w", "wikipedia", path, BadRecords("exclude"))
    assert len(documents) == 79 and dropped == {"bad input: not XML": 1}


def test_sentences_left_out_are_in_the_report_by_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jawiki.xml").write_bytes(
        dump([page(1, "塔は{{foo}}である。高い。"), page(2, "橋（{{qux}}）は{{foo}}。\n長い。{{sfn|a}}"), page(3, "道。")])
    )
    corpora = {"wikipedia": CorpusConfig(format="wikipedia", path=str(tmp_path / "jawiki.xml"))}
    summary = extract(PreprocessConfig(corpora=corpora, heldout_documents=1), tmp_path / "out", Executor())["wikipedia"]
    assert summary["incomplete"] == {
        "sentences": 2,
        "brackets": 1,
        "templates": {"foo": 2, "qux": 1},
        "dropped": {"foo": 2, "qux": 1, "sfn": 1},
    }
    assert (
        summary["documents"] == 3
        and summary["files"] == {"jawiki.xml": {"documents": 3, "in_file": 3}}
        and not summary["dropped"]
    )
    assert next(iter(read_markers(tmp_path / "out", "wikipedia")))["incomplete"] == summary["incomplete"]
    print_report({"extract": {"seconds": 1.0, "ranks": 1, "result": {"wikipedia": summary}}})
    assert (
        "wikipedia: 2 sentences are left out as a template's words are missing in them: foo 2, qux 1\n" in capsys.readouterr().out
    )


def test_a_page_knows_its_title(tmp_path: Path) -> None:
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(7, "'''{{PAGENAME}}'''は塔である。")]))
    assert read("w", "wikipedia", path)[0][0]["text"] == "題7は塔である。"


def test_an_error_of_another_file_stays_an_error(tmp_path: Path) -> None:
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(1, "一。")])[:-40])
    with pytest.raises(InputError, match="the file is cut short in mid-page"):
        read("w", "wikipedia", path, BadRecords("exclude"))
