"""The four stages on the real sample, several times over: 2 ranks against 1, what a core packs in a second, and where the time goes."""

import json
import lzma
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from bench.preprocess.rows import Row, median_of
from preprocess.extract import list_parts, read_documents

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
OUR_LIMIT = 0.15
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


def run_alone(ranks: int, corpora: Path, out: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The figures of one job with what others used of the machine meanwhile; again, a few times, where that was more than little."""
    for _ in range(TRIES):
        wait_for_quiet()
        (machine, ours), began = cores_in_use(), time.monotonic()
        found = run(ranks, corpora, out, *options)
        used = [after - before for after, before in zip(cores_in_use(), (machine, ours), strict=True)]
        others = (used[0] - used[1]) / (time.monotonic() - began)
        for figures in found.values():
            figures["cores_used_by_others"] = round(others, 3)
        if others < QUIET_CORES:
            break
    return found


def run(ranks: int, corpora: Path, out: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The figures of one job."""
    shutil.rmtree(out, ignore_errors=True)
    report = out.with_suffix(".json")
    mpirun = [str(Path(sys.executable).with_name("mpirun")), "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)]
    arguments = ["-m", "bench.preprocess.rank", str(corpora), str(out), str(report), *RECIPE, *options]
    done = subprocess.run(
        [*(mpirun if ranks > 1 else []), sys.executable, *arguments],
        cwd=ROOT,
        env=dict(os.environ) | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"a job of {ranks} ranks ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))
    return found


def measure(work: Path, rounds: int, quick: bool) -> list[Row]:
    """Rows of all that is told above; without the sample none."""
    if not SAMPLE.is_dir():
        print(f"{SAMPLE}: not here, so the stages are not timed", flush=True)
        return []
    profile = run(1, SAMPLE, work / "profile", "--profile")
    corpora = work / "corpora"
    texts = _texts(work / "profile")
    text = _copy_sample(texts, corpora, 1 if quick else 4)
    # Extract takes a second where the others take ten.
    long_text = _copy_sample(texts, work / "long", 1 if quick else 16)
    one_file, in_file = _pack_sample(texts, work / "packed", 1 if quick else 4)
    sizes = dict.fromkeys(SHARED, text) | {"extract": long_text, "cut": in_file}
    results: dict[int, list[dict[str, dict[str, Any]]]] = {1: [], 2: []}
    for _ in range(rounds):
        for ranks, of_ranks in results.items():  # in turn, so that both meet the same machine
            of_ranks.append(run_alone(ranks, corpora, work / "out"))
            of_ranks[-1] |= run_alone(ranks, work / "long", work / "extracted", "--extract")
            of_ranks[-1] |= run_alone(ranks, one_file, work / "cut", "--cut")
    words = sum(corpus["bytes"] for corpus in _counts(work / "out").values())
    rows = []
    for key, label in SHARED.items():
        times = {ranks: [found[key]["seconds"] for found in of_ranks] for ranks, of_ranks in results.items()}
        details: dict[str, Any] = {f"seconds_{ranks}": seconds for ranks, seconds in times.items()} | {"text_bytes": sizes[key]}
        for ranks, of_ranks in results.items():
            details[f"cpu_of_the_busiest_{ranks}"] = [found[key]["cpu_of_the_busiest"] for found in of_ranks]
            details[f"cores_used_by_others_{ranks}"] = [found[key].get("cores_used_by_others") for found in of_ranks]
        # To decompress one file and cut it up takes about as long as all else that is done with it, and one rank does it.
        target = None if key == "cut" else 1.8
        rows.append(Row(f"{label}: 2 ranks / 1 rank", median_of(times[1]) / median_of(times[2]), "x", target, details))
    for key in SHARED:
        one = [found[key]["seconds"] for found in results[1]]
        rows.append(Row(f"{SHARED[key]}: text, one rank", sizes[key] / 1e6 / median_of(one), "MB/s", None, {"seconds": one}))
    packed = [words / 1e6 / found["pack"]["cpu_seconds"] for found in results[1]]
    details = {"rounds": packed, "segmented_bytes": words}
    rows.append(Row("encode + pack + write, segmented text", median_of(packed), "MB/core-s", 10.0, details))
    for stage in ("extract", "segment", "tokenizer", "pack"):
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


def _pack_sample(texts: list[str], corpora: Path, times: int) -> tuple[Path, int]:
    """Writes texts so many times over as CC-100 comes, one .xz file; returns its folder and the bytes of its text."""
    corpora.mkdir()
    content = "".join(f"{text}\n\n" for text in texts).encode() * times
    (corpora / "ja.txt.xz").write_bytes(lzma.compress(content, preset=1))
    return corpora, len(content)


def _copy_sample(texts: list[str], corpora: Path, times: int) -> int:
    """Writes texts so many times over as files of JSON Lines of one size; returns the bytes of their text."""
    corpora.mkdir()
    for number in range(FILES):
        lines = [orjson.dumps({"text": text}) for text in texts[number::FILES]] * times
        (corpora / f"sample{number}.jsonl").write_bytes(b"\n".join(lines))
    return times * sum(len(text.encode()) for text in texts)
