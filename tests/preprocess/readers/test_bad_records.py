"""A line or page that cannot be read ends the stage, or is excluded, counted and named in the report, within a limit."""

import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jadeberta.shards import ConfigError, InputError
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.corpus_report import write_report
from preprocess.executors.executor import Executor
from preprocess.readers import bad_records
from preprocess.readers.bad_records import BadRecords
from preprocess.stages.extract import extract
from preprocess.workdir import list_parts, read_documents
from tests.preprocess.source_files import dump, ids, jsonl, oscar_row, page, read

GOOD = [oscar_row("甲。", "annotation", None), oscar_row("丙。", "annotation", None)]
HALF = '{"content": "文書二。", "warc_header'.encode()

# Format, name, content, ids of the documents that stay, and place, reason and kind of the one bad record.
CASES: dict[str, tuple[str, str, bytes, list[str], str, str, str]] = {
    "half a line": (
        *("oscar", "ja_meta_part_1.jsonl.gz", gzip.compress(jsonl(GOOD[:1]) + HALF + b"\n" + jsonl(GOOD[1:]))),
        *(["c-1-1", "c-1-3"], "line 2", "not JSON (Unterminated string starting at column 21)", "not JSON"),
    ),
    "no content": (
        *("oscar", "ja_meta_part_1.jsonl.gz", gzip.compress(jsonl([GOOD[0], {"metadata": {"annotation": None}}, GOOD[1]]))),
        *(["c-1-1", "c-1-3"], "line 2", 'no "content" in the object', "no text"),
    ),
    "a raw control character in the only line": (
        *("oscar", "ja_meta_part_1.jsonl.gz", gzip.compress(b'{"content":"a\tb\x01c","metadata":{"annotation":null}}\n')),
        *([], "line 1", "not JSON (Invalid control character at column 14)", "not JSON"),
    ),
    "tags of another type": (
        *("oscar", "ja_meta_part_1.jsonl", jsonl([GOOD[0], {"content": "乙。", "metadata": {"annotation": "noisy"}}, GOOD[1]])),
        *(["c-1-1", "c-1-3"], "line 2", "the tags are neither a list nor null", "wrong type"),
    ),
    "UTF-8 that is none": (
        *("cc100", "ja.txt.xz", lzma.compress("甲。\n\n".encode() + b"\xe3\x81 \xe3\x81\xbf\n\n" + "丙。\n".encode())),
        *(["c-1", "c-3"], "line 3", "byte 1 of the line is not valid UTF-8", "not UTF-8"),
    ),
    "an overlong NUL at the end": (
        *("cc100", "ja.txt.xz", lzma.compress("甲。\n\n".encode() + b"a\xc0\x80b\n")),
        *(["c-1"], "line 3", "byte 2 of the line is not valid UTF-8", "not UTF-8"),
    ),
    "text that is null": (
        *("jsonl", "w.jsonl", b'{"text": "a"}\n{"text": null}\n{"text": "c"}\n'),
        *(["c-1-1", "c-1-3"], "line 2", '"text" is null', "no text"),
    ),
    "text that is a number": (
        *("jsonl", "w.jsonl", b'{"text": "a"}\n{"text": 5}\n{"text": "c"}\n'),
        *(["c-1-1", "c-1-3"], "line 2", '"text" is not a string', "wrong type"),
    ),
    "a list in place of an object": (
        *("jsonl", "w.jsonl", b'{"text": "a"}\n["b"]\n{"text": "c"}\n'),
        *(["c-1-1", "c-1-3"], "line 2", "a JSON list where an object is expected", "not an object"),
    ),
    "an article without an end": (
        *(
            "wikiextractor",
            "wiki_00",
            b'<doc id="1" title="a">\na\n\nb\n</doc>\n<doc id="2" title="c">\nd\n<doc id="3" title="e">\nf\n</doc>',
        ),
        *(["c-1", "c-3"], "line 6", "<doc> without </doc>", "no document"),
    ),
    "an article whose first line is not UTF-8": (
        *(
            "wikiextractor",
            "wiki_00",
            b'<doc id="1" title="z">\na\n</doc>\n<doc id="2" title="\xff">\nb\n\xff\nb\n</doc>\n<doc id="3" title="e">\nf\n</doc>',
        ),
        *(["c-1", "c-3"], "line 4", "byte 20 of the line is not valid UTF-8", "not UTF-8"),
    ),
    "a control character in a page": (
        *("wikipedia", "jawiki.xml", dump([page(1, "一。"), page(2, "二\x0b。"), page(3, "三。")])),
        *(
            ["c-1", "c-3"],
            "page 2 after byte 0",
            "not valid XML (not well-formed (invalid token): line 5, column 33), title 題2",
            "not XML",
        ),
    ),
    "an entity that XML does not know": (
        *("wikipedia", "jawiki.xml", dump([page(1, "一。"), page(2, "二").replace("二", "&nbsp;"), page(3, "三。")])),
        *(["c-1", "c-3"], "page 2 after byte 0", "not valid XML (undefined entity: line 5, column 32), title 題2", "not XML"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_record_stops_by_default_or_is_excluded_by_place_and_reason(tmp_path: Path, case: str) -> None:
    format, name, content, kept, place, reason, kind = CASES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read("c", format, tmp_path / name)
    assert f"{name}: {place}: {reason};" in str(error.value) and "preprocess.bad_input: exclude" in str(error.value)
    bad = BadRecords("exclude")
    documents, dropped = read("c", format, tmp_path / name, bad)
    assert [document["id"] for document in documents] == kept
    assert bad.records == [{"file": name, "place": place, "reason": reason}]
    assert dropped == {f"bad input: {kind}": 1}


def test_a_document_of_which_a_line_is_excluded_keeps_its_other_lines(tmp_path: Path) -> None:
    (tmp_path / "ja.txt.xz").write_bytes(lzma.compress("甲。\n".encode() + b"\xff\n" + "乙。\n\n丙。\n".encode()))
    documents, _ = read("c", "cc100", tmp_path / "ja.txt.xz", BadRecords("exclude"))
    assert [(document["id"], document["text"]) for document in documents] == [("c-1", "甲。\n乙。"), ("c-2", "丙。")]


def test_a_file_that_is_cut_short_stops_under_either_setting(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl.gz").write_bytes(gzip.compress(jsonl([{"text": f"文{n}。"} for n in range(999)]))[:-9])
    with pytest.raises(InputError, match="the file is cut short"):
        read("c", "jsonl", tmp_path / "w.jsonl.gz", BadRecords("exclude"))


def test_a_file_of_which_most_is_bad_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bad_records, "FOREIGN_RECORDS", 5)
    (tmp_path / "w.jsonl").write_text("a,b,c\n" * 10)
    with pytest.raises(InputError, match=r"line 5: not JSON .* like 4 records before it and more than half"):
        read("c", "jsonl", tmp_path / "w.jsonl", BadRecords("exclude"))


def configure(folder: Path, **settings: Any) -> PreprocessConfig:
    return PreprocessConfig(corpora={"web": CorpusConfig("jsonl", f"{folder}/w*.jsonl")}, heldout_documents=0, **settings)


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Path]:
    """A file of 30 lines of which every tenth, from the second on, is no JSON."""
    rows = ["{" if n % 10 == 1 else json.dumps({"text": f"文{n}。"}) for n in range(30)]
    (tmp_path / "web.jsonl").write_text("\n".join(rows))
    yield tmp_path


def test_excluded_lines_are_in_the_report_and_their_number_is_bounded_by_the_limit(lines: Path) -> None:
    out = lines / "out"
    with pytest.raises(InputError, match=r"web\.jsonl: line 2: not JSON"):
        extract(configure(lines), out, Executor())
    with pytest.raises(InputError) as error:
        extract(configure(lines, bad_input="exclude", bad_input_limit=0.09), out, Executor())
    assert "3 of 30 records of 'web' cannot be read, the first of them web.jsonl, line 2 (not JSON" in str(error.value)
    assert "preprocess.bad_input_limit is 0.09; mend the corpus, or raise the limit" in str(error.value)
    result = extract(configure(lines, bad_input="exclude", bad_input_limit=0.1), out, Executor())
    report = write_report(lines, {"extract": {"result": result, "seconds": 1.0, "ranks": 1}})["extract"]["result"]["web"]
    assert report["documents"] == 27 and report["dropped"] == {"bad input: not JSON": 3}
    assert report["excluded"]["records"] == 3
    assert [(row["file"], row["place"]) for row in report["excluded"]["first"]] == [
        ("web.jsonl", f"line {n}") for n in (2, 12, 22)
    ]
    documents = [row["id"] for part in list_parts(out, "web") for row in read_documents(part)]
    assert documents == [f"web-1-{n + 1}" for n in range(30) if n % 10 != 1]


def test_records_that_were_excluded_are_not_taken_for_a_corpus_without_bad_ones(lines: Path) -> None:
    extract(configure(lines, bad_input="exclude"), lines / "out", Executor())
    with pytest.raises(ConfigError, match=r"made without 3 bad records \(line 2 is the first\) but preprocess.bad_input is stop"):
        extract(configure(lines), lines / "out", Executor())


def test_what_was_extracted_before_a_bad_line_is_not_extracted_again_when_bad_lines_are_excluded(lines: Path) -> None:
    (lines / "wa.jsonl").write_bytes(jsonl([{"text": "一。" * 999}]))
    with pytest.raises(InputError, match="line 2: not JSON"):
        extract(configure(lines), lines / "out", Executor())
    marker = lines / "out" / "work" / "documents" / "web" / "wa.json"
    made = marker.stat().st_mtime_ns
    extract(configure(lines, bad_input="exclude"), lines / "out", Executor())
    assert marker.stat().st_mtime_ns == made


@pytest.mark.parametrize(
    "written, key",
    [
        ("36893488147419103233", "36893488147419103233"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("0.1000000000000000000001", "0.1000000000000000000001"),
        ("-7", "-7"),
        ('"a b"', "a b"),
        ("null", "1-2"),
        ("NaN", "1-2"),
        ('""', "1-2"),
        ("false", "1-2"),
    ],
)
def test_an_id_is_taken_as_it_is_written_and_one_that_says_nothing_is_replaced_by_the_line(
    tmp_path: Path, written: str, key: str
) -> None:
    (tmp_path / "w.jsonl").write_text(f'{{"text": "a", "id": "first"}}\n{{"text": "b", "id": {written}}}\n')
    assert ids("c", "jsonl", tmp_path / "w.jsonl") == ["c-first", f"c-{key}"]


def test_documents_with_large_numbers_as_ids_keep_them_apart(tmp_path: Path) -> None:
    rows = [f'{{"text": "文{n}。", "id": {2**64 + n}}}' for n in range(40)]
    (tmp_path / "w.jsonl").write_text("\n".join(rows))
    assert len(set(ids("c", "jsonl", tmp_path / "w.jsonl"))) == 40
