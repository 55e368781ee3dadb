"""Runs and users that share a node's disk never meet in it: each save has a folder of its own there, closed to others."""

import os
import stat
import threading
from pathlib import Path

import pytest

from jadeberta.checkpoint.staging import StagingFolder
from jadeberta.checkpoint.writer_messages import MemoryFile, WriteAnswer, WriteCommand
from jadeberta.checkpoint.writer_process import Writer

SIZE = 1 << 20


def saves(root: Path, staging: Path, byte: int, rank: int = 0) -> list[str | None]:
    """The errors of five saves in a row by one writer, whose file holds one byte value."""
    writer = Writer(memoryview(bytes([byte]) * SIZE))
    errors: list[str | None] = []
    for step in range(10, 60, 10):
        files = [MemoryFile("model.safetensors", 0, SIZE)]
        command = WriteCommand(root=str(root), step=step, space_needed=SIZE, files=files, staging=str(staging), rank=rank)
        answer = writer.answer(command)
        assert isinstance(answer, WriteAnswer)
        errors.append(answer.error)
        assert set((root / f"step-{step:08d}.tmp/model.safetensors").read_bytes()) == {byte}
    return errors


def test_two_runs_with_the_same_last_name_share_a_staging_directory(tmp_path) -> None:
    errors: dict[int, list] = {}
    roots = {byte: tmp_path / f"experiment-{byte}" / "run" / "checkpoints" for byte in (1, 2)}
    for root in roots.values():
        root.parent.mkdir(parents=True)

    def run(byte: int) -> None:
        errors[byte] = saves(roots[byte], tmp_path / "node", byte)

    threads = [threading.Thread(target=run, args=(byte,)) for byte in roots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == {1: [None] * 5, 2: [None] * 5}
    assert list((tmp_path / "node").iterdir()) == []


def test_ranks_of_one_run_leave_each_others_folders_alone(tmp_path) -> None:
    with (
        StagingFolder(tmp_path, Path("/run/checkpoints"), 0) as first,
        StagingFolder(tmp_path, Path("/run/checkpoints"), 1) as second,
    ):
        first.write("a", b"0")
        second.write("a", b"1")
        assert first.copy("a", tmp_path / "copy") != second.copy("a", tmp_path / "copy")


def test_only_its_owner_can_enter_the_folder_and_its_name_cannot_be_guessed(tmp_path) -> None:
    with StagingFolder(tmp_path, Path("/run/checkpoints"), 0) as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        folder.write("a", b"content")
        assert stat.S_IMODE((folder.path / "a").stat().st_mode) == 0o600
        first = folder.path.name
    with StagingFolder(tmp_path, Path("/run/checkpoints"), 0) as folder:
        assert folder.path.name != first


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_that_somebody_planted_is_not_followed(tmp_path, dangling) -> None:
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_text("precious")
    with StagingFolder(tmp_path / "node", Path("/run/checkpoints"), 0) as folder:
        (folder.path / "config.json").symlink_to(victim)
        with pytest.raises(FileExistsError):
            folder.write("config.json", b"{}")
        with pytest.raises(OSError):
            folder.copy("config.json", tmp_path / "copy")
    assert not victim.exists() if dangling else victim.read_text() == "precious"


def test_a_folder_that_takes_the_place_of_an_open_one_gets_no_file(tmp_path) -> None:
    with StagingFolder(tmp_path, Path("/run/checkpoints"), 0) as folder:
        folder.path.rename(tmp_path / "moved")
        folder.path.mkdir()
        folder.write("a", b"content")
        assert list(folder.path.iterdir()) == [] and (tmp_path / "moved/a").read_bytes() == b"content"


def test_what_a_killed_writer_left_is_removed_and_what_belongs_to_others_stays(tmp_path) -> None:
    root = Path("/run/checkpoints")
    killed = StagingFolder(tmp_path, root, 0).path
    (killed / "model.safetensors").write_bytes(b"half")
    of_another_run = StagingFolder(tmp_path, Path("/other/checkpoints"), 0).path
    link = tmp_path / f"{killed.name}x"
    link.symlink_to(of_another_run)
    foreign = tmp_path / f"{killed.name}y"
    foreign.mkdir()
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
    with StagingFolder(tmp_path, root, 0):
        assert not killed.exists() and of_another_run.is_dir() and link.is_symlink()
        assert foreign.exists() == (os.geteuid() == 0)
