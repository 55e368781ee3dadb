"""`jadeberta report RUN [RUN2 ..]`: a run, or several laid over each other, as one HTML file."""

import sys
import time
from pathlib import Path

from jadeberta.errors import ConfigError, InputError, OutputError
from jadeberta.report.public_text import without_names
from jadeberta.report.report_figures import figures_of
from jadeberta.report.report_page import render
from jadeberta.report.run_facts import RunFacts, read_run_facts
from jadeberta.utils.command_line import OneSentenceParser, positive
from jadeberta.utils.files import write_atomically
from jadeberta.utils.paths import path_option

PAGE_NAME = "report.html"
MOST_RUNS = 20


def main(arguments: list[str]) -> int:
    """Writes the report.

    Raises:
        ConfigError: an option is wrong, or there are too many runs.
        InputError: a run is no directory.
        OutputError: the file cannot be written.
    """
    parser = OneSentenceParser(
        prog="jadeberta report",
        allow_abbrev=False,
        description="A run as one HTML file that loads nothing: verdict, what happened since yesterday, curves, checkpoints, settings. "
        "Several runs are laid over each other.",
        epilog="It changes nothing that a run reads, and can be written at any time, on any host that sees the run directory. All figures "
        "lie in the file as JSON. docs/watch.md explains the page.",
    )
    parser.add_argument("runs", type=path_option, nargs="+", metavar="RUN", help="run directory, run.dir of the recipe")
    parser.add_argument(
        "--out",
        type=path_option,
        metavar="FILE",
        help=f"file to write (default {PAGE_NAME} in the run directory; of several runs, in the current directory)",
    )
    parser.add_argument("--public", action="store_true", help="leave out host names, users and paths")
    parser.add_argument(
        "--watch", type=positive, metavar="SECONDS", help="write it again every so many seconds, until every run is done"
    )
    options = parser.parse_args(arguments)
    if len(options.runs) > MOST_RUNS:
        raise ConfigError(f"{len(options.runs)} runs are too many for one page; name at most {MOST_RUNS}.")
    if missing := next((run for run in options.runs if not run.is_dir()), None):
        raise InputError(f"{missing}: no such directory. Name run directories that 'jadeberta pretrain' has written.")
    out = options.out or (options.runs[0] / PAGE_NAME if len(options.runs) == 1 else Path(PAGE_NAME))
    if out.is_dir():
        raise OutputError(f"{out}: a directory. Name the file to write with --out.")
    found = write_report(options.runs, out, options.public)
    _warn(found)
    print(out, flush=True)
    while options.watch is not None and any(facts.seen.state != "done" for facts in found):
        time.sleep(options.watch)  # the user's own interval
        try:
            found = write_report(options.runs, out, options.public)
        except OutputError as e:  # a disk that is full now may have room the next time; the page before is still there
            print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
    return 0


def write_report(runs: list[Path], out: Path, public: bool = False) -> list[RunFacts]:
    """Writes the report of some runs, whole or not at all; returns what it is made from.

    Args:
        runs: run directories.
        out: file.
        public: leave out host names, users and paths.

    Raises:
        OutputError: it cannot be written.
    """
    now = time.time()
    names = names_of(runs)
    if public:
        names = ["run"] if len(runs) == 1 else [f"run {place}" for place in range(1, len(runs) + 1)]
    found = [read_run_facts(run, now, name) for run, name in zip(runs, names, strict=True)]
    figures = [figures_of(facts) for facts in found]
    if public:
        figures = [without_names(each, facts) for each, facts in zip(figures, found, strict=True)]
    content = render(figures, now).encode(errors="replace")
    try:
        write_atomically(out, content)
    except OSError as e:
        raise OutputError(f"{out}: cannot be written ({e.strerror}). Name another file with --out.") from e
    return found


def _warn(found: list[RunFacts]) -> None:
    for facts in found:
        for note in facts.notes:
            print(f"{facts.run}: {note}", file=sys.stderr)


def names_of(runs: list[Path]) -> list[str]:
    """Returns a short name for each run that no other has: the end of its path, as long as it must be."""
    parts = [run.resolve().parts[1:] or (str(run),) for run in runs]
    names = []
    for place, own in enumerate(parts):
        others = [other for number, other in enumerate(parts) if number != place and other != own]
        length = next((n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others)), len(own))
        same = [number for number, other in enumerate(parts) if other == own]
        suffix = f" ({same.index(place) + 1})" if len(same) > 1 else ""
        names.append("/".join(own[-length:]) + suffix)
    return names
