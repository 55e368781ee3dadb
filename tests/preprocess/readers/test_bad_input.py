"""A file that is missing, cut short, damaged or foreign is refused in one sentence that names the place."""

import bz2
import gzip
import lzma
import re
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from jadeberta.shards import ConfigError, InputError
from preprocess import readers
from preprocess.config import CorpusConfig, CorpusFormat
from preprocess.readers import wikipedia
from preprocess.readers.bad_records import BadRecords
from tests.preprocess.source_files import (
    COMPRESS,
    FOOTER,
    dump,
    jsonl,
    page,
    read,
    said_about,
    write_multistream,
)


def test_a_missing_file_and_a_glob_without_a_match_are_named_with_the_recipe_key(tmp_path: Path) -> None:
    assert "no such file; correct preprocess.corpora.web.path" in said_about("web", "jsonl", tmp_path / "web.jsonl")
    (tmp_path / "set.parquet").mkdir()
    said = said_about("web", "parquet", tmp_path / "set.parquet")
    assert f"a folder and not a file; write {tmp_path}/set.parquet/**/* into preprocess.corpora.web.path for all in it" in said
    assert "no file matches; correct preprocess.corpora.web.path" in said_about("web", "jsonl", f"{tmp_path}/*.jsonl")


def test_an_unknown_format_is_a_mistake_in_the_recipe() -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.corpora\.web\.format: csv is unknown; it may be wikipedia, cc100"):
        readers.splits("web", CorpusConfig(format="csv", path="x"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "format, name",
    [
        ("wikipedia", "jawiki.xml.bz2"),
        ("wikipedia", "jawiki.xml"),
        ("cc100", "ja.txt.xz"),
        ("oscar", "ja_part_1.jsonl.zst"),
        ("jsonl", "w.jsonl"),
    ],
)
def test_an_empty_file_is_refused(tmp_path: Path, format: str, name: str) -> None:
    (tmp_path / name).touch()
    assert "byte 0: the file is empty" in said_about("c", format, tmp_path / name)


@pytest.mark.parametrize("format", ["jsonl", "text", "cc100", "wikiextractor"])
@pytest.mark.parametrize(
    "data, said",
    [
        (b"PAR1\x15\x00\x15PAR1", "a Parquet file; set the corpus's format to parquet."),
        (gzip.compress(b'{"text": "a"}'), "compressed by gzip, and its name does not say so; let it end in .gz."),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS and not the file itself; run 'git lfs pull'"),
    ],
)
def test_a_file_without_lines_is_named_for_what_it_is_and_never_excluded(
    tmp_path: Path, format: CorpusFormat, data: bytes, said: str
) -> None:
    (tmp_path / "web").write_bytes(data)
    (split,) = readers.splits("web", CorpusConfig(format, str(tmp_path / "web")))
    with pytest.raises(InputError, match=re.escape(f"web: byte 0: {said}")):
        list(readers.documents(split, Counter(), BadRecords("exclude")))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_compressed_file_without_content_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"w.jsonl{suffix}").write_bytes(COMPRESS[suffix](b""))
    assert "no document in the whole file" in said_about("c", "jsonl", tmp_path / f"w.jsonl{suffix}")


@pytest.mark.parametrize("missing", [1, 3, 200])
@pytest.mark.parametrize("suffix", [".bz2", ".gz", ".xz", ".zst"])
def test_a_compressed_file_cut_short_is_found_at_whatever_byte(tmp_path: Path, suffix: str, missing: int) -> None:
    rows = [{"text": f"文{n}。{n * 7919 % 1009}"} for n in range(2000)]
    data = COMPRESS[suffix](jsonl(rows))
    (tmp_path / f"w.jsonl{suffix}").write_bytes(data[:-missing])
    message = said_about("c", "jsonl", tmp_path / f"w.jsonl{suffix}")
    assert re.search(
        rf"line \d+, byte {len(data) - missing}: the file is cut short: its {suffix[1:]} stream has no end; copy or download",
        message,
    )


