"""One preflight from start to verdict, on every rank."""

import os
import sys
import time
from pathlib import Path

import orjson
import torch
import torch.distributed as dist

from jadeberta.cluster.device import gpu_index
from jadeberta.cluster.environment import Process
from jadeberta.cluster.hostlist import placement
from jadeberta.config import Recipe
from jadeberta.errors import HangError
from jadeberta.preflight import host_benchmarks as hosts
from jadeberta.preflight import network_benchmarks as links
from jadeberta.preflight import render
from jadeberta.preflight.context import CONNECT_S, FIRST_CONNECT_S, Context
from jadeberta.preflight.judge import judge
from jadeberta.preflight.local_checks import RankFiles, run_local_checks
from jadeberta.preflight.rendezvous import DroppedRank, Rendezvous
from jadeberta.preflight.requirements import Requirements, requirements_of
from jadeberta.preflight.results import LocalResults, Measurements
from jadeberta.preflight.timeouts import BackgroundCall, Deadline, TimedOut, call_with_timeout, process_age
from jadeberta.preflight.verdict import Verdict
from jadeberta.utils.files import write_atomically

UNFIT = 1
"""Exit status of every rank if the verdict is not fit."""
LIMIT_AFTER_PATIENCE_S = 28.0
"""Time for imports, local checks, measurements and verdict: a preflight takes at most this plus the patience, seconds.
On GPUs it may take FIRST_CONNECT_S - CONNECT_S more."""
REQUIREMENTS_S = 10.0
DISK_S = 5.0
END_S = 2.0
MEASUREMENTS = (
    hosts.see_run_directory,
    hosts.read_clocks,
    hosts.time_writes,
    hosts.time_products,
    links.time_inside,
    links.time_pairs,
    links.time_overall,
)


