"""Results that processes exchange through a folder: plain JSON, which runs no code when it is read."""

import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jadeberta.errors import ConfigError, InputError, OutputError
from jadeberta.shards import ShardEntry
from preprocess.compressed import BadRecord
from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.executors.task_results import dump, load
from preprocess.readers.input_split import InputSplit
from preprocess.readers.split_file import SplitTask
from preprocess.tokenization.packing import Rows

SPLIT = InputSplit("web", "jsonl", "web-00000", Path("/data/ß\udce9.jsonl"), "web", 0, 2**40)
WHERE = Path("work/pool/77-all/call-000/00000.done")


@pytest.mark.parametrize(
    "result",
    [
        *(None, True, 3, 2**64 - 1, -1.5, float("inf"), "文\udce9", b"\0\xff", Path("/a"), [], {}, (), set()),
        {"a": {"tuple": [1]}, "b": [({1, 2}, frozenset({"x"}))]},
        {Path("/a"): 1, (1, "b"): None, 3: [Path("c")]},
        Counter({"redirect": 7}),
        PreprocessConfig({"web": CorpusConfig("jsonl", "web.jsonl", 3)}, SegmenterConfig("mecab")),
        [SPLIT, SplitTask("web", SPLIT.path, [SPLIT])],
    ],
    ids=lambda result: repr(result)[:40],
)
def test_a_result_is_read_as_it_was(result: Any) -> None:
    found = load(dump(result), WHERE)
    assert found == result and type(found) is type(result)


def test_named_tuples_and_frozen_dataclasses_keep_their_class() -> None:
    rows = Rows(*range(len(Rows._fields)))
    assert type(load(dump(rows), WHERE)) is Rows and load(dump(rows), WHERE) == rows
    entry = ShardEntry(**dict.fromkeys(ShardEntry.__dataclass_fields__, 1))
    assert load(dump([entry]), WHERE) == [entry]


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        (ConfigError("a"), ConfigError),
        (InputError("a\nb", "corpora:", "  c:"), InputError),
        (OutputError("b"), OutputError),
        (BadRecord(Path("f"), "line 3", "json", "half a line", "mend it"), InputError),
        (RuntimeError("rank 1: KeyError: 2"), RuntimeError),
    ],
)
def test_an_error_keeps_its_sentence_and_the_class_that_decides_the_exit_status(error: Exception, cls: type) -> None:
    found = load(dump(None, error), WHERE)
    assert type(found) is cls and str(found) == str(error)


class Planted:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("planted",)


CLASS = "dataclass"


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Planted()),
        b"",
        b"{}",
        b'{"result": {"no such kind": 1}}',
        b"[" * 100_000,
        *(
            json.dumps({"result": {CLASS: [name, {}]}}).encode()
            for name in (
                "os:system",
                "subprocess:Popen",
                "preprocess.nothing:X",
                "preprocess.cli:main",
                "jadeberta.errors:sys.exit",
            )
        ),
        b'{"result": {"dataclass": ["preprocess.config:CorpusConfig", {"path": 1, "__class__": 2}]}}',
        b'{"result": {"named tuple": ["preprocess.config:CorpusConfig", []]}}',
        b'{"result": {"path": "a", "bytes": "b"}}',
    ],
    ids=lambda content: repr(content)[:40],
)
def test_a_planted_file_is_refused_with_its_name_and_runs_nothing(content: bytes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^work/pool/77-all/call-000/00000\.done: not a result of this pool"):
        load(content, WHERE)
    assert not list(tmp_path.iterdir())


def test_an_unknown_class_of_error_is_text() -> None:
    found = load(b'{"error": ["SystemExit", "x"]}', WHERE)
    assert type(found) is RuntimeError and str(found) == "x"


def test_numbers_of_numpy_become_plain_ones() -> None:
    found = load(dump([np.float64(0.5), np.int64(7), np.bool_(True)]), WHERE)
    assert [(type(value), value) for value in found] == [(float, 0.5), (int, 7), (bool, True)]


def test_a_result_that_cannot_be_exchanged_is_a_mistake_of_its_task() -> None:
    with pytest.raises(TypeError, match=r"holds a .*Planted, which processes that share only a folder cannot exchange"):
        dump([Planted()])
