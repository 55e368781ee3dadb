"""Each corpus format read from tiny files, and what is said about each kind of bad input."""

import bz2
import gzip
import lzma
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from jadeberta.shards import ConfigError, InputError
from preprocess import readers
from preprocess.config import CorpusConfig
from preprocess.readers import wikipedia
from preprocess.readers.discover import discover
from preprocess.readers.markup import clean

HEADER = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-{}/" xml:lang="ja">\n  <siteinfo><dbname>jawiki</dbname></siteinfo>\n'
)
FOOTER = "</mediawiki>\n"
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def read(corpus: str, format: str, path: Path | str) -> tuple[list[dict[str, str]], Counter[str]]:
    dropped: Counter[str] = Counter()
    config = CorpusConfig(format=format, path=str(path))  # type: ignore[arg-type]
    return [d for piece in readers.pieces(corpus, config) for d in readers.documents(piece, dropped)], dropped


def ids(corpus: str, format: str, path: Path | str) -> list[str]:
    return [document["id"] for document in read(corpus, format, path)[0]]


def said_about(corpus: str, format: str, path: Path | str) -> str:
    """The message of the error, which must be one sentence that names the file and a place in it."""
    with pytest.raises(InputError) as error:
        read(corpus, format, path)
    message = str(error.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message and ". " not in message
    assert "; " in message, "a remedy stands after the semicolon"
    return message


def page(page_id: int, text: str, ns: int = 0, redirect: bool = False) -> str:
    redirection = '<redirect title="他" />' if redirect else ""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f"  <page>\n    <title>題{page_id}</title>\n    <ns>{ns}</ns>\n    <id>{page_id}</id>{redirection}\n"
        f"    <revision><id>{page_id + 900}</id><text>{escaped}</text></revision>\n  </page>\n"
    )


def dump(pages: list[str], schema: str = "0.10") -> bytes:
    return (HEADER.format(schema) + "".join(pages) + FOOTER).encode()


def write_multistream(folder: Path, streams: int, index: bool) -> Path:
    """A dump of `streams` streams of two pages each, as the project publishes it."""
    contents = [HEADER.format("0.10"), *(page(2 * n, f"本文{n}。") + page(2 * n + 1, "続き。") for n in range(streams)), FOOTER]
    data, listed = b"", ""
    for number, content in enumerate(contents):
        if 0 < number <= streams:
            listed += f"{len(data)}:{2 * number - 2}:題\n{len(data)}:{2 * number - 1}:題: 副題\n"
        data += bz2.compress(content.encode())
    path = folder / "jawiki-20221020-pages-articles-multistream.xml.bz2"
    path.write_bytes(data)
    if index:
        (folder / "jawiki-20221020-pages-articles-multistream-index.txt.bz2").write_bytes(bz2.compress(listed.encode()))
    return path


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def oscar_row(text: str, key: str, tags: list[str] | None) -> dict[str, Any]:
    return {"content": text, "warc_headers": {}, "metadata": {"identification": {"label": "ja", "prob": 0.9}, key: tags}}


# --- Wikipedia


@pytest.mark.parametrize("suffix", ["", ".bz2"])
@pytest.mark.parametrize("schema", ["0.10", "0.11"])
def test_wikipedia_keeps_articles_and_counts_the_rest_by_reason(tmp_path: Path, suffix: str, schema: str) -> None:
    pages = [
        page(5, "'''東京'''は[[首都 (曖昧さ回避)|首都]]。"),
        page(6, "ノート。", ns=1),
        page(7, "#転送 [[東京]]", redirect=True),
        page(8, "{{aimai}}"),
        page(9, "{{Infobox}}"),
        page(10, "京都は<ref>注</ref>古都。"),
    ]
    path = tmp_path / f"jawiki-pages-articles.xml{suffix}"
    path.write_bytes(COMPRESS[suffix](dump(pages, schema)))
    documents, dropped = read("wikipedia", "wikipedia", path)
    assert documents == [
        {"id": "wikipedia-5", "source": "wikipedia", "title": "題5", "text": "東京は首都。"},
        {"id": "wikipedia-10", "source": "wikipedia", "title": "題10", "text": "京都は古都。"},
    ]
    assert dropped == {"namespace": 1, "redirect": 1, "disambiguation": 1, "empty": 1}


