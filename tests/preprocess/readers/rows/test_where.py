"""The filter `where`: what it keeps, what unknown means, and the one sentence for each mistake."""

import json
import logging
import operator
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jadeberta.shards import ConfigError
from preprocess import readers
from preprocess.config import CorpusConfig
from preprocess.load_config import load_config
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.rows.field_paths import getter
from preprocess.readers.rows.where import MAX_DEPTH, parse_where
from tests.preprocess.source_files import jsonl, oscar_row

ROW = {
    "score": 3.5,
    "n": 7,
    "language": "ja",
    "clean": True,
    "none": None,
    "nan": float("nan"),
    "meta": {"source": "a", "tags": ["header", 3]},
    "和": "漢字",
    "a-b": 1,
    "a.b": 2,
    "and": 1,
}


def keeps(text: str, row: dict[str, Any]) -> bool:
    where = parse_where(text, "where")
    return where.keeps([getter(path)(row) for path in where.fields])


KEPT = [
    "score >= 3", "score == 3.5", "n < 8 and n > 6", "-1 < n", "7 == n", "3 <= score", "n == 7.0", "n != 8",
    'language == "ja"', "language == 'ja'", 'language != "en"', 'language < "jb"', 'language in ["en", "ja"]',
    'language not in ["en"]', "clean == true", "clean != false", "clean in [true]", "none == null", "gone == null", "n != null",
    "none in [1, null]", 'meta.source == "a"', '"header" in meta.tags', "3 in meta.tags", '"footer" not in meta.tags', '和 == "漢字"',
    "a-b == 1", "a.b == 2", "`a.b` == 2", "`and` == 1", "not (n == 8)", "not n == 8", "n == 8 or n == 7 and score > 3",
    "(n == 8 or n == 7) and not (score < 3 or clean == false)", "n == 7 or gone == 1", "not (gone == 1 and n == 8)",
    "n not in [1, 2,3]", "n>=7", "n > 1e0", "not not n == 7",
]  # fmt: skip
DROPPED = [
    "score > 4", 'language == "JA"', "clean == false", "n == null", "n in [8, true]", '"a" in meta.source',
    # unknown: missing, null, NaN, or of another kind, whatever the comparison
    "gone == 1", "gone != 1", "not gone == 1", "gone in [1]", "gone not in [1]", "none != 1", "nan != 1", "nan < 1",
    'score == "3.5"', 'score != "3.5"', "not score == \"3.5\"", "language > 3", "clean == 1", "clean in [1]", "n in [true]",
    "not n in ['7']", "meta == 1", "meta.source.deeper == 1", "gone == 1 or n == 8", "n == 7 and gone == 1", '"x" not in gone',
    "true in meta.tags",
]  # fmt: skip


@pytest.mark.parametrize("text", KEPT)
def test_a_row_of_which_the_filter_is_true_stays(text: str) -> None:
    assert keeps(text, ROW) is True


