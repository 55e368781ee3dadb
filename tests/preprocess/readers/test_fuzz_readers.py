"""Whatever a corpus file holds, a reader gives documents or one of our own errors, and comes to an end."""

import bz2
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jadeberta.shards import InputError
from preprocess import readers
from preprocess.config import CorpusConfig
from preprocess.readers.bad_records import BadRecords
from tests.preprocess.source_files import COMPRESS, FOOTER, dump, jsonl, oscar_row, page

NAMES = {"wikipedia": "jawiki.xml", "cc100": "ja.txt", "oscar": "ja_meta_part_1.jsonl", "jsonl": "web.jsonl", "text": "a.txt"}
GOOD = {
    "wikipedia": dump([page(n, f"本文{n}。[[東京]]") for n in range(40)]),
    "cc100": "一行目。\n二行目。\n\n次の文書。\n\n".encode() * 20,
    "oscar": jsonl([oscar_row(f"本文{n}。", "annotation", None) for n in range(40)]),
    "jsonl": jsonl([{"text": f"本文{n}。"} for n in range(40)]),
    "text": "一行目。\n二行目。\n\n次の文書。\r\n　\n".encode() * 20,
}
deep = settings(max_examples=80)
formats = st.sampled_from(sorted(NAMES))
suffixes = st.sampled_from(sorted(COMPRESS))


def read(format: str, suffix: str, data: bytes, index: bytes | None = None) -> list[dict[str, str]] | None:
    """The documents of a file; None where it is refused in one sentence of ours that names it."""
    with tempfile.TemporaryDirectory() as folder:
        name = NAMES[format] if index is None else "jawiki-multistream.xml"
        path = Path(folder) / (name + suffix)
        path.write_bytes(data)
        if index is not None:
            path.with_name("jawiki-multistream-index.txt.bz2").write_bytes(bz2.compress(index))
            path = path.with_name("jawiki-multistream*")
        try:
            documents = "paragraph" if format == "text" else ""
            found = readers.splits("c", CorpusConfig(format=format, path=str(path), documents=documents))  # type: ignore[arg-type]
            documents = [document for split in found for document in readers.documents(split, Counter())]
        except InputError as e:
            assert folder in str(e) and "\n" not in str(e)
            return None
    for document in documents:
        assert document["text"].strip() and json.dumps(document, ensure_ascii=False).encode()
    return documents


@pytest.mark.parametrize("format", NAMES)
@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_good_file_is_read_whole(format: str, suffix: str) -> None:
    documents = read(format, suffix, COMPRESS[suffix](GOOD[format]))
    assert documents is not None and len(documents) == 40


@deep
@given(formats, suffixes, st.binary(max_size=300))
def test_random_bytes_are_documents_or_refused(format: str, suffix: str, data: bytes) -> None:
    read(format, suffix, data)


@deep
@given(formats, suffixes, st.binary(max_size=300))
def test_random_bytes_that_are_well_compressed_are_documents_or_refused(format: str, suffix: str, data: bytes) -> None:
    read(format, suffix, COMPRESS[suffix](data))


@deep
@given(formats, suffixes.filter(bool), st.data())
def test_a_compressed_file_that_is_cut_anywhere_is_refused(format: str, suffix: str, data: st.DataObject) -> None:
    whole = COMPRESS[suffix](GOOD[format])
    assert read(format, suffix, whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@deep
@given(formats, suffixes, st.data())
def test_a_file_with_a_byte_changed_is_documents_or_refused(format: str, suffix: str, data: st.DataObject) -> None:
    damaged = bytearray(COMPRESS[suffix](GOOD[format]))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    read(format, suffix, bytes(damaged))


@deep
@given(formats, st.data())
def test_a_file_with_a_stretch_taken_out_or_put_in_twice_is_documents_or_refused(format: str, data: st.DataObject) -> None:
    good = GOOD[format]
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(good))] * 2)))
    read(format, "", good[:first] + good[last:])
    read(format, "", good[:last] + good[first:])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["header", "\ud800", "　", "\x00"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "text": json_values,
        "content": json_values,
        "id": json_values,
        "title": json_values,
        "metadata": json_values
        | st.fixed_dictionaries(
            {}, optional={"annotation": json_values, "annotations": json_values, "quality_warnings": json_values}
        ),
    },
)


