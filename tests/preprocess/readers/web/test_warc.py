"""WARC and WET files: pages and texts are documents, all else is counted by reason, and no record is passed over in silence."""

import gzip
import random
import time
import zlib
from collections import Counter
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import zstandard

from jadeberta.shards import ConfigError, InputError
from preprocess import compressed, readers
from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.estimate import estimate_corpus
from preprocess.executors.executor import Executor
from preprocess.readers import input_split
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.html import parser
from preprocess.readers.web import http_response, warc_records
from preprocess.segmenters import open_segmenter
from preprocess.stages.extract import extract
from preprocess.workdir import list_parts, read_documents
from tests.preprocess.web_files import packed, page, page_record, record, response

TEXT = "これは日本語の文章です。"
Found = tuple[dict[str, str], Counter[str]]


def read(path: Path, bad: BadRecords | None = None) -> Found:
    """Texts by id, and what was dropped."""
    dropped: Counter[str] = Counter()
    found = [
        d for split in readers.splits("web", CorpusConfig("warc", str(path))) for d in readers.documents(split, dropped, bad)
    ]
    return {document["id"]: document["text"] for document in found}, dropped


def of_records(folder: Path, records: list[bytes], bad: BadRecords | None = None) -> Found:
    """What is read of records, the same in a file of any form."""
    found = []
    for name, data in {
        "a.warc": b"".join(records),
        "b.warc.gz": packed(records),
        "c.warc.zst": zstandard.compress(b"".join(records)),
    }.items():
        (folder / name).write_bytes(data)
        found.append(read(folder / name, BadRecords(bad.policy) if bad else None))
    assert found[0] == found[1] == found[2]
    return found[0]


def test_pages_and_conversions_are_documents_by_the_ids_of_their_records(tmp_path: Path) -> None:
    records = [
        record("warcinfo", b"software: x"),
        record("request", b"GET /", 1),
        page_record(2, TEXT),
        record("metadata", b"x", 2),
    ]
    records += [record("conversion", "一行目。\n二行目。".encode(), 3), record("revisit", b"", 4), record("resource", b"x", 5)]
    found, dropped = of_records(tmp_path, records)
    id_ = "web-00000000-0000-0000-0000-00000000000"
    assert found == {f"{id_}2": TEXT, f"{id_}3": "一行目。\n二行目。"}
    assert dropped == {"record: revisit": 1, "record: resource": 1}


BODY = page(1, TEXT)
RESPONSES: dict[str, tuple[bytes, str]] = {
    "another status": (response(BODY, "404 Not Found"), "status not 200"),
    "another type": (response(b"%PDF", kind="application/pdf"), "not HTML"),
    "no type and no HTML": (response(b"{}", kind=""), "not HTML"),
    "no HTTP": (b"\x16\x03\x01", "not HTTP"),
    "nothing": (response(b""), "empty"),
    "a frame alone": (response("<body><nav>案内</nav>".encode()), "empty"),
    "Brotli": (response(b"\x0b\x02", headers="Content-Encoding: br\r\n"), "compressed by Brotli"),
    "cut gzip": (response(gzip.compress(BODY)[:-9], headers="Content-Encoding: gzip\r\n"), "damaged compression"),
    "cut chunks": (response(b"ff\r\nabc", headers="Transfer-Encoding: chunked\r\n"), "damaged chunks"),
    "a bomb": (response(gzip.compress(bytes(2**25)), headers="Content-Encoding: gzip\r\n"), "too large"),
    "a bomb of zstd": (response(zstandard.compress(bytes(2**25)), headers="Content-Encoding: zstd\r\n"), "too large"),
    "no encoding": (response(bytes(range(128, 256)) * 20), "unknown encoding"),
    "hostile": (response(b"".join(b"<b id=%d><p>" % n for n in range(4000))), "unparsable"),
}
GOOD: dict[str, bytes] = {
    "plain": response(BODY),
    "in chunks": response(
        b"5;x=y\r\n" + BODY[:5] + b"\r\n%X\r\n" % len(BODY[5:]) + BODY[5:] + b"\r\n0\r\n\r\n",
        headers="Transfer-Encoding: chunked\r\n",
    ),
    "chunks undone by the crawler": response(BODY, headers="Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"),
    "gzip": response(gzip.compress(BODY), headers="Content-Encoding: gzip\r\n"),
    "deflate": response(zlib.compress(BODY), headers="Content-Encoding: deflate\r\n"),
    "bare deflate": response(zlib.compress(BODY, wbits=-15), headers="Content-Encoding: deflate\r\n"),
    "zstd": response(zstandard.compress(BODY), headers="Content-Encoding: zstd\r\n"),
    "no type": response(BODY, kind=""),
    "XHTML": response(BODY, kind="application/xhtml+xml; charset=UTF-8"),
    "Shift_JIS by its server": response(page(1, TEXT, "cp932").replace(b"charset=cp932", b""), kind="text/html; charset=Shift_JIS"),
    "EUC-JP by itself": response(page(1, TEXT, "euc-jp"), kind="text/html; charset=ISO-8859-1"),
    "ISO-2022-JP by its look": response(page(1, TEXT, "iso-2022-jp").replace(b"charset=iso-2022-jp", b"")),
    "HTTP/2": response(BODY).replace(b"HTTP/1.1", b"HTTP/2"),
    "line ends of Unix": response(BODY).replace(b"\r\n", b"\n"),
}  # fmt: skip


