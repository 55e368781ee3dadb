"""A checkpoint is complete or it is not there, and every change to one is found."""

import errno
import json
from pathlib import Path

import pytest

from jadeberta.checkpoint.commit import discard, prepare, prunable, prune, publish, remove_leftovers, write_file
from jadeberta.checkpoint.manifest import _own_hash, choose, list_checkpoints, verify
from jadeberta.errors import CheckpointError, NothingToResume

FILES = {
    "model.safetensors": b"weights" * 100,
    "config.json": b"{}",
    "state.json": b'{"step": 1}',
    "optimizer-00001-of-00001.safetensors": b"m",
}


def commit(root: Path, step: int) -> Path:
    """A checkpoint, made as the writer makes it."""
    directory = prepare(root, step, 1000)
    return publish(root, step, {name: write_file(directory / name, content) for name, content in FILES.items()})


def test_a_committed_checkpoint_verifies_and_leaves_nothing_temporary(tmp_path) -> None:
    final = commit(tmp_path, 1000)
    assert final.name == "step-00001000" and verify(final) == []
    assert sorted(p.name for p in final.iterdir()) == sorted([*FILES, "manifest.json"])
    assert [p.name for p in tmp_path.iterdir()] == [final.name]
    manifest = json.loads((final / "manifest.json").read_text())
    assert manifest["files"]["model.safetensors"]["bytes"] == 700


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete", "rename", "append"])
def test_every_damage_to_every_file_is_found_and_named(tmp_path, name, damage) -> None:
    final = commit(tmp_path, 1)
    path = final / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "append":
        path.write_bytes(bytes(content) + b"x")
    elif damage == "delete":
        path.unlink()
    else:
        path.rename(final / f"{name}.old")
    faults = verify(final)
    assert faults and name in faults[0]


def test_a_flipped_bit_anywhere_in_the_manifest_is_found_or_changes_nothing_that_is_read(tmp_path) -> None:
    final = commit(tmp_path, 1)
    path = final / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0, 3, 5):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                harmless = json.loads(changed.decode()) == json.loads(whole)
            except ValueError:
                harmless = False
            assert harmless or verify(final), (place, bit)


def test_a_checkpoint_renamed_to_another_step_is_found(tmp_path) -> None:
    commit(tmp_path, 1).rename(tmp_path / "step-00000002")
    assert "renamed" in verify(tmp_path / "step-00000002")[0]


def test_a_save_that_was_discarded_leaves_the_old_checkpoints_and_nothing_else(tmp_path) -> None:
    commit(tmp_path, 1)
    (prepare(tmp_path, 2, 1000) / "model.safetensors").write_bytes(b"half")
    discard(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"MiB needed, .* MiB free"):
        prepare(tmp_path, 1, 1 << 60)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_save_are_no_checkpoint_and_vanish_with_the_next(tmp_path) -> None:
    left = tmp_path / "step-00000005.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert list_checkpoints(tmp_path) == []
    commit(tmp_path, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]


def test_an_untrusted_checkpoint_of_the_same_step_is_replaced(tmp_path) -> None:
    final = commit(tmp_path, 5)
    (final / "config.json").unlink()
    assert verify(commit(tmp_path, 5)) == []


def test_the_newest_that_verifies_is_chosen_and_the_damaged_one_is_reported(tmp_path) -> None:
    for step in (1, 2, 3):
        commit(tmp_path, step)
    (tmp_path / "step-00000003/model.safetensors").write_bytes(b"x")
    reported: list[str] = []
    assert choose(tmp_path, "auto", reported.append) == tmp_path / "step-00000002"
    assert len(reported) == 1 and "step-00000003" in reported[0] and "model.safetensors" in reported[0]


