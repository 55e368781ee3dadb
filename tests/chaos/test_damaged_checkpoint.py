"""Whatever happens to a file of the newest checkpoint is found and named, and the one before is used; never is a damaged one loaded."""

import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jadeberta.checkpoint.manifest import SMALL, choose, list_checkpoints, step_of, verify
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, read_metrics, run_ranks, start_ranks
from tests.training.test_resume import content

STEPS = 8
PAGE = 4096
# Large enough that its tensor files are found damaged by their hash alone, which is taken while they are read.
CHANGES = {
    "model": {"hidden_size": 128, "attention_head_size": 64, "intermediate_size": 512},
    "training": {"max_steps": STEPS, "global_batch_size": 2, "micro_batch_size": 1},
    "checkpoint": {"every_steps": 1},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 3)})


@pytest.fixture(scope="module")
def unbroken(shards, tmp_path_factory) -> Path:
    """A complete run of two ranks with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("unbroken")
    recipe = make_recipe(folder / "recipe.yaml", shards, folder / "run", **CHANGES)
    run_ranks(2, "pretrain", "--config", str(recipe), log=folder / "log")
    return folder / "run"


@dataclass(frozen=True)
class Damage:
    """Something that happened to a checkpoint."""

    what: str
    named: tuple[str, ...]
    """Files of which one has to be named."""
    files: dict[str, bytes | None]
    """New content of some files; None: gone."""


def flipped(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def places_in(name: str, data: bytes, draw: random.Random) -> list[int]:
    """Where to flip bits: everywhere in what is small, else at the ends, in a tensor file's header and here and there."""
    if len(data) <= 300:
        return list(range(len(data)))
    places = {0, 1, len(data) - 2, len(data) - 1, *(draw.randrange(len(data)) for _ in range(150 if len(data) < 1 << 14 else 40))}
    if name.endswith(".safetensors"):
        header = 8 + int.from_bytes(data[:8], "little")
        places |= {*range(8), header - 1, header, *(draw.randrange(8, header) for _ in range(30))}
    return sorted(places)


