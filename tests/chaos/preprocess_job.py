"""A preprocessing job as it is seen from outside: its processes, the stage it is in, and what lies on the disk."""

import contextlib
import hashlib
import lzma
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import orjson

from preprocess.executors.progress import read_ranks
from preprocess.workdir import progress_dir
from tests.helpers import ROOT
from tests.preprocess.archive_files import tar
from tests.preprocess.source_files import COMPRESS, article, jsonl, oscar_row, write_multistream
from tests.preprocess.tiny_corpus import NOUNS, VERBS
from tests.preprocess.web_files import packed, page_record

MARK = "JADEBERTA_CHAOS"
"""Variable that every process of a job inherits, whoever its parent is by now."""
MODULE = "tests.chaos.preprocess_rank"
STAGES = ("extract", "segment", "tokenizer", "pack")
WAYS = ("mpi", "pool", "alone")
"""Two ranks over MPI, two processes without it, one process."""
RECIPE = """\
preprocess:
  corpora:
    wikipedia: {format: wikipedia, path: CORPORA/*multistream*.bz2, repeats: 2}
    cc100: {format: cc100, path: CORPORA/ja.txt.xz}
    oscar: {format: oscar, path: CORPORA/ja_meta_part_*.jsonl.gz}
    web: {format: jsonl, path: CORPORA/web.jsonl}
    packed: {format: jsonl, path: CORPORA/packed.tar}
    novels: {format: text, documents: paragraph, path: CORPORA/novels.txt}
    crawl: {format: warc, path: CORPORA/crawl.warc.gz}
    html: {format: enterprise_html, path: CORPORA/html.tar}
  segmenter: {engine: mecab, batch_sentences: 200}
  vocab_size: 150
  heldout_documents: 5
  part_bytes: 20000
  shard_bytes: 100000
"""
LOCKED = "works there already"
MPI_FAILED = "listener thread failed to start"
"""mpirun's own complaint, now and then, when it is started in the moment in which another of it was killed."""


def write_corpora(folder: Path, kilobytes: int = 250) -> None:
    """Each format once, in so many kilobytes of text."""
    folder.mkdir(parents=True)
    draw = random.Random(0)

    def text() -> str:
        sentences = []
        for _ in range(draw.randrange(3, 40)):
            (a, b, c), verb = draw.sample(NOUNS, 3), draw.choice(VERBS)
            sentences.append(f"{a}の{b}で{c}を{draw.randrange(10**4)}回{verb}。")
        return "".join(sentences)

    def texts(share: int = 1) -> list[str]:
        found, size = [], 0
        while size < kilobytes * 1000 // share:
            found.append(text())
            size += len(found[-1].encode())
        return found

    (folder / "ja.txt.xz").write_bytes(lzma.compress("\n\n".join(texts()).encode()))
    (folder / "web.jsonl").write_bytes(jsonl([{"text": t} for t in texts()]))
    for part in (1, 2):
        rows = [oscar_row(t, "annotation", ["noisy"] if n % 9 == 0 else None) for n, t in enumerate(texts())]
        (folder / f"ja_meta_part_{part}.jsonl.gz").write_bytes(COMPRESS[".gz"](jsonl(rows)))
    write_multistream(folder, 24, index=True)
    rows = [jsonl([{"text": t}]) for t in texts(4)]
    (folder / "packed.tar").write_bytes(tar([(f"{n}.jsonl", b"".join(rows[n::3])) for n in range(3)]))
    (folder / "novels.txt").write_text("\n\n".join(texts(4)), encoding="utf-8")
    (folder / "crawl.warc.gz").write_bytes(packed([page_record(n, t) for n, t in enumerate(texts(2))]))
    articles = [article(n % 90, f"<p>{t}</p>") for n, t in enumerate(texts(4))]
    (folder / "html.tar").write_bytes(tar([("0.ndjson", jsonl(articles[:40])), ("1.ndjson", jsonl(articles[40:]))]))