def test_nothing_to_resume_is_an_error_where_it_is_required_and_a_start_where_not(tmp_path) -> None:
    assert choose(tmp_path / "absent", "auto", print) is None
    with pytest.raises(NothingToResume) as raised:
        choose(tmp_path, "required", print)
    assert raised.value.exit_status == 3


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_at_step_0_by_itself(tmp_path) -> None:
    (commit(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints"):
        choose(tmp_path, "auto", print)
    with pytest.raises(NothingToResume):
        choose(tmp_path, "required", print)


def test_a_fresh_start_over_existing_checkpoints_is_refused(tmp_path) -> None:
    commit(tmp_path, 1)
    with pytest.raises(CheckpointError, match="--resume never"):
        choose(tmp_path, "never", print)


def test_pruning_keeps_the_newest_and_those_kept_for_good(tmp_path) -> None:
    for step in range(1, 9):
        commit(tmp_path, step)
    before = list_checkpoints(tmp_path)
    assert prunable(before, 0, 0, lambda p: True) == []
    removed = prune(tmp_path, keep_last=2, keep_every=3, trusted=lambda p: not verify(p))
    assert [int(p.name[-1]) for p in removed] == [1, 2, 4, 5]
    assert [int(p.name[-1]) for p in list_checkpoints(tmp_path)] == [3, 6, 7, 8]
    assert all(verify(p) == [] for p in list_checkpoints(tmp_path))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_checkpoint_never_lets_an_older_one_go(tmp_path) -> None:
    for step in range(1, 5):
        commit(tmp_path, step)
    for step in (3, 4):
        (tmp_path / f"step-0000000{step}/model.safetensors").write_bytes(b"x")
    removed = prune(tmp_path, keep_last=1, keep_every=0, trusted=lambda p: not verify(p))
    assert [p.name for p in removed] == ["step-00000001"]
    assert verify(tmp_path / "step-00000002") == []


def test_leftovers_of_killed_saves_and_prunings_are_removed_and_nothing_else_is(tmp_path) -> None:
    commit(tmp_path, 1)
    for name in ("step-00000002.tmp", "step-00000003.deleted", "notes.tmp"):
        (tmp_path / name).mkdir()
    assert sorted(p.name for p in remove_leftovers(tmp_path)) == ["step-00000002.tmp", "step-00000003.deleted"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.tmp", "step-00000001"]


def craft(directory: Path, **changes: object) -> None:
    """Writes a manifest with a right hash of its own, as anybody can."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    manifest["sha256"] = _own_hash(manifest["step"], manifest["files"])
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "place", ["../../etc/hostname", "/etc/hostname", "..", ".", "", "a/b", "n" * 5000, "nul\0", "manifest.json"]
)
def test_a_manifest_that_lists_a_file_elsewhere_is_no_manifest_and_nothing_is_read(tmp_path, monkeypatch, place) -> None:
    final = commit(tmp_path, 1)
    files = json.loads((final / "manifest.json").read_text())["files"]
    craft(final, files=files | {place: {"bytes": 1, "sha256": "0" * 64}})
    monkeypatch.setattr("jadeberta.checkpoint.manifest.file_sha256", pytest.fail)
    (fault,) = verify(final)
    assert "no name of a file in this directory" in fault and len(fault) < 300


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []}, {"files": 3}, {"files": None}, {"files": {"a": 1}},
        {"files": {"a": {"sha256": "0"}}}, {"files": {"a": {"bytes": 1}}}, {"files": {"a": {"bytes": "1", "sha256": "0"}}},
        {"step": "1"}, {"step": None}, {"step": [1]}, {"step": True},
    ],
)  # fmt: skip
def test_a_manifest_of_another_form_is_one_sentence(tmp_path, changes) -> None:
    final = commit(tmp_path, 1)
    craft(final, **changes)
    (fault,) = verify(final)
    assert "manifest.json: " in fault
    reported: list[str] = []
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints"):
        choose(tmp_path, "auto", reported.append)
    assert len(reported) == 1


@pytest.mark.parametrize("content", ["[]", "null", "1", '"text"', "[" * 100_000])
def test_a_manifest_that_is_no_object_is_one_sentence(tmp_path, content) -> None:
    final = commit(tmp_path, 1)
    (final / "manifest.json").write_text(content)
    assert len(verify(final)) == 1


def test_a_link_is_no_file_of_a_checkpoint_but_a_checkpoint_may_be_a_link(tmp_path) -> None:
    final = commit(tmp_path / "root", 1)
    moved = tmp_path / "archive"
    final.rename(moved)
    final.symlink_to(moved)
    assert verify(final) == [] and list_checkpoints(tmp_path / "root") == [final]
    (moved / "config.json").rename(tmp_path / "config.json")
    (moved / "config.json").symlink_to(tmp_path / "config.json")
    assert "config.json: a link" in verify(final)[0]


def test_a_checkpoint_that_is_a_link_is_pruned_without_what_it_leads_to(tmp_path) -> None:
    root, archive = tmp_path / "root", tmp_path / "archive"
    for step in (1, 2):
        commit(root, step)
    (root / "step-00000001").rename(archive)
    (root / "step-00000001").symlink_to(archive)
    assert [p.name for p in prune(root, 1, 0, trusted=lambda p: not verify(p))] == ["step-00000001"]
    assert [p.name for p in root.iterdir()] == ["step-00000002"] and len(list(archive.iterdir())) == 5


def test_leftovers_that_are_files_or_links_are_removed_at_the_next_start_and_what_stays_is_fatal_to_nobody(
    tmp_path, monkeypatch
) -> None:
    commit(tmp_path, 1)
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "step-00000007.tmp").write_text("a file")
    (tmp_path / "step-00000008.deleted").symlink_to(kept)
    (tmp_path / "step-00000009.deleted").symlink_to("nowhere")
    (tmp_path / "step-00000010.1.deleted").mkdir()
    (tmp_path / "notes.txt").write_text("of the user")
    assert [p.name for p in remove_leftovers(tmp_path)] == [
        "step-00000007.tmp", "step-00000008.deleted", "step-00000009.deleted", "step-00000010.1.deleted",
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "notes.txt", "step-00000001"]
    # As on NFS, where another host has a file open.
    (tmp_path / "step-00000007.tmp").mkdir()
    monkeypatch.setattr("jadeberta.checkpoint.commit.shutil.rmtree", not_empty)
    assert remove_leftovers(tmp_path) == [] and (tmp_path / "step-00000007.tmp").is_dir()


def not_empty(path: Path) -> None:
    raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))


def test_a_directory_that_does_not_let_go_ends_neither_a_save_nor_a_pruning(tmp_path, monkeypatch) -> None:
    for step in (1, 2):
        commit(tmp_path, step)
    monkeypatch.setattr("jadeberta.checkpoint.commit.shutil.rmtree", not_empty)
    for _ in range(2):
        assert verify(commit(tmp_path, 2)) == []
    assert [p.name for p in prune(tmp_path, 1, 0, trusted=lambda p: not verify(p))] == ["step-00000001"]
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000002"]
    monkeypatch.undo()
    assert len(remove_leftovers(tmp_path)) == 3 and [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_a_broken_link_in_the_place_of_a_checkpoint_is_replaced(tmp_path) -> None:
    tmp_path.joinpath("step-00000005").symlink_to("nowhere")
    assert list_checkpoints(tmp_path) == [] and verify(commit(tmp_path, 5)) == []
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]
