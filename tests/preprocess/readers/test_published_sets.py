"""Folders as Hugging Face's data sets are published: what is for training is taken, what is held out or missing is said."""

import glob
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jadeberta.shards import InputError
from preprocess import readers
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.executors.executor import Executor
from preprocess.readers.discover import discover
from preprocess.readers.published_sets import gaps, held_out_part
from preprocess.stages.extract import extract


def put(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"text": [f"{name}の文。"]}), path)
        else:
            path.write_bytes('{"text": "一。"}\n'.encode())
    return folder


def found(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Format and files of each corpus, as its reader finds them by the path."""
    return {
        name: (c.format, sorted(str(Path(p).relative_to(folder)) for p in glob.glob(c.path)))  # noqa: PTH207 - as the reader does it
        for name, c in discover(folder).items()
    }


def said(folder: Path) -> list[str]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage().strip())  # type: ignore[method-assign]
    logger = logging.getLogger("preprocess")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        discover(folder)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return lines


LAYOUTS: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "at the top": (
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet", "README.md"],
        {"train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]},
    ),
    "in data/": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/validation-00000-of-00001.parquet"],
        {"train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]},
    ),
    "a folder a language, with folders for parts, as FineWeb-2": (
        [
            "data/jpn_Jpan/train/000_00000.parquet", "data/jpn_Jpan/train/000_00001.parquet", "data/jpn_Jpan/train/001_00000.parquet",
            "data/jpn_Jpan/test/000_00000.parquet", "data/eng_Latn/train/000_00000.parquet",
            "data/jpn_Jpan_removed/train/000_00000.parquet",
        ],
        {
            "eng_Latn": ["data/eng_Latn/train/000_00000.parquet"],
            "jpn_Jpan": [
                "data/jpn_Jpan/train/000_00000.parquet", "data/jpn_Jpan/train/000_00001.parquet", "data/jpn_Jpan/train/001_00000.parquet",
            ],
        },
    ),
    "a folder a configuration": (
        ["ja/train-00000-of-00001.jsonl.gz", "en/train-00000-of-00001.jsonl.gz", "en/test-00000-of-00001.jsonl.gz"],
        {"en": ["en/train-00000-of-00001.jsonl.gz"], "ja": ["ja/train-00000-of-00001.jsonl.gz"]},
    ),
    "numbered folders of one set": (
        ["cluster_1/part_0.parquet", "cluster_1/part_1.parquet", "cluster_12/part_0.parquet"],
        {"cluster": ["cluster_1/part_0.parquet", "cluster_1/part_1.parquet", "cluster_12/part_0.parquet"]},
    ),
    "the copy that the hub makes": (
        ["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"],
        {"corpora": ["default/train/0000.parquet", "default/train/0001.parquet"]},
    ),
    "two sets in folders of their own": (
        ["climb/data/train-00000-of-00001.parquet", "web/data/train-00000-of-00001.parquet", "web/data/dev-00000-of-00001.parquet"],
        {"climb": ["climb/data/train-00000-of-00001.parquet"], "web": ["web/data/train-00000-of-00001.parquet"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_folder_is_found_by_its_names_without_its_held_out_parts(tmp_path: Path, layout: str) -> None:
    files, expected = LAYOUTS[layout]
    folder = put(tmp_path / "corpora", *files)
    corpora = found(folder)
    assert {name: paths for name, (_, paths) in corpora.items()} == expected
    left = [name for name in files if not any(name in paths for paths in expected.values())]
    text = "\n".join(said(folder))
    assert all(name in text for name in left) and ("held-out data; name it in a recipe" in text) == any(map(held_out_part, left))
    for name, config in discover(folder).items():
        assert len(readers.splits(name, config)) == len(expected[name])


def test_held_out_parts_alone_are_no_corpus_unless_they_look_like_any_other_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no corpus in this folder"):
        discover(put(tmp_path / "a", "test-00000-of-00001.parquet"))
    with pytest.raises(InputError, match="no corpus in this folder"):
        discover(put(tmp_path / "b", "validation/0.jsonl"))
    assert list(discover(put(tmp_path / "c", "test.jsonl"))) == ["test"]
    assert "test.jsonl is named like held-out data, and is taken as nothing for training lies beside it" in said(tmp_path / "c")


def test_two_sets_of_different_sizes_in_one_folder_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are parts of two sets of different sizes") as error:
        discover(put(tmp_path, "train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "train-00000-of-00003.parquet"))
    assert "format: parquet" in str(error.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], []),
        (["a/x_1_of_2.jsonl.gz", "a/x_2_of_2.jsonl.gz"], []),
        (["web.jsonl", "000_00007.parquet"], []),
        (
            ["d/train-00001-of-00003.parquet"],
            ["2 of 3 files are missing in d: train-00000-of-00003.parquet, train-00002-of-00003.parquet; go on if"],
        ),
        (["t-0-of-9.jsonl"], ["8 of 9 files are missing in .: t-1-of-9.jsonl, t-2-of-9.jsonl, t-3-of-9.jsonl and 5 more; go on if"]),
        (["a/t-0-of-1.jsonl", "b/t-0-of-2.jsonl"], ["1 of 2 files are missing in b: t-1-of-2.jsonl; go on if"]),
        (["t-0-of-999999999999.jsonl", "t-5-of-0.jsonl"], []),
    ],
)  # fmt: skip
def test_missing_members_of_a_numbered_series_are_named(names: list[str], expected: list[str]) -> None:
    found_ = gaps(names)
    assert len(found_) == len(expected) and all(a.startswith(b) for a, b in zip(found_, expected, strict=True))


def test_the_stage_and_the_folder_say_what_is_missing(tmp_path: Path, caplog: Any) -> None:
    folder = put(tmp_path / "c", "train-00000-of-00002.parquet")
    assert any("1 of 2 files are missing in .: train-00001-of-00002.parquet" in line for line in said(folder))
    logging.getLogger("preprocess").propagate = True
    config = PreprocessConfig({"web": CorpusConfig("parquet", f"{folder}/*.parquet")}, heldout_documents=0)
    with caplog.at_level(logging.WARNING, "preprocess"):
        extract(config, tmp_path / "out", Executor())
    assert f"web: 1 of 2 files are missing in {folder}: train-00001-of-00002.parquet" in caplog.text