@pytest.mark.parametrize("text", DROPPED)
def test_a_row_of_which_the_filter_is_false_or_unknown_is_dropped(text: str) -> None:
    assert keeps(text, ROW) is False


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("", 1, "a field, a string, a number"),
        ("score", 6, "a comparison is expected here"),
        ("score = 3", 7, "write == to compare"),
        ("score >= ", 10, "a field, a string"),
        ("score >= 3 und n == 1", 12, "and, or, or the end is expected"),
        ("(score >= 3", 12, "a closing bracket is expected"),
        ("score >= 3)", 11, "and, or, or the end"),
        ("score >= 3 && n == 1", 12, "write and"),
        ('language == "ja', 13, "a string has no end"),
        ("language == ja", 1, "two fields are compared; put a string in quotes"),
        ("1 < n < 3", 7, "one comparison cannot follow another"),
        ("1 == 1", 1, "two values are compared"),
        ("n < null", 3, "null is neither smaller nor larger"),
        ("n >= true", 3, "a truth value is neither"),
        ("n in []", 7, "a string, a number, true, false or null is expected"),
        ("n in 3", 6, "a list like [1, 2]"),
        ("n in [1 2]", 9, "a comma or ]"),
        ("n in [m]", 7, "a string, a number, true"),
        ("n not 3", 7, "in is expected behind not"),
        ("n == None", 6, "write null"),
        ("n == 1 AND m == 1", 8, "and, or, or the end"),
        ("AND == 1", 1, "write and"),
        ("and == 1", 1, "a field of the name and is written in `"),
        ("n == 3abc", 6, "nothing that a filter can hold"),
        ("n == 1e999", 6, "a number beyond the largest"),
        (f"n > 1{'0' * 400}", 5, "a number beyond the largest"),
        ("f(n) == 1", 2, "a comparison is expected"),
        ("a.b..c == 1", 4, "nothing that"),
        ("n == 1; import os", 7, "nothing that a filter can hold"),
        ("3 in [3]", 1, "a field is expected before in and a list"),
        ("n in m", 1, "a string, a number or a truth value is expected before in"),
        ("(" * (MAX_DEPTH + 1) + "n == 1", MAX_DEPTH + 1, "more than 50 brackets"),
        ("not " * (MAX_DEPTH + 1) + "n == 1", 4 * MAX_DEPTH + 1, "more than 50 brackets"),
        (".".join("a" * 17) + " == 1", 1, "a field may have 16 names"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_character(text: str, place: int, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_where(text, "preprocess.corpora.web.where")
    said = str(error.value)
    assert said.startswith(f"preprocess.corpora.web.where: character {place}, at ") and problem in said and said.endswith(".")


def test_a_filter_has_a_largest_length() -> None:
    with pytest.raises(ConfigError, match=r"where: the filter has 4,001 characters; it may have 4,000"):
        parse_where("n == 1 or " + " " * 3985 + "n == 2", "where")


@settings(max_examples=300)
@given(st.text(st.sampled_from("an. '\"`()[],=<>!-0129\\{}&;和\x00\n") | st.characters(), max_size=30))
def test_any_text_is_a_filter_or_one_sentence(text: str) -> None:
    try:
        assert keeps(text, ROW) in (True, False)
    except ConfigError as e:
        assert str(e).startswith("where: character ") and str(e).endswith(".")


values = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "b"])
leaves = st.tuples(
    st.sampled_from("xyz"), st.sampled_from(["==", "!=", "<", ">="]), st.integers(-3, 3) | st.sampled_from(["a", "b"])
)
trees = st.recursive(
    leaves,
    lambda inner: st.tuples(st.just("not"), inner) | st.tuples(st.sampled_from(["and", "or"]), inner, inner),
    max_leaves=12,
)


def written(tree: Any) -> str:
    if tree[0] == "not":
        return f"not ({written(tree[1])})"
    if tree[0] in ("and", "or"):
        return f"({written(tree[1])}) {tree[0]} ({written(tree[2])})"
    return f"{tree[0]} {tree[1]} {json.dumps(tree[2])}"


def judged(tree: Any, row: dict[str, Any]) -> bool | None:
    """The three-valued logic of SQL by its truth table: false is 0, unknown 1/2, true 1."""
    if tree[0] == "not":
        found = judged(tree[1], row)
        return None if found is None else not found
    if tree[0] in ("and", "or"):
        pick = min if tree[0] == "and" else max
        found = pick(0.5 if side is None else float(side) for side in (judged(tree[1], row), judged(tree[2], row)))
        return None if found == 0.5 else bool(found)
    value, constant = row.get(tree[0]), tree[2]
    same = (
        isinstance(value, str) if isinstance(constant, str) else isinstance(value, (int, float)) and not isinstance(value, bool)
    )
    signs = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, ">=": operator.ge}
    return signs[tree[1]](value, constant) if same else None


@settings(max_examples=200)
@given(trees, st.dictionaries(st.sampled_from("xyz"), values))
def test_any_filter_judges_as_the_truth_tables_of_sql_do(tree: Any, row: dict[str, Any]) -> None:
    assert keeps(written(tree), row) is (judged(tree, row) is True)


