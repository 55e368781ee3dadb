"""Plain text: a file or a paragraph is a document, whatever ends its lines; another encoding is refused with what converts it."""

import gzip
import os
from collections import Counter
from pathlib import Path

import pytest

from jadeberta.shards import ConfigError, InputError
from preprocess import readers
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.executors.executor import Executor
from preprocess.readers import input_split, plain_text
from preprocess.readers.bad_records import BadRecords
from preprocess.stages.extract import extract
from preprocess.workdir import list_parts, read_documents


def read(path: Path, documents: str = "paragraph", bad: BadRecords | None = None) -> tuple[dict[str, str], Counter[str]]:
    """Texts by id, and what was dropped."""
    dropped: Counter[str] = Counter()
    config = CorpusConfig("text", str(path), documents=documents)  # type: ignore[arg-type]
    found = [d for split in readers.splits("own", config) for d in readers.documents(split, dropped, bad)]
    assert len({document["id"] for document in found}) == len(found)
    return {document["id"]: document["text"] for document in found}, dropped


@pytest.mark.parametrize("documents", ["", "file"])
def test_a_file_is_a_document_by_its_name(tmp_path: Path, documents: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("一行目。\n\n三行目。\n", encoding="utf-8")
    (tmp_path / "b" / "a.txt").write_text("別の本。", encoding="utf-8")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("圧縮。".encode()))
    (tmp_path / "d.txt").write_bytes(b"")
    (tmp_path / "e.txt").write_text("　\n\t\n", encoding="utf-8")
    found, dropped = read(tmp_path / "**" / "*.txt*", documents)
    assert found == {"own-a.txt": "一行目。\n三行目。", "own-b/a.txt": "別の本。", "own-c.txt.gz": "圧縮。"} and dropped == {
        "empty": 2
    }


@pytest.mark.parametrize(
    "text, expected",
    [
        ("一。\n二。\n\n三。", {"1": "一。\n二。", "4": "三。"}),
        ("\ufeff一。\r\n\r\n　\r\n二。\r\n", {"1": "一。", "4": "二。"}),
        ("一。\r二。\r\r三。\r", {"1": "一。\n二。", "1.3": "三。"}),
        ("一。\n\f二。\n\n\f\n三。", {"1": "一。\n二。", "5": "三。"}),
        ("\n\n一。\u2028二。\x0b三。", {"3": "一。\u2028二。\x0b三。"}),
        ("\ufeff", {}),
        ("一。\n\ufeff\n\ufeff二。\n\ufeff三。", {"1": "一。", "3": "二。\n三。"}),
    ],
)
def test_a_paragraph_ends_at_an_empty_line_whatever_ends_a_line(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    (tmp_path / "a.txt").write_bytes(f"{text}\n\nおわり。".encode())
    last = f"own-a.txt-{text.count(chr(10)) + 3}"
    assert read(tmp_path / "a.txt")[0] == {f"own-a.txt-{place}": found for place, found in expected.items()} | {last: "おわり。"}


SENTENCE = "日本語の文章です。"


@pytest.mark.parametrize(
    "data, said",
    [
        (SENTENCE.encode("cp932"), "iconv -f CP932 "),
        (SENTENCE.encode("euc_jp"), "iconv -f EUC-JP "),
        (SENTENCE.encode("iso2022_jp"), "iconv -f ISO-2022-JP "),
        (SENTENCE.encode("utf-16"), "iconv -f UTF-16 "),
        (SENTENCE.encode("utf-32"), "iconv -f UTF-32 "),
        ("abc".encode("utf-16-le"), "iconv -f UTF-16LE "),
        ("abc".encode("utf-16-be"), "iconv -f UTF-16BE "),
        (b"abc\xff\xfe\x80", "iconv -f ENCODING "),
        (b"\x7fELF\x02\x00\x00", "a byte 0"),
    ],
)
@pytest.mark.parametrize("documents", ["file", "paragraph"])
def test_another_encoding_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, data: bytes, said: str, documents: str
) -> None:
    path = tmp_path / "my text.txt"
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read(path, documents)
    message = str(error.value)
    assert message.startswith(f"{path}: line 1: ") and said in message and message.endswith(".") and "\n" not in message
    assert "iconv" in message and "'my text.txt' > NEW.txt" in message


