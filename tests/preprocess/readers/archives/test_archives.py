"""Members of .tar and .zip are read as files are: the same documents in every archive, and nothing passed over in silence or unpacked."""

import gzip
import os
import random
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from jadeberta.shards import InputError
from preprocess import compressed, readers
from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.estimate import estimate_corpus
from preprocess.executors.executor import Executor
from preprocess.readers import input_split, plain_text
from preprocess.readers.archives import zip_entries
from preprocess.readers.bad_records import BadRecords
from preprocess.segmenters import open_segmenter
from preprocess.stages.extract import extract
from preprocess.workdir import list_parts, read_documents
from tests.preprocess.archive_files import ARCHIVES, Members, tar, zipped
from tests.preprocess.source_files import jsonl, oscar_row

DOC = '<doc id="{0}" url="" title="題{0}">\n題{0}\n\n記事{0}の文。\n</doc>\n'
CORPORA: dict[str, tuple[Members, dict[str, str]]] = {
    "jsonl": (
        [("./a.jsonl", jsonl([{"text": "一。"}, {"text": "二。", "id": "x"}])),
         ("b/c.json.gz", gzip.compress(jsonl([{"text": "三。"}])))],
        {"own-1/a.jsonl-1": "一。", "own-x": "二。", "own-1/b/c.json.gz-1": "三。"},
    ),
    "text": (
        [("本/一.txt", "一行目。\n\n二行目。".encode()), ("二.TXT", "三行目。".encode()), ("空.txt", b"")],
        {"own-{}/本/一.txt": "一行目。\n二行目。", "own-{}/二.TXT": "三行目。"},
    ),
    "cc100": (
        [("a.txt", "一。\n\n二。\n".encode()), ("b.txt", "三。".encode())],
        {"own/a.txt-1": "一。", "own/a.txt-2": "二。", "own/b.txt-1": "三。"},
    ),
    "oscar": ([("ja_meta_part_1.jsonl", jsonl([oscar_row("一。", "annotation", None)]))], {"own-1/ja_meta_part_1.jsonl-1": "一。"}),
    "wikiextractor": (
        [("AA/wiki_00", DOC.format(1).encode()), ("AB/wiki_00", (DOC.format(7) + DOC.format(8)).encode())],
        {"own-1": "記事1の文。", "own-7": "記事7の文。", "own-8": "記事8の文。"},
    ),
}  # fmt: skip


def read(
    path: Path, format: str = "jsonl", bad: BadRecords | None = None, documents: str = ""
) -> tuple[dict[str, str], Counter[str]]:
    dropped: Counter[str] = Counter()
    config = CorpusConfig(format, str(path), documents=documents)  # type: ignore[arg-type]
    found = [d for split in readers.splits("own", config) for d in readers.documents(split, dropped, bad)]
    assert len({document["id"] for document in found}) == len(found)
    return {document["id"]: document["text"] for document in found}, dropped


def refused(path: Path, format: str = "jsonl") -> str:
    with pytest.raises(InputError) as error:
        read(path, format, BadRecords("exclude"))
    message = str(error.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message and "; " in message
    return message


@pytest.mark.parametrize("suffix", ARCHIVES)
@pytest.mark.parametrize("format", CORPORA)
def test_the_members_of_a_format_are_read_in_every_archive(tmp_path: Path, format: str, suffix: str) -> None:
    members, expected = CORPORA[format]
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(ARCHIVES[suffix]([("README.md", b"x"), *members]))
    found, dropped = read(path, format)
    assert found == {id_.format(path.name): text for id_, text in expected.items()}
    assert dropped == Counter({"member: of another format": 1}) + Counter({"empty": 1} if format == "text" else {})
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name], "nothing is unpacked"


@pytest.mark.parametrize(
    "name, form",
    [("a.ZIP", ".zip"), ("a.TAR", ".tar"), ("a.Tar.GZ", ".tar.gz"), ("a.TGZ", ".tgz"), ("a.tbz", ".tar.bz2"),
     ("a.tbz2", ".tar.bz2"), ("a.txz", ".tar.xz"), ("a.tzst", ".tar.zst")],
)  # fmt: skip
def test_archives_and_members_may_have_short_suffixes_and_capital_letters(tmp_path: Path, name: str, form: str) -> None:
    (tmp_path / name).write_bytes(ARCHIVES[form]([("A.JSONL", ROW), ("b.JSONL.GZ", gzip.compress(ROW))]))
    assert read(tmp_path / name) == ({"own-1/A.JSONL-1": "文。", "own-1/b.JSONL.GZ-1": "文。"}, {})


@pytest.mark.parametrize("format", ["wikipedia", "warc", "parquet"])
def test_a_format_that_reads_no_members_says_how_to_unpack_the_archive(tmp_path: Path, format: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar([("a", b"x")]))
    assert "unpack it with tar -xf a.tar " in refused(tmp_path / "a.tar", format)


