"""The four stages on the real sample, several times over: 2 ranks against 1, what a core packs in a second, and where the time goes.

Cores share a machine's memory and caches, so two of them are not twice as fast as one, whatever they do. What there is to gain is told by
two jobs of one rank at the same time, which share nothing.
"""

import json
import lzma
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from bench.preprocess.measure import Row, median_of
from preprocess.workdir import list_parts, read_documents

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT.parent / "shared" / "data" / "corpora"
FILES = 8
"""Of JSON Lines, as large as each other, so that two ranks can end together."""
RECIPE = ["--preprocess.segmenter.engine", "mecab", "--preprocess.part_bytes", "4000000", "--preprocess.shard_bytes", "8000000"]
SHARED = {
    "extract": "extract",
    "cut": "extract, of one .xz file that is cut",
    "segment": "segment",
    "counting": "tokenizer: words counted",
    "pack": "pack",
}
"""What ranks share; the training of the tokenizer is done by one of them."""
STAGES = ("extract", "segment", "tokenizer", "pack")
OUR_LIMIT = 0.15
Figures = dict[str, dict[str, Any]]
"""Of a job, by stage."""
PATIENCE_SECONDS, QUIET_SECONDS, QUIET_CORES, TRIES = 180.0, 3.0, 0.15, 3
"""A job is begun on a machine of which others use less than so many cores, or after so long all the same."""


def cores_in_use() -> tuple[float, float]:
    """CPU seconds that the machine has spent since it came up, and those of this process and its children that have ended."""
    with open("/proc/stat", encoding="ascii") as f:
        user, nice, system, _, _, irq, softirq, *_ = map(int, f.readline().split()[1:])
    times = os.times()
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), sum(times[:4])


