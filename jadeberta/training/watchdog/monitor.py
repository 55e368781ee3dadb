"""The watchdog of one rank, a process beside the trainer: finds a hang, has the stacks written, names the host, ends the trainer.

One thread judges and touches no file of the run, so that a file system that hangs cannot hold it up; another keeps the files.
Run by `client.WatchdogClient`; imports nothing heavy and knows no launcher, engine or checkpoint.
"""

import contextlib
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from jadeberta.cluster.energy_counters import EnergyMeter
from jadeberta.cluster.environment import host_name
from jadeberta.training.ledger import Ledger, next_attempt
from jadeberta.training.watchdog.diagnose import STOPPED, Record, describe_hang, position_of, silences, suspects
from jadeberta.training.watchdog.energy_sums import EVERY_S, add_up
from jadeberta.training.watchdog.heartbeat import (
    HANG,
    PHASES,
    Heartbeat,
    digest,
    hang_path,
    listener_thread,
    read_heartbeat,
    record_path,
    stacks_path,
    write_stderr,
)
from jadeberta.training.watchdog.rank_pace import PaceWindow, judge_pace, read_spent, summary
from jadeberta.training.watchdog.slow_rank_rule import EVENT, SlowHost, SlowRankRule, event_of, sentence_of, write_wish
from jadeberta.utils.files import write_atomically
from jadeberta.utils.json_lines import read_jsonl
from jadeberta.utils.processes import end_with_parent
from jadeberta.utils.procfs import kernel_function, process_stat, process_table, send_signal, signal_thread

DUMP_S = 3.0
"""Seconds that the trainer gets to write its stacks."""
FOLLOW_S = 6.0
"""Seconds that the other ranks wait for the one that names the host: a launcher kills all ranks when the first ends."""
REPORT_S = 7.0
"""Seconds after which the trainer is ended although the report is not done: the file system may be what hangs."""
EXIT_S = 5.0
"""Seconds that the trainer gets to end by itself; code that holds the interpreter's lock does not let it."""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _replace(path: Path, content: Record) -> None:
    """Replaces a file by an object as JSON; readers find the old or the new one."""
    # Not flushed: a heartbeat that is lost with the machine's power costs nothing.
    write_atomically(path, orjson.dumps(content), durable=False)


@dataclass(frozen=True)
class WatchdogArguments:
    """Arguments of the watchdog process, as one JSON object on its command line."""

    run_dir: str
    rank: int
    world_size: int
    limits: dict[str, float]
    """Seconds that each phase may take; 0: no limit."""
    trainer_pid: int
    attempt: int
    """Number of this start of the job, the same on every rank."""
    attempt_id: str
    """Known to the ranks of this attempt alone."""
    began: float
    """CLOCK_BOOTTIME when the trainer began, seconds: a clock that nobody sets, and that goes on while the machine sleeps."""
    earlier_hang: str
    """sha256 of the hang.json that an earlier attempt left; empty where there was none."""
    energy: dict[str, Any]
    """Arguments of `EnergyMeter`: where the counters of this rank's energy are."""
    memory: int
    """File descriptor of the page with the heartbeat."""
    socket: int
    """File descriptor of the socket to the trainer."""
    slow_rank: dict[str, Any] = field(default_factory=dict)
    """Fields of `SlowRankRule`."""


