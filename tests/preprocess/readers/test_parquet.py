"""Parquet: one row a document, whatever the type of the column, the size of the row groups and the splits."""

import datetime
import decimal
import tempfile
import uuid
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jadeberta.shards import InputError
from preprocess import readers
from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.estimate import estimate_corpus
from preprocess.executors.executor import Executor
from preprocess.readers import input_split
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.rows import parquet_file
from preprocess.segmenters import open_segmenter
from preprocess.stages.extract import extract
from preprocess.workdir import list_parts, read_documents
from tests.preprocess.source_files import jsonl

Read = tuple[list[dict[str, str]], Counter[str]]


def write(path: Path, table: pa.Table | dict[str, Any], rows: int = 3, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table) if isinstance(table, dict) else table, path, row_group_size=rows, **options)
    return path


def read(path: Path | str, bad: BadRecords | None = None, format: str = "parquet", **keys: Any) -> Read:
    dropped: Counter[str] = Counter()
    config = CorpusConfig(format, str(path), **keys)  # type: ignore[arg-type]
    return [d for split in readers.splits("c", config) for d in readers.documents(split, dropped, bad)], dropped


def texts(path: Path | str, **keys: Any) -> list[str]:
    return [document["text"] for document in read(path, **keys)[0]]


def test_a_row_is_a_document_and_null_and_empty_texts_are_counted(tmp_path: Path) -> None:
    table = {
        "text": ["一。", None, " \n", "二。\n", ""],
        "id": ["x", "y", "z", None, "v"],
        "title": ["題", None, None, None, None],
    }
    documents, dropped = read(write(tmp_path / "a.parquet", table))
    assert documents == [
        {"id": "c-x", "source": "c", "title": "題", "text": "一。"},
        {"id": "c-a-4", "source": "c", "title": "", "text": "二。"},
    ]
    assert dropped == {"null": 1, "empty": 2}


def test_good_rows_are_counted_with_the_bad_ones_between_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": [b"a", b"\xff", b"b", None, b"c", b"d", b"e"]}, rows=4)
    bad = BadRecords("exclude")
    documents, dropped = read(path, bad)
    assert (len(documents), bad.documents, bad.count) == (5, 5, 1) and dropped == {"null": 1, "bad input: not UTF-8": 1}


TYPES: dict[str, pa.Array] = {
    "string": pa.array(["一。", "二。"]),
    "large string": pa.array(["一。", "二。"], pa.large_string()),
    "string view": pa.array(["一。", "二。"], pa.string_view()),
    "dictionary": pa.array(["一。", "二。"]).dictionary_encode(),
    "bytes": pa.array(["一。".encode(), "二。".encode()]),
    "large bytes": pa.array(["一。".encode(), "二。".encode()], pa.large_binary()),
    "dictionary of bytes": pa.array(["一。".encode(), "二。".encode()]).dictionary_encode(),
}


@pytest.mark.parametrize("name", TYPES)
def test_texts_of_every_string_type_are_read_also_inside_structs(tmp_path: Path, name: str) -> None:
    array = TYPES[name]
    meta = pa.StructArray.from_arrays([array, pa.array([1, 2])], ["body", "n"])
    deep = pa.StructArray.from_arrays([meta], ["inner"])
    path = write(tmp_path / "a.parquet", {"text": array, "meta": meta, "deep": deep, "meta.body": pa.array(["甲。", "乙。"])})
    assert texts(path) == texts(path, text_key="deep.inner.body") == ["一。", "二。"]
    # A column with a dot in its name comes before a field of a struct, as in JSON Lines.
    assert texts(path, text_key="meta.body") == ["甲。", "乙。"]


def test_a_field_of_a_null_struct_is_null(tmp_path: Path) -> None:
    meta = pa.array([{"body": "一。"}, None, {"body": None}], pa.struct([("body", pa.string())]))
    documents, dropped = read(write(tmp_path / "a.parquet", {"meta": meta}), text_key="meta.body")
    assert [d["id"] for d in documents] == ["c-a-1"] and dropped == {"null": 2}


def test_a_list_of_strings_is_a_text_of_as_many_lines_where_the_recipe_names_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": [["一。", "二。"], [], None, ["三。", None]]})
    with pytest.raises(InputError, match=r"column text is of type list.*name it by text_key to join its strings"):
        read(path)
    documents, dropped = read(path, BadRecords("exclude"), text_key="text")
    assert [d["text"] for d in documents] == ["一。\n二。"]
    assert dropped == {"empty": 1, "null": 1, "bad input: wrong type": 1}