ROW = jsonl([{"text": "文。"}])


def special(name: str, kind: bytes, **fields: Any) -> bytes:
    """A header of a kind, without content, as part of an archive."""
    header = tarfile.TarInfo(name)
    header.type = kind
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(tarfile.GNU_FORMAT)


def body(members: Members) -> bytes:
    """An archive without its end."""
    return tar(members).rstrip(b"\0") + bytes(-len(tar(members).rstrip(b"\0")) % 512)


def test_members_that_are_no_files_of_the_corpus_are_left_out_and_counted(tmp_path: Path) -> None:
    names = [
        "../up.jsonl",
        "/etc/x.jsonl",
        "a/../../x.jsonl",
        "C:/x.jsonl",
        "d\\x.jsonl",
        "._a.jsonl",
        "__MACOSX/a.jsonl",
        ".hidden/.b.jsonl",
    ]
    names += ["b.tar", "b.zip", "b.tar.gz", "b.7z", "data.csv"]
    specials = [
        special("l.jsonl", tarfile.SYMTYPE, linkname="/etc/passwd"),
        special("h.jsonl", tarfile.LNKTYPE, linkname="a.jsonl"),
    ]
    specials += [
        special("dev.jsonl", tarfile.CHRTYPE),
        special("p.jsonl", tarfile.FIFOTYPE),
        special("d.jsonl/", tarfile.DIRTYPE),
    ]
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(specials) + tar([*((name, ROW) for name in names), ("a.jsonl", ROW), ("a.jsonl", ROW * 2)]))
    found, dropped = read(path)
    assert list(found) == ["own-1/a.jsonl-1"]
    reasons = {"path leads out of the archive": 5, "hidden file": 3, "archive in the archive": 4, "of another format": 1}
    reasons |= {"link": 2, "device": 2, "named twice": 1}
    assert dropped == {f"member: {reason}": number for reason, number in reasons.items()}
    zip_path = tmp_path / "b.zip"
    with pytest.warns(UserWarning, match="Duplicate"):
        zip_path.write_bytes(zipped([*((name, ROW) for name in names), ("a.jsonl", ROW), ("a.jsonl", ROW), ("d/", b"")]))
    found, dropped = read(zip_path)
    # In a zip of Windows a backslash is between folders.
    assert list(found) == ["own-1/d/x.jsonl-1", "own-1/a.jsonl-1"] and dropped["member: path leads out of the archive"] == 4
    assert dropped["member: named twice"] == 1


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_of_any_length_and_in_any_encoding_are_read(tmp_path: Path, form: int) -> None:
    names = ["長" * 90 + ".jsonl", "a/" * 60 + "b.jsonl", os.fsdecode("日本".encode("cp932")) + ".jsonl"]
    (tmp_path / "a.tar").write_bytes(tar([(name, ROW) for name in names], form))
    found, dropped = read(tmp_path / "a.tar")
    assert len(found) == 3 and not dropped and f"own-1/{names[0]}-1" in found
    assert all(orjson.dumps(id_) for id_ in found)


def test_a_sparse_file_is_left_out_with_all_of_its_blocks(tmp_path: Path) -> None:
    sparse = bytearray(special("s.jsonl", tarfile.GNUTYPE_SPARSE, size=512))
    sparse[482] = 1
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    data = bytes(sparse) + bytes(504) + b"\1" + bytes(7) + bytes(512) + b"{" * 512
    (tmp_path / "a.tar").write_bytes(data + tar([("a.jsonl", ROW)]))
    assert read(tmp_path / "a.tar") == ({"own-1/a.jsonl-1": "文。"}, {"member: sparse file": 1})


def test_a_name_of_windows_in_japan_is_read_without_the_flag_of_utf8(tmp_path: Path) -> None:
    data = zipped([("XXXXXX.jsonl", ROW), ("日本.jsonl", ROW)]).replace(b"XXXXXX", "表予定".encode("cp932"))
    (tmp_path / "a.zip").write_bytes(data)
    assert list(read(tmp_path / "a.zip")[0]) == ["own-1/表予定.jsonl-1", "own-1/日本.jsonl-1"]


def test_a_zip_that_is_encrypted_or_packed_in_another_way_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "a.zip", zipped([("a.jsonl", ROW)])
    central = data.index(b"PK\1\2")
    for offset, value, said in ((8, 1, "it is encrypted"), (10, 9, "compression is not read")):
        changed = bytearray(data)
        changed[central + offset] |= value
        path.write_bytes(changed)
        message = refused(path)
        assert said in message and "member a.jsonl" in message and "unpack the archive" in message