def test_an_answer_that_is_no_page_is_counted_by_its_reason(tmp_path: Path) -> None:
    records = [record("response", answer, number) for number, (answer, _) in enumerate(RESPONSES.values())]
    truncated = record("response", response(BODY), WARC_Truncated="length")
    found, dropped = of_records(tmp_path, [*records, truncated])
    assert found == {} and dropped == Counter([reason for _, reason in RESPONSES.values()] + ["truncated"])


@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD)
def test_a_page_is_read_however_it_was_sent(tmp_path: Path, answer: bytes) -> None:
    (tmp_path / "a.warc").write_bytes(record("response", answer))
    assert list(read(tmp_path / "a.warc")[0].values()) == [TEXT]


def test_a_record_without_an_id_is_named_by_address_and_date(tmp_path: Path) -> None:
    nameless = {"WARC_Target_URI": "", "WARC_Date": ""}
    records = [record("conversion", TEXT.encode(), n, WARC_Record_ID="", **extra) for n, extra in ((1, {}), (2, nameless))]
    assert list(of_records(tmp_path, records)[0]) == ["web-1-https://example.jp/1-2026-01-01T00:00:00Z", "web-1-2"]


FAULTS = {
    "too long": (lambda: page_record(2, TEXT).replace(b"Content-Length: ", b"Content-Length: 1"), "Content-Length"),
    "too short": (lambda: record("response", response(BODY), 2, length=20), "Content-Length"),
    "no length": (lambda: record("response", response(BODY), 2, Content_Length=""), "Content-Length"),
    "a length that is no number": (lambda: record("response", response(BODY), 2, Content_Length="-5"), "Content-Length"),
    "another content": (lambda: page_record(2, TEXT).replace(TEXT.encode(), TEXT.encode()[::-1]), "digest"),
    "a text that is no UTF-8": (lambda: record("conversion", b"\xff\xfe", 2), "not UTF-8"),
    "no end of the header": (lambda: b"WARC/1.0\r\nA: b\r\n" + b"x: y\r\n" * 20_000 + b"\r\n\r\n", "not a record"),
    "no record": (lambda: b"garbage between records" * 9 + b"\r\n\r\n", "not a record"),
}