def test_a_bad_line_is_excluded_alone_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("一。\n".encode() + b"\xff\xfe\n" + "三。\n\n".encode() + b"a\0b\n" + "五。".encode())
    bad = BadRecords("exclude")
    found, dropped = read(tmp_path / "a.txt", bad=bad)
    assert list(found.values()) == ["一。\n三。", "五。"] and dropped == {"bad input: not UTF-8": 1, "bad input: NUL": 1}
    assert [record["place"] for record in bad.records] == ["line 2", "line 5"]


def test_a_document_of_too_many_bytes_is_refused_with_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "MAX_DOCUMENT_BYTES", 100)
    (tmp_path / "a.txt").write_bytes((SENTENCE + "\n\n").encode() * 10)
    with pytest.raises(InputError, match="documents: paragraph"):
        read(tmp_path / "a.txt", "file")
    assert len(read(tmp_path / "a.txt", "paragraph")[0]) == 10


@pytest.mark.parametrize("documents", ["file", "paragraph"])
def test_a_line_of_too_many_bytes_is_excluded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents: str) -> None:
    monkeypatch.setattr(plain_text, "MAX_DOCUMENT_BYTES", 100)
    (tmp_path / "a.txt").write_bytes((SENTENCE * 5 + "\n" + SENTENCE).encode())
    with pytest.raises(
        InputError, match=r"line 1: a line of more than 100 bytes; break it into lines, or set preprocess\.bad_input"
    ):
        read(tmp_path / "a.txt", documents)
    found, dropped = read(tmp_path / "a.txt", documents, BadRecords("exclude"))
    assert list(found.values()) == [SENTENCE] and dropped == {"bad input: too long": 1}


def test_only_text_takes_the_key_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("一。", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own\.documents: cc100 does not take it, only text would"):
        readers.splits("own", CorpusConfig("cc100", str(tmp_path / "a.txt"), documents="file"))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_large_file_gives_the_same_documents_and_ids_whatever_the_size_of_its_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, line_end: str
) -> None:
    path = tmp_path / f"large.txt{suffix}"
    paragraphs = [line_end.join(os.urandom(20 + n % 40).hex() + f"{n}番。" for _ in range(1 + n % 3)) for n in range(90)]
    # A byte order mark alone, as cat leaves one between two files, is an empty line wherever a span ends.
    content = "".join(paragraph + line_end + "\ufeff" * (n % 2) + line_end for n, paragraph in enumerate(paragraphs)).encode()
    path.write_bytes(gzip.compress(content) if suffix else content)
    whole = read(path)[0]
    assert len(whole) == 90
    monkeypatch.setattr(plain_text, "GROUP_BYTES", 100)
    for span in (700, 1500):
        monkeypatch.setattr(input_split, "SPLIT_BYTES", span)
        config = PreprocessConfig({"own": CorpusConfig("text", str(path), documents="paragraph")}, heldout_documents=5)
        out = tmp_path / f"out{span}"
        extract(config, out, Executor())
        assert len(readers.splits("own", config.corpora["own"])) > 4
        assert {d["id"]: d["text"] for part in list_parts(out, "own") for d in read_documents(part)} == whole


def test_thousands_of_small_files_are_few_tasks_and_a_changed_file_is_noticed(tmp_path: Path) -> None:
    folder, out = tmp_path / "files", tmp_path / "out"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number}.txt").write_text(f"{number}番の本。", encoding="utf-8")
    config = PreprocessConfig({"own": CorpusConfig("text", f"{folder}/*.txt")}, heldout_documents=5)
    report = extract(config, out, Executor())["own"]
    assert len(readers.splits("own", config.corpora["own"])) == 1 == len(report["files"])
    assert report["documents"] == 300 and "0.txt and 299 more" in report["files"]
    extract(config, out, Executor())
    (folder / "150.txt").write_text("150番の紙。", encoding="utf-8")
    with pytest.raises(ConfigError, match="file_ends"):
        extract(config, out, Executor())
