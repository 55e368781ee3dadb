"""Decides what an attempt starts from when its run has no checkpoint, and that a run starts only once.

The first attempt writes lineage.json; every later one finds it and takes the same start, or refuses. Nothing is written to a source.
"""

from pathlib import Path

from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.checkpoint.state_dict import read_state
from jadeberta.config import Recipe
from jadeberta.config.lineage import LINEAGE_NAME, Entry, Lineage, identity, lineage_in, read_lineage, write_lineage
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.shards import ShardReader
from jadeberta.start.branch import branch_entry, require_same_branch
from jadeberta.start.source import read_source
from jadeberta.training.run_context import StartOfRun


def plan_start(
    recipe: Recipe, shards: ShardReader, tokenizer: dict[str, bytes], repeats: dict[str, int], branch_from: Path | None
) -> StartOfRun:
    """Finds where the run starts, and reads published weights, before a device is touched; rank 0 alone calls it.

    Args:
        recipe: of the run.
        shards: the training split.
        tokenizer: the files beside the shards, by name.
        repeats: of each corpus in an epoch.
        branch_from: the option of that name; None where it is not given.

    Raises:
        ConfigError: the recipe, the option and the run directory contradict each other, or the source does not fit.
        CheckpointError: the source is damaged, or not what the run has started from.
    """
    run_dir = Path(recipe.run.dir)
    lineage = read_lineage(run_dir)
    found = list_checkpoints(run_dir / "checkpoints")
    if not lineage and found:
        lineage = _lineage_in(found)
    own = lineage[-1] if lineage else None
    if branch_from is not None and own is not None and own["kind"] == "branch":
        require_same_branch(own, branch_from, run_dir)
    elif branch_from is not None and (own is not None or found or _has_trained(run_dir)):
        raise ConfigError(
            f"run.dir {run_dir}: holds another run, which --branch-from would go over. Name a new directory, or leave --branch-from out."
        )
    if own is not None and own["kind"] == "init" and not recipe.model.init_from:
        raise ConfigError(
            f"model.init_from is empty, but {run_dir} holds a run that has started from {own['source']}. Set the key again, or choose "
            f"another run.dir{'' if found else f' (or remove {LINEAGE_NAME} there)'}."
        )
    if own is None and found and recipe.model.init_from:
        raise ConfigError(
            f"model.init_from is {recipe.model.init_from}, but {run_dir} holds a run that has started from random weights. Leave the key "
            "out, or choose another run.dir."
        )
    if found:
        return StartOfRun(lineage)  # the checkpoints decide; the source is not needed any more
    if own is not None and own["kind"] == "branch":
        return _again(lineage, branch_entry(recipe, shards, repeats, Path(own["source"]), own), run_dir)
    if branch_from is not None:
        planned = branch_entry(recipe, shards, repeats, branch_from)
        return StartOfRun(planned, branch=Path(planned[-1]["source"]))
    if not recipe.model.init_from:
        return StartOfRun()
    given = Path(recipe.model.init_from)
    # Of a run that trains on, the newest checkpoint is another one by now.
    is_known = own is not None and own["given"] == str(given.absolute()) and Path(own["source"]).is_dir()
    source = Path(own["source"]) if own and is_known else given
    try:
        weights, planned = read_source(recipe, source, shards, tokenizer)
    except OSError as e:  # a file that was there a moment ago
        raise CheckpointError(
            f"{e.filename or source}: cannot be read ({e.strerror or e}), and the run starts from it. Put it back, and start again."
        ) from e
    start = StartOfRun(planned, weights)
    return start if own is None else StartOfRun(_again(lineage, planned, run_dir).lineage, weights)


def _again(lineage: Lineage, planned: Lineage, run_dir: Path) -> StartOfRun:
    """The start that an attempt before this one has recorded; raises CheckpointError where the source is another one now."""
    own, now = lineage[-1], planned[-1]
    if identity(own) != identity(now) or own.get("tokenizer") != now.get("tokenizer"):
        raise CheckpointError(
            f"{now['source']}: is not what it was when the run in {run_dir} started from it (there {_short(own)}, now {_short(now)}), and "
            f"the run has no checkpoint yet. Put it back, choose another run.dir, or remove {run_dir / LINEAGE_NAME} to start anew."
        )
    return StartOfRun(lineage, branch=Path(now["source"]) if own["kind"] == "branch" else None)


def _short(entry: Entry) -> str:
    return f"{str(identity(entry)[1])[:12]}…"


def _lineage_in(checkpoints: list[Path]) -> Lineage:
    """The lineage in the newest checkpoint that has a readable state; empty where the run has started from random weights."""
    for directory in reversed(checkpoints):
        try:
            return lineage_in(read_state(directory), directory)
        except (OSError, ValueError, AttributeError, CheckpointError):
            continue  # the checkpointer says what is wrong with it
    return ()


def _has_trained(run_dir: Path) -> bool:
    return any((run_dir / name).exists() for name in ("metrics.jsonl", "DONE"))


def settle_start(run_dir: Path, start: StartOfRun) -> None:
    """Records the start in the run directory; rank 0 calls it, with the lock of the directory.

    Raises:
        CheckpointError: another job has started the run from something else meanwhile.
        OutputError: the record cannot be written.
    """
    found = read_lineage(run_dir)
    if [identity(entry) for entry in found] == [identity(entry) for entry in start.lineage] or (found and not start.lineage):
        return
    if found:
        raise CheckpointError(
            f"{run_dir / LINEAGE_NAME}: another job has started this run from {found[-1]['source']} meanwhile. Choose another run.dir."
        )
    write_lineage(run_dir, start.lineage)
