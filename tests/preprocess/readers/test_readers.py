"""The readers find every document of their format, count what they drop, and give stable ids."""

import bz2
import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jadeberta.shards import InputError
from preprocess import readers
from preprocess.config import CorpusConfig
from preprocess.readers import wikipedia
from preprocess.readers.markup import clean
from tests.preprocess.source_files import (
    COMPRESS,
    dump,
    ids,
    jsonl,
    oscar_row,
    page,
    read,
    write_multistream,
)

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
    def failing(wikitext: str, *known: Any) -> str:
        if "壊" in wikitext:
            raise RecursionError
        return clean(wikitext, *known)

    monkeypatch.setattr(wikipedia, "clean", failing)
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(1, "本文。"), page(2, "壊れた頁。"), page(3, "本文。")]))
    documents, dropped = read("w", "wikipedia", path)
    assert [d["id"] for d in documents] == ["w-1", "w-3"] and dropped == {"unparsable": 1}


@pytest.mark.parametrize(
    "opening, reason",
    [("{{a|", "unparsable"), ("[[a|", "unparsable"), ("}}{{a|{{a|", "unparsable"), ("\n{|\n|", "empty"), ("<div>", "empty")],
)
def test_a_page_of_openings_never_closed_is_dropped_and_counted(tmp_path: Path, opening: str, reason: str) -> None:
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(1, opening * 100_000), page(2, "本文。")]))
    documents, dropped = read("w", "wikipedia", path)
    assert [d["id"] for d in documents] == ["w-2"] and dropped == {reason: 1}


def test_a_page_nested_deeper_than_the_parser_goes_does_not_end_the_run(tmp_path: Path) -> None:
    path = tmp_path / "jawiki.xml"
    path.write_bytes(dump([page(1, "{{a|" * 3000 + "x" + "}}" * 3000 + "<div>" * 3000 + "</div>" * 3000), page(2, "本文。")]))
    assert ids("w", "wikipedia", path)[-1] == "w-2"


def test_a_multistream_dump_is_cut_into_the_same_splits_with_and_without_its_index(tmp_path: Path) -> None:
    streams = 2 * wikipedia.STREAMS_PER_SPLIT + 3
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    paths = [
        write_multistream(tmp_path / "with", streams, index=True),
        write_multistream(tmp_path / "without", streams, index=False),
    ]
    splits = [readers.splits("wikipedia", CorpusConfig(format="wikipedia", path=str(path))) for path in paths]
    assert [(p.start, p.end) for p in splits[0]] == [(p.start, p.end) for p in splits[1]]
    assert len(splits[0]) == 3 and splits[0][-1].end == paths[0].stat().st_size
    for path in paths:
        assert ids("wikipedia", "wikipedia", path) == [f"wikipedia-{n}" for n in range(2 * streams)]
    assert len({d["id"] for d in readers.documents(splits[0][1], Counter())}) == 2 * wikipedia.STREAMS_PER_SPLIT


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
    assert len(readers.splits("w", CorpusConfig(format="wikipedia", path=str(path)))) == 1
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
    assert [p.path.name for p in readers.splits("c", CorpusConfig(format="cc100", path=f"{tmp_path}/*"))] == [
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
