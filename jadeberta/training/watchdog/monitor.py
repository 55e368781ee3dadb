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
from dataclasses import dataclass
from pathlib import Path

import orjson

from jadeberta.cluster.environment import host_name
from jadeberta.training.ledger import Ledger, next_attempt
from jadeberta.training.watchdog.diagnose import STOPPED, Record, sentence, standing, suspects
from jadeberta.training.watchdog.heartbeat import (
    HANG,
    PHASES,
    Heartbeat,
    digest,
    hang_path,
    keeper_thread,
    read_heartbeat,
    record_path,
    say,
    stacks_path,
)
from jadeberta.utils.files import write_atomically
from jadeberta.utils.processes import end_with_parent
from jadeberta.utils.procfs import kernel_function, process_stat, process_table, send_signal, signal_thread

DUMP_S = 3.0
"""What the trainer gets to write its stacks."""
FOLLOW_S = 6.0
"""What the other ranks wait for the one that names the culprit: a launcher kills all when the first ends."""
REPORT_S = 7.0
"""After this the trainer is ended although the report is not done: the file system may be what hangs."""
EXIT_S = 5.0
"""What the trainer gets to end by itself; code that holds the interpreter's lock does not let it."""


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
    """Readers find the old or the new content; nothing is synchronised, a lost heartbeat costs nothing."""
    write_atomically(path, orjson.dumps(content), durable=False)


@dataclass(frozen=True)
class Post:
    """What a watchdog is told when it is started."""

    run_dir: str
    rank: int
    world_size: int
    limits: dict[str, float]
    trainer: int
    started: float
    earlier_hang: str
    memory: int
    socket: int


