"""One preflight from beginning to end, as every rank goes through it."""

import os
import sys
import time
from pathlib import Path

import orjson
import torch
import torch.distributed as dist

from jadeberta.cluster.environment import Process
from jadeberta.cluster.hostlist import placement
from jadeberta.config import Recipe
from jadeberta.errors import HangError
from jadeberta.preflight import host_benchmarks as hosts
from jadeberta.preflight import network_benchmarks as links
from jadeberta.preflight import render as account
from jadeberta.preflight.context import Session
from jadeberta.preflight.judge import judge
from jadeberta.preflight.local_checks import Book, look_around
from jadeberta.preflight.rendezvous import Dropped, Meeting
from jadeberta.preflight.requirements import Need, need_of
from jadeberta.preflight.results import Findings, Measurements
from jadeberta.preflight.timeouts import Later, TimedOut, Watch, bounded, process_age
from jadeberta.preflight.verdict import Verdict
from jadeberta.utils.files import write_atomically

UNFIT = 1
"""Status of every rank where the verdict is not fit."""
BEYOND_PATIENCE_S = 28.0
"""For imports, looking, measuring and judging: a preflight takes at most this and the patience."""
NEED_S = 10.0
DISK_S = 5.0
END_S = 2.0
MEASUREMENTS = (
    hosts.see_run_directory,
    hosts.read_clocks,
    hosts.time_writes,
    hosts.time_products,
    links.time_inside,
    links.play_tournament,
    links.time_overall,
)


