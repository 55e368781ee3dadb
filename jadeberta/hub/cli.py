"""`jadeberta publish DIR --repo OWNER/NAME`: sends a release to the Hugging Face Hub, and chosen checkpoints as its revisions.

The branch main holds the release, the branch step-N the export of the checkpoint of step N. The release is followed by its hashes first.
The same command goes on after any interruption: what is there with the same hash is not sent again. --dry-run needs no network.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jadeberta.checkpoint.manifest import directory_name, list_checkpoints, step_of
from jadeberta.checkpoint.manifest import verify as verify_checkpoint
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.hub.card_check import CARD_NAME, card_faults, card_of_revision, read_card
from jadeberta.hub.hub_repository import HubRepository, require_repository
from jadeberta.hub.own_figures import require_own_figures
from jadeberta.provenance.cli import accept_card, follow, read_document
from jadeberta.provenance.links import EVALUATION_FOLDER
from jadeberta.provenance.statement import ENVELOPE_NAME, STATEMENT_NAME, read_statement
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.paths import path_option

MAIN = "main"


def files_of(release: Path) -> dict[str, Path]:
    """Returns the files of a release by name: those of its statement, the statement itself, and its signature where there is one.

    Raises:
        CheckpointError: a file is not the one that the statement names, or there is no statement.
    """
    content, document = read_document(release)
    if wrong := [link for link in follow(release, content=content) if link.state == "wrong"]:
        edited = wrong[0].file == CARD_NAME and wrong[0].found
        remedy = "if you edited it, run 'jadeberta verify-release --accept-card'" if edited else "export the checkpoint again"
        if wrong[0].name == "signature":
            remedy = "sign again with 'jadeberta verify-release --sign-key', or remove the file"
        raise CheckpointError(f"{release / wrong[0].file}: {wrong[0].detail}; {remedy}.")
    names = [*read_statement(document).subjects, STATEMENT_NAME]
    names += [ENVELOPE_NAME] if (release / ENVELOPE_NAME).is_file() else []
    return {name: release / name for name in sorted(names)}


def chosen_checkpoints(run: Path, steps: tuple[int, ...]) -> dict[str, Path]:
    """Returns the checkpoints of a run by the names of their revisions.

    Raises:
        CheckpointError: one is not there, or cannot be trusted.
    """
    root = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    there = {step_of(path): path for path in list_checkpoints(root)}
    if missing := [step for step in steps if step not in there]:
        kept = ", ".join(f"{step:,}" for step in there) or "none"
        raise CheckpointError(f"{root / directory_name(missing[0])}: not there; --steps may name {kept}.")
    for step in steps:
        if faults := verify_checkpoint(there[step]):
            raise CheckpointError(
                f"{faults[0]} Leave step {step} out of --steps; 'jadeberta checkpoint verify' shows which are good."
            )
    return {f"step-{step}": there[step] for step in steps}


@contextlib.contextmanager
def exported(checkpoint: Path, revision: str, main_card: str, repository: str) -> Iterator[Path]:
    """Gives the export of a checkpoint in a folder that is removed afterwards.

    Args:
        checkpoint: that becomes a revision.
        revision: its name.
        main_card: card of the release.
        repository: OWNER/NAME.
    """
    from jadeberta.release.export import export

    with tempfile.TemporaryDirectory(prefix="jadeberta-publish-") as folder:
        release = Path(folder) / revision
        export(checkpoint, release)
        card = release / CARD_NAME
        card.write_text(card_of_revision(card.read_text(encoding="utf-8"), main_card, repository, revision), encoding="utf-8")
        accept_card(release)
        yield release


def main(arguments: list[str]) -> int:
    """Runs the command."""
    parser = OneSentenceParser(prog="jadeberta publish", description=__doc__.split("\n\n")[0])
    parser.add_argument("release", type=path_option, help="directory that 'jadeberta export' wrote")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository; made where it is not there yet")
    parser.add_argument("--checkpoints", type=path_option, metavar="RUN", help="run whose checkpoints become revisions")
    parser.add_argument(
        "--steps", type=_steps, default=(), metavar="N,N,...", help="their steps, e.g. 0,1000,2000; with --checkpoints"
    )
    parser.add_argument(
        "--evaluation", type=path_option, action="append", default=[], help="its figures, to add as evaluation/NAME; repeatable"
    )
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--dry-run", action="store_true", help="list files, sizes and revisions; no network")
    parser.add_argument(
        "--allow-unfinished-card", action="store_true", help="publish a card without licence or with placeholders"
    )
    options = parser.parse_args(arguments)
    repository = require_repository(options.repo)
    if (options.checkpoints is None) != (not options.steps):
        raise ConfigError("--checkpoints names the run and --steps its checkpoints; give both, or neither.")
    if not options.release.is_dir():
        raise ConfigError(f"{options.release}: no such directory; name one that 'jadeberta export' wrote.")
    files = files_of(options.release) | _evaluations(options.evaluation)
    require_own_figures(options.evaluation, options.release, read_statement(read_document(options.release)[1]))
    card = read_card(options.release)
    if (faults := card_faults(card)) and not options.allow_unfinished_card:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ConfigError(
            f"{options.release / CARD_NAME}: {faults[0]}{more}. Then run 'jadeberta verify-release --accept-card'; "
            "--allow-unfinished-card publishes it as it is."
        )
    checkpoints = chosen_checkpoints(options.checkpoints, options.steps) if options.steps else {}
    if options.dry_run:
        _print_plan(repository, files, checkpoints, options.private)
        return 0
    hub = HubRepository(repository, lambda line: print(line, flush=True))
    hub.create(options.private)
    # A signature of an earlier release would stay beside this one, whose statement is another.
    sent = hub.send(MAIN, files, "Release", is_whole=False, stale=(ENVELOPE_NAME,))
    for revision, checkpoint in checkpoints.items():
        with exported(checkpoint, revision, card, repository) as release:
            hub.create_branch(revision)
            sent += hub.send(revision, files_of(release), f"Checkpoint of step {step_of(checkpoint)}", is_whole=True)
    print(f"published {options.release} as {repository}: {1 + len(checkpoints)} revisions, {sent} files sent")
    return 0


def _evaluations(paths: list[Path]) -> dict[str, Path]:
    files = {f"{EVALUATION_FOLDER}{path.name}": path for path in paths}
    if len(files) < len(paths):
        raise ConfigError("two files of --evaluation have one name; rename one of them.")
    if missing := [path for path in paths if not path.is_file() or path.suffix != ".json"]:
        raise ConfigError(f"--evaluation {missing[0]}: no such file of JSON; name what 'jadeberta evaluate' or 'finetune' wrote.")
    return files


def _steps(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) <= 8 for part in parts):
        raise argparse.ArgumentTypeError(
            f"'{text[:60]}' are no steps; write whole numbers with commas between them, as 0,1000,2000"
        )
    return tuple(dict.fromkeys(map(int, parts)))


def _print_plan(repository: str, files: dict[str, Path], checkpoints: dict[str, Path], private: bool) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    width = max(len(f"{size:,}") for size in sizes.values())
    print(f"would publish to {repository}, {'private' if private else 'public'} where it is made now")
    print(f"{MAIN}: {len(files)} files, {sum(sizes.values()):,} bytes")
    for name, size in sizes.items():
        print(f"  {size:>{width},}  {name}")
    for revision, checkpoint in checkpoints.items():
        print(f"{revision}: export of {checkpoint}, about as large as {MAIN}")