class Watchdog:
    """Watches one trainer until it ends, is ended, or is done."""

    def __init__(self, arguments: WatchdogArguments) -> None:
        self.arguments, self.run_dir, self.host = arguments, Path(arguments.run_dir), host_name(os.environ)
        self.memory = mmap.mmap(arguments.memory, mmap.PAGESIZE)
        self.socket = socket.socket(fileno=arguments.socket)
        self.interval = max(0.05, min([1.0, *(limit / 4 for limit in arguments.limits.values() if limit > 0)]))
        self.hang_path = hang_path(self.run_dir)
        self.beat = Heartbeat(0, time.monotonic(), time.monotonic(), 0, 0, PHASES[0], "")
        self.looked_at, self.suspended_s = time.monotonic(), 0.0
        self.rule = SlowRankRule(**arguments.slow_rank)
        self.meter, self.pace = EnergyMeter(**arguments.energy), PaceWindow(self.rule.window_s)
        self.slow_host = SlowHost(self.rule)
        self.energy_at = self.pace_at = time.monotonic()
        self.latest = self.take_record()
        self.wake, self.job_hangs, self.reported = threading.Event(), threading.Event(), threading.Event()
        self.breached = self.closing = self.has_warned = False

    def take_record(self) -> Record:
        """What the heartbeat and the kernel say about the trainer now: the content of heartbeat/rank-N.json."""
        now, beat = time.monotonic(), read_heartbeat(self.memory) or self.beat
        if (beat.phase, beat.step) != (self.beat.phase, self.beat.step):
            self.suspended_s = 0.0
        elif (asleep := now - self.looked_at - self.interval) > 2 * self.interval + 1:
            self.suspended_s += asleep  # this process slept too: the whole job was suspended, or the machine
        self.beat, self.looked_at = beat, now
        return {
            "rank": self.arguments.rank, "host": self.host, "pid": self.arguments.trainer_pid, "phase": beat.phase, "step": beat.step,
            "place": beat.section,  # the key's old spelling
            "beats": beat.beats, "seconds": round(now - beat.since - self.suspended_s, 3),
            "place_seconds": round(now - beat.section_since - self.suspended_s, 3),
            "state": stat.state if (stat := process_stat(self.arguments.trainer_pid)) else "X",
            "limit_s": self.arguments.limits[beat.phase], "time": time.time(),
            "attempt": self.arguments.attempt, "attempt_id": self.arguments.attempt_id,
            "uptime_s": round(time.clock_gettime(time.CLOCK_BOOTTIME) - self.arguments.began, 3),
            **({"pace": pace} if (pace := self.pace.add(now, read_spent(self.memory))) else {}),
            **({"energy_j": joules} if (joules := self.meter.joules()) else {}),
        }  # fmt: skip

    def run(self) -> None:
        """Watches; the body of the thread that touches no file of the run."""
        files = threading.Thread(target=self.keep_files, daemon=True)
        files.start()
        while os.getppid() == self.arguments.trainer_pid:
            self.latest = self.take_record()
            self.breached = 0 < self.latest["limit_s"] < self.latest["seconds"]
            if self.breached or self.job_hangs.is_set():
                self.wake.set()
                # The report needs files, which may be what hangs: the trainer is ended in any case.
                self.reported.wait(REPORT_S)
                return self.end_trainer()
            if select.select([self.socket], [], [], self.interval)[0]:  # the trainer is done
                self.latest, self.closing = self.take_record(), True
                self.wake.set()
                return files.join(REPORT_S)

    def keep_files(self) -> None:
        """Renews the record, and reports a hang; the body of the thread that a hanging file system may hold up."""
        # A watchdog that replaces another goes on with its sums.
        earlier = self.read_records((self.arguments.rank,)).get(self.arguments.rank, {}).get("energy_j")
        self.meter.go_on_from(earlier if isinstance(earlier, dict) else {})
        while True:
            done = self.closing  # read before the record is written: that record is then the last one
            self.write_record(self.latest)
            if done:
                return
            if self.breached or self.hang_is_fresh():
                self.job_hangs.set()
                try:
                    return self.report(self.latest)
                finally:
                    self.reported.set()
            if self.arguments.rank == 0 and time.monotonic() - self.energy_at >= EVERY_S:
                self.record_energy()
            if self.arguments.rank == 0 and time.monotonic() - self.pace_at >= self.rule.window_s:
                self.record_pace()
            self.wake.wait(self.interval)

    def write_record(self, record: Record) -> None:
        """Writes the record of this rank; warns once where the disk does not take it."""
        try:
            path = record_path(self.run_dir, self.arguments.rank)
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, record)
        except OSError as e:
            if not self.has_warned:
                write_stderr(
                    f"rank {self.arguments.rank} on {self.host}: the heartbeat cannot be written ({e}); the watchdog goes on"
                )
            self.has_warned = True

    def record_energy(self) -> None:
        """Writes into the ledger what all ranks have used until now, where anything is measured."""
        self.energy_at = time.monotonic()
        if used := add_up(self.read_records().values()):
            with contextlib.suppress(OSError):  # a run directory that is away for a moment: the next event holds the sums
                Ledger(self.run_dir / "ledger.jsonl", self.arguments.attempt, mend=False).write("energy", **used)

    def record_pace(self) -> None:
        """Appends to ranks.jsonl how the ranks keep pace, and judges it; on a disk that takes nothing the row is lost."""
        self.pace_at = time.monotonic()
        records = list(self.read_records().values()) if self.arguments.world_size > 1 else []
        if row := summary(records):
            with contextlib.suppress(OSError), open(self.run_dir / "ranks.jsonl", "ab") as f:
                f.write(orjson.dumps({**row, "attempt": self.arguments.attempt}, option=orjson.OPT_APPEND_NEWLINE))
        slow, _ = judge_pace(records)
        if (lasted := self.slow_host.look(self.pace_at, slow)) is None or slow is None:
            return
        path = self.run_dir / "ledger.jsonl"
        with contextlib.suppress(OSError):  # a ledger that cannot be read: the rule does nothing
            event = event_of(slow, lasted, read_jsonl(path), time.time(), self.rule.again_s)
            Ledger(path, self.arguments.attempt, mend=False).write(EVENT, **event)
            write_stderr(f"SLOW: {sentence_of(event)}")
            if event["requeue"]:
                # After the ledger, which tells the job's script which host to leave out.
                write_wish(self.memory, f"watchdog.slow_rank (rank {slow.rank} on {slow.host})")

    def hang_is_fresh(self) -> bool:
        """Whether a rank has found a hang in this attempt."""
        return digest(self.hang_path) not in ("", self.arguments.earlier_hang)

    def report(self, record: Record) -> None:
        """Has the stacks written and, where this rank found the hang first, names the ranks to blame."""
        before, began = self.read_records(), time.monotonic()
        claim = orjson.dumps({"found_by": record["rank"], "host": self.host, "pid": os.getpid(), "time": time.time()})
        try:
            first = self.breached and self.claim(claim)
        except OSError:
            first = True  # the directory takes no file: every rank reports for itself
        children = self.dump(record)
        if first:
            # By then each of the others has seen the claim, renewed its record and written its stacks.
            time.sleep(max(0.0, began + 3 * self.interval + 0.5 - time.monotonic()))
        if first and _read(self.hang_path) in (claim, b""):
            self.announce(record, before)
        else:
            # The first rank's report comes before this rank ends: a launcher kills all ranks when one has ended.
            while time.monotonic() < began + FOLLOW_S and b'"reason"' not in _read(self.hang_path):
                time.sleep(0.1)
        for pid in children:
            send_signal(pid, signal.SIGCONT)  # a stopped loader does not see its trainer go, and would stay

    def claim(self, content: bytes) -> bool:
        """Whether this rank is the first to find a hang in this attempt; if so, hang.json has `content`."""
        for _ in range(3):
            try:
                with open(self.hang_path, "xb") as f:
                    f.write(content)
                return True
            except FileExistsError:
                if self.hang_is_fresh():
                    return False
                self.hang_path.unlink(missing_ok=True)  # of an earlier attempt
        return False

    def dump(self, record: Record) -> list[int]:
        """Has the stacks of the trainer written, below the state of the trainer and its children.

        Returns:
            Process ids of the children that are stopped.
        """
        path, trainer = stacks_path(self.run_dir, self.arguments.rank), self.arguments.trainer_pid
        table = process_table()
        children = [pid for pid, stat in table.items() if stat.parent == trainer and pid != os.getpid()]
        lines = [
            f"\n==== {time.strftime('%FT%T%z')} rank {record['rank']} on {self.host}: {position_of(record)}, {record['seconds']} s"
        ]
        for pid in (trainer, *children):
            _, state, name, _ = table.get(pid, (0, "X", "", ""))
            lines.append(
                f"process {pid} ({name}{', the trainer' if pid == trainer else ''}) state {state} in {kernel_function(pid)}"
            )
        try:
            with open(path, "a") as f:
                f.write("\n".join(lines) + "\n\n")
        except OSError as e:
            write_stderr(f"rank {record['rank']} on {self.host}: {path} cannot be written ({e.strerror})")
        if record["state"] in STOPPED:
            # A stopped trainer is woken for its stacks; the other ranks write theirs first, while they still wait for it.
            time.sleep(self.interval + 0.3)
        size = _size(path)
        self.ask_for_stacks()
        end = time.monotonic() + DUMP_S
        while _size(path) == size and time.monotonic() < end:
            time.sleep(0.05)  # the trainer writes in its signal handler; nothing tells of its end but the file
        time.sleep(0.2)  # for the rest of the dump
        return [pid for pid in children if table[pid].state in STOPPED]

    def ask_for_stacks(self) -> None:
        """Has the trainer write the stacks of its threads, and wakes it where it is stopped."""
        trainer = self.arguments.trainer_pid
        if os.getppid() == trainer:
            # The main thread writes its own stack: another thread would read frames that are just changing, and may crash. In state D
            # the main thread takes no signal and its frames do not change, so the listening thread writes them.
            waits = (stat := process_stat(trainer)) is not None and stat.state == "D"
            signal_thread(trainer, (waits and listener_thread(self.memory)) or trainer, signal.SIGUSR2)
            send_signal(trainer, signal.SIGCONT)  # a stopped process takes the other signal when it goes on

    def read_records(self, ranks: tuple[int, ...] = ()) -> dict[int, Record]:
        """The records of some ranks in this attempt, of all where none is named, by rank."""
        found = {}
        for rank in ranks or range(self.arguments.world_size):
            try:
                record = orjson.loads(_read(record_path(self.run_dir, rank)))
            except orjson.JSONDecodeError:
                continue
            # Not by the time in it: clocks of hosts differ, and any may be set while the job runs.
            if isinstance(record, dict) and record.get("attempt_id") == self.arguments.attempt_id:
                found[rank] = record
        return found

    def announce(self, record: Record, before: dict[int, Record]) -> None:
        """Names the ranks to blame: on the terminal, in the ledger, and last, because it lets the other ranks end, in hang.json.

        Args:
            record: of this rank.
            before: the records when the hang was found; one that has changed since is of a host that lives.
        """
        records = self.read_records()
        everyone = self.arguments.world_size if self.arguments.rank in records else 0
        records[self.arguments.rank] = record
        for rank, seconds in silences(before, records, self.arguments.rank).items():
            records[rank]["silent_s"] = seconds
        blamed, reason = suspects([records[rank] for rank in sorted(records)], everyone)
        named = [{"rank": rank, "host": host} for rank, host in blamed]
        first_suspect = named[0] if named else {"rank": None, "host": None}
        where = records.get(blamed[0][0], record) if blamed else record
        hang = first_suspect | {
            "phase": where["phase"], "step": where["step"], "place": where["place"],
            "seconds": record["seconds"], "limit_s": record["limit_s"], "reason": reason, "found_by": record["rank"],
            "suspects": named,
        }  # fmt: skip
        write_stderr(describe_hang(hang, self.run_dir))
        try:
            path = self.run_dir / "ledger.jsonl"
            Ledger(path, max(0, next_attempt(path) - 1)).write("hang", **hang)
            _replace(self.hang_path, hang | {"time": time.time()})
        except OSError as e:
            write_stderr(f"the hang cannot be recorded in full: {e}")

    def end_trainer(self) -> None:
        """Has the trainer end with the status of a hang, and kills it where it does not."""
        if not self.reported.is_set():
            slow = f"HANG: rank {self.arguments.rank} on {self.host}: {position_of(self.latest)}; {self.run_dir} does not answer"
            threading.Thread(target=write_stderr, args=(slow,), daemon=True).start()
            self.ask_for_stacks()
            time.sleep(1)  # for the stacks
        with contextlib.suppress(OSError):
            self.socket.send(HANG)
        if not self.trainer_ends():
            send_signal(self.arguments.trainer_pid, signal.SIGKILL)
            self.trainer_ends()

    def trainer_ends(self) -> bool:
        """Whether the trainer ends within EXIT_S; its end is seen by this process getting another parent."""
        end = time.monotonic() + EXIT_S
        while os.getppid() == self.arguments.trainer_pid and time.monotonic() < end:
            time.sleep(0.05)
        return os.getppid() != self.arguments.trainer_pid


def main() -> None:
    """Watches the trainer that started this process."""
    arguments = WatchdogArguments(**orjson.loads(sys.argv[1]))
    end_with_parent(arguments.trainer_pid)
    Watchdog(arguments).run()
    os._exit(0)  # the thread that keeps the files may hang with its file system


if __name__ == "__main__":
    main()