def damages(files: dict[str, bytes]) -> Iterator[Damage]:
    """One damage at a time, to every file."""
    draw = random.Random(7)
    for name, data in files.items():
        size = len(data)
        for place in places_in(name, data, draw):
            yield Damage(f"bit flipped at {place} of {name}", (name,), {name: flipped(data, place, draw.randrange(8))})
        for length in {0, 1, size // 2, size - 1, *(draw.randrange(size) for _ in range(10))}:
            yield Damage(f"{name} cut to {length} bytes", (name,), {name: data[:length]})
        for more in (b"\0", b" ", b"\n", data):
            yield Damage(f"{len(more)} bytes after the end of {name}", (name,), {name: data + more})
        yield Damage(f"{name} removed", (name,), {name: None})
        yield Damage(f"{name} renamed", (name,), {name: None, f"{name}.bak": data})
        for page in {0, size // 2 // PAGE * PAGE, (size - 1) // PAGE * PAGE}:
            zeros = bytes(min(PAGE, size - page))
            yield Damage(f"page of zeros at {page} of {name}", (name,), {name: data[:page] + zeros + data[page + PAGE :]})
    for one, other in itertools.combinations(files, 2):
        yield Damage(f"{one} and {other} swapped", (one, other), {one: files[other], other: files[one]})


def put(directory: Path, files: dict[str, bytes | None]) -> None:
    for name, data in files.items():
        if data is None:
            (directory / name).unlink(missing_ok=True)
        else:
            (directory / name).write_bytes(data)


@pytest.mark.slow
def test_every_damage_to_every_file_is_found_and_the_checkpoint_before_is_used(unbroken, tmp_path) -> None:
    root = tmp_path / "checkpoints"
    root.mkdir()
    for step in (STEPS - 1, STEPS):
        shutil.copytree(unbroken / f"checkpoints/step-{step:08d}", root / f"step-{step:08d}")
    before, newest = list_checkpoints(root)
    files = {p.name: p.read_bytes() for p in sorted(newest.iterdir())}
    assert len(files) == 7 and sum(name.startswith("optimizer-") for name in files) == 2
    found, harmless = 0, []
    for damage in damages(files):
        if all(files.get(name) == data for name, data in damage.files.items()):
            continue  # zeros where zeros were
        put(newest, damage.files)
        reported: list[str] = []
        chosen = choose(root, "auto", reported.append)
        if chosen == newest:
            # Only the manifest's spelling may change, by which nothing else is read or trusted.
            assert damage.files.keys() == {"manifest.json"}, damage.what
            assert json.loads((newest / "manifest.json").read_bytes()) == json.loads(files["manifest.json"]), damage.what
            harmless.append(damage.what)
        else:
            assert chosen == before, damage.what
            assert len(reported) == 1 and newest.name in reported[0] and any(name in reported[0] for name in damage.named), (
                damage.what,
                reported,
            )
            found += 1
        put(newest, {**dict.fromkeys(damage.files), **{name: files[name] for name in damage.files if name in files}})
    print(f"{found} damages found, {len(harmless)} harmless: {harmless}")
    assert found > 700 and len(harmless) < 5
    assert choose(root, "auto", print) == newest


def damaged_copy(
    unbroken: Path, run_dir: Path, steps: range, damage: dict[int, tuple[str, Callable[[bytes], bytes | None]]]
) -> None:
    """The run as it was before its last step, with some of its checkpoints, damaged."""
    shutil.copytree(unbroken, run_dir, ignore=shutil.ignore_patterns("checkpoints", "DONE", "heartbeat"))
    for step in steps:
        shutil.copytree(unbroken / f"checkpoints/step-{step:08d}", run_dir / f"checkpoints/step-{step:08d}")
    for step, (name, change) in damage.items():
        file = run_dir / f"checkpoints/step-{step:08d}" / name
        put(file.parent, {name: change(file.read_bytes())})


@pytest.mark.slow
def test_a_run_skips_all_that_is_damaged_and_ends_with_the_bits_of_the_unbroken_run(shards, unbroken, tmp_path) -> None:
    damage: dict[int, tuple[str, Callable[[bytes], bytes | None]]] = {
        7: ("optimizer-00002-of-00002.safetensors", lambda data: flipped(data, len(data) - 5, 2)),
        6: ("model.safetensors", lambda data: flipped(data, len(data) // 2, 0)),
        5: ("model.safetensors", lambda data: flipped(data, 5, 6)),  # the length of the header, now 70 TB
        4: ("optimizer-00001-of-00002.safetensors", lambda data: data[: len(data) // 2]),
        3: ("manifest.json", lambda data: flipped(data, len(data) // 2, 1)),
        2: ("state.json", lambda data: None),
    }
    run_dir = tmp_path / "run"
    damaged_copy(unbroken, run_dir, range(1, STEPS), damage)
    for step in (7, 6, 5):
        checkpoint = run_dir / f"checkpoints/step-{step:08d}"
        assert verify(checkpoint, small_only=True) == [] and (checkpoint / damage[step][0]).stat().st_size > SMALL
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, run_dir, **CHANGES)
    printed = run_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / "log")

    reported = [line for line in printed.splitlines() if line.startswith("SKIPPED")]
    attempt = [row for row in read_jsonl(run_dir / "ledger.jsonl") if row["attempt"] == 1]
    recorded = [row for row in attempt if row["event"] == "checkpoint_passed_over"]
    assert [row["checkpoint"] for row in recorded] == [f"step-{step:08d}" for step in damage]
    assert [row["reason"] for row in recorded] == reported
    for line, (name, _) in zip(reported, damage.values(), strict=True):
        assert name in line
    assert next(row["step"] for row in attempt if row["event"] == "resume") == 1

    # What was damaged is written anew, and every step is the unbroken run's.
    assert [step_of(d) for d in list_checkpoints(run_dir / "checkpoints")] == list(range(1, STEPS + 1))
    for directory in list_checkpoints(run_dir / "checkpoints"):
        assert verify(directory) == [] and content(directory) == content(unbroken / "checkpoints" / directory.name)
    hashes = {row["step"]: row["batch_hash"] for row in read_metrics(unbroken)}
    again = [row for row in read_metrics(run_dir) if row["attempt"] == 1]
    assert [row["batch_hash"] for row in again] == [hashes[step] for step in range(2, STEPS + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("mode,status", [("auto", 1), ("required", 3)])
def test_a_run_whose_checkpoints_are_all_damaged_does_not_start(shards, unbroken, tmp_path, mode, status) -> None:
    optimizer = "optimizer-00001-of-00002.safetensors"
    run_dir = tmp_path / "run"
    # The last byte of a tensor: only the hash shows that it is another one.
    damaged_copy(
        unbroken,
        run_dir,
        range(STEPS - 2, STEPS),
        dict.fromkeys(range(STEPS - 2, STEPS), (optimizer, lambda data: flipped(data, len(data) - 1, 0))),
    )
    before = {p: p.read_bytes() for p in (run_dir / "checkpoints").rglob("*") if p.is_file()}
    steps_before = len(read_metrics(run_dir))
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, run_dir, **CHANGES)
    (process,) = start_ranks(1, "pretrain", "--config", str(recipe), "--resume", mode, log=tmp_path / "log")
    try:
        assert process.wait(120) == status
    finally:
        process.kill()
    printed = (tmp_path / "log.0.log").read_text()
    assert printed.count("SKIPPED") == 2 and printed.count(optimizer) == 2
    assert ("none of its 2 checkpoints" if mode == "auto" else "no valid checkpoint among 2") in printed
    assert "Traceback" not in printed
    assert len(read_metrics(run_dir)) == steps_before and not (run_dir / "DONE").exists()
    assert {p: p.read_bytes() for p in (run_dir / "checkpoints").rglob("*") if p.is_file()} == before
