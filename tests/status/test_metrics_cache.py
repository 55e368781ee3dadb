"""The columns beside metrics.jsonl change no figure, whatever happens to either file, and make 300,000 steps cheap to look at."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from jadeberta.status import metrics_cache
from jadeberta.status.metrics_cache import CACHE_NAME, read_steps
from jadeberta.status.step_table import StepTable
from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_cache, "CACHE_FROM_ROWS", 10)
    monkeypatch.setattr(metrics_cache, "CHUNK_BYTES", 700)


def line(step: int, /, **more: object) -> bytes:
    row = {"step": step, "time": 1000.0 + step, "step_s": 1.0, "loss": 5.0 / step, "tokens": 100 * step, "attempt": step // 40}
    return json.dumps(row | more).encode() + b"\n"


def write(run: Path, first: int, last: int) -> None:
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b"".join(line(step) for step in range(first, last)))


def without_cache(run: Path) -> StepTable:
    cache = run / CACHE_NAME
    kept = cache.read_bytes()
    cache.unlink()
    found = read_steps(run)[0]
    cache.write_bytes(kept)
    return found


def same(one: StepTable, other: StepTable) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name), equal_nan=f.name != "lost") for f in fields(one))


def test_rows_that_came_since_are_added_and_only_they_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, 51)
    read_steps(tmp_path)
    assert (tmp_path / CACHE_NAME).exists()
    write(tmp_path, 51, 81)
    parsed: list[bytes] = []
    parse = metrics_cache._parsed
    monkeypatch.setattr(metrics_cache, "_parsed", lambda lines: parsed.extend(lines) or parse(lines))
    steps, newest = read_steps(tmp_path)
    assert list(steps.number) == list(range(1, 81)) and newest == 1080.0 and len(parsed) == 30
    assert list(steps.attempt) == [n // 40 for n in range(1, 81)]
    del parsed[:]
    assert same(steps, read_steps(tmp_path)[0]) and parsed == []


def test_a_few_rows_are_read_and_not_written(tmp_path: Path) -> None:
    write(tmp_path, 1, 10)
    assert len(read_steps(tmp_path)[0]) == 9 and not (tmp_path / CACHE_NAME).exists()
    assert len(read_steps(tmp_path / "nothing")[0]) == 0


def test_a_row_without_an_attempt_belongs_to_the_one_before_it_across_the_border_of_the_cache(tmp_path: Path) -> None:
    write(tmp_path, 30, 60)
    read_steps(tmp_path)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 60}\n{"step": 61}')  # the last line has no newline yet
    steps, newest = read_steps(tmp_path)
    assert list(steps.attempt[-3:]) == [1, 1, 1] and list(steps.number[-2:]) == [60, 61] and newest is None


@pytest.mark.parametrize("rows", [[b"[1]\n", b"3\n", b"null\n", b'"x"\n'], [b"{\n", b"\xff\n", b"\n", b"   \n"]])
def test_lines_that_are_no_rows_are_skipped(tmp_path: Path, rows: list[bytes]) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(line(1) + b"".join(rows) * 4 + line(2))
    for _ in range(2):
        assert list(read_steps(tmp_path)[0].number) == [1, 2]


@pytest.mark.parametrize("value", [1e300, -1, "7", None, [1], True])
def test_a_step_or_an_attempt_that_is_no_number_costs_its_row_at_most(tmp_path: Path, value: object) -> None:
    rows = [line(1), line(2, step=value), line(3, attempt=value), line(4, time=value, step_s=value, loss=value), line(5)]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(rows))
    assert list(read_steps(tmp_path)[0].number) == [1, 3, 4, 5]


def _shorter(run: Path) -> None:
    content = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(content[:30]))


def _other(run: Path) -> None:
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(content.replace(b'"step_s": 1.0', b'"step_s": 2.0'))


def _cut_cache(run: Path) -> None:
    os.truncate(run / CACHE_NAME, (run / CACHE_NAME).stat().st_size - 1)


def _zeros(run: Path) -> None:
    (run / CACHE_NAME).write_bytes(bytes(200))


def _rubbish(run: Path) -> None:
    (run / CACHE_NAME).write_bytes(b"\xff" * 5000)


def _empty(run: Path) -> None:
    (run / CACHE_NAME).write_bytes(b"")


def _header_of_absurd_length(run: Path) -> None:
    content = (run / CACHE_NAME).read_bytes()
    (run / CACHE_NAME).write_bytes(content[:16] + b"\xff" * 8 + content[24:])


@pytest.mark.parametrize("damage", [_shorter, _other, _cut_cache, _zeros, _rubbish, _empty, _header_of_absurd_length])
def test_a_cache_that_does_not_fit_is_made_again(tmp_path: Path, damage) -> None:
    write(tmp_path, 1, 61)
    read_steps(tmp_path)
    damage(tmp_path)
    found = read_steps(tmp_path)[0]
    assert same(found, without_cache(tmp_path)) and len(found) in (29, 30, 60)
    write(tmp_path, 61, 91)
    assert same(read_steps(tmp_path)[0], without_cache(tmp_path)) and same(read_steps(tmp_path)[0], without_cache(tmp_path))


def test_a_link_or_a_directory_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / CACHE_NAME).symlink_to(tmp_path / "other")
    write(tmp_path, 1, 61)
    assert len(read_steps(tmp_path)[0]) == 60 and (tmp_path / "other").read_text() == "mine"
    (tmp_path / CACHE_NAME).unlink()
    (tmp_path / CACHE_NAME).mkdir()
    assert len(read_steps(tmp_path)[0]) == 60


def test_a_write_that_the_disk_cuts_leaves_the_old_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, 61)
    read_steps(tmp_path)
    write(tmp_path, 61, 91)
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: whole(file, content[:100], place))
    assert len(read_steps(tmp_path)[0]) == 90
    monkeypatch.undo()
    monkeypatch.setattr(metrics_cache, "CACHE_FROM_ROWS", 10)
    assert len(metrics_cache._read_cache(tmp_path / CACHE_NAME, os.open(tmp_path / "metrics.jsonl", os.O_RDONLY)).rows) == 60
    assert len(read_steps(tmp_path)[0]) == 90


def test_readers_at_once_add_each_row_once(tmp_path: Path) -> None:
    write(tmp_path, 1, 1001)
    read = "from pathlib import Path; from jadeberta.status import metrics_cache as m; m.CACHE_FROM_ROWS = 1; import sys; "
    read += "print(max(len(m.read_steps(Path(sys.argv[1]))[0]) for _ in range(20)))"
    command = [sys.executable, "-c", read, str(tmp_path)]
    readers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    for first in range(1001, 1301, 50):
        write(tmp_path, first, first + 50)
    assert all(reader.wait(60) == 0 for reader in readers)
    steps = read_steps(tmp_path)[0]
    assert list(steps.number) == list(range(1, 1301)) and same(steps, without_cache(tmp_path))


def test_a_batch_hash_is_kept_as_a_number_and_anything_else_is_none(tmp_path: Path) -> None:
    found = ["e1818c242a3096f1", "-1818c242a3096f1", "zz818c242a3096f1", "e18", 7, None, "ffffffffffffffff"]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(line(n, batch_hash=h, grad_norm=1e300) for n, h in enumerate(found, 1)))
    for _ in range(2):
        steps = read_steps(tmp_path)[0]
        assert steps.batch_hash.tolist() == [0xE1818C242A3096F1, 0, 0, 0, 0, 0, 2**64 - 1] and np.isnan(steps.grad_norm).all()