def test_a_zip_whose_members_share_their_bytes_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped([("a.jsonl", ROW), ("b.jsonl", ROW)]))
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
    data[second + 42 : second + 46] = bytes(4)
    (tmp_path / "a.zip").write_bytes(data)
    assert "overlap" in refused(tmp_path / "a.zip")


def test_a_zip_joined_to_another_one_is_refused_and_one_behind_a_program_is_read(tmp_path: Path) -> None:
    one, other = (zipped([(name, ROW)]) for name in ("a.jsonl", "b.jsonl"))
    (tmp_path / "a.zip").write_bytes(one + other)
    assert "members that its directory does not name, as when archives are joined by cat" in refused(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(b"MZ" + bytes(500) + other)
    assert list(read(tmp_path / "a.zip")[0]) == ["own-1/b.jsonl-1"]


def test_a_zip_with_a_byte_changed_in_a_member_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped([("a.jsonl", ROW)], zipfile.ZIP_STORED))
    data[data.index("文".encode())] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "CRC" in refused(tmp_path / "a.zip")


def test_a_zip_with_a_directory_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(zipped([(f"{n}.jsonl", ROW) for n in range(20)]))
    assert len(read(tmp_path / "a.zip")[0]) == 20
    monkeypatch.setattr(zip_entries, "MAX_DIRECTORY_BYTES", 900)
    assert "a directory of " in refused(tmp_path / "a.zip")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst", ".zip"])
