"""The corpora in a folder are found by the names under which they are published."""

import errno
import glob
import gzip
import logging
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard

from jadeberta.shards import InputError
from preprocess.readers.discover import discover
from tests.preprocess.archive_files import ARCHIVES
from tests.preprocess.source_files import ids, jsonl, read


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def found(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Format and files of each corpus, as its reader finds them by the path."""
    return {
        name: (c.format, sorted(str(Path(p).relative_to(folder)) for p in glob.glob(c.path)))  # noqa: PTH207 - as the reader does it
        for name, c in discover(folder).items()
    }


def log_of(folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "preprocess"):
        logging.getLogger("preprocess").addHandler(handler)
        discover(folder)
    logging.getLogger("preprocess").removeHandler(handler)
    return said


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


SERIES = {
    "a published series": (["train-{:05d}-of-00030.jsonl", 0, 30], "train"),
    "numbers without zeros": (["web_{}.jsonl.gz", 1, 12], "web"),
    "folders with numbers": (["news-{}/part.jsonl", 0, 3], "news"),
    "numbers alone": (["{}.jsonl", 2019, 2022], "corpora"),
    "a number that is part of the name": (["wiki40b_{:02d}.ndjson.zst", 0, 3], "wiki40b"),
}


@pytest.mark.parametrize("case", SERIES)
def test_files_that_differ_in_a_running_number_are_one_corpus(tmp_path: Path, case: str) -> None:
    (pattern, first, last), name = SERIES[case]
    folder = tmp_path / "corpora"
    files = [pattern.format(number) for number in range(first, last)]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        content = jsonl([{"text": "一。"}])
        (folder / file).write_bytes(zstandard.compress(content) if file.endswith(".zst") else content)
    assert found(folder) == {name: ("jsonl", sorted(files))}


def test_json_is_looked_into_and_taken_where_it_is_a_document_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c4.json.gz").write_bytes(gzip.compress(jsonl([{"text": "一。"}])))
    (tmp_path / "array.json").write_bytes(b'[{"text": "a"}]')
    (tmp_path / "pretty.json").write_bytes(b'{\n  "text": "a"\n}\n')
    (tmp_path / "info.json").write_bytes(b'{"features": {}}')
    (tmp_path / "book.txt").write_text("一。", encoding="utf-8")
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"\xff")
    (tmp_path / "table.csv").write_bytes(b"a,b")
    said = log_of(tmp_path, caplog)
    assert list(discover(tmp_path)) == ["c4"]
    assert said[1:3] == ["  c4: jsonl, 1 file, 0.0 MB", "    c4.json.gz"]
    left = dict(zip(said[3::2], said[4::2], strict=True))
    assert left == {
        "  left, Arrow, as datasets.save_to_disk writes it; write Parquet by to_parquet():": "    data-00000-of-00001.arrow",
        "  left, a JSON array; write one object a line: jq -c '.[]':": "    array.json",
        "  left, plain text; name it in a recipe (format: text, or cc100 where a blank line ends a document):": "    book.txt",
        '  left, not one JSON object a line with "text" or "content":': "    info.json, pretty.json",
        "  left, not a format that is read:": "    table.csv",
    }


def test_corpora_in_sub_folders_are_found_and_named_after_them(tmp_path: Path) -> None:
    for folder in ("wiki", "web/cc", "books", ".cache"):
        (tmp_path / folder).mkdir(parents=True)
    touch(tmp_path / "wiki", "jawiki-20221020-pages-articles.xml.bz2")
    touch(tmp_path / "web/cc", "ja.txt.xz")
    touch(tmp_path / "books", "a.jsonl", "b.jsonl")
    touch(tmp_path / ".cache", "c.jsonl")
    assert found(tmp_path) == {
        "wikipedia": ("wikipedia", ["wiki/jawiki-20221020-pages-articles.xml.bz2"]),
        "cc100": ("cc100", ["web/cc/ja.txt.xz"]),
        "books-a": ("jsonl", ["books/a.jsonl"]),
        "books-b": ("jsonl", ["books/b.jsonl"]),
    }


def test_the_output_of_wikiextractor_is_one_corpus_and_is_read(tmp_path: Path) -> None:
    head = '<doc id="{0}" url="https://ja.wikipedia.org/wiki?curid={0}" title="塔 &amp; 橋">\n'
    article = head + "塔 & 橋\n\n本文{0}。\n&lt;b&gt;太字\n</doc>\n"
    for name, numbers in (("AA/wiki_00", (0, 1)), ("AA/wiki_01", (2, 3)), ("AB/wiki_00", (7,))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(map(article.format, numbers)), encoding="utf-8")
    config = discover(tmp_path)
    assert [corpus.format for corpus in config.values()] == ["wikiextractor"]
    documents, dropped = read("w", "wikiextractor", next(iter(config.values())).path)
    assert sorted(document["id"] for document in documents) == ["w-0", "w-1", "w-2", "w-3", "w-7"] and not dropped
    assert documents[0]["title"] == "塔 & 橋" and documents[0]["text"] == "本文0。\n<b>太字"


def test_pipes_and_links_to_nothing_are_left_and_so_is_a_folder_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "web.jsonl")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "none")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path == str(tmp_path / "closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    said = log_of(tmp_path, caplog)
    assert list(discover(tmp_path)) == ["web"]
    assert said[3:] == ["  left, not a file, or a link to none:", "    b.jsonl, pipe", "  left, cannot be read:", "    closed/"]


def test_held_out_parts_of_a_data_set_are_left_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "validation-00000-of-00001.jsonl", "test.jsonl")
    said = log_of(tmp_path, caplog)
    assert list(discover(tmp_path)) == ["train"]
    assert said[3:5] == [
        "  left, named like held-out data; name it in a recipe to train on it:",
        "    test.jsonl, validation-00000-of-00001.jsonl",
    ]


def test_what_is_left_is_named_in_lines_of_eighty_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "web.jsonl", *(f"picture-number-{n:04d}.jpeg" for n in range(1500)))
    said = log_of(tmp_path, caplog)
    assert said[-1] == "    picture-number-0000.jpeg, picture-number-0001.jpeg and 1,498 more"
    assert max(len("22:46:56 " + line) for line in said[1:]) <= 80


def test_shards_that_lie_among_the_corpora_are_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "out" / "work").mkdir(parents=True)
    touch(tmp_path / "out" / "work", ".lock", "a.jsonl")
    touch(tmp_path, "web.jsonl")
    assert list(found(tmp_path)) == ["web"]


def test_where_it_is_not_clear_the_lines_to_write_are_shown(tmp_path: Path) -> None:
    touch(tmp_path, "oscar2201.jsonl", "oscar2301.jsonl")
    with pytest.raises(InputError) as error:
        discover(tmp_path)
    sentence, *lines = str(error.value).splitlines()
    assert "oscar2201.jsonl and oscar2301.jsonl differ in a number alone, and may be parts of one corpus" in sentence
    written = yaml.safe_load("\n".join(lines))["preprocess"]["corpora"]
    assert written == {name: {"format": "jsonl", "path": f"{tmp_path}/{name}.jsonl"} for name in ("oscar2201", "oscar2301")}


def test_dumps_of_html_and_crawls_are_found_by_their_usual_names(tmp_path: Path) -> None:
    touch(tmp_path, "jawiki-NS0-20240101-ENTERPRISE-HTML.json.tar.gz", "jawiki-NS6-20240101-ENTERPRISE-HTML.json.tar.gz")
    crawl = [f"CC-MAIN-20240220211055-20240221001055-0000{n}.warc" for n in (3, 8)]
    touch(tmp_path, *(f"{name}.gz" for name in crawl), *(f"{name}.wet.gz" for name in crawl))
    assert found(tmp_path) == {
        "wikipedia": ("enterprise_html", ["jawiki-NS0-20240101-ENTERPRISE-HTML.json.tar.gz"]),
        "warc": ("warc", [f"{name}.gz" for name in crawl]),
    }
    # The same articles as wikitext.
    touch(tmp_path, "jawiki-20240101-pages-articles.xml.bz2")
    assert found(tmp_path)["wikipedia"] == ("wikipedia", ["jawiki-20240101-pages-articles.xml.bz2"])


def test_a_wet_file_of_pages_that_no_warc_file_holds_is_asked_about(tmp_path: Path) -> None:
    touch(tmp_path, "crawl-00001.warc.gz", "crawl-00001.warc.wet.gz", "crawl-00000.warc.wet.gz")
    with pytest.raises(InputError, match=r"crawl-00000\.warc\.wet\.gz is the text of pages that are in none of the WARC files"):
        discover(tmp_path)


def test_archives_are_found_by_what_is_in_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = jsonl([{"text": "本文。"}])
    archives = {
        "news.tar.gz": [("README", b"x"), ("a/b.jsonl", rows)],
        "wiki-1.tar": [("AA/wiki_00", b"<doc")],
        "wiki-2.tar": [("AB/wiki_00", b"<doc")],
        "books.zip": [("a.txt", b"x")],
        "photos.zip": [("a.jpg", b"x")],
    }
    for name, members in archives.items():
        (tmp_path / name).write_bytes(ARCHIVES["".join(Path(name).suffixes)](members))
    (tmp_path / "cut.tar").write_bytes(b"x")
    said = log_of(tmp_path, caplog)
    assert found(tmp_path) == {"news": ("jsonl", ["news.tar.gz"]), "wiki": ("wikiextractor", ["wiki-1.tar", "wiki-2.tar"])}
    left = dict(pairwise(said))
    assert left["  left, an archive without JSON Lines:"] == "    photos.zip" and left["  left, cannot be read:"] == "    cut.tar"
    assert (
        left["  left, plain text; name it in a recipe (format: text, or cc100 where a blank line ends a document):"]
        == "    books.zip"
    )


def test_files_that_are_empty_damaged_or_of_no_known_format_are_left_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "web.jsonl")
    (tmp_path / "empty").touch()
    (tmp_path / "cut.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "words").write_text("ab")
    (tmp_path / "table.csv").write_text("a,b\n")
    said = log_of(tmp_path, caplog)
    assert list(discover(tmp_path)) == ["web"]
    assert {name.strip(): reason.strip() for reason, name in zip(said[3::2], said[4::2], strict=True)} == {
        "empty": "left, empty:", "cut.gz": "left, cannot be read:", "table.csv, words": "left, not a format that is read:",
    }  # fmt: skip