@pytest.mark.parametrize("fault, kind", FAULTS.values(), ids=FAULTS)
def test_a_record_with_a_fault_is_excluded_alone_and_named(tmp_path: Path, fault, kind: str) -> None:
    records = [page_record(1, TEXT), fault(), *(page_record(n, TEXT) for n in range(3, 9))]
    found, dropped = of_records(tmp_path, records, BadRecords("exclude"))
    assert [id_[-1] for id_ in found] == ["1", "3", "4", "5", "6", "7", "8"] and dropped == {f"bad input: {kind}": 1}
    with pytest.raises(InputError) as error:
        read(tmp_path / "b.warc.gz")
    message = str(error.value)
    assert (
        message.startswith(f"{tmp_path}/b.warc.gz: record 2, byte ") and "bad_input: exclude." in message and "\n" not in message
    )


RECORDS = [record("warcinfo", b"x"), *(page_record(n, f"{n}番の文章。") for n in range(1, 6))]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_that_is_cut_anywhere_but_between_records_is_refused_in_one_sentence(tmp_path: Path, suffix: str) -> None:
    data, path = (packed(RECORDS) if suffix else b"".join(RECORDS)), tmp_path / f"a.warc{suffix}"
    sizes = [len(packed([one]) if suffix else one) for one in RECORDS]
    between = {sum(sizes[:n]) for n in range(len(sizes) + 1)}
    # The line ends behind a record may be missing.
    between |= set() if suffix else {end - missing for end in between for missing in range(5)}
    for cut in [*range(1, len(data), 37), *(end + near for end in between for near in (-7, 1, 9, 20))]:
        if cut in between or not 0 < cut < len(data):
            continue
        path.write_bytes(data[:cut])
        with pytest.raises(InputError) as error:
            read(path, BadRecords("exclude"))
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_file_without_a_page_or_a_text_is_to_be_taken_out(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(record("warcinfo", b"software: x") + record("metadata", b"{}", 1))
    with pytest.raises(InputError, match=r"record 1: none of its 2 records holds a page or a text.*; take the file out"):
        read(tmp_path / "a.warc")


@pytest.mark.parametrize("data", [b"", b"hello", b"\r\n\r\n", gzip.compress(b"hello")], ids=["empty", "text", "lines", "gzip"])
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / ("a.warc.gz" if data.startswith(b"\x1f") else "a.warc")
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"WARC|empty|no record"):
        read(path)


def test_any_change_of_a_byte_is_a_page_a_count_or_one_sentence(tmp_path: Path) -> None:
    rng = random.Random(0)
    whole = {"a.warc": b"".join(RECORDS), "a.warc.gz": packed(RECORDS)}
    for turn in range(300):
        name = rng.choice(sorted(whole))
        data = bytearray(whole[name])
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if turn % 5 == 0:
            first, last = sorted(rng.randrange(len(data)) for _ in range(2))
            del data[first:last]
        (tmp_path / name).write_bytes(data)
        try:
            found, dropped = read(tmp_path / name, BadRecords("exclude"))
        except InputError as e:
            assert str(e).startswith(str(tmp_path)) and "\n" not in str(e)
        else:
            # A record is there, or counted, or was cut out, or its kind was changed to one that is no document.
            assert turn % 5 == 0 or len(found) + sum(dropped.values()) >= 4