class Preflight:
    """One rank's way through it."""

    def __init__(
        self, recipe: Recipe, process: Process, json: Path, patience: float, device_share: float, link_share: float
    ) -> None:
        """Starts the clock.

        Args:
            recipe: checked.
            process: this rank.
            json: where the account goes.
            patience: seconds that ranks wait for each other at the beginning.
            device_share, link_share: see `judge`.
        """
        self.recipe, self.process, self.json, self.patience = recipe, process, json, patience
        self.device_share, self.link_share = device_share, link_share
        self.book = Book(Path(recipe.run.dir), os.environ, process.rank)
        self.watch = Watch(patience + BEYOND_PATIENCE_S, self._last_words)
        self.counting: Later[Need] | None = None
        self.warnings: list[str] = []
        self.common: list[str] = []
        self.findings: dict[int, Findings] = {}
        self.session: Session | None = None

    def run(self) -> int:
        """Looks, meets, measures, judges; the exit status, 0 where the verdict is fit, else UNFIT.

        Raises:
            ConfigError: rank 0 has no port to meet the others at.
        """
        if self.process.is_root:
            self._forget_earlier()
            self.counting = Later(_need, self.recipe, self.process.world_size)
        self.watch.at = "looking at its own machine"
        found = look_around(self.recipe, self.process, os.environ)
        found.at = "waits for the others"
        self.book.write(found)
        if self.counting is not None:
            self.counting.wait(NEED_S)  # beside the measurements it would disturb them
        self.watch.at = "meeting the others"
        try:
            meeting = Meeting(self.process, self.patience, self.watch)
        except HangError as e:
            found.at = str(e)
            self.book.write(found)
            self._say(f"{found.host}: {e}")
            return self._judge_without_root()
        try:
            self.findings = meeting.gather_findings(found)
            self.session = Session(
                self.recipe, meeting, self.book.directory, _device(found), self.findings, self.device_share, self.link_share
            )
            for measure in MEASUREMENTS:
                measure(self.session)
            self.watch.at = "the verdict"
            if self.process.is_root:
                fit = self._conclude(self.findings, self.session.found)
                meeting.put("verdict", "fit" if fit else "not fit")
            fit = meeting.wait_for("verdict", self.watch.left) == "fit"
            meeting.close(END_S)
        except Dropped:
            self._say(f"{found.host}: was too slow to answer; the others went on without it")
            fit = False
        except dist.DistError as e:
            self._say(f"{found.host}: rank 0 fell silent ({next(iter(str(e).splitlines()), type(e).__name__)})")
            return self._judge_without_root("fell silent while the others were at work with it")
        self.watch.cancel()
        return 0 if fit else UNFIT

    def _conclude(self, findings: dict[int, Findings], measured: Measurements, out_of_time: bool = False) -> bool:
        """Judges, prints and writes; whether all is fit.

        Args:
            findings: by rank, of those that met.
            measured: by them.
            out_of_time: the measurements are not complete: a host can be found unfit by them, but the allocation not fit.
        """
        missing = [rank for rank in range(self.process.world_size) if rank not in findings]
        left = self.book.read() if missing else {}
        placed = placement(os.environ, self.process.world_size)
        for rank in missing:
            if rank in measured.absent:
                continue
            if rank in left:
                measured.absent[rank] = f"looked at its machine but did not meet the others within {self.patience:.0f} s"
                measured.absent_hosts[rank] = left[rank].host
            else:
                measured.absent[rank] = f"has not appeared within {self.patience:.0f} s"
                if rank in placed:
                    measured.absent_hosts[rank] = placed[rank]
        known = findings | {rank: left[rank] for rank in missing if rank in left}
        verdict = judge(known, measured, self._need(), self.device_share, self.link_share)
        verdict.common += self.common
        verdict.warnings += self.warnings
        if out_of_time and not verdict.unfit:
            return False
        told = self._account(known, measured, verdict)
        print(account.table(told, verdict), flush=True)
        self._write(told)
        if verdict.fit:
            self.book.remove()
        return verdict.fit

    def _account(self, findings: dict[int, Findings], measured: Measurements, verdict: Verdict) -> account.Document:
        return account.document(findings, measured, verdict, self.process.world_size, time.time(), process_age())

    def _judge_without_root(self, silent: str = "") -> int:
        """Where rank 0 cannot judge, the first other rank that has left a file does.

        Args:
            silent: what rank 0 did, where it was met; empty where it was not. One that has left a file may then judge for itself.
        """
        left = self.book.read()
        others = {rank: each for rank, each in left.items() if rank != 0}
        if (silent or 0 not in left) and min(others, default=None) == self.process.rank and not self._has_verdict():
            measured = Measurements()
            if silent:
                measured.absent[0] = silent
                measured.absent_hosts |= {0: left[0].host} if 0 in left else {}
            self._conclude(others, measured)
        self.watch.cancel()
        return UNFIT

    def _has_verdict(self) -> bool:
        """Whether rank 0 was done before it was gone: it has removed what earlier starts left."""
        try:
            return bounded(DISK_S, self.json.exists)
        except (OSError, TimedOut):
            return True

    def _need(self) -> Need | None:
        """What the checkpoints need; to count the model's parameters takes seconds of imports."""
        if self.counting is None:
            return None
        try:
            return self.counting.result(self.watch.left / 2)
        except TimedOut:
            self.warnings.append("what the checkpoints need was not known in time; disks and memory were not judged by it")
        except Exception as e:  # whatever the model's configuration does to its library
            self.common.append(f"the recipe's model cannot be built ({next(iter(str(e).splitlines()), type(e).__name__)})")
        return None

    def _last_words(self, sentence: str) -> None:
        """Time is up. Without a host to blame there is no verdict: a program may be slow once, and training has its own watchdog."""
        self._say(sentence)
        if self.process.is_root and self.session is not None:
            self.warnings.append(sentence)
            self._conclude(self.findings, self.session.found, out_of_time=True)

    def _forget_earlier(self) -> None:
        """The verdict of an earlier start must not be taken for this one's."""
        try:
            bounded(DISK_S, lambda: self.json.unlink(missing_ok=True))
            bounded(DISK_S, self.book.remove_others)
        except (OSError, TimedOut) as e:
            self._say(f"{self.json}: the verdict of an earlier preflight cannot be removed ({e})")

    def _write(self, told: account.Document) -> None:
        def write() -> None:
            write_atomically(self.json, orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

        try:
            bounded(DISK_S, write)
        except (OSError, TimedOut) as e:
            self._say(f"{self.json}: the verdict cannot be written ({e})")

    def _say(self, sentence: str) -> None:
        print(f"rank {self.process.rank}: {sentence}", file=sys.stderr, flush=True)


def _device(found: Findings) -> torch.device | None:
    if not found.device:
        return None
    return torch.device("cuda", found.local_rank) if found.device == "cuda" else torch.device("cpu")


def _need(recipe: Recipe, world_size: int) -> Need:
    from jadeberta.checkpoint.manifest import list_checkpoints
    from jadeberta.model.load import count_parameters

    existing = len(list_checkpoints(Path(recipe.run.dir) / "checkpoints"))
    return need_of(recipe, count_parameters(recipe.model), world_size, existing)
