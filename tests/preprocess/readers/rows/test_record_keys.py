"""The keys of a recipe that say where text and id of a record are."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jadeberta.shards import ConfigError, InputError
from preprocess import readers
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.executors.executor import Executor
from preprocess.load_config import load_config
from preprocess.readers.bad_records import BadRecords
from preprocess.stages.extract import extract
from tests.preprocess.source_files import jsonl


def read(path: Path, bad: BadRecords | None = None, **keys: Any) -> tuple[list[tuple[str, str]], Counter[str]]:
    """(Id, text) of each document of a JSON Lines file."""
    dropped: Counter[str] = Counter()
    splits = readers.splits("web", CorpusConfig("jsonl", str(path), **keys))
    return [(d["id"], d["text"]) for split in splits for d in readers.documents(split, dropped, bad)], dropped


def test_text_and_id_are_found_under_the_names_that_the_recipe_gives(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_text(
        '{"meta": {"body": "甲。", "key": 18446744073709551617}, "text": "別。"}\n{"meta": {"body": ["乙。", "丙。"], "key": "x"}}\n'
    )
    found, dropped = read(tmp_path / "w.jsonl", text_key="meta.body", id_key="meta.key")
    # A list of strings is a text of as many lines, and an integer beyond 64 bits keeps its digits.
    assert found == [("web-18446744073709551617", "甲。"), ("web-x", "乙。\n丙。")] and not dropped


def test_a_name_with_a_dot_in_it_comes_before_a_nested_field(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_bytes(
        jsonl([{"a.b": "平ら。", "a": {"b": "中。"}}, {"a": {"b": "中。"}}, {"a": {"b.c": "深。"}}])
    )
    assert [text for _, text in read(tmp_path / "w.jsonl", BadRecords("exclude"), text_key="a.b")[0]] == ["平ら。", "中。"]
    assert [text for _, text in read(tmp_path / "w.jsonl", BadRecords("exclude"), text_key="a.b.c")[0]] == ["深。"]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"text_key": "meta.text"}, 'line 1: no "meta.text" in the object; check the corpus\'s format and text_key'),
        ({"text_key": "meta"}, 'line 1: "meta" is not a string'),
        ({"id_key": "meta"}, 'line 1: "meta" is neither a string nor a number; correct the corpus\'s id_key in the recipe'),
        ({"text_key": "n"}, 'line 1: "n" is null'),
        ({"id_key": "meta.uid"}, 'line 1: no "meta.uid" in the object; correct the corpus\'s id_key in the recipe'),
    ],
)  # fmt: skip
def test_a_row_without_a_named_field_is_a_bad_record(tmp_path: Path, keys: dict[str, str], problem: str) -> None:
    (tmp_path / "w.jsonl").write_bytes(jsonl([{"text": "一。", "meta": {"body": "一。"}, "n": None}]))
    with pytest.raises(InputError) as error:
        read(tmp_path / "w.jsonl", **keys)
    assert problem in str(error.value) and "preprocess.bad_input: exclude" in str(error.value)
    found, dropped = read(tmp_path / "w.jsonl", BadRecords("exclude"), **keys)
    assert found == [] and sum(dropped.values()) == 1


@pytest.mark.parametrize(
    ("format", "keys", "problem"),
    [
        ("cc100", {"text_key": "body"}, "preprocess.corpora.web.text_key: cc100 does not take it, only jsonl"),
        ("wikipedia", {"id_key": "id"}, "preprocess.corpora.web.id_key: wikipedia does not take it, only jsonl"),
        ("jsonl", {"documents": "file"}, "preprocess.corpora.web.documents: jsonl does not take it"),
        ("jsonl", {"text_key": "a..b"}, "preprocess.corpora.web.text_key: 'a..b' has an empty name in it"),
        ("jsonl", {"id_key": ".".join("a" * 17)}, "preprocess.corpora.web.id_key: the path has 17 names"),
    ],
)  # fmt: skip
def test_a_key_that_the_format_does_not_take_is_refused_with_the_formats_that_do(
    tmp_path: Path, format: str, keys: dict[str, str], problem: str
) -> None:
    lines = "".join(f"\n      {key}: {value}" for key, value in keys.items())
    (tmp_path / "r.yaml").write_text(f"preprocess:\n  corpora:\n    web:\n      format: {format}\n      path: x{lines}\n")
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "r.yaml")
    assert str(error.value).startswith(problem) and "\n" not in str(error.value)


def test_documents_made_with_other_keys_are_not_taken_for_those_of_this_recipe(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_bytes(jsonl([{"text": "一。", "body": "二。"}]))
    plain = PreprocessConfig({"web": CorpusConfig("jsonl", str(tmp_path / "w.jsonl"))})
    other = replace(plain, corpora={"web": CorpusConfig("jsonl", str(tmp_path / "w.jsonl"), text_key="body")})
    extract(plain, tmp_path / "plain", Executor())
    extract(other, tmp_path / "other", Executor())
    with pytest.raises(ConfigError, match="made with text_key=None but this run has text_key=body"):
        extract(other, tmp_path / "plain", Executor())
    with pytest.raises(ConfigError, match="made with text_key=body but this run has text_key=None"):
        extract(plain, tmp_path / "other", Executor())


def test_a_corpus_found_in_a_folder_keeps_the_keys_of_its_name_in_the_recipe_or_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "web.jsonl").touch()
    recipe = tmp_path / "r.yaml"
    recipe.write_text("preprocess: {corpora: {web: {format: jsonl, path: x, text_key: body}}}")
    assert load_config(recipe, (), tmp_path / "folder").corpora["web"].text_key == "body"
    recipe.write_text("preprocess: {corpora: {news: {format: jsonl, path: x, text_key: body}}}")
    with pytest.raises(ConfigError, match=r"corpora\.news sets text_key, but .* holds no jsonl corpus of that name"):
        load_config(recipe, (), tmp_path / "folder")
