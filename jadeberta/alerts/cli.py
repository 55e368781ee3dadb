"""`jadeberta watch RUN...`: looks at runs from a login node or from cron, and speaks when one of them does not."""

import argparse
import sys
import time
from pathlib import Path

from jadeberta.alerts.watch_pass import look
from jadeberta.config.alerts_config import split_command
from jadeberta.errors import JadebertaError
from jadeberta.status.verdict_words import plain
from jadeberta.utils.command_line import OneSentenceParser, positive
from jadeberta.utils.paths import path_option
from jadeberta.utils.resources import explain_system_error


def main(arguments: list[str]) -> int:
    """Watches runs; returns 0, or 1 where a run could not be read or an alert could not be sent in the last pass.

    Raises:
        ConfigError: an option is wrong.
    """
    options = _parser().parse_args(arguments)
    if options.command is not None:
        split_command(options.command, "--command")
    complaints: dict[Path, str] = {}
    first = True
    while True:
        states, wrong = [], False
        for run in options.run:
            state, complaint = _look(run, options)
            states.append(state)
            wrong |= bool(complaint)
            # A loop says the same thing once; cron mails what each call says.
            if complaint and complaint != complaints.get(run):
                print(complaint, file=sys.stderr, flush=True)
            complaints[run] = complaint
        # Where nothing at all can be read in the first pass, it is more likely a slip in the path than a run that will come.
        if options.once or all(state == "done" for state in states) or (first and not any(states) and wrong):
            return int(wrong)
        first = False
        time.sleep(options.every)  # the user's own interval


def _look(run: Path, options: argparse.Namespace) -> tuple[str, str]:
    """Looks at one run; returns its state, empty where it cannot be read, and what went wrong in sentences."""
    try:
        seen = look(run, time.time(), options.command or "", _say)
    except JadebertaError as e:
        return "", f"{type(e).__name__}: {e}"
    except OSError as e:
        known = explain_system_error(e)
        return (
            "",
            f"{type(known).__name__}: {known}" if known else f"InputError: {e.filename or run}: cannot be read ({e.strerror}).",
        )
    except Exception as e:  # one run that cannot be judged must not end the watch over the others
        return "", f"InputError: {run}: cannot be judged ({type(e).__name__}: {plain(e)}); its files may be damaged."
    if not options.once:
        for text in seen.sent:
            if options.command or seen.facts.bounds.alerts.command:
                _say(f"sent: {text}")
    # An event that was not sent keeps the loop going, also of a run that is done.
    return ("unsent" if seen.faults else seen.facts.state), "\n".join(seen.faults)


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> OneSentenceParser:
    parser = OneSentenceParser(
        prog="jadeberta watch",
        description="Looks at runs from outside and sends an alert where one needs a person, was stopped, hung, rolled back, loses too "
        "much time, fills its disk, makes no progress or is done. Each event is sent once.",
        epilog="An alert is a call of the recipe's alerts.command, which gets the event as JSON on standard input and its text in the "
        "environment variable JADEBERTA_ALERT. Without a command the text is printed, which cron mails. What was sent is kept in alerts/ "
        "of the run directory; the training is never touched. docs/cluster.md, Alerts, has examples for mail, Slack and Teams.",
    )
    parser.add_argument("run", type=path_option, nargs="+", metavar="RUN", help="run directory, run.dir of the recipe")
    parser.add_argument("--once", action="store_true", help="one look at each run, as from cron; otherwise until all are done")
    parser.add_argument("--every", type=positive, default=300.0, metavar="SECONDS", help="pause between two looks (default 300)")
    parser.add_argument("--command", metavar="TEXT", help="command line of the alerts instead of the recipe's alerts.command")
    return parser