def test_a_page_that_the_parser_fails_on_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(wikitext: str) -> str:
        if "壊" in wikitext:
            raise RecursionError
        return clean(wikitext)

    monkeypatch.setattr(wikipedia, "clean", failing)
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(1, "本文。"), page(2, "壊れた頁。"), page(3, "本文。")]))
    documents, dropped = read("w", "wikipedia", path)
    assert [d["id"] for d in documents] == ["w-1", "w-3"] and dropped == {"unparsable": 1}


@pytest.mark.parametrize("opening", ["{{a|", "[[a|", "\n{|\n|", "<div>", "}}{{a|{{a|"])
def test_a_page_of_openings_never_closed_is_dropped_instead_of_parsed_for_hours(tmp_path: Path, opening: str) -> None:
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(1, opening * 100_000), page(2, "本文。")]))
    documents, dropped = read("w", "wikipedia", path)
    assert [d["id"] for d in documents] == ["w-2"] and dropped == {"unparsable": 1}


def test_a_page_nested_deeper_than_the_parser_goes_does_not_end_the_run(tmp_path: Path) -> None:
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(1, "{{a|" * 3000 + "x" + "}}" * 3000 + "<div>" * 3000 + "</div>" * 3000), page(2, "本文。")]))
    assert ids("w", "wikipedia", path)[-1] == "w-2"


def test_a_multistream_dump_is_cut_into_the_same_pieces_with_and_without_its_index(tmp_path: Path) -> None:
    streams = 2 * wikipedia.STREAMS_PER_PIECE + 3
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    paths = [
        write_multistream(tmp_path / "with", streams, index=True),
        write_multistream(tmp_path / "without", streams, index=False),
    ]
    pieces = [readers.pieces("wikipedia", CorpusConfig(format="wikipedia", path=str(path))) for path in paths]
    assert [(p.start, p.end) for p in pieces[0]] == [(p.start, p.end) for p in pieces[1]]
    assert len(pieces[0]) == 3 and pieces[0][-1].end == paths[0].stat().st_size
    for path in paths:
        assert ids("wikipedia", "wikipedia", path) == [f"wikipedia-{n}" for n in range(2 * streams)]
    assert len({d["id"] for d in readers.documents(pieces[0][1], Counter())}) == 2 * wikipedia.STREAMS_PER_PIECE


def test_a_glob_that_matches_the_index_too_reads_the_dump_once(tmp_path: Path) -> None:
    write_multistream(tmp_path, 2, index=True)
    assert ids("wikipedia", "wikipedia", f"{tmp_path}/jawiki-*") == [f"wikipedia-{n}" for n in range(4)]


def test_the_index_of_a_dump_in_several_files_is_found(tmp_path: Path) -> None:
    index = tmp_path / "jawiki-20221020-pages-articles-multistream-index3.txt-p9p20.bz2"
    index.touch()
    assert wikipedia.index_of(tmp_path / "jawiki-20221020-pages-articles-multistream3.xml-p9p20.bz2") == index
    assert wikipedia.index_of(tmp_path / "jawiki-20221020-pages-articles3.xml-p9p20.bz2") is None


def test_streams_that_break_in_mid_page_are_never_cut_apart(tmp_path: Path) -> None:
    data = dump([page(n, f"本文{n}。" * 20) for n in range(200)])
    path = tmp_path / "jawiki-pages-articles.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(data[start : start + 700]) for start in range(0, len(data), 700)))
    assert len(readers.pieces("w", CorpusConfig(format="wikipedia", path=str(path)))) == 1
    assert ids("w", "wikipedia", path) == [f"w-{n}" for n in range(200)]


