"""`make demo`: the whole path on a generated corpus, with every rank killed in the middle of training.

A part is skipped if its result exists. Every command that runs is the one that a user would type.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from jadeberta.config import PROJECT, load_recipe
from jadeberta.errors import InputError, JadebertaError
from jadeberta.jobs import launcher_output
from jadeberta.jobs.local_launcher import COMMAND, start_rank
from jadeberta.utils.json_lines import read_jsonl
from jadeberta.utils.ports import free_port

RECIPE = "recipes/demo.yaml"
BASE = Path("demo")
CORPORA, SHARDS, RUN, RELEASE = BASE / "corpora", BASE / "shards", BASE / "run", BASE / "release"
EVALUATION = BASE / "evaluation.json"
KILL_AT = 0.45
"""Fraction of the steps after which every rank is killed."""

FILL_MASK = """
import json, sys
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
directory, sentences = sys.argv[1], sys.argv[2:]
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForMaskedLM.from_pretrained(directory).eval()
for sentence in sentences:
    encoding = tokenizer(sentence, return_tensors="pt")
    place = (encoding["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
    with torch.inference_mode():
        best = model(**encoding).logits[0, place].softmax(-1).topk(5)
    pieces = tokenizer.convert_ids_to_tokens(best.indices.tolist())
    words = [piece.removeprefix("\\u2581") or piece for piece in pieces]
    print(json.dumps([[word, round(p, 3)] for word, p in zip(words, best.values.tolist())], ensure_ascii=False))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jadeberta.demo", description=__doc__)
    parser.add_argument("--ranks", type=int, default=2, help="processes for preprocessing and for training")
    ranks = parser.parse_args().ranks
    if ranks < 1:
        parser.error(f"--ranks {ranks}: give a whole number of processes, at least 1")
    os.chdir(PROJECT)
    began = time.monotonic()
    try:
        part("1/6 generate a Japanese corpus", CORPORA / "expected.json", make_corpus)
        part("2/6 make shards: extract, segment, tokenizer, pack", SHARDS / "report.json", lambda: make_shards(ranks))
        check_counts()
        part(f"3/6 train on {ranks} ranks, kill them all, resume", RUN / "DONE", lambda: train_and_kill(ranks))
        check_repeated_steps()
        part("4/6 evaluate on held-out documents", EVALUATION, evaluate)
        part("5/6 export to Hugging Face's format", RELEASE / "README.md", export)
        fill_masks()
    except JadebertaError as e:
        print(f"\ndemo: {e}", file=sys.stderr)
        sys.exit(e.exit_status)
    except subprocess.CalledProcessError as e:
        print(
            f"\ndemo: '{' '.join(map(str, e.cmd))}' ended with status {e.returncode}; its output above gives the reason.",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; 'make demo' resumes here", file=sys.stderr)
        sys.exit(130)
    print_summary(time.monotonic() - began)


def part(name: str, result: Path, work: Callable[[], None]) -> None:
    """Runs one part of the demo, or reports that its result exists."""
    if result.exists():
        print(f"\n== {name}: reused from an earlier call ('make clean' removes {BASE}/)", flush=True)
        return
    print(f"\n== {name}", flush=True)
    began = time.monotonic()
    work()
    print(f"   done in {time.monotonic() - began:.0f} s", flush=True)


def run(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True)


def make_corpus() -> None:
    run("-m", "preprocess.demo", CORPORA)


def make_shards(ranks: int) -> None:
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [str(mpirun), "--oversubscribe", "-n", str(ranks), *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    command += [sys.executable, "-m", "preprocess", "all", "--config", RECIPE, "--out", str(SHARDS)]
    if status := launcher_output.run(command):
        raise subprocess.CalledProcessError(status, command)
    run("-m", "preprocess", "verify", SHARDS)


def check_counts() -> None:
    """Raises InputError where extraction did not find exactly the documents that were generated."""
    expected = json.loads((CORPORA / "expected.json").read_text(encoding="utf-8"))
    report = json.loads((SHARDS / "report.json").read_text(encoding="utf-8"))["extract"]["result"]
    pairs = {"wikipedia": "wikipedia_articles", "cc100": "cc100_documents", "oscar": "oscar2201_kept"}
    for corpus, key in pairs.items():
        if report[corpus]["documents"] != expected[key]:
            raise InputError(f"{SHARDS}: {report[corpus]['documents']} documents of {corpus}, {expected[key]} were generated.")
    counts = ", ".join(f"{c} {report[c]['documents']}" for c in pairs)
    print(f"   extracted exactly the documents that were generated: {counts}")


def start_training(ranks: int, *options: str) -> list[subprocess.Popen]:
    port = free_port()
    command = [*COMMAND, "pretrain", "--config", RECIPE, *options]
    launch = uuid4().hex[:12]
    return [start_rank(command, rank, ranks, port, launch) for rank in range(ranks)]


def train_and_kill(ranks: int) -> None:
    """Trains to about half, kills every rank without warning, and runs the same command again."""
    kill_step = int(KILL_AT * load_recipe(RECIPE).training.max_steps)
    if last_step() < kill_step:
        processes = start_training(ranks)
        try:
            while last_step() < kill_step:
                if any(p.poll() is not None for p in processes):
                    raise InputError(f"training ended before step {kill_step}; {RUN}/logs and the lines above give the reason.")
                time.sleep(0.05)  # metrics.jsonl is a file: nothing reports a new line of it
        finally:
            for p in processes:
                p.send_signal(signal.SIGKILL)
                p.wait()
        print(f"   KILLED every rank with SIGKILL at step {last_step()}; running the same command again", flush=True)
    processes = start_training(ranks, "--resume", "required")
    statuses = [p.wait() for p in processes]
    if any(statuses):
        raise InputError(f"training ended with statuses {statuses}; {RUN}/logs and the lines above give the reason.")


def check_repeated_steps() -> None:
    """Raises InputError where a step that was trained before and after the kill had another batch or another loss."""
    seen: dict[int, tuple[Any, ...]] = {}
    repeated = 0
    for row in read_jsonl(RUN / "metrics.jsonl"):
        numbers = tuple(row[key] for key in ("batch_hash", "loss", "grad_norm"))
        if row["step"] in seen:
            repeated += 1
            if seen[row["step"]] != numbers:
                raise InputError(f"{RUN}: step {row['step']} had {seen[row['step']]} before the kill and {numbers} after it.")
        seen[row["step"]] = numbers
    print(f"   {repeated} steps were trained before and after the kill: same batches, same losses, same gradient norms")


def last_step() -> int:
    return max((row["step"] for row in read_jsonl(RUN / "metrics.jsonl")), default=0)


def evaluate() -> None:
    """Raises InputError where the model is no better than the most frequent token."""
    command = ["-m", "jadeberta", "evaluate", "mlm", "--checkpoint", RUN, "--shards", SHARDS]
    result = subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True, text=True)
    found = json.loads(result.stdout)["all"]
    if found["accuracy"] <= found["unigram_accuracy"]:
        raise InputError(
            f"{RUN}: accuracy {found['accuracy']:.3f}, and the most frequent token alone has {found['unigram_accuracy']:.3f}."
        )
    EVALUATION.write_text(result.stdout, encoding="utf-8")
    print(f"   accuracy {found['accuracy']:.3f}; a unigram baseline has {found['unigram_accuracy']:.3f}")


def export() -> None:
    run("-m", "jadeberta", "export", "--checkpoint", RUN, "--out", RELEASE, "--evaluation", EVALUATION)


def heldout_sentence() -> tuple[str, str]:
    """A held-out sentence with one word masked, and the word."""
    import sentencepiece

    from jadeberta.shards import open as open_shards

    tokens, _ = open_shards(SHARDS, "valid")[0]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(SHARDS / "tokenizer" / "spm.model"))
    words = processor.decode(tokens[1:].tolist()).split("。")[1].split()
    place = len(words) // 2
    return " ".join([*words[:place], "[MASK]", *words[place + 1 :], "。"]), words[place]


def fill_masks() -> None:
    """Fills masks with the release, in a process that does not import this project."""
    print("\n== 6/6 fill masks with transformers alone", flush=True)
    masked, answer = heldout_sentence()
    sentences = {
        masked: f"held out; the word was {answer}",
        "京都 大学 で 自然 言語 処理 を [MASK] する 。": "the published card's sentence",
    }
    command = [sys.executable, "-c", FILL_MASK, str(RELEASE), *sentences]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=BASE.resolve().parent).stdout
    for (sentence, remark), line in zip(sentences.items(), output.splitlines(), strict=True):
        print(f"   {sentence}  ({remark})")
        print("     " + "  ".join(f"{word} {p:.3f}" for word, p in json.loads(line)))


def print_summary(seconds: float) -> None:
    report = json.loads((SHARDS / "report.json").read_text(encoding="utf-8"))
    evaluation = json.loads(EVALUATION.read_text(encoding="utf-8"))["all"]
    metrics, ledger = read_jsonl(RUN / "metrics.jsonl"), read_jsonl(RUN / "ledger.jsonl")
    segmented: dict[str, Any] = report["segment"]["result"]
    sentences = sum(c["sentences"] for c in segmented.values())
    seconds_segmenting = max(1e-9, sum(c["seconds"] for c in segmented.values()))
    packed = [c["train"] for c in report["pack"]["result"].values()]
    attempts = {row["attempt"] for row in metrics}
    rates = sorted(row["tokens_per_second"] for row in metrics)
    rows = {
        "documents": f"{sum(c['documents'] for c in segmented.values()):,}",
        "sentences": f"{sentences:,}, segmented at {sentences / seconds_segmenting:,.0f} a second and core",
        "tokens": f"{sum(p['tokens'] for p in packed):,} in {sum(p['sequences'] for p in packed):,} sequences",
        "steps": f"{max(row['step'] for row in metrics)} in {len(attempts)} attempts",
        "speed": f"{rates[len(rates) // 2]:,.0f} tokens a second, median",
        "loss": f"{metrics[0]['loss']:.3f} at the start, {mean_loss(metrics):.3f} at the end",
        "accuracy": f"{evaluation['accuracy']:.3f} on held-out masked tokens; unigram baseline {evaluation['unigram_accuracy']:.3f}",
        "resumed": f"{sum(row['event'] == 'resume' for row in ledger)} time, after SIGKILL to every rank",
        "model": str(RELEASE.resolve()),
        "TensorBoard": f".venv/bin/tensorboard --logdir {RUN}",
        "this call": f"{seconds:.0f} s",
    }
    print("\nSummary")
    for name, value in rows.items():
        print(f"  {name:<18} {value}")


def mean_loss(metrics: list[dict[str, Any]], steps: int = 20) -> float:
    last = [row["loss"] for row in metrics[-steps:]]
    return sum(last) / len(last)


if __name__ == "__main__":
    main()
