"""The corpora in a folder are found by the names under which they are published."""

from pathlib import Path

import pytest

from jadeberta.shards import InputError
from preprocess.readers.discover import discover
from tests.preprocess.source_files import ids, jsonl


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def found(folder: Path) -> dict[str, tuple[str, list[str]]]:
    return {name: (c.format, sorted(p.name for p in folder.glob(Path(c.path).name))) for name, c in discover(folder).items()}


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
