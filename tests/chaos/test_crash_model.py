"""The commit protocol against every crash of the machine: the old checkpoint or the new one is found complete, and once saved, the new one.

Two writer processes save under strace; their calls are replayed up to every point, with what was not flushed there, lost or in pieces.
Recordings that are spoilt on purpose show that the model finds what it is for.
"""

import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from jadeberta.checkpoint.commit import prepare, publish, remove_leftovers, write_file
from jadeberta.checkpoint.manifest import choose, directory_name
from jadeberta.checkpoint.snapshot import Snapshot
from jadeberta.checkpoint.writer_client import WriterClient
from jadeberta.checkpoint.writer_messages import (
    Answer,
    PruneCommand,
    PublishAnswer,
    PublishCommand,
    VerifyCommand,
    WriteAnswer,
    WriteCommand,
    decode_answer,
)
from jadeberta.errors import CheckpointError, NothingToResume
from tests.chaos.crash_model import (
    Disk,
    Fate,
    Operation,
    Tree,
    crashes,
    read_recording,
    read_tree,
    strace_refuses,
    tracing_interpreter,
    write_tree,
)

DRAWS = {"true": 60, "spoilt": 8}
"""Random fates at each point of a recording."""
TEXTS = {"config.json": "{}\n", "state.json": '{"step": 0, "of": "a test"}\n'}
RANKS = 2


@dataclass(frozen=True)
class Recording:
    """One save: what was on the disk before, what was done, and the checkpoints that may be found after a crash."""

    before: Tree
    operations: list[Operation]
    old: str | None
    """Newest checkpoint before the save, if any can be trusted."""
    new: str
    expected: dict[str, Tree]
    """Old and new checkpoint as they should be, files by name."""


def snapshots(step: int) -> list[Snapshot]:
    """Each rank's part of a small state that is another one at every step."""
    taken = []
    for rank in range(RANKS):
        files = {f"optimizer-{rank + 1:05d}-of-{RANKS:05d}.safetensors": {"exp_avg.w": torch.arange(300.0) + 1000 * step + rank}}
        if rank == 0:
            files["model.safetensors"] = {"w": torch.arange(500.0) * (step + 0.5)}
        fixed = {"spm.model": b"stands for a tokenizer"} if rank == 0 else {}
        taken.append(Snapshot({name: (tensors, {}) for name, tensors in files.items()}, pin=False, fixed=fixed))
        taken[-1].fill(files)
    return taken


def answers(writer: WriterClient, count: int) -> list[Answer]:
    found: list[Answer] = []
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline, "the writer does not answer"
        found += writer.wait(1.0)
    assert all(answer.error is None for answer in found), found
    return found


def save(root: Path, step: int, keep_last: int) -> None:
    """Saves as a job of two ranks does, each with its own writer."""
    parts = snapshots(step)
    writers = [WriterClient(part) for part in parts]
    try:
        for rank, (writer, part) in enumerate(zip(writers, parts, strict=True)):
            extra: dict = {"texts": TEXTS} if rank == 0 else {}
            writer.send(WriteCommand(root=str(root), step=step, space_needed=10_000, files=part.files, **extra))
        written = [answer for writer in writers for answer in answers(writer, 1) if isinstance(answer, WriteAnswer)]
        files = {name: entry for answer in written for name, entry in answer.files.items()}
        writers[0].send(PublishCommand(root=str(root), step=step, files=files))
        writers[0].send(VerifyCommand(root=str(root), step=step))
        writers[0].send(PruneCommand(root=str(root), keep_last=keep_last, keep_every=0))
        answers(writers[0], 3)
    finally:
        for writer, part in zip(writers, parts, strict=True):
            writer.close()
            part.close()


def checkpoint_in(tree: Tree, name: str) -> Tree:
    prefix = f"checkpoints/{name}/"
    return {path.removeprefix(prefix): content for path, content in tree.items() if path.startswith(prefix)}


