"""What each stage of `python -m preprocess` holds in memory, on a synthetic corpus: peak resident memory of every rank, and the rates.

The corpus is JSON Lines of sentences of a few hundred words, in which every twelfth word is made up and so most likely seen never again:
the distinct words grow with the text, as those of web pages do. Segmented by MeCab, which runs inside the rank.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from jadeberta.utils.paths import path_option

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.results_file import write_results  # noqa: E402

STAGES = ("extract", "segment", "tokenizer", "pack")
LIMIT_MIB = 1536
"""What a rank may hold, whatever the size of the corpus."""
WORDS = list("海山川空町村国本車犬猫花駅森雪雨声夢店茶")
ENDINGS = ["を読む。", "を書く。", "が見える。", "に行く。", "で話す。", "と食べる。", "は遠い。", "も走った。"]
KATAKANA = [chr(code) for code in range(0x30A2, 0x30F0)]

# The stage as a rank of the job runs it; at its end it leaves its peak (KiB) in a file of its own.
RANK = """
import atexit, os, resource, runpy, sys
folder = sys.argv.pop(1)
def leave():
    with open(os.path.join(folder, f"{os.getpid()}.peak"), "w") as f:
        f.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
atexit.register(leave)
runpy.run_module("preprocess", run_name="__main__", alter_sys=True)
"""


def write_corpus(path: Path, megabytes: float, seed: int = 0) -> int:
    """Writes JSON Lines of about so many megabytes (10^6 bytes) of text; returns its bytes of text."""
    generator, written = random.Random(seed), 0
    with open(path, "wb") as f:
        while written < megabytes * 1e6:
            words = generator.choices(WORDS, k=generator.randrange(20, 1500))
            for place in range(0, len(words), 12):
                words[place] = "".join(generator.choices(KATAKANA, k=7))
            text = "".join(f"{a}の{b}{generator.choice(ENDINGS)}" for a, b in zip(words[::2], words[1::2], strict=False))
            written += len(text.encode())
            f.write(orjson.dumps({"text": text}, option=orjson.OPT_APPEND_NEWLINE))
    return written


def measure(stage: str, corpora: Path, out: Path, ranks: int, options: list[str]) -> dict[str, Any]:
    """Runs a stage to its end and returns its seconds and the peak of each rank."""
    python = [sys.executable, "-c", RANK]
    mpirun = [str(Path(sys.executable).with_name("mpirun")), "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [folder, stage, "--corpora", str(corpora), "--out", str(out), *options]
        began = time.monotonic()
        done = subprocess.run(
            [*(mpirun if ranks > 1 else []), *python, *arguments], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
        )
        seconds = time.monotonic() - began
        if done.returncode:
            sys.exit(f"{stage} ended with {done.returncode}: {done.stderr[-2000:]}")
        peaks = sorted((int(path.read_text()) / 1024 for path in Path(folder).glob("*.peak")), reverse=True)
    return {"stage": stage, "seconds": round(seconds, 1), "peak_mib": [round(peak) for peak in peaks]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=2000, help="text of the corpus (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="over MPI (default: %(default)s)")
    parser.add_argument("--packing", choices=["concat", "best_fit"], default="concat")
    parser.add_argument("--directory", type=path_option, help="where to work; default: a temporary one")
    parser.add_argument(
        "--output", type=path_option, default=ROOT / "bench/results/preprocess-memory.json", help="the figures as JSON"
    )
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="preprocess-memory-", dir=options.directory))
    try:
        corpora = work / "corpora"
        corpora.mkdir()
        text = write_corpus(corpora / "web.jsonl", options.megabytes)
        recipe = [
            "--preprocess.segmenter.engine", "mecab", "--preprocess.vocab_size", "2000",
            "--preprocess.character_coverage", "1.0", "--preprocess.packing", options.packing,
        ]  # fmt: skip
        rows = [measure(stage, corpora, work / "out", options.ranks, recipe) for stage in STAGES]
        training = json.loads((work / "out" / "tokenizer" / "training.json").read_text())
    finally:
        shutil.rmtree(work)
    document = {
        "text_bytes": text, "ranks": options.ranks, "cores": os.cpu_count(), "packing": options.packing,
        "words": training["words"], "distinct_words": training["distinct_words"], "limit_mib": LIMIT_MIB, "stages": rows,
    }  # fmt: skip
    print(f"{text / 1e6:,.0f} MB of text, {training['words']:,} words, {training['distinct_words']:,} of them distinct")
    print(f"{'stage':12}{'peak MiB a rank':>18}{'seconds':>10}{'MB/s':>8}")
    for row in rows:
        print(f"{row['stage']:12}{row['peak_mib'][0]:>18,}{row['seconds']:>10}{text / 1e6 / row['seconds']:>8.1f}")
    write_results(options.output, document)
    if over := [row["stage"] for row in rows if row["peak_mib"][0] > LIMIT_MIB]:
        sys.exit(f"{', '.join(over)}: more than {LIMIT_MIB} MiB in a rank")


if __name__ == "__main__":
    main()