IDS: dict[str, tuple[pa.Array, list[str]]] = {
    "int64": (pa.array([2**62 + 1, 2**62]), ["c-4611686018427387905", "c-4611686018427387904"]),
    "uint64": (pa.array([2**64 - 1, 0], pa.uint64()), ["c-18446744073709551615", "c-0"]),
    "decimal": (pa.array([decimal.Decimal(10**30 + 1), None]), [f"c-{10**30 + 1}", "c-a-2"]),
    "string": (pa.array(["<urn:uuid:1>", ""]), ["c-<urn:uuid:1>", "c-a-2"]),
    "dictionary": (pa.array(["x", None]).dictionary_encode(), ["c-x", "c-a-2"]),
    "uuid": (pa.array([uuid.UUID(int=5).bytes, None], pa.uuid()), [f"c-{uuid.UUID(int=5)}", "c-a-2"]),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_keep_every_digit_and_an_empty_one_is_replaced_by_file_and_row(tmp_path: Path, name: str) -> None:
    array, expected = IDS[name]
    path = write(tmp_path / "a.parquet", {"text": ["一。", "二。"], "id": array, "key": array})
    assert [d["id"] for d in read(path)[0]] == [d["id"] for d in read(path, id_key="key")[0]] == expected


def test_a_column_id_of_another_type_is_no_id_unless_the_recipe_names_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["一。"], "id": [1.5]})
    assert [d["id"] for d in read(path)[0]] == ["c-a-1"]
    with pytest.raises(
        InputError, match="column id is of type double, and an id is a string or an integer; name another column by"
    ):
        read(path, id_key="id")


ROWS = [
    {"text": f"文{n}。", "id": f"k{n}" if n % 5 else None, "score": n / 4 if n % 7 else None, "n": n, "ok": n % 2 == 0,
     "meta": {"lang": "ja" if n % 3 else None, "tags": ["a", "b"][: n % 3]}}
    for n in range(40)
]  # fmt: skip
FILTERS = [
    "score >= 3", 'meta.lang == "ja" and n < 20', "not (score < 5)", '"b" in meta.tags', "ok == true or score == null",
    'n in [1, 2, 3, 39] and meta.lang not in ["en"]', "score == null", "n > 100",
]  # fmt: skip