def record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, earlier: list[int], step: int, keep_last: int, damage: str = ""
) -> Recording:
    run_dir = folder / "run"
    run_dir.mkdir(parents=True)
    for number in earlier:
        save(run_dir / "checkpoints", number, 0)
    if damage:
        spoilt = run_dir / "checkpoints" / damage
        spoilt.write_bytes(spoilt.read_bytes()[:-9])
    before = read_tree(run_dir)
    monkeypatch.setattr(sys, "executable", str(tracing_interpreter(sys.executable, folder / "trace")))
    save(run_dir / "checkpoints", step, keep_last)
    monkeypatch.undo()
    after = read_tree(run_dir)
    operations = read_recording(folder / "trace", run_dir)

    disk = Disk(before)
    for operation in operations:
        disk.apply(operation)
    assert disk.after_crash(Fate()) == after, "the recording misses something that happened"
    trusted = [number for number in earlier if not damage.startswith(directory_name(number))]
    old, new = directory_name(trusted[-1]) if trusted else None, directory_name(step)
    expected = {new: checkpoint_in(after, new)} | ({old: checkpoint_in(before, old)} if old else {})
    return Recording(before, operations, old, new, expected)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Iterator[dict[str, Recording]]:
    if reason := strace_refuses():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("crash")
    with pytest.MonkeyPatch.context() as patch:
        yield {
            "the first save": record(folder / "first", patch, [], 1, keep_last=1),
            "a save that prunes": record(folder / "prune", patch, [1, 2], 3, keep_last=1),
            "a save over one that was damaged": record(
                folder / "over", patch, [1, 2], 2, keep_last=2, damage="step-00000002/model.safetensors"
            ),
        }