# --- CC-100, OSCAR, JSON Lines


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_cc100_documents_are_separated_by_blank_lines_and_numbered(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ja.txt{suffix}"
    path.write_bytes(COMPRESS[suffix]("一。\n二。\n\n三。\n\n\n　\n\n四。".encode()))
    documents, dropped = read("cc100", "cc100", path)
    assert [(d["id"], d["text"]) for d in documents] == [("cc100-1", "一。\n二。"), ("cc100-2", "三。"), ("cc100-4", "四。")]
    assert dropped == {"empty": 1}


def test_cc100_in_several_files_has_the_file_number_in_its_ids(tmp_path: Path) -> None:
    for number in (10, 2):
        (tmp_path / f"ja-{number}.txt").write_text("一。\n\n二。\n")
    assert ids("cc100", "cc100", f"{tmp_path}/*.txt") == ["cc100-1-1", "cc100-1-2", "cc100-2-1", "cc100-2-2"]
    assert [p.path.name for p in readers.pieces("c", CorpusConfig(format="cc100", path=f"{tmp_path}/*"))] == [
        "ja-2.txt",
        "ja-10.txt",
    ]


@pytest.mark.parametrize(
    "name, key",
    [
        ("ja_meta_part_7.jsonl.gz", "annotation"),
        ("ja_meta_7.jsonl.gz", "annotations"),
        ("ja_part_7.jsonl.zst", "quality_warnings"),
    ],
)
def test_oscar_drops_documents_tagged_header_footer_or_noisy_and_counts_each_once(tmp_path: Path, name: str, key: str) -> None:
    rows = [
        oscar_row("一。\n二。", key, None),
        oscar_row("三。", key, ["footer", "header"]),
        oscar_row("四。", key, ["tiny", "short_sentences"]),
        oscar_row("五。", key, ["footer"]),
        oscar_row("六。", key, ["tiny", "noisy"]),
        oscar_row("　", key, []),
        oscar_row("七。", key, []),
    ]
    path = tmp_path / name
    path.write_bytes(COMPRESS[path.suffix](jsonl(rows)))
    documents, dropped = read("oscar", "oscar", path)
    assert [(d["id"], d["text"]) for d in documents] == [
        ("oscar-7-1", "一。\n二。"),
        ("oscar-7-3", "四。"),
        ("oscar-7-7", "七。"),
    ]
    assert dropped == {"header": 1, "footer": 1, "noisy": 1, "empty": 1}


def test_oscar_parts_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for part in (10, 9):
        (tmp_path / f"ja_meta_part_{part}.jsonl.gz").write_bytes(gzip.compress(jsonl([oscar_row("文。", "annotation", None)])))
    assert ids("oscar", "oscar", f"{tmp_path}/*") == ["oscar-9-1", "oscar-10-1"]


def test_two_oscar_files_of_the_same_part_are_refused(tmp_path: Path) -> None:
    for name in ("a_part_1.jsonl", "b_part_1.jsonl"):
        (tmp_path / name).write_bytes(jsonl([oscar_row("文。", "annotation", None)]))
    with pytest.raises(InputError, match=r"b_part_1\.jsonl: part 1 like .*a_part_1\.jsonl"):
        read("oscar", "oscar", f"{tmp_path}/*")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".xz"])
def test_jsonl_is_read_plain_or_compressed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"web.jsonl{suffix}"
    rows = [{"text": "一。", "title": "題"}, {"content": "二。", "id": 42}, {"text": "三。", "id": "x"}, {"text": ""}]
    path.write_bytes(COMPRESS[suffix](jsonl(rows)))
    documents, dropped = read("web", "jsonl", path)
    assert [(d["id"], d["title"], d["text"]) for d in documents] == [
        ("web-1-1", "題", "一。"),
        ("web-42", "", "二。"),
        ("web-x", "", "三。"),
    ]
    assert dropped == {"empty": 1}


def test_half_a_surrogate_pair_is_dropped_from_the_text(tmp_path: Path) -> None:
    (tmp_path / "web.jsonl").write_bytes(b'{"text": "\\u3042\\ud800\\u3044"}\n')
    assert read("web", "jsonl", tmp_path / "web.jsonl")[0][0]["text"] == "あい"


@pytest.mark.parametrize("suffix", [".bz2", ".gz", ".xz", ".zst"])
def test_files_of_several_streams_are_read_to_the_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"web.jsonl{suffix}"
    padding = b"\0\0\0\0" if suffix in (".gz", ".xz") else b""
    path.write_bytes(b"".join(COMPRESS[suffix](jsonl([{"text": text}])) + padding for text in ("一。", "二。", "三。")))
    assert [d["text"] for d in read("web", "jsonl", path)[0]] == ["一。", "二。", "三。"]


