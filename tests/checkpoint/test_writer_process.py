"""The process that writes: it writes what the memory holds, answers everything, and its end is an answer too."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jadeberta.checkpoint.manifest import verify
from jadeberta.checkpoint.snapshot import Snapshot
from jadeberta.checkpoint.writer_client import WriterProcess

TENSORS = {"w": torch.arange(100_000, dtype=torch.float32)}


@pytest.fixture
def writer():
    snapshot = Snapshot({"model.safetensors": (TENSORS, {})}, pin=False)
    snapshot.fill({"model.safetensors": TENSORS})
    process = WriterProcess(snapshot)
    process.images = [(i.name, i.offset, i.size) for i in snapshot.images]
    yield process
    process.close()


def order(writer: WriterProcess, root: Path, step: int = 1, need: int = 1000, staging: str = "") -> None:
    texts = {"config.json": "{}", "state.json": "{}"}
    writer.send("write", root=str(root), step=step, need=need, staging=staging, images=writer.images, texts=texts, copies=[])


def answers(writer: WriterProcess, count: int) -> list[dict]:
    found: list[dict] = []
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline
        found += writer.wait(1.0)
    return found


@pytest.mark.parametrize("staged", [False, True])
def test_a_save_is_written_published_read_back_and_old_ones_pruned(writer, tmp_path, staged) -> None:
    root, staging = tmp_path / "checkpoints", tmp_path / "node"
    for step in (1, 2):
        order(writer, root, step, staging=str(staging) if staged else "")
        (written,) = answers(writer, 1)
        assert written["error"] is None and written["step"] == step
        assert not (root / f"step-{step:08d}").exists()
        writer.send("publish", root=str(root), step=step, files=written["files"])
        writer.send("verify", root=str(root), step=step)
        writer.send("prune", root=str(root), keep_last=1, keep_every=0)
        published, verified, pruned = answers(writer, 3)
        assert (published["error"], verified["error"], verified["faults"], pruned["error"]) == (None, None, [], None)
    assert pruned["removed"] == ["step-00000001"]
    final = root / "step-00000002"
    assert verify(final) == [] and [p.name for p in root.iterdir()] == [final.name]
    assert load_file(final / "model.safetensors")["w"].equal(TENSORS["w"])
    assert not staged or list(staging.iterdir()) == []


def test_a_disk_without_room_is_an_answer_and_the_writer_goes_on(writer, tmp_path) -> None:
    order(writer, tmp_path, need=1 << 60)
    order(writer, tmp_path, step=2)
    refused, written = answers(writer, 2)
    assert "MiB needed" in refused["error"] and written["error"] is None


def test_a_directory_that_cannot_be_made_is_an_answer_that_names_it(writer, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    order(writer, tmp_path / "file" / "checkpoints")
    assert str(tmp_path / "file") in answers(writer, 1)[0]["error"]


def test_a_writer_that_is_killed_fails_its_commands_and_is_replaced(writer, tmp_path) -> None:
    order(writer, tmp_path)
    answers(writer, 1)
    pid = writer._process.pid
    os.kill(pid, signal.SIGSTOP)
    order(writer, tmp_path, step=2)
    assert writer.poll() == []
    os.kill(pid, signal.SIGKILL)
    assert "ended" in answers(writer, 1)[0]["error"]
    order(writer, tmp_path, step=3)
    assert answers(writer, 1)[0]["error"] is None and writer._process.pid != pid


def test_a_writer_that_hangs_can_be_given_up(writer, tmp_path) -> None:
    order(writer, tmp_path)
    answers(writer, 1)
    pid = writer._process.pid
    os.kill(pid, signal.SIGSTOP)
    order(writer, tmp_path, step=2)
    began = time.monotonic()
    writer.give_up()
    assert [a["op"] for a in writer.poll()] == ["write"] and time.monotonic() - began < 5
    assert not Path(f"/proc/{pid}").exists()


def test_signals_to_the_process_group_are_not_the_writers(writer, tmp_path) -> None:
    order(writer, tmp_path)
    answers(writer, 1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(writer._process.pid, number)
    order(writer, tmp_path, step=2)
    assert answers(writer, 1)[0]["error"] is None


def test_no_writer_outlives_its_training_process(tmp_path) -> None:
    import subprocess
    import sys

    script = (
        "import torch, time, sys; from jadeberta.checkpoint.writer_client import WriterProcess; "
        "from jadeberta.checkpoint.snapshot import Snapshot; "
        "w = WriterProcess(Snapshot({'m': ({'w': torch.zeros(3)}, {})}, pin=False)); "
        "w.send('trust', root='/', step=1); print(w._process.pid, flush=True); time.sleep(100)"
    )
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(trainer.stdout.readline())
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