SAVES = ["the first save", "a save that prunes", "a save over one that was damaged"]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Memory where the machine has it: a check writes and reads thousands of files."""
    import tempfile

    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def complaint(recording: Recording, run_dir: Path, saved: bool) -> str | None:
    """What is wrong with what a run finds after a crash."""
    root = run_dir / "checkpoints"
    chosen = None
    for _ in ("before", "after leftovers are removed"):
        try:
            found = choose(root, "auto", lambda line: None)
        except (CheckpointError, NothingToResume) as e:
            return f"nothing can be resumed from: {e}"
        name = found.name if found else None
        if name not in ((recording.new,) if saved else (recording.new, recording.old)):
            return f"{name} was chosen, {'and the save was over' if saved else f'{recording.old} was there'}"
        if found and {p.name: p.read_bytes() for p in found.iterdir()} != recording.expected[found.name]:
            return f"{name} was chosen and is not what was saved"
        if chosen not in (None, name):
            return f"removing leftovers turned {chosen} into {name}"
        chosen = name
        remove_leftovers(root)
    # The run goes on: to the step that was being saved where that is lost, else to the next.
    step = int(recording.new[5:]) + (chosen == recording.new)
    directory = prepare(root, step, 1000)
    content = {"model.safetensors": b"next", **{name: text.encode() for name, text in TEXTS.items()}}
    publish(root, step, {name: write_file(directory / name, data) for name, data in content.items()})
    if choose(root, "auto", lambda line: None) != root / directory_name(step) or any(p.suffix for p in root.iterdir()):
        return f"the save after it did not work: {sorted(p.name for p in root.iterdir())}"
    return None


def check(recording: Recording, scratch: Path, operations: list[Operation], draws: int) -> tuple[list[str], int]:
    """Complaints about all crashes of a recording, and how many different states of the disk were looked at."""
    complaints: list[str] = []
    seen: set[int] = set()
    answered = [
        number
        for number, operation in enumerate(operations, 1)
        if operation.kind == "answer" and isinstance(decode_answer(operation.data), PublishAnswer)
    ]
    numbers = itertools.count()

    def see(done: int, tree: Tree) -> None:
        saved = done >= answered[0]
        if (state := hash((saved, tuple(tree.items())))) in seen:
            return
        seen.add(state)
        run_dir = scratch / str(next(numbers))
        write_tree(tree, run_dir)
        if wrong := complaint(recording, run_dir, saved):
            last = operations[done - 1] if done else None
            complaints.append(f"after {done} of {len(operations)} operations ({last and (last.kind, last.path)}): {wrong}")
        shutil.rmtree(run_dir)

    crashes(recording.before, operations, draws, seed=7, see=see)
    return complaints, len(seen)


@pytest.mark.slow
@pytest.mark.parametrize("which", SAVES)
def test_no_crash_at_any_point_of_a_save_loses_a_checkpoint(recordings, scratch, which) -> None:
    complaints, states = check(recordings[which], scratch, recordings[which].operations, DRAWS["true"])
    print(f"{which}: {len(recordings[which].operations)} operations, {states} states of the disk")
    assert not complaints, f"{len(complaints)} of {states} states: {complaints[:3]}"
    assert states > 150


def of_a_file(operations: list[Operation]) -> set[str]:
    return {operation.path for operation in operations if operation.kind == "create"}


def without_flushing_files(operations: list[Operation]) -> list[Operation]:
    files = of_a_file(operations)
    return [o for o in operations if not (o.kind == "sync" and o.path in files)]


def without_flushing_names_before_the_rename(operations: list[Operation]) -> list[Operation]:
    return [o for o in operations if not (o.kind == "sync" and o.path.endswith(".tmp"))]


def without_flushing_the_rename(operations: list[Operation]) -> list[Operation]:
    return [o for o in operations if not (o.kind == "sync" and o.path == "checkpoints")]


def in_place(operations: list[Operation]) -> list[Operation]:
    """The files are written under the final name."""
    return [
        Operation(o.kind, o.path.replace(".tmp", ""), o.target, o.data, o.offset)
        for o in operations
        if not (o.kind == "rename" and o.path.endswith(".tmp"))
    ]


def pruned_first(operations: list[Operation]) -> list[Operation]:
    """What the new checkpoint covers goes while that is still being written."""
    doomed = [o for o in operations if ".deleted" in o.path + o.target]
    rest = [o for o in operations if o not in doomed]
    place = next(i for i, o in enumerate(rest) if o.kind == "rename")
    return rest[:place] + doomed + rest[place:]


def manifest_first(operations: list[Operation]) -> list[Operation]:
    """The manifest, as it will be, stands before the files are written."""
    manifest = [o for o in operations if o.path.endswith("manifest.json") and o.kind != "unlink"]
    rest = [o for o in operations if o not in manifest]
    place = next(i for i, o in enumerate(rest) if o.kind == "create")
    return rest[:place] + manifest + rest[place:]


DAMAGED, LOST = "nothing can be resumed from", "and the save was over"


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil,which,found",
    [
        (without_flushing_files, "the first save", DAMAGED),
        (without_flushing_files, "a save that prunes", LOST),
        (without_flushing_names_before_the_rename, "the first save", DAMAGED),
        (without_flushing_names_before_the_rename, "a save that prunes", LOST),
        (without_flushing_names_before_the_rename, "a save over one that was damaged", LOST),
        (without_flushing_the_rename, "a save that prunes", LOST),
        (in_place, "the first save", DAMAGED),
        (pruned_first, "a save that prunes", "None was chosen"),
    ],
)
def test_a_protocol_that_leaves_something_out_is_found(recordings, scratch, spoil: Callable, which, found) -> None:
    spoilt = spoil(recordings[which].operations)
    assert spoilt != recordings[which].operations
    complaints, _ = check(recordings[which], scratch, spoilt, DRAWS["spoilt"])
    assert any(found in complaint for complaint in complaints)


@pytest.mark.slow
def test_it_is_the_rename_that_commits_and_not_the_order_of_the_files_before_it(recordings, scratch) -> None:
    recording = recordings["a save that prunes"]
    assert check(recording, scratch, manifest_first(recording.operations), DRAWS["true"])[0] == []