def test_rows_that_the_filter_drops_are_counted_and_need_no_text(tmp_path: Path) -> None:
    rows = [{"text": "一。", "s": 3}, {"s": 1}, {"text": "二。"}, {"text": "", "s": 4}, {"text": "三。", "s": "3"}]
    (tmp_path / "w.jsonl").write_bytes(jsonl(rows))
    dropped: Counter[str] = Counter()
    (split,) = readers.splits("web", CorpusConfig("jsonl", str(tmp_path / "w.jsonl"), where="s >= 2"))
    assert [d["id"] for d in readers.documents(split, dropped)] == ["web-1-1"]
    assert dropped == {"where": 3, "empty": 1}


def test_integers_beyond_64_bits_are_compared_by_all_their_digits(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_text("".join(f'{{"text": "文{n}。", "key": {2**64 + n}}}\n' for n in range(3)))
    (split,) = readers.splits("web", CorpusConfig("jsonl", str(tmp_path / "w.jsonl"), where=f"key == {2**64 + 1}"))
    assert [d["text"] for d in readers.documents(split, Counter())] == ["文1。"]


def test_a_row_that_is_nested_too_deep_to_be_read_exactly_is_a_bad_record(tmp_path: Path) -> None:
    deep = "[" * 900 + "]" * 900
    (tmp_path / "w.jsonl").write_text(
        f'{{"text": "一。", "key": {2**64}, "id": {2**64}, "deep": {deep}}}\n{{"text": "二。", "key": 1}}\n'
    )
    for where in ("key >= 1", ""):
        (split,) = readers.splits("web", CorpusConfig("jsonl", str(tmp_path / "w.jsonl"), where=where))
        dropped: Counter[str] = Counter()
        found = [d["text"] for d in readers.documents(split, dropped, BadRecords("exclude"))]
        # How deep Python's json goes depends on the calls around it.
        assert found in (["二。"], ["一。", "二。"]) and len(found) + sum(dropped.values()) == 2


def test_oscar_takes_a_filter_on_its_metadata(tmp_path: Path) -> None:
    rows = [oscar_row("甲。", "quality_warnings", ["tiny"]), oscar_row("乙。", "quality_warnings", None)]
    rows[1]["metadata"]["identification"]["prob"] = 0.7
    (tmp_path / "ja_part_1.jsonl").write_bytes(jsonl(rows))
    dropped: Counter[str] = Counter()
    where = 'metadata.identification.prob > 0.8 and "tiny" in metadata.quality_warnings'
    (split,) = readers.splits("oscar", CorpusConfig("oscar", str(tmp_path / "ja_part_1.jsonl"), where=where))
    assert [d["text"] for d in readers.documents(split, dropped)] == ["甲。"] and dropped == {"where": 1}


def test_a_field_that_no_row_has_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "w.jsonl").write_bytes(jsonl([{"text": "一。", "score": 3}]))
    (split,) = readers.splits("web", CorpusConfig("jsonl", str(tmp_path / "w.jsonl"), where="scor == null or score > 1"))
    logging.getLogger("preprocess").propagate = True
    with caplog.at_level(logging.WARNING, "preprocess"):
        assert len(list(readers.documents(split, Counter()))) == 1
    assert "web: where names scor, which no row has (w)" in caplog.text


def test_a_filter_is_read_from_a_recipe_and_from_the_command_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        'preprocess:\n  corpora:\n    web:\n      format: jsonl\n      path: x\n      where: score >= 3 and language in ["ja", "en"]\n'
    )
    assert load_config(recipe).corpora["web"].where == 'score >= 3 and language in ["ja", "en"]'
    options = ("--preprocess.corpora.web.where", '"adult" not in tags')
    assert load_config(recipe, options).corpora["web"].where == '"adult" not in tags'
    with pytest.raises(ConfigError, match=r"preprocess\.corpora\.web\.where: character 7, at '= 3': write == to compare"):
        load_config(recipe, ("--preprocess.corpora.web.where", "score = 3"))
    with pytest.raises(ConfigError, match=r"preprocess\.corpora\.web\.where: cc100 does not take it, only .*oscar.*jsonl"):
        load_config(recipe, ("--preprocess.corpora.web.format", "cc100"))