class Watchdog:
    """Judges one trainer until it ends, is ended, or says that it is done."""

    def __init__(self, post: Post) -> None:
        self.post, self.run_dir, self.host = post, Path(post.run_dir), host_name(os.environ)
        self.memory = mmap.mmap(post.memory, mmap.PAGESIZE)
        self.socket = socket.socket(fileno=post.socket)
        self.interval = max(0.05, min([1.0, *(limit / 4 for limit in post.limits.values() if limit > 0)]))
        self.hang_path = hang_path(self.run_dir)
        self.beat = Heartbeat(0, time.monotonic(), time.monotonic(), 0, 0, PHASES[0], "")
        self.looked, self.forgiven = time.monotonic(), 0.0
        self.latest = self.look()
        self.wake, self.called, self.reported = threading.Event(), threading.Event(), threading.Event()
        self.breached = self.closing = self.complained = False

    def look(self) -> Record:
        """What the trainer says and the kernel says about it, now."""
        now, beat = time.monotonic(), read_heartbeat(self.memory) or self.beat
        if (beat.phase, beat.step) != (self.beat.phase, self.beat.step):
            self.forgiven = 0.0
        elif (asleep := now - self.looked - self.interval) > 2 * self.interval + 1:
            self.forgiven += asleep  # the whole job was suspended, or the machine: nobody could get on
        self.beat, self.looked = beat, now
        return {
            "rank": self.post.rank, "host": self.host, "pid": self.post.trainer, "phase": beat.phase, "step": beat.step,
            "place": beat.section, "beats": beat.beats, "seconds": round(now - beat.since - self.forgiven, 3),
            "place_seconds": round(now - beat.section_since - self.forgiven, 3),
            "state": (process_stat(self.post.trainer) or (0, "X", ""))[1],
            "limit_s": self.post.limits[beat.phase], "time": time.time(),
        }  # fmt: skip

    def run(self) -> None:
        files = threading.Thread(target=self.keep_files, daemon=True)
        files.start()
        while os.getppid() == self.post.trainer:
            self.latest = self.look()
            self.breached = 0 < self.latest["limit_s"] < self.latest["seconds"]
            if self.breached or self.called.is_set():
                self.wake.set()
                self.reported.wait(REPORT_S)
                return self.end_trainer()
            if select.select([self.socket], [], [], self.interval)[0]:  # the trainer is done
                self.latest, self.closing = self.look(), True
                self.wake.set()
                return files.join(REPORT_S)

    def keep_files(self) -> None:
        while True:
            done = self.closing  # before the record is taken, which is then the last
            self.write_record(self.latest)
            if done:
                return
            if self.breached or self.hang_is_fresh():
                self.called.set()
                try:
                    return self.report(self.latest)
                finally:
                    self.reported.set()
            self.wake.wait(self.interval)

    def write_record(self, record: Record) -> None:
        try:
            path = record_path(self.run_dir, self.post.rank)
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, record)
        except OSError as e:
            if not self.complained:
                say(f"rank {self.post.rank} on {self.host}: the heartbeat cannot be written ({e}); the watch goes on")
            self.complained = True

    def hang_is_fresh(self) -> bool:
        return digest(self.hang_path) not in ("", self.post.earlier_hang)

    def report(self, record: Record) -> None:
        """Has the stacks written and, where this rank found the hang first, says who is to blame."""
        before, began = self.read_records(), time.monotonic()
        claim = orjson.dumps({"found_by": record["rank"], "host": self.host, "pid": os.getpid(), "time": time.time()})
        try:
            first = self.breached and self.claim(claim)
        except OSError:
            first = True  # the directory takes no file, so every rank speaks for itself
        children = self.dump(record)
        if first:
            # By then each of the others has seen the claim, renewed its record and had its stacks written.
            time.sleep(max(0.0, began + 3 * self.interval + 0.5 - time.monotonic()))
        if first and _read(self.hang_path) in (claim, b""):
            self.announce(record, before)
        else:
            while time.monotonic() < began + FOLLOW_S and b'"reason"' not in _read(self.hang_path):
                time.sleep(0.1)
        for pid in children:
            send_signal(pid, signal.SIGCONT)  # a stopped loader does not see its trainer go, and would stay

    def claim(self, content: bytes) -> bool:
        """Whether this rank is the first to find a hang in this life."""
        for _ in range(3):
            try:
                with open(self.hang_path, "xb") as f:
                    f.write(content)
                return True
            except FileExistsError:
                if self.hang_is_fresh():
                    return False
                self.hang_path.unlink(missing_ok=True)  # left from an earlier life
        return False

    def dump(self, record: Record) -> list[int]:
        """Appends the state of the trainer and its children, has the trainer append its stacks, and returns the stopped children."""
        path, trainer = stacks_path(self.run_dir, self.post.rank), self.post.trainer
        table = process_table()
        children = [pid for pid, (parent, _, _) in table.items() if parent == trainer and pid != os.getpid()]
        lines = [
            f"\n==== {time.strftime('%FT%T%z')} rank {record['rank']} on {self.host}: {standing(record)}, {record['seconds']} s"
        ]
        for pid in (trainer, *children):
            _, state, name = table.get(pid, (0, "X", ""))
            lines.append(
                f"process {pid} ({name}{', the trainer' if pid == trainer else ''}) state {state} in {kernel_function(pid)}"
            )
        try:
            with open(path, "a") as f:
                f.write("\n".join(lines) + "\n\n")
        except OSError as e:
            say(f"rank {record['rank']} on {self.host}: {path} cannot be written ({e.strerror})")
        if record["state"] in STOPPED:
            # It has to be woken for its stacks; the others write theirs first, while they still wait for it.
            time.sleep(self.interval + 0.3)
        size = _size(path)
        self.ask_for_stacks()
        end = time.monotonic() + DUMP_S
        while _size(path) == size and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2)  # the rest of the dump
        return [pid for pid in children if table[pid][1] in STOPPED]

    def ask_for_stacks(self) -> None:
        trainer = self.post.trainer
        if os.getppid() == trainer:
            # The main thread writes its own stack: another one would read frames that are just changing, and may crash. In state D it takes
            # no signal, and changes nothing.
            waits = (process_stat(trainer) or (0, ""))[1] == "D"
            signal_thread(trainer, (waits and keeper_thread(self.memory)) or trainer, signal.SIGUSR2)
            send_signal(trainer, signal.SIGCONT)  # a stopped process takes the other signal when it goes on

    def read_records(self) -> dict[int, Record]:
        """By rank; a record that was last renewed before this rank began is of an earlier attempt."""
        found = {}
        for rank in range(self.post.world_size):
            try:
                record = orjson.loads(_read(record_path(self.run_dir, rank)))
            except orjson.JSONDecodeError:
                continue
            if record["time"] > self.post.started:
                found[rank] = record
        return found

    def announce(self, record: Record, before: dict[int, Record]) -> None:
        """Names the culprit on the terminal, in the ledger and, last because it lets the other ranks end, in hang.json."""
        records = self.read_records()
        everyone = self.post.world_size if self.post.rank in records else 0
        records[self.post.rank] = record
        newest = max(r["time"] for r in records.values())
        for rank, other in records.items():
            renewed = rank == self.post.rank or before.get(rank, {}).get("time") != other["time"]
            other["silent_s"] = 0.0 if renewed else newest - other["time"]
        guilty, reason = suspects([records[rank] for rank in sorted(records)], everyone)
        named = [{"rank": rank, "host": host} for rank, host in guilty]
        chief = named[0] if named else {"rank": None, "host": None}
        where = records.get(guilty[0][0], record) if guilty else record
        hang = chief | {
            "phase": where["phase"], "step": where["step"], "place": where["place"],
            "seconds": record["seconds"], "limit_s": record["limit_s"], "reason": reason, "found_by": record["rank"],
            "suspects": named,
        }  # fmt: skip
        say(sentence(hang, self.run_dir))
        try:
            path = self.run_dir / "ledger.jsonl"
            Ledger(path, max(0, next_attempt(path) - 1)).write("hang", **hang)
            _replace(self.hang_path, hang | {"time": time.time()})
        except OSError as e:
            say(f"the hang cannot be written down in full: {e}")

    def end_trainer(self) -> None:
        """Tells the trainer to end with its status, and kills it where it does not."""
        if not self.reported.is_set():
            slow = f"HANG: rank {self.post.rank} on {self.host}: {standing(self.latest)}; {self.run_dir} does not answer"
            threading.Thread(target=say, args=(slow,), daemon=True).start()
            self.ask_for_stacks()
            time.sleep(1)
        with contextlib.suppress(OSError):
            self.socket.send(HANG)
        if not self.trainer_ends():
            send_signal(self.post.trainer, signal.SIGKILL)
            self.trainer_ends()

    def trainer_ends(self) -> bool:
        end = time.monotonic() + EXIT_S
        while os.getppid() == self.post.trainer and time.monotonic() < end:
            time.sleep(0.05)
        return os.getppid() != self.post.trainer


def main() -> None:
    post = Post(**orjson.loads(sys.argv[1]))
    end_with_parent(post.trainer)
    Watchdog(post).run()
    os._exit(0)  # whatever the thread that keeps the files waits for


if __name__ == "__main__":
    main()