@pytest.mark.parametrize("form", ["records in streams", "one stream", "plain", "a file in a page"])
def test_a_large_file_gives_the_same_documents_and_counts_whatever_the_size_of_its_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    rng = random.Random(1)
    texts = [f"{n}番。" + "".join(chr(0x4E00 + rng.randrange(9000)) for _ in range(rng.randrange(400))) for n in range(60)]
    records = [page_record(n, text) if n % 7 else record("revisit", text.encode(), n) for n, text in enumerate(texts)]
    if form == "a file in a page":
        # The bytes of a page look like records.
        inner = packed([page_record(900 + n, text) for n, text in enumerate(texts[:20])])
        records.insert(30, record("response", response(inner, kind="application/warc"), 800))
        path = tmp_path / "a.warc.gz"
        path.write_bytes(b"".join(gzip.compress(one, 0) for one in records))
    else:
        path = tmp_path / ("a.warc" if form == "plain" else "a.warc.gz")
        data = packed(records) if form == "records in streams" else b"".join(records)
        path.write_bytes(gzip.compress(data) if form == "one stream" else data)
    whole, dropped = read(path)
    assert len(whole) == 51 and dropped["record: revisit"] == 9
    monkeypatch.setattr(compressed, "CHUNK_BYTES", 1000)
    for span in (1000, 2500):
        monkeypatch.setattr(input_split, "SPLIT_BYTES", span)
        config = PreprocessConfig({"web": CorpusConfig("warc", str(path))}, SegmenterConfig("mecab"), heldout_documents=5)
        out = tmp_path / f"out{span}"
        assert len(readers.splits("web", config.corpora["web"])) > 4
        report = extract(config, out, Executor())["web"]
        assert {d["id"]: d["text"] for part in list_parts(out, "web") for d in read_documents(part)} == whole
        assert report["dropped"] == dict(sorted(dropped.items()))


def test_spaces_without_end_and_streams_without_content_cost_no_time(tmp_path: Path) -> None:
    began = time.process_time()
    spaces = record("response", response(b" " * 2**20, kind=""), 1) + record("response", response(b" \n" * 2**19), 2)
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(b"") * 20_000 + gzip.compress(spaces) + packed([page_record(3, TEXT)]))
    assert read(tmp_path / "a.warc.gz") == ({"web-00000000-0000-0000-0000-000000000003": TEXT}, {"not HTML": 1, "empty": 1})
    assert time.process_time() - began < 5


def test_the_head_of_a_file_is_looked_at_before_a_long_job(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(packed(RECORDS))
    splits = readers.splits("web", CorpusConfig("warc", str(path)))
    with open_segmenter(SegmenterConfig("mecab")) as segmenter:
        assert estimate_corpus("web", splits, tmp_path / "out", segmenter, PreprocessConfig()).text_bytes > 50


def test_a_huge_record_is_passed_over_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warc_records, "MAX_CONTENT_BYTES", 10_000)
    monkeypatch.setattr(http_response, "MAX_PAGE_BYTES", 5_000)
    large = response(b"<p>" + b"a" * 7_000)
    records = [record("response", large, 1), record("response", large * 2, 2), page_record(3, TEXT)]
    found, dropped = of_records(tmp_path, records)
    assert len(found) == 1 and dropped == {"too large": 2}


def test_a_length_beyond_any_page_that_is_wrong_takes_no_record_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [page_record(1, TEXT), record("response", response(page(2, TEXT)), 2, length=10**12), page_record(3, TEXT)]
    (tmp_path / "a.warc.gz").write_bytes(packed(records))
    found, dropped = read(tmp_path / "a.warc.gz", BadRecords("exclude"))
    assert len(found) == 2 and dropped == {"bad input: Content-Length": 1}
    # Where records are not streams of their own, those in the stated length would be lost.
    monkeypatch.setattr(warc_records, "MAX_CONTENT_BYTES", 100)
    records[1] = record("response", response(page(2, TEXT)), 2, length=len(response(page(2, TEXT))) + 50)
    for name, data in {"b.warc": b"".join(records), "c.warc.zst": zstandard.compress(b"".join(records))}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            InputError, match=r"record 2: Content-Length is \d+, which does not fit what follows; copy or download"
        ):
            read(tmp_path / name, BadRecords("exclude"))


def test_without_the_parser_the_format_is_refused_with_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(parser, "version", missing)
    (tmp_path / "a.warc").write_bytes(b"".join(RECORDS))
    for format in ("warc", "enterprise_html"):
        with pytest.raises(ConfigError) as error:
            readers.splits("web", CorpusConfig(format, str(tmp_path / "a.warc")))  # type: ignore[arg-type]
        assert "pip install 'jadeberta[web]'" in str(error.value) and str(error.value).startswith(
            "preprocess.corpora.web.format: "
        )