class Job:
    """One command, started again and again in the same directory."""

    def __init__(self, recipe: Path, out: Path, way: str) -> None:
        """`way` is one of `WAYS`."""
        self.out, self.way, self.mark = out, way, uuid.uuid4().hex
        self.log = out.with_suffix(".log")
        rank = [sys.executable, "-m", MODULE, "all", "--config", str(recipe), "--out", str(out)]
        mpirun = [str(Path(sys.executable).with_name("mpirun")), "--allow-run-as-root", "--oversubscribe", "-n", "2"]
        pool = [*rank, "--pool", "chaos", "--pool-silence", "12"]
        self.commands = {"mpi": [[*mpirun, *rank]], "pool": [pool, pool], "alone": [rank]}[way]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMI"))}
        env |= {MARK: self.mark, "OMP_NUM_THREADS": "1"}
        with open(self.log, "ab") as log:
            self.processes = [subprocess.Popen(c, cwd=ROOT, env=env, stdout=log, stderr=log) for c in self.commands]

    def statuses(self) -> list[int] | None:
        """How the job's processes ended; None while one of them runs."""
        found = [process.poll() for process in self.processes]
        return None if None in found else [int(status) for status in found if status is not None]

    def stage(self) -> str:
        """That of the living ranks; empty while none has begun one."""
        ranks = [rank.state.stage for rank in read_ranks(progress_dir(self.out)) if rank.alive and rank.state.stage]
        return max(ranks, key=STAGES.index, default="")

    def pids(self, target: str) -> list[int]:
        """Living processes: "rank 0", "rank 1", "launcher" or "all" of the job."""
        ranks: dict[str, int] = {}
        everything = []
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                environment = Path(entry.path, "environ").read_bytes()
                if f"{MARK}={self.mark}".encode() not in environment:
                    continue
                pid, command = int(entry.name), Path(entry.path, "cmdline").read_bytes()
                everything.append(pid)
                if MODULE.encode() in command and b"mpirun" not in command:
                    of_mpi = dict(pair.partition(b"=")[::2] for pair in environment.split(b"\0")).get(b"OMPI_COMM_WORLD_RANK")
                    ranks[f"rank {len(ranks) if of_mpi is None else int(of_mpi)}"] = pid
        if target == "all":
            return everything
        if target == "launcher":
            return [process.pid for process in self.processes if process.poll() is None and self.way == "mpi"]
        return [ranks[target]] if target in ranks else []

    def kill(self, target: str) -> int:
        """SIGKILL; returns how many processes were hit."""
        pids = self.pids(target)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def refused(self) -> bool:
        """Whether the last start met the lock of a process that was not quite gone yet, or mpirun itself could not start."""
        return LOCKED in self.tail() or MPI_FAILED in self.tail()

    def tail(self, size: int = 600) -> str:
        return self.log.read_bytes()[-size:].decode(errors="replace") if self.log.exists() else ""

    def end(self) -> None:
        """Ends every process of the job."""
        deadline = time.monotonic() + 20
        while self.kill("all") and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in self.processes:
            process.wait()


def finished_pieces(out: Path) -> dict[str, int]:
    """The markers that are there, with their inodes: one that is written again has another."""
    markers = [*out.glob("work/documents/*/*.json"), *out.glob("work/words/*/*.json"), *out.glob("work/pack/*.json")]
    found = {}
    for marker in markers:
        with contextlib.suppress(FileNotFoundError):
            found[str(marker.relative_to(out))] = marker.stat().st_ino
    return found


def contents(out: Path) -> dict[str, str]:
    """Every file that was written, by the sha256 of its content; of markers without the seconds that they note."""
    found = {}
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        if path.is_dir() or name in ("report.json", "work/.lock") or name.startswith("work/pool/"):
            continue
        content = path.read_bytes()
        if path.suffix == ".json" and name.startswith("work/"):
            content = orjson.dumps(_timeless(orjson.loads(content)), option=orjson.OPT_SORT_KEYS)
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(v) for key, v in value.items() if key != "seconds"}
    return [_timeless(v) for v in value] if isinstance(value, list) else value
