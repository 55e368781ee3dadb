"""One rank of a job that runs stages and times them.

`python -m bench.preprocess.stage_rank CORPORA OUT REPORT STAGE,... [--profile] [key ...]`.

Stages are those of the pipeline, `cut` (extract of files that are cut) and `counting` (the part of the tokenizer that ranks share).
Rank 0 writes REPORT: for each stage the seconds of the slowest rank and the CPU seconds of all and of the busiest. With --profile also
the share of the time in this repository's Python.
"""

import cProfile
import json
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preprocess.config import PreprocessConfig
from preprocess.executors.executor import Executor
from preprocess.load_config import load_config
from preprocess.readers import input_split as split
from preprocess.stages.extract import extract
from preprocess.stages.pack import pack
from preprocess.stages.segment import segment
from preprocess.stages.tokenizer import MAX_WORDS, train_tokenizer
from preprocess.tokenization.word_counts import rank_words
from preprocess.workdir import list_words

ROOT = str(Path(__file__).resolve().parents[2])
SPLIT_BYTES = 2 * 2**20
"""Of a file of 38 MB, as those of a file of 15 GB are 32 MiB."""
CALLS = 200_000
"""Of nothing, to see what tracing costs."""


def main() -> None:
    from webdataset.writer import TarWriter  # noqa: F401 - imports torch: a second or two that are no work of pack

    corpora, out, report, names, *options = sys.argv[1:]
    profiled = "--profile" in options
    executor, found = Executor(), dict[str, dict[str, Any]]()
    config = load_config(None, tuple(option for option in options if option != "--profile"), Path(corpora))
    for name in names.split(","):
        executor.run_on_all(lambda: None)
        began, cpu = time.perf_counter(), time.process_time()
        profile = cProfile.Profile() if profiled else None
        if profile is not None:
            profile.enable()
        STAGES[name](config, Path(out), executor)
        if profile is not None:
            profile.disable()
        mine = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        ranks = [figures for _, figures in executor.run_on_all(lambda m=mine: m)]  # type: ignore[misc]
        cpu_of_ranks = [r["cpu_seconds"] for r in ranks]
        found[name] = {"seconds": max(r["seconds"] for r in ranks), "cpu_seconds": sum(cpu_of_ranks)}
        found[name]["cpu_of_the_busiest"] = max(cpu_of_ranks)
        if profile is not None:
            found[name] |= _shares(profile)
    if executor.is_root:
        Path(report).write_text(json.dumps(found), encoding="utf-8")


def _cut(config: PreprocessConfig, out: Path, executor: Executor) -> object:
    split.SPLIT_BYTES = SPLIT_BYTES
    return extract(config, out, executor)


def _count(config: PreprocessConfig, out: Path, executor: Executor) -> object:
    parts = [(part, corpus.repeats) for name, corpus in config.corpora.items() for part in list_words(out, name)]
    return rank_words(parts, MAX_WORDS, out / "work" / "counts", executor)


STAGES: dict[str, Callable[[PreprocessConfig, Path, Executor], object]] = {
    "extract": extract,
    "cut": _cut,
    "segment": segment,
    "tokenizer": train_tokenizer,
    "counting": _count,
    "pack": pack,
}


def _shares(profile: cProfile.Profile) -> dict[str, Any]:
    """What part of a profile's time was spent in the Python code of this repository, and in which functions of it most.

    What tracing itself costs is taken off: it makes small functions look three times as slow, and libraries not at all.
    """
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    called, calling = _tracing_cost()
    times = {function: entry[2] - entry[1] * called[_is_builtin(function)] for function, entry in stats.items()}
    for function, (*_, callers) in stats.items():
        for caller, (calls, *_) in callers.items():
            times[caller] -= calls * calling[_is_builtin(function)]
    times = {function: max(0.0, seconds) for function, seconds in times.items()}
    ours = {
        function: seconds
        for function, seconds in times.items()
        if function[0].startswith((f"{ROOT}/preprocess", f"{ROOT}/jadeberta"))
    }
    whole = sum(times.values())
    most = sorted(ours, key=lambda function: -ours[function])[:5]
    return {
        "share_of_our_python": sum(ours.values()) / whole,
        "most_in": {f"{Path(file).name}:{name}": round(ours[file, line, name] / whole, 4) for file, line, name in most},
    }


def _is_builtin(function: tuple[str, int, str]) -> bool:
    return function[0] == "~"


def _tracing_cost() -> tuple[list[float], list[float]]:
    """Seconds that the profiler adds to a function for being called, and to its caller; each of Python's own and of built-in ones."""

    def nothing() -> None:
        pass

    def call(function: Any, *arguments: Any) -> None:
        for _ in range(CALLS):
            function(*arguments)

    called, calling = list[float](), list[float]()
    for function, arguments in ((nothing, ()), (len, ((),))):
        began = time.perf_counter()
        call(function, *arguments)
        untraced = time.perf_counter() - began
        profile = cProfile.Profile()
        profile.runcall(call, function, *arguments)
        entries = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
        times = {name: entry[2] for (_, _, name), entry in entries}
        inside = sum(seconds for name, seconds in times.items() if name.endswith(("nothing", "len>")))
        called.append(inside / CALLS)
        calling.append(max(0.0, times["call"] - untraced) / CALLS)
    return called, calling


if __name__ == "__main__":
    main()