def test_zstd_cut_at_the_end_of_a_line_inside_a_frame_is_found(tmp_path: Path) -> None:
    """Python's zstd reader ends here without a word: 128 KiB of whole lines are there, the frame's end is not."""
    line = orjson.dumps({"text": "x" * 52}) + b"\n"
    assert 2**17 % len(line) == 0, "a block must end with a line, or broken JSON would give the cut away"
    frame = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    blocks = [frame.compress(line * (2**17 // len(line))) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for _ in range(2)]
    (tmp_path / "w.jsonl.zst").write_bytes(blocks[0])
    assert f"line {2**17 // len(line) + 1}" in said_about("c", "jsonl", tmp_path / "w.jsonl.zst")


@pytest.mark.parametrize("suffix", [".bz2", ".gz", ".xz", ".zst"])
def test_garbage_is_not_taken_for_a_compressed_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.jsonl{suffix}"
    path.write_bytes(b"<html>404 Not Found</html>" * 99)
    assert f"line 1, byte 0: not {suffix[1:]} data" in said_about("c", "jsonl", path)


@pytest.mark.parametrize(
    "line, problem",
    [
        (b"[1, 2]", "line 3: a JSON list where an object is expected"),
        (b'"text"', "line 3: a JSON str where an object is expected"),
        (b'{"text": "a"', "line 3: not JSON"),
        (b"plain words", "line 3: not JSON"),
        (b'{"title": "a"}', 'line 3: no "text" or "content" in the object'),
        (b'{"text": 5}', 'line 3: "text" is not a string'),
        (b'{"text": "\xff\xfe"}', "line 3: byte 11 of the line is not valid UTF-8"),
    ],
)
def test_a_bad_line_of_jsonl_is_named_by_its_number(tmp_path: Path, line: bytes, problem: str) -> None:
    (tmp_path / "w.jsonl").write_bytes(jsonl([{"text": "一。"}]) + b"\n" + line + b"\n")
    assert problem in said_about("c", "jsonl", tmp_path / "w.jsonl")


@pytest.mark.parametrize(
    "row, problem",
    [
        ({"text": "a", "metadata": {}}, 'line 1: no "content" in the object'),
        ({"content": "a"}, 'line 1: no "metadata" object'),
        ({"content": "a", "metadata": {"annotation": "noisy"}}, "line 1: the tags are neither a list nor null"),
    ],
)
def test_a_bad_line_of_oscar_is_named_by_its_number(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    (tmp_path / "ja_part_1.jsonl").write_bytes(jsonl([row]))
    assert problem in said_about("c", "oscar", tmp_path / "ja_part_1.jsonl")


def test_invalid_utf8_in_cc100_is_named_by_line_and_byte(tmp_path: Path) -> None:
    (tmp_path / "ja.txt.xz").write_bytes(lzma.compress("一。\n\n".encode() + b"abc\xff\n"))
    assert "line 3: byte 4 of the line is not valid UTF-8" in said_about("c", "cc100", tmp_path / "ja.txt.xz")


@pytest.mark.parametrize(
    "data, problem",
    [
        (dump([page(1, "本文。")])[:-60], "page 1 after byte 0: the file is cut short in mid-page"),
        (dump([page(1, "本文。")])[: -len(FOOTER)], "page 2 after byte 0: the file is cut short: </mediawiki> is missing"),
        (b"<html>404</html>", "byte 0: not a MediaWiki export"),
        (dump([page(1, "本文。"), page(2, "二").replace("<ns>", "<ns")]), "page 2 after byte 0: not valid XML"),
        (dump([page(1, "本文。").replace("<id>1</id>", "")]), "page 1 after byte 0: a page without <title> or <id>"),
        (dump([page(1, "A")]).replace(b"A<", b"\xff<"), "page 1 after byte 0: not valid UTF-8"),
        (dump([]), "no document in the whole file"),
    ],
    ids=["mid-page", "no end", "garbage", "broken XML", "no id", "not UTF-8", "no page"],
)
def test_a_bad_xml_file_is_named_with_the_page(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "jawiki.xml").write_bytes(data)
    assert problem in said_about("c", "wikipedia", tmp_path / "jawiki.xml")


@pytest.mark.parametrize("index", [True, False])
def test_a_multistream_dump_cut_in_a_stream_or_between_streams_is_found(tmp_path: Path, index: bool) -> None:
    path = write_multistream(tmp_path, 20, index)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    assert "cut short: its bz2 stream has no end" in said_about("w", "wikipedia", path)
    path.write_bytes(data[: data.rindex(b"BZh9")])
    assert "cut short: </mediawiki> is missing" in said_about("w", "wikipedia", path)


def test_a_damaged_stream_is_named_by_its_byte(tmp_path: Path) -> None:
    path = write_multistream(tmp_path, 20, index=False)
    data = bytearray(path.read_bytes())
    start = data.index(b"BZh9", 200)
    data[start + 60] ^= 0xFF
    path.write_bytes(data)
    assert "byte 0, after page" in said_about("w", "wikipedia", path)


def test_a_damaged_or_foreign_index_is_refused(tmp_path: Path) -> None:
    path = write_multistream(tmp_path, 20, index=True)
    index = wikipedia.index_of(path)
    assert index is not None
    index.write_bytes(bz2.compress(b"10:1:a\n100:2:b\n"))
    assert "byte 100: no stream begins here although jawiki-20221020" in said_about("w", "wikipedia", path)
    index.write_bytes(bz2.compress(b"10:1:a\nnonsense\n"))
    assert "line 2: not 'offset:page id:title'" in said_about_index(path, index)
    index.write_bytes(bz2.compress(b"10:1:a\n" * 99)[:-5])
    assert "cut short" in said_about_index(path, index)


def said_about_index(dump_path: Path, index: Path) -> str:
    with pytest.raises(InputError) as error:
        read("w", "wikipedia", dump_path)
    assert str(error.value).startswith(str(index))
    return str(error.value)
