"""`jadeberta checkpoint list` and `prune` on a run with checkpoints at steps 2 and 4."""

from pathlib import Path

import pytest

from jadeberta.checkpoint.cli import main
from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.errors import CheckpointError, ConfigError
from tests.compatibility.test_older_files import unpack


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return unpack("run", tmp_path)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in list_checkpoints(run / "checkpoints"))


def test_list_shows_each_checkpoint_with_its_size_tokens_ranks_and_precision(run: Path, capsys) -> None:
    (run / "checkpoints" / names(run)[0] / "state.json").write_text("{}")
    assert main(["list", str(run)]) == 0
    damaged, sound = capsys.readouterr().out.splitlines()
    assert damaged.startswith(names(run)[0]) and damaged.endswith("unreadable state.json")
    assert sound.startswith(names(run)[1]) and "MiB" in sound and sound.endswith("tokens  2 ranks  ZeRO 1  fp32")


def test_prune_says_with_dry_run_what_it_removes_without(run: Path, capsys) -> None:
    old, new = names(run)
    assert main(["prune", str(run), "--keep-last", "1", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"would remove {old}"] and names(run) == [old, new]
    assert main(["prune", str(run), "--keep-last", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"removed {old}"] and names(run) == [new]


def test_prune_keeps_multiples_of_a_step(run: Path, capsys) -> None:
    assert main(["prune", str(run), "--keep-last", "1", "--keep-every", "2"]) == 0
    assert capsys.readouterr().out == "" and len(names(run)) == 2


def test_verify_names_the_file_of_a_checkpoint_that_is_not_what_was_written(run: Path, capsys) -> None:
    weights = max((run / "checkpoints" / names(run)[1]).iterdir(), key=lambda path: path.stat().st_size)
    weights.write_bytes(b"")
    assert main(["verify", str(run)]) == 1
    printed = capsys.readouterr().out
    assert f"{names(run)[0]}  ok" in printed and f"{names(run)[1]}  NOT TO BE TRUSTED\n  " in printed and weights.name in printed


def test_what_cannot_be_done_is_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--keep-last must be at least 1"):
        main(["prune", str(run), "--keep-last", "0"])
    with pytest.raises(CheckpointError, match=r"no checkpoint there\. Name a run directory"):
        main(["list", str(tmp_path / "nothing")])
