"""Documents are held out by their ids; ids that several documents share do not hold out half of a corpus."""

import json
from collections import Counter
from pathlib import Path

import pytest

from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.executors.executor import Executor
from preprocess.stages.extract import extract
from preprocess.stages.pack import heldout_ids
from preprocess.workdir import heldout_hash


def held(folder: Path, ids: list[list[object]], wanted: int) -> tuple[frozenset[str], Counter[str]]:
    """Returns the held-out ids of a corpus of some files, and how many documents have each id."""
    for number, file in enumerate(ids):
        rows = [json.dumps({"id": id_, "text": f"文{number}。"}, ensure_ascii=False) for id_ in file]
        (folder / f"w{number}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    config = PreprocessConfig(corpora={"c": CorpusConfig("jsonl", f"{folder}/w*.jsonl")}, heldout_documents=wanted)
    extract(config, folder / "out", Executor())
    return heldout_ids(folder / "out", "c", wanted), Counter(f"c-{id_}" for file in ids for id_ in file)


def test_unique_ids_are_held_out_by_the_smallest_hashes(tmp_path: Path) -> None:
    found, documents = held(tmp_path, [list(range(100)), list(range(100, 200))], 7)
    assert found == frozenset(sorted(documents, key=heldout_hash)[:7])


@pytest.mark.parametrize("wanted", [4, 40, 5000])
def test_one_id_of_all_documents_holds_none_of_them_out(tmp_path: Path, wanted: int) -> None:
    assert held(tmp_path, [["same"] * 400], wanted)[0] == frozenset()


@pytest.mark.parametrize("wanted", [10, 60, 5000])
def test_ids_that_begin_anew_in_each_file_hold_out_no_more_documents_than_allowed(tmp_path: Path, wanted: int) -> None:
    found, documents = held(tmp_path, [list(range(100))] * 5, wanted)
    assert 0 < sum(documents[id_] for id_ in found) <= min(wanted, 50)


def test_an_id_at_the_last_place_that_other_files_repeat_is_not_held_out(tmp_path: Path) -> None:
    first, last, *others = sorted(range(40), key=lambda number: heldout_hash(f"c-{number}"))
    assert held(tmp_path, [[first, last, *others], *([last] for _ in range(10))], 2)[0] == {f"c-{first}"}


def test_a_repeated_id_among_unique_ones_does_not_push_them_out(tmp_path: Path) -> None:
    found, documents = held(tmp_path, [["same"] * 100 + list(range(100))], 15)
    assert sum(documents[id_] for id_ in found) == len(found) >= 14


def test_large_numbers_as_ids_are_told_apart(tmp_path: Path) -> None:
    found, documents = held(tmp_path, [[2**64 + n for n in range(400)]], 5000)
    assert len(documents) == 400 and len(found) == 40