@pytest.mark.parametrize("where", FILTERS)
def test_a_filter_keeps_the_same_rows_of_parquet_and_of_json_lines(tmp_path: Path, where: str) -> None:
    path = write(tmp_path / "a.parquet", pa.Table.from_pylist(ROWS), 7)
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    documents, dropped = read(path, where=where)
    same, same_dropped = read(tmp_path / "a.jsonl", format="jsonl", where=where)
    assert [d["text"] for d in documents] == [d["text"] for d in same] and dropped == same_dropped
    assert len(documents) + dropped["where"] == 40
    assert [d["id"] for d in documents] == [d["id"].replace("c-1-", "c-a-") for d in same]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits of a few row groups."""
    monkeypatch.setattr(input_split, "SPLIT_BYTES", 300)


def test_documents_do_not_depend_on_row_groups_splits_or_batches(
    tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, (rows, batch) in enumerate([(40, 256), (1, 256), (7, 2), (11, 1)]):
        monkeypatch.setattr(parquet_file, "BATCH_ROWS", batch)
        path = write(tmp_path / str(number) / "a.parquet", pa.Table.from_pylist(ROWS), rows)
        splits = readers.splits("c", CorpusConfig("parquet", str(path)))
        assert [split.row_groups[0] for split in splits if split.row_groups][1:] == [
            s.row_groups[1] for s in splits[:-1] if s.row_groups
        ]
        assert (splits[0].start, splits[-1].end) == (0, path.stat().st_size)
        assert all(one.end == next_.start for one, next_ in pairwise(splits))
        found.append((read(path), len(splits)))
    assert [read_ for read_, _ in found] == [found[0][0]] * 4 and len(found[0][0][0]) == 40
    assert [count > 1 for _, count in found] == [False, True, True, True]


def test_empty_row_groups_stand_beside_others(tmp_path: Path, narrow: None) -> None:
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for texts_ in ([], ["一。" * 200], [], [], ["二。" * 200], []):
            writer.write_table(pa.table({"text": pa.array(texts_, pa.string())}))
    assert [d["id"] for d in read(tmp_path / "a.parquet")[0]] == ["c-a-1", "c-a-2"]
    assert len(readers.splits("c", CorpusConfig("parquet", str(tmp_path / "a.parquet")))) == 2


def test_files_of_one_name_in_several_folders_have_ids_of_their_own(tmp_path: Path) -> None:
    for folder in ("jpn_Jpan/train", "eng_Latn/train"):
        write(tmp_path / folder / "000_00000.parquet", {"text": ["一。", "二。"]})
    ids = [d["id"] for d in read(f"{tmp_path}/**/*.parquet")[0]]
    assert ids == [f"c-{folder}/train/000_00000-{row}" for folder in ("eng_Latn", "jpn_Jpan") for row in (1, 2)]


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path) -> None:
    table = {
        "text": ["一。"] * 9,
        "id": [str(n) for n in range(9)],
        "other": ["捨" * 50] * 9,
        "meta": [{"lang": "ja", "more": "余"}] * 9,
    }
    path = write(tmp_path / "a.parquet", table, use_dictionary=False, compression="none", write_page_checksum=True)
    # Whatever is not read may be damaged.
    content = path.read_bytes()
    path.write_bytes(content.replace("捨".encode(), "棄".encode()).replace("余".encode(), "除".encode()))
    assert path.read_bytes() != content and len(read(path, where='meta.lang == "ja"')[0]) == 9


def test_a_row_that_is_not_utf8_is_a_bad_record_and_its_neighbours_stay(tmp_path: Path) -> None:
    for name, type_ in (("s", pa.string()), ("b", pa.binary())):
        raw = pa.array(["一。".encode(), b"a\xff", "三。".encode()])
        array = pa.Array.from_buffers(pa.string(), 3, raw.buffers()) if type_ == pa.string() else raw
        path = write(tmp_path / f"{name}.parquet", {"text": array, "n": [1, 2, 3]})
        with pytest.raises(
            InputError,
            match=rf"{name}\.parquet: row 2: byte 2 of column text is not valid UTF-8; .* set preprocess.bad_input: exclude",
        ):
            read(path)
        bad = BadRecords("exclude")
        documents, dropped = read(path, bad, where="n > 1")
        assert [d["text"] for d in documents] == ["三。"] and dropped == {"where": 1, "bad input: not UTF-8": 1}
        assert [record["place"] for record in bad.records] == ["row 2"]


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "no text column": (
        {"body": ["一。"], "url": ["u"]}, {},
        "no column text or content; its columns are body, url; name the column of the text by preprocess.corpora.c.text_key.",
    ),
    "a text column that is not there": ({"text": ["一。"]}, {"text_key": "meta.body"}, "no column meta.body; its columns are text; name"),
    "a text that is a number": ({"text": [1]}, {}, "column text is of type int64, and a text is a string; name the column of the text"),
    "a text that is a struct": ({"text": [{"a": "一。"}]}, {}, "column text is of type struct<a: string>, and a text is a string"),
    "a path through a list": ({"m": [[{"b": "一。"}]]}, {"text_key": "m.b"}, "no column m.b; its columns are m"),
    "an id column that is not there": ({"text": ["一。"]}, {"id_key": "key"}, "no column key; its columns are text; correct"),
    "a field of where that is not there": ({"text": ["一。"]}, {"where": "s > 1"}, "no column s; its columns are text; correct"),
    "a field of where of another kind": (
        {"text": ["一。"], "s": ["3"]}, {"where": "s > 1"},
        "column s is of type string, and where compares it with numbers; correct preprocess.corpora.c.where.",
    ),
    "a list where one value is compared": ({"text": ["一。"], "s": [["3"]]}, {"where": 's == "3"'}, "column s is of type list"),
    "one value where a list is looked into": ({"text": ["一。"], "s": ["3"]}, {"where": '"3" in s'}, "looks for strings in a list there"),
    "a date in where": ({"text": ["一。"], "d": [datetime.date(2020, 1, 1)]}, {"where": 'd > "2019"'}, "column d is of type date32[day]"),
    "no row": ({"text": pa.array([], pa.string())}, {}, "the file has no row; take it out, or copy or download it again."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_columns_cannot_give_is_refused_before_any_row_is_read(tmp_path: Path, case: str) -> None:
    table, keys, problem = REFUSED[case]
    path = write(tmp_path / "a.parquet", table)
    with pytest.raises(InputError) as error:
        readers.splits("c", CorpusConfig("parquet", str(path), **keys))  # type: ignore[arg-type]
    said = str(error.value)
    assert said.startswith(f"{path}: {problem}") or problem in said
    assert said.startswith(f"{path}: ") and said.endswith(".") and "\n" not in said and ". " not in said


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["一。"]), pa.array(["二。"])], names=["text", "text"])
    with pytest.raises(InputError, match="two columns are named text; write the file again with other names"):
        read(write(tmp_path / "a.parquet", table))


cells = st.none() | st.text(st.sampled_from("一二。 \n\x00𠮷a"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(cells, cells, st.none() | st.integers(-3, 3)), min_size=1, max_size=12), st.integers(1, 5), st.booleans()
)
def test_any_table_gives_what_its_lines_would_give(rows: list[Any], group: int, filtered: bool) -> None:
    schema = pa.schema([("text", pa.string()), ("id", pa.string()), ("n", pa.int64())])
    named = [dict(zip(schema.names, row, strict=True)) for row in rows]
    where = "not n > 1 and n != 0" if filtered else ""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.parquet", pa.Table.from_pylist(named, schema), group)
        (Path(folder) / "a.jsonl").write_bytes(jsonl(named))
        documents, dropped = read(path, where=where)
        same, same_dropped = read(Path(folder) / "a.jsonl", BadRecords("exclude"), "jsonl", where=where)
        assert [(d["id"].replace("c-a-", "c-1-"), d["text"]) for d in documents] == [(d["id"], d["text"]) for d in same]
        same_dropped["null"] = same_dropped.pop("bad input: no text", 0)
        assert +same_dropped == dropped and len(documents) + sum(dropped.values()) == len(rows)


def test_a_huge_row_group_is_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BATCH_BYTES", 2**16), ("BUFFER_BYTES", 2**14)):
        monkeypatch.setattr(parquet_file, name, value)
    table = {"text": [f"{n} " + "長い文。" * 250 for n in range(3000)]}
    path = write(
        tmp_path / "a.parquet",
        table,
        rows=3000,
        compression="none",
        use_dictionary=False,
        data_page_size=2**14,
        write_batch_size=8,
    )
    (split,) = readers.splits("c", CorpusConfig("parquet", str(path)))
    before, most = pa.total_allocated_bytes(), 0
    for _ in readers.documents(split, Counter()):
        most = max(most, pa.total_allocated_bytes() - before)
    assert path.stat().st_size > 8 * 2**20 and most < 2**20


def test_what_a_dry_run_expects_of_a_file_is_what_is_in_it(tmp_path: Path, narrow: None) -> None:
    path = write(tmp_path / "a.parquet", pa.Table.from_pylist(ROWS), 7)
    corpus = CorpusConfig("parquet", str(path))
    config = PreprocessConfig({"c": corpus}, SegmenterConfig("mecab"))
    with open_segmenter(SegmenterConfig("mecab")) as segmenter:
        expected = estimate_corpus("c", readers.splits("c", corpus), tmp_path / "out", segmenter, config)
    text = sum(len(d["text"].encode()) for d in read(path)[0])
    assert expected.file_bytes == path.stat().st_size and expected.splits > 1 and expected.disk["cuts"] == 0
    # Only the first split is tried, and the texts of the others are a little longer.
    assert expected.text_bytes == pytest.approx(text, rel=0.2) and expected.sentences > 0


def test_the_stage_writes_the_same_documents_and_counts(tmp_path: Path, narrow: None) -> None:
    write(tmp_path / "a-0.parquet", pa.Table.from_pylist(ROWS), 7)
    write(tmp_path / "a-1.parquet", pa.Table.from_pylist(ROWS[:3]), 7)
    config = PreprocessConfig({"c": CorpusConfig("parquet", f"{tmp_path}/a-*.parquet", where="n != 3")}, heldout_documents=2)
    found = extract(config, tmp_path / "out", Executor())["c"]
    assert (found["documents"], found["dropped"]) == (42, {"where": 1})
    assert found["files"] == {"a-0.parquet": {"documents": 39, "in_file": 40}, "a-1.parquet": {"documents": 3, "in_file": 3}}
    documents = [row for part in list_parts(tmp_path / "out", "c") for row in read_documents(part)]
    assert documents == read(f"{tmp_path}/a-*.parquet", where="n != 3")[0]
