"""The writer process writes what the memory holds, answers every command, and its death is an answer too."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jadeberta.checkpoint.manifest import verify
from jadeberta.checkpoint.snapshot import Snapshot
from jadeberta.checkpoint.writer_client import WriterClient
from jadeberta.checkpoint.writer_messages import (
    ANSWERS,
    Answer,
    DiscardCommand,
    MemoryFile,
    PruneAnswer,
    PruneCommand,
    PublishAnswer,
    PublishCommand,
    TrustCommand,
    VerifyAnswer,
    VerifyCommand,
    WriteAnswer,
    WriteCommand,
    answer_to,
    decode_answer,
    decode_command,
    encode,
)

TENSORS = {"w": torch.arange(100_000, dtype=torch.float32)}


@pytest.fixture
def writer():
    snapshot = Snapshot({"model.safetensors": (TENSORS, {})}, pin=False)
    snapshot.fill({"model.safetensors": TENSORS})
    client = WriterClient(snapshot)
    yield client
    client.close()


def send_write(writer: WriterClient, root: Path, step: int = 1, space_needed: int = 1000, staging: str = "") -> None:
    texts = {"config.json": "{}", "state.json": "{}"}
    files = writer._snapshot.files
    writer.send(WriteCommand(root=str(root), step=step, space_needed=space_needed, files=files, texts=texts, staging=staging))


def answers(writer: WriterClient, count: int) -> list:
    found: list[Answer] = []
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline
        found += writer.wait(1.0)
    return found


@pytest.mark.parametrize("staged", [False, True])
def test_a_save_is_written_published_read_back_and_old_ones_pruned(writer, tmp_path, staged) -> None:
    root, staging = tmp_path / "checkpoints", tmp_path / "node"
    for step in (1, 2):
        send_write(writer, root, step, staging=str(staging) if staged else "")
        (written,) = answers(writer, 1)
        assert isinstance(written, WriteAnswer) and written.error is None and written.step == step
        assert not (root / f"step-{step:08d}").exists()
        writer.send(PublishCommand(root=str(root), step=step, files=written.files))
        writer.send(VerifyCommand(root=str(root), step=step))
        writer.send(PruneCommand(root=str(root), keep_last=1, keep_every=0))
        published, verified, pruned = answers(writer, 3)
        assert isinstance(published, PublishAnswer) and published.error is None
        assert isinstance(verified, VerifyAnswer) and (verified.error, verified.faults) == (None, [])
        assert isinstance(pruned, PruneAnswer) and pruned.error is None
    assert pruned.removed == ["step-00000001"]
    final = root / "step-00000002"
    assert verify(final) == [] and [p.name for p in root.iterdir()] == [final.name]
    assert load_file(final / "model.safetensors")["w"].equal(TENSORS["w"])
    assert not staged or list(staging.iterdir()) == []


def test_a_disk_without_room_is_an_answer_and_the_writer_goes_on(writer, tmp_path) -> None:
    send_write(writer, tmp_path, space_needed=1 << 60)
    send_write(writer, tmp_path, step=2)
    refused, written = answers(writer, 2)
    assert "MiB needed" in refused.error and written.error is None


def test_a_directory_that_cannot_be_made_is_an_answer_that_names_it(writer, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    send_write(writer, tmp_path / "file" / "checkpoints")
    assert str(tmp_path / "file") in answers(writer, 1)[0].error


def test_a_writer_that_is_killed_fails_its_commands_and_is_replaced(writer, tmp_path) -> None:
    send_write(writer, tmp_path)
    answers(writer, 1)
    pid = writer._process.pid
    os.kill(pid, signal.SIGSTOP)
    send_write(writer, tmp_path, step=2)
    assert writer.poll() == []
    os.kill(pid, signal.SIGKILL)
    (failed,) = answers(writer, 1)
    assert isinstance(failed, WriteAnswer) and failed.step == 2 and "ended" in failed.error
    send_write(writer, tmp_path, step=3)
    assert answers(writer, 1)[0].error is None and writer._process.pid != pid


def test_a_writer_that_hangs_can_be_given_up(writer, tmp_path) -> None:
    send_write(writer, tmp_path)
    answers(writer, 1)
    pid = writer._process.pid
    os.kill(pid, signal.SIGSTOP)
    send_write(writer, tmp_path, step=2)
    began = time.monotonic()
    writer.give_up()
    assert [type(answer) for answer in writer.poll()] == [WriteAnswer] and time.monotonic() - began < 5
    assert not Path(f"/proc/{pid}").exists()


def test_signals_to_the_process_group_are_not_the_writers(writer, tmp_path) -> None:
    send_write(writer, tmp_path)
    answers(writer, 1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(writer._process.pid, number)
    send_write(writer, tmp_path, step=2)
    assert answers(writer, 1)[0].error is None


def test_every_message_comes_through_the_pipe_as_it_was_sent() -> None:
    files = {"model.safetensors": (7, "ab"), "optimizer-00001-of-00001.safetensors": (0, "cd")}
    commands = [
        WriteCommand(root="/r", step=3, space_needed=9, files=[MemoryFile("m", 0, 7)], texts={"a": "長い"}, staging="/s"),
        PublishCommand(root="/r", step=3, files=files),
        DiscardCommand(root="/r", step=3),
        VerifyCommand(root="/r", step=3),
        TrustCommand(step=3),
        PruneCommand(root="/r", keep_last=1, keep_every=0),
    ]
    assert {type(command) for command in commands} == set(ANSWERS)
    results: dict[type, dict] = {
        WriteCommand: {"files": files},
        VerifyCommand: {"faults": ["a: missing."]},
        PruneCommand: {"removed": ["step-00000001"]},
    }
    for command in commands:
        assert decode_command(encode(command)) == command
        for answer in (answer_to(command, 0.5, **results.get(type(command), {})), answer_to(command, 0.5, "the disk is full")):
            assert decode_answer(encode(answer)) == answer and type(answer) is ANSWERS[type(command)]


def test_no_writer_outlives_its_training_process(tmp_path) -> None:
    import subprocess
    import sys

    script = (
        "import torch, time, sys; from jadeberta.checkpoint.writer_client import WriterClient; "
        "from jadeberta.checkpoint.snapshot import Snapshot; "
        "w = WriterClient(Snapshot({'m': ({'w': torch.zeros(3)}, {})}, pin=False)); "
        "from jadeberta.checkpoint.writer_messages import TrustCommand; "
        "w.send(TrustCommand(step=1)); print(w._process.pid, flush=True); time.sleep(100)"
    )
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(trainer.stdout.readline())
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