@deep
@given(st.sampled_from(["oscar", "jsonl"]), st.lists(rows | json_values, max_size=4))
def test_rows_of_any_json_are_documents_or_refused(format: str, found: list[object]) -> None:
    read(format, "", "\n".join(json.dumps(row) for row in found).encode())


@deep
@given(st.lists(rows | json_values, max_size=4), st.sampled_from(["text", "metadata.annotation", "id"]))
def test_rows_of_any_json_are_kept_counted_or_refused_under_a_filter_and_named_fields(found: list[object], key: str) -> None:
    for where in ("text == null or not (id < 3)", '"header" in metadata.annotation and metadata != null'):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "w.jsonl"
            path.write_bytes("\n".join(json.dumps(row) for row in found).encode())
            dropped: Counter[str] = Counter()
            try:
                (split,) = readers.splits("c", CorpusConfig("jsonl", str(path), text_key=key, id_key="id", where=where))
                documents = list(readers.documents(split, dropped, BadRecords("exclude")))
            except InputError as e:
                assert not found and folder in str(e)
                continue
            assert len(documents) + sum(dropped.values()) == len(found)


@pytest.mark.parametrize(
    "row",
    [
        '{"text": ' + "9" * 5000 + "}",
        '{"id": ' + "9" * 5000 + ', "text": "本文。"}',
        '{"text": ' + "[" * 200_000,
        '{"text": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"text": "本文。", "metadata": {"annotation": [[], {}, NaN, 1e999]}}',
        '{"text": "\\ud83d本文。\\ude00", "id": "\\udfff", "title": "\\ud800"}',
        '{"text": "本文。", "text": 1}',
        '\ufeff{"text": "本文。"}',
        '{"text": "本\x01文。"}',
    ],
)
def test_a_strange_row_is_a_document_or_refused(row: str) -> None:
    read("jsonl", "", row.encode())
    read("oscar", "", row.replace('"text"', '"content"').encode())


XML = [
    "<page>", "</page>", "<title>題</title>", "<ns>0</ns>", "<ns>1</ns>", "<id>5</id>", "<id></id>", "<redirect />", "<revision>",
    "</revision>", "<text>", "</text>", "<text/>", "本文。", "{{a|", "]]", "&lt;", "&amp;#0;", "&", "<",
    "<!DOCTYPE a [<!ENTITY b 'c'>]>", "<?xml?>", "<![CDATA[", "]]>", "\x00", "\n", "</mediawiki>", "<mediawiki>",
]  # fmt: skip


@deep
@given(st.lists(st.sampled_from(XML), max_size=20).map("".join), st.booleans())
def test_any_xml_is_documents_or_refused(xml: str, ends: bool) -> None:
    read("wikipedia", "", b"<mediawiki>" + xml.encode() + (FOOTER.encode() if ends else b""))


@deep
@given(st.lists(st.sampled_from([b"0", b"9", b"616:", b":", b"\n", b"-1", b"9" * 5000, b"a", b"\xff"]), max_size=8).map(b"".join))
def test_any_index_beside_a_dump_is_used_or_refused(index: bytes) -> None:
    read("wikipedia", ".bz2", bz2.compress(GOOD["wikipedia"]), index)


@settings(max_examples=30)
@given(st.text(st.sampled_from("一。\r\n\x0b\u2028 　\ufeff"), max_size=60))
def test_cc100_documents_are_what_stands_between_blank_lines(text: str) -> None:
    blocks = [block.strip() for block in re.split(r"\n(?:\n)+", re.sub(r"\r\n", "\n", text.removeprefix("\ufeff")).strip("\n"))]
    documents = read("cc100", "", text.encode())
    assert [document["text"] for document in documents or []] == [block for block in blocks if block]