class Preflight:
    """One rank of a preflight."""

    def __init__(
        self, recipe: Recipe, process: Process, json: Path, patience: float, device_share: float, link_share: float
    ) -> None:
        """Starts the deadline.

        Args:
            recipe: checked.
            process: this rank.
            json: where the report is written.
            patience: seconds that ranks wait for each other at the beginning.
            device_share: share of the median below which a device is slow.
            link_share: share of the median below which a link is slow.
        """
        self.recipe, self.process, self.json, self.patience = recipe, process, json, patience
        self.device_share, self.link_share = device_share, link_share
        self.rank_files = RankFiles(Path(recipe.run.dir), os.environ, process.rank)
        self.deadline = Deadline(patience + LIMIT_AFTER_PATIENCE_S, self._on_deadline)
        self.requirements_call: BackgroundCall[Requirements] | None = None
        self.warnings: list[str] = []
        self.common: list[str] = []
        self.local_results: dict[int, LocalResults] = {}
        self.context: Context | None = None

    def run(self) -> int:
        """Runs local checks, rendezvous, measurements and verdict; returns the exit status, 0 if fit, else UNFIT.

        Raises:
            ConfigError: rank 0 cannot listen at its port.
            ForeignRunError: another run meets there.
        """
        if self.process.is_root:
            self._remove_earlier_verdict()
            self.requirements_call = BackgroundCall(_compute_requirements, self.recipe, self.process.world_size)
        self.deadline.section = "local checks"
        found = run_local_checks(self.recipe, self.process, os.environ)
        found.at = "rendezvous"
        self.rank_files.write(found)
        if found.device == "cuda" or self.recipe.run.device == "cuda":
            self.deadline.extend(FIRST_CONNECT_S - CONNECT_S)
        if self.requirements_call is not None:
            self.requirements_call.wait(REQUIREMENTS_S)  # it would disturb the measurements
        self.deadline.section = "rendezvous"
        try:
            rendezvous = Rendezvous(self.process, self.patience, self.deadline, Path(self.recipe.run.dir))
        except HangError as e:
            # A rank that judges in place of rank 0 reads in this file how far this rank came.
            found.at = str(e)
            self.rank_files.write(found)
            self._report_error(f"{found.host}: {e}")
            return self._judge_without_root()
        try:
            self.local_results = rendezvous.gather_results(found)
            self.context = Context(
                self.recipe,
                rendezvous,
                self.rank_files.directory,
                _device(found),
                self.local_results,
                self.device_share,
                self.link_share,
            )
            for measure in MEASUREMENTS:
                measure(self.context)
            self.deadline.section = "the verdict"
            if self.process.is_root:
                fit = self._judge_and_report(self.local_results, self.context.measurements)
                rendezvous.put("verdict", "fit" if fit else "not fit")
            fit = rendezvous.wait_for("verdict", self.deadline.remaining) == "fit"
            rendezvous.close(END_S)
        except DroppedRank:
            self._report_error(f"{found.host}: answered too late; the other ranks continued without it")
            fit = False
        except dist.DistError as e:
            self._report_error(f"{found.host}: rank 0 stopped answering ({next(iter(str(e).splitlines()), type(e).__name__)})")
            return self._judge_without_root("stopped answering during the measurements")
        self.deadline.cancel()
        return 0 if fit else UNFIT

    def _judge_and_report(
        self, local_results: dict[int, LocalResults], measurements: Measurements, out_of_time: bool = False
    ) -> bool:
        """Judges, prints and writes the report; returns whether the allocation is fit.

        Args:
            local_results: by rank, of the ranks that reached the rendezvous.
            measurements: of these ranks.
            out_of_time: the measurements are incomplete: they can show that a host is unfit, but not that the allocation is fit.
        """
        missing = [rank for rank in range(self.process.world_size) if rank not in local_results]
        files = self.rank_files.read() if missing else {}
        placed = placement(os.environ, self.process.world_size)
        for rank in missing:
            if rank in measurements.absent:
                continue
            if rank in files:
                measurements.absent[rank] = f"finished its local checks but did not reach rank 0 within {self.patience:.0f} s"
                measurements.absent_hosts[rank] = files[rank].host
            else:
                measurements.absent[rank] = f"has not appeared within {self.patience:.0f} s"
                if rank in placed:
                    measurements.absent_hosts[rank] = placed[rank]
        known = local_results | {rank: files[rank] for rank in missing if rank in files}
        verdict = judge(known, measurements, self._requirements(), self.device_share, self.link_share)
        verdict.common += self.common
        verdict.warnings += self.warnings
        if out_of_time and not verdict.unfit:
            return False
        report = self._build_report(known, measurements, verdict)
        print(render.render_table(report, verdict), flush=True)
        self._write(report)
        if verdict.fit:
            self.rank_files.remove()
        return verdict.fit

    def _build_report(
        self, local_results: dict[int, LocalResults], measurements: Measurements, verdict: Verdict
    ) -> render.Report:
        return render.build_report(local_results, measurements, verdict, self.process.world_size, time.time(), process_age())

    def _judge_without_root(self, silent: str = "") -> int:
        """If rank 0 cannot judge, the lowest other rank that has written a file does.

        Args:
            silent: what is known of rank 0 if it stopped answering; empty if it did not reach the rendezvous. A rank 0 that has
                written a file may then still judge by itself.
        """
        files = self.rank_files.read()
        others = {rank: each for rank, each in files.items() if rank != 0}
        if (silent or 0 not in files) and min(others, default=None) == self.process.rank and not self._has_verdict():
            measurements = Measurements()
            if silent:
                measurements.absent[0] = silent
                measurements.absent_hosts |= {0: files[0].host} if 0 in files else {}
            self._judge_and_report(others, measurements)
        self.deadline.cancel()
        return UNFIT

    def _has_verdict(self) -> bool:
        """Whether rank 0 wrote a verdict before it ended; it removes earlier verdicts at its start."""
        try:
            return call_with_timeout(DISK_S, self.json.exists)
        except (OSError, TimedOut):
            return True

    def _requirements(self) -> Requirements | None:
        """The requirements of the run; None if unknown. Counting the model's parameters takes seconds of imports."""
        if self.requirements_call is None:
            return None
        try:
            return self.requirements_call.result(self.deadline.remaining / 2)
        except TimedOut:
            self.warnings.append(
                "the requirements of the checkpoints were not known in time; disks and memory were not compared with them"
            )
        except Exception as e:  # any error that the model library raises for this configuration
            self.common.append(f"the recipe's model cannot be built ({next(iter(str(e).splitlines()), type(e).__name__)})")
        return None

    def _on_deadline(self, sentence: str) -> None:
        """Reports at the deadline. Without an unfit host there is no verdict: a program may be slow once, and training has its own
        watchdog."""
        self._report_error(sentence)
        if self.process.is_root and self.context is not None:
            self.warnings.append(sentence)
            self._judge_and_report(self.local_results, self.context.measurements, out_of_time=True)

    def _remove_earlier_verdict(self) -> None:
        """Removes the verdict of an earlier attempt, so that it is not taken for that of this one."""
        try:
            call_with_timeout(DISK_S, lambda: self.json.unlink(missing_ok=True))
            call_with_timeout(DISK_S, self.rank_files.remove_others)
        except NotADirectoryError:
            pass  # there is none; that the new one cannot be written is said then
        except (OSError, TimedOut) as e:
            reason = getattr(e, "strerror", None) or e
            self._report_error(
                f"{self.json}: the verdict of an earlier preflight cannot be removed ({reason}). Remove it by hand."
            )

    def _write(self, report: render.Report) -> None:
        def write() -> None:
            write_atomically(self.json, orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

        try:
            call_with_timeout(DISK_S, write)
        except (OSError, TimedOut) as e:
            reason = getattr(e, "strerror", None) or e
            self._report_error(f"{self.json}: the verdict cannot be written ({reason}). Name another file with --json.")

    def _report_error(self, sentence: str) -> None:
        print(f"rank {self.process.rank}: {sentence}", file=sys.stderr, flush=True)


def _device(found: LocalResults) -> torch.device | None:
    if not found.device:
        return None
    return torch.device("cuda", gpu_index(found.local_rank)) if found.device == "cuda" else torch.device("cpu")


def _compute_requirements(recipe: Recipe, world_size: int) -> Requirements:
    from jadeberta.checkpoint.manifest import list_checkpoints
    from jadeberta.model.load import count_parameters_of

    existing = len(list_checkpoints(Path(recipe.run.dir) / "checkpoints"))
    return requirements_of(recipe, count_parameters_of(recipe), world_size, existing)