def test_an_archive_that_is_cut_anywhere_is_refused_in_one_sentence(tmp_path: Path, suffix: str) -> None:
    whole = ARCHIVES[suffix]([("a.jsonl", ROW * 30), ("長" * 60 + ".jsonl", ROW), ("c.jsonl.gz", gzip.compress(ROW * 3))])
    path = tmp_path / f"a{suffix}"
    ends = whole.rstrip(b"\0") if suffix == ".tar" else whole
    last = len(ends) + -len(ends) % 512 + 511 if suffix == ".tar" else len(whole) - 1
    for cut in sorted({1, 100, last, *range(0, last, 512 if suffix == ".tar" else 37), *range(3, last, 233)}):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError) as error:
            read(path, bad=BadRecords("exclude"))
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_any_change_of_bytes_is_documents_counts_or_one_sentence(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(suffix)
    whole = ARCHIVES[suffix]([("a.jsonl", ROW * 3), ("長" * 60 + ".jsonl", ROW), ("c.jsonl.gz", gzip.compress(ROW))])
    path, refusals = tmp_path / f"a{suffix}", 0
    for turn in range(250):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if turn % 4 == 0:
            first, last = sorted(rng.randrange(len(data)) for _ in range(2))
            data[first:last] = data[first:last] * 2 if turn % 8 else b""
        path.write_bytes(data)
        try:
            read(path, bad=BadRecords("exclude"))
        except InputError as e:
            refusals += 1
            assert str(e).startswith(str(path)) and "\n" not in str(e)
    assert refusals > 25


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "empty"),
        (b"hello" * 300, "not a tar header"),
        (bytes(1024), "no member that format jsonl reads"),
        (tar([("a.csv", b"x")]), "no member that format jsonl reads (left out: 1 of another format)"),
        (tar([("a.jsonl", ROW)]) + tar([("b.jsonl", ROW)]), "joined by cat"),
        (special("L", tarfile.GNUTYPE_LONGNAME, size=2**30), "a name or pax header of 1,073,741,824 bytes"),
        (special("x", tarfile.XHDTYPE, size=9) + b"9 size=x\n" + bytes(503) + tar([("a.jsonl", ROW)]), "size is no number"),
        (
            special("x", tarfile.XHDTYPE, size=9) + b"99999 a=b" + bytes(503) + tar([("a.jsonl", ROW)]),
            "a pax header that cannot be read",
        ),
    ],
)
def test_what_is_no_whole_archive_is_refused_with_what_it_is(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    assert said in refused(tmp_path / "a.tar")


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_small_archive_of_much_content_takes_little_memory(tmp_path: Path, suffix: str) -> None:
    # Of the content of the first member nothing is kept; the others are one line each.
    members = [("a.bin", bytes(2**26)), ("b.jsonl", b" " * 2**21 + ROW), ("c.jsonl.gz", gzip.compress(b" " * 2**21))]
    (tmp_path / f"a{suffix}").write_bytes(ARCHIVES[suffix](members))
    del members
    assert (tmp_path / f"a{suffix}").stat().st_size < 2**18
    tracemalloc.start()
    assert len(read(tmp_path / f"a{suffix}")[0]) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25 + 2**23


def test_a_bad_line_is_named_with_archive_and_member(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar([("d/a.jsonl", ROW + b"{\n" + ROW)]))
    with pytest.raises(InputError, match=rf"^{path}/d/a\.jsonl: line 2: not JSON"):
        read(path)
    bad = BadRecords("exclude")
    assert len(read(path, bad=bad)[0]) == 2 and bad.records[0]["file"] == "a.tar/d/a.jsonl"


def large(format: str) -> Members:
    """Members of any size, which compress badly."""
    rng = random.Random(3)

    def line(number: int) -> str:
        return f"{number}番" + rng.randbytes(rng.randrange(60)).hex() + "。"

    members: Members = []
    for number, size in enumerate((1, 40, 3, 1, 1, 25, 2, 1, 30)):
        if format in ("cc100", "text"):
            members.append((f"{number}.txt", "\r\n\r\n".join(f"{line(n)}\r\n{line(n)}" for n in range(size)).encode()))
        elif format == "wikiextractor":
            members.append(
                (
                    f"A{number}/wiki_00",
                    "".join(DOC.format(f"{number}{n:02}").replace("文。", line(n)) for n in range(size)).encode(),
                )
            )
        else:
            content = jsonl([{"text": line(n)} for n in range(size)]) + b"\n{}\n"
            members.append((f"{number}.jsonl.gz", gzip.compress(content)) if number % 2 else (f"{number}.jsonl", content))
        members.append((f"{number}.csv", b"x"))
    return [*members, *([("empty.txt", b""), ("end.txt", b"")] if format == "text" else [])]


@pytest.mark.parametrize(
    "format, documents, suffix, spans",
    [
        ("jsonl", "", ".tar.gz", (900, 2500)),
        ("cc100", "", ".zip", (1500,)),
        ("text", "file", ".tar", (3000,)),
        ("text", "paragraph", ".tar.gz", (1500,)),
        ("wikiextractor", "", ".tar", (4000,)),
    ],
)
def test_a_large_archive_gives_the_same_documents_and_counts_whatever_the_size_of_its_spans_and_who_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, documents: str, suffix: str, spans: tuple[int, ...]
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(ARCHIVES[suffix](large(format)))
    whole, dropped = read(path, format, BadRecords("exclude"), documents)
    assert len(whole) == (9 if documents == "file" else 104) and dropped["member: of another format"] == 9
    monkeypatch.setattr(compressed, "CHUNK_BYTES", 500)
    monkeypatch.setattr(plain_text, "GROUP_BYTES", 500)
    for span in spans:
        monkeypatch.setattr(input_split, "SPLIT_BYTES", span)
        corpus = CorpusConfig(format, str(path), documents=documents)  # type: ignore[arg-type]
        config = PreprocessConfig({"own": corpus}, heldout_documents=5, bad_input="exclude", bad_input_limit=0.5)
        out = tmp_path / f"out{span}"
        assert len(readers.splits("own", corpus)) > 2
        report = extract(config, out, Executor())["own"]
        assert {d["id"]: d["text"] for part in list_parts(out, "own") for d in read_documents(part)} == whole
        assert report["dropped"] == dict(sorted(dropped.items())) and (documents != "file" or dropped["empty"] == 2)
        # Members that are left out are no documents of the file.
        in_file = len(whole) + sum(dropped.values()) - dropped["member: of another format"]
        assert report["files"] == {path.name: {"documents": len(whole), "in_file": in_file}}
        # A part and its marker are lost, and made again with the same bytes.
        folder = out / "work" / "documents" / "own"
        parts = {part.name: part.read_bytes() for part in folder.glob("*.zst")}
        for marker in sorted(folder.glob("*.json"))[1::2]:
            marker.unlink()
        assert extract(config, out, Executor())["own"] == report
        assert {part.name: part.read_bytes() for part in folder.glob("*.zst")} == parts
        assert not list((out / "work" / "cuts").glob("*"))


def test_the_head_of_an_archive_is_looked_at_before_a_long_job(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar(large("jsonl"))))
    with open_segmenter(SegmenterConfig("mecab")) as segmenter:
        splits = readers.splits("web", CorpusConfig("jsonl", str(path)))
        assert estimate_corpus("web", splits, tmp_path / "out", segmenter, PreprocessConfig()).text_bytes > 1000


def test_archives_and_files_are_one_corpus(tmp_path: Path) -> None:
    (tmp_path / "1.zip").write_bytes(zipped([("a.jsonl", ROW)]))
    (tmp_path / "2.jsonl").write_bytes(ROW)
    (tmp_path / "3.tar").write_bytes(tar([("a.jsonl", ROW)]))
    assert list(read(tmp_path / "*")[0]) == ["own-1/a.jsonl-1", "own-2-1", "own-3/a.jsonl-1"]


def test_small_archives_of_text_are_read_together_with_files(tmp_path: Path) -> None:
    (tmp_path / "1.zip").write_bytes(zipped([("a.txt", "一。".encode())]))
    (tmp_path / "2.txt").write_bytes("二。".encode())
    assert list(read(tmp_path / "*", "text")[0]) == ["own-1.zip/a.txt", "own-2.txt"]