def test_a_line_longer_than_the_chunks_that_are_read_stays_whole(tmp_path: Path) -> None:
    text = "長い文。" * 200_000
    (tmp_path / "web.jsonl").write_bytes(jsonl([{"text": text}, {"text": "次。"}]))
    assert [d["text"] for d in read("web", "jsonl", tmp_path / "web.jsonl")[0]] == [text, "次。"]


# --- bad input


def test_a_missing_file_and_a_glob_without_a_match_are_named_with_the_recipe_key(tmp_path: Path) -> None:
    assert "no such file; correct preprocess.corpora.web.path" in said_about("web", "jsonl", tmp_path / "web.jsonl")
    assert "no file matches; correct preprocess.corpora.web.path" in said_about("web", "jsonl", f"{tmp_path}/*.jsonl")


def test_an_unknown_format_is_a_mistake_in_the_recipe() -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.corpora\.web\.format: csv is unknown; it may be wikipedia, cc100"):
        readers.pieces("web", CorpusConfig(format="csv", path="x"))  # type: ignore[arg-type]


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
        (dump([page(1, "本文。").replace("<id>1</id>", "")]), "page 1 after byte 0: a page without <title>, <ns> or <id>"),
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


# --- discovery


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def found(folder: Path) -> dict[str, tuple[str, list[str]]]:
    return {name: (c.format, sorted(p.name for p in folder.glob(Path(c.path).name))) for name, c in discover(folder).items()}


def test_corpora_are_found_by_their_usual_names(tmp_path: Path) -> None:
    dump_name = "jawiki-20221020-pages-articles-multistream"
    touch(
        tmp_path,
        f"{dump_name}.xml.bz2",
        f"{dump_name}-index.txt.bz2",
        "jawiki-20221020-pages-articles.xml.bz2",
        "ja.txt.xz",
        "notes.md",
    )
    touch(tmp_path, "ja_meta_part_1.jsonl.gz", "ja_meta_part_2.jsonl.gz", "aozora.jsonl", "web.jsonl.zst", ".hidden.jsonl")
    assert found(tmp_path) == {
        "wikipedia": ("wikipedia", [f"{dump_name}.xml.bz2"]),
        "cc100": ("cc100", ["ja.txt.xz"]),
        "oscar": ("oscar", ["ja_meta_part_1.jsonl.gz", "ja_meta_part_2.jsonl.gz"]),
        "aozora": ("jsonl", ["aozora.jsonl"]),
        "web": ("jsonl", ["web.jsonl.zst"]),
    }


def test_both_oscar_schemas_in_one_folder_become_two_corpora(tmp_path: Path) -> None:
    touch(tmp_path, "ja_meta_part_1.jsonl.gz", "ja_meta_part_1.jsonl.zst", "ja_meta_part_2.jsonl.zst")
    assert found(tmp_path) == {
        "oscar2201": ("oscar", ["ja_meta_part_1.jsonl.gz"]),
        "oscar2301": ("oscar", ["ja_meta_part_1.jsonl.zst", "ja_meta_part_2.jsonl.zst"]),
    }


def test_a_folder_with_brackets_in_its_name_is_searched(tmp_path: Path) -> None:
    folder = tmp_path / "corpora [2022]"
    folder.mkdir()
    (folder / "aozora.jsonl").write_bytes(jsonl([{"text": "一。"}]))
    assert ids("aozora", "jsonl", discover(folder)["aozora"].path) == ["aozora-1-1"]


@pytest.mark.parametrize(
    "names, problem",
    [
        ([], "no corpus in this folder; put files named like jawiki-"),
        (["notes.md"], "no corpus in this folder"),
        (["jawiki-20221020-pages-articles.xml.bz2", "jawiki-20230101-pages-articles.xml.bz2"], "dumps of 20221020 and 20230101"),
        (["web.jsonl", "web.jsonl.gz"], "a second corpus named web"),
    ],
)
def test_a_folder_without_or_with_unclear_corpora_is_refused(tmp_path: Path, names: list[str], problem: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=problem):
        discover(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; set CORPORA to the folder that holds the corpora"):
        discover(tmp_path / "none")
