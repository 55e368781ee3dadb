"""`jadeberta checkpoint list|verify|prune RUN`: what is on disk and whether it can be trusted."""

from pathlib import Path

from jadeberta.checkpoint.commit import prunable, prune
from jadeberta.checkpoint.compatibility import state_fault
from jadeberta.checkpoint.manifest import list_checkpoints, verify
from jadeberta.checkpoint.state_dict import read_state
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.paths import path_option


def main(arguments: list[str]) -> int:
    """Runs the command; returns status 1 where `verify` finds a checkpoint that cannot be trusted."""
    parser = OneSentenceParser(prog="jadeberta checkpoint", description="What is on disk and whether it can be trusted.")
    parser.add_argument(
        "action",
        choices=["list", "verify", "prune"],
        help="verify and prune read every byte; prune removes by the two rules below",
    )
    parser.add_argument("run", type=path_option, help="run directory, its checkpoints directory, or one checkpoint (verify)")
    parser.add_argument("--keep-last", type=int, default=3, help="prune: newest trusted checkpoints to keep")
    parser.add_argument("--keep-every", type=int, default=0, help="prune: keep multiples of this step for good")
    parser.add_argument("--dry-run", action="store_true", help="prune: say what would go, remove nothing")
    options = parser.parse_args(arguments)
    if options.keep_last < 1 or options.keep_every < 0:
        raise ConfigError("--keep-last must be at least 1 and --keep-every at least 0.")
    root = options.run / "checkpoints" if (options.run / "checkpoints").is_dir() else options.run
    directories = list_checkpoints(root) or ([root] if (root / "manifest.json").exists() else [])
    if not directories:
        raise CheckpointError(f"{options.run}: no checkpoint there. Name a run directory that jadeberta pretrain has written.")
    if options.action == "list":
        for directory in directories:
            size = sum(p.lstat().st_size for p in directory.iterdir())
            print(f"{directory.name}  {size / 2**20:10.1f} MiB  {_summary(directory)}")
        return 0
    if options.action == "prune":
        rules = options.keep_last, options.keep_every, lambda directory: not verify(directory)
        try:
            removed = prunable(directories, *rules) if options.dry_run else prune(root, *rules)
        except OSError as e:
            raise CheckpointError(
                f"{e.filename or root}: cannot be removed ({e.strerror}). Look at the owner and the mode."
            ) from e
        for directory in removed:
            print(f"{'would remove' if options.dry_run else 'removed'} {directory.name}")
        return 0
    bad = 0
    for directory in directories:
        faults = verify(directory) or _state_faults(directory)
        bad += bool(faults)
        print(f"{directory.name}  {'ok' if not faults else 'NOT TO BE TRUSTED'}")
        for fault in faults:
            print(f"  {fault}")
    return 1 if bad else 0


def _state_faults(directory: Path) -> list[str]:
    try:
        fault = state_fault(directory)
    except CheckpointError as e:
        fault = str(e)
    return [fault] if fault else []


def _summary(directory: Path) -> str:
    try:
        state = read_state(directory)
        return f"{state['tokens']:>18,} tokens  {state['world_size']} ranks  ZeRO {state['zero_stage']}  {state['precision']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unreadable state.json"