def wait_for_quiet() -> None:
    """Waits until others have used next to nothing of the machine for some seconds, but not for ever."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        before = cores_in_use()[0]
        time.sleep(QUIET_SECONDS)
        if (cores_in_use()[0] - before) / QUIET_SECONDS < QUIET_CORES:
            return


def alone(job: Callable[[], Figures]) -> Figures:
    """The figures of a job with what others used of the machine meanwhile; again, a few times, where that was more than little."""
    for _ in range(TRIES):
        wait_for_quiet()
        (machine, ours), began = cores_in_use(), time.monotonic()
        found = job()
        used = [after - before for after, before in zip(cores_in_use(), (machine, ours), strict=True)]
        others = (used[0] - used[1]) / (time.monotonic() - began)
        for figures in found.values():
            figures["cores_used_by_others"] = round(others, 3)
        if others < QUIET_CORES:
            break
    return found


@dataclass(frozen=True)
class Job:
    """Stages that are timed together, in a process of their own."""

    corpora: Path
    out: Path
    stages: tuple[str, ...]
    made: Path | None = None
    """What the stages before these made."""

    def run(self, ranks: int, *options: str) -> Figures:
        """The figures of each stage."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.made is not None:
            shutil.copytree(self.made, self.out, copy_function=os.link)  # nothing is changed where it lies
        report = self.out.with_suffix(".json")
        mpirun = [str(Path(sys.executable).with_name("mpirun")), "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)]
        arguments = [str(self.corpora), str(self.out), str(report), ",".join(self.stages), *RECIPE, *options]
        done = subprocess.run(
            [*(mpirun if ranks > 1 else []), sys.executable, "-m", "bench.preprocess.stage_rank", *arguments],
            cwd=ROOT,
            env=dict(os.environ) | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"a job of {ranks} ranks ended with {done.returncode}: {done.stderr[-2000:]}")
        found: Figures = json.loads(report.read_text(encoding="utf-8"))
        return found

    def run_apart(self) -> Figures:
        """The figures of two jobs of one rank at the same time, each stage by the one that took longer."""
        twins = [replace(self, out=self.out.with_name(f"{self.out.name}-{n}")) for n in range(2)]
        with ThreadPoolExecutor(2) as both:
            first, second = both.map(lambda job: job.run(1), twins)
        return {stage: max(first[stage], second[stage], key=lambda found: found["seconds"]) for stage in first}


def measure(work: Path, rounds: int, quick: bool) -> list[Row]:
    """Rows of all that is told above; without the sample none."""
    if not SAMPLE.is_dir():
        print(f"{SAMPLE}: not here, so the stages are not timed", flush=True)
        return []
    profile = Job(SAMPLE, work / "profile", STAGES).run(1, "--profile")
    texts = _texts(work / "profile")
    corpora, long, one_file, copies = work / "corpora", work / "long", work / "packed", 1 if quick else 4
    text, in_file = _copy_sample(texts, corpora, copies), _pack_sample(texts, one_file, copies)
    # Counting and packing take a few seconds where segment takes ten, extract takes one.
    long_text = _copy_sample(texts, long, 4 * copies)
    longest = _link_thrice(long, work / "longest")
    Job(long, work / "made", STAGES[:-1]).run(2)
    jobs = [
        Job(longest, work / "extracted", ("extract",)),
        Job(one_file, work / "cut", ("cut",)),
        Job(corpora, work / "segmented", ("extract", "segment")),
        Job(long, work / "out", ("counting", "pack"), work / "made"),
    ]
    sizes = {"extract": 3 * long_text, "cut": in_file, "segment": text, "counting": long_text, "pack": long_text}
    results: dict[str, list[Figures]] = {"1": [], "2": [], "apart": []}
    for _ in range(rounds):
        for way, of_way in results.items():  # in turn, so that all meet the same machine
            found: Figures = {}
            for job in jobs:
                found = alone(job.run_apart if way == "apart" else partial(job.run, int(way))) | found
            of_way.append(found)
    words = sum(corpus["bytes"] for corpus in _counts(work / "out").values())
    rows = []
    for key, label in SHARED.items():
        times = {way: [found[key]["seconds"] for found in of_way] for way, of_way in results.items()}
        details: dict[str, Any] = {f"seconds_{way}": seconds for way, seconds in times.items()} | {"text_bytes": sizes[key]}
        for way, of_way in results.items():
            details[f"cpu_of_the_busiest_{way}"] = [found[key]["cpu_of_the_busiest"] for found in of_way]
            details[f"cores_used_by_others_{way}"] = [found[key].get("cores_used_by_others") for found in of_way]
        one, two, apart = (median_of(times[way]) for way in ("1", "2", "apart"))
        # To decompress one file and cut it up takes about as long as all else that is done with it, and one rank does it.
        rows.append(Row(f"{label}: 2 ranks / 1 rank", one / two, "x", None if key == "cut" else 1.8, details))
        rows.append(Row(f"{label}: two jobs at once / one after the other", 2 * one / apart, "x"))
    for key in SHARED:
        seconds = [found[key]["seconds"] for found in results["1"]]
        rows.append(Row(f"{SHARED[key]}: text, one rank", sizes[key] / 1e6 / median_of(seconds), "MB/s"))
    packed = [words / 1e6 / found["pack"]["cpu_seconds"] for found in results["1"]]
    details = {"rounds": packed, "segmented_bytes": words}
    rows.append(Row("encode + pack + write, segmented text", median_of(packed), "MB/core-s", 10.0, details))
    for stage in STAGES:
        share, most = profile[stage]["share_of_our_python"], profile[stage]["most_in"]
        rows.append(Row(f"{stage}: share of our own Python", share, "", OUR_LIMIT, {"most_in": most}, at_most=True))
    return rows


def _counts(out: Path) -> dict[str, dict[str, int]]:
    """Bytes of words by corpus, from the markers of the segmented parts."""
    found: dict[str, dict[str, int]] = {}
    for marker in out.glob("work/words/*/*.json"):
        corpus = found.setdefault(marker.parent.name, {"bytes": 0})
        corpus["bytes"] += orjson.loads(marker.read_bytes())["counts"]["bytes"]
    return found


def _texts(extracted: Path) -> list[str]:
    """The texts of all documents of a directory."""
    parts = [part for folder in sorted(extracted.glob("work/documents/*/")) for part in list_parts(extracted, folder.name)]
    return [document["text"] for part in parts for document in read_documents(part)]


def _pack_sample(texts: list[str], corpora: Path, times: int) -> int:
    """Writes texts so many times over as CC-100 comes, one .xz file; returns the bytes of its text."""
    corpora.mkdir()
    content = "".join(f"{text}\n\n" for text in texts).encode() * times
    (corpora / "ja.txt.xz").write_bytes(lzma.compress(content, preset=1))
    return len(content)


def _copy_sample(texts: list[str], corpora: Path, times: int) -> int:
    """Writes texts so many times over as files of JSON Lines of one size; returns the bytes of their text."""
    corpora.mkdir()
    for number in range(FILES):
        lines = [orjson.dumps({"text": text}) for text in texts[number::FILES]] * times
        (corpora / f"sample{number}.jsonl").write_bytes(b"\n".join(lines))
    return times * sum(len(text.encode()) for text in texts)


def _link_thrice(corpora: Path, folder: Path) -> Path:
    """The same files under three names each."""
    folder.mkdir()
    for path in corpora.iterdir():
        for copy in range(3):
            os.link(path, folder / f"{copy}-{path.name}")
    return folder
