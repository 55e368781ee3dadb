"""What keeping a run safe costs: `python bench/checkpoint.py [--size large]`.

A: how long a save stops the training, against torch.save, DeepSpeed and torch.distributed.checkpoint. B: step time while a checkpoint
is being written. C: a verified load against torch.load. D: guard, heartbeat, books and comparison of weights. One process, one rank,
everything side by side and in turn, medians; prints a table with the targets and writes JSON with the machine in words. `large` is the
whole state of the published model, 4.8 GB: it needs 20 GiB of memory, 15 GB of disk and, on a laptop's disk, ten minutes.
"""

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.checkpointing import load_time, overhead, stall, step_during_write
from bench.checkpointing.alternatives import Ours
from bench.checkpointing.workload import (
    ALONE,
    SIZES,
    bytes_of,
    context_of,
    engine_of,
    machine,
    make_shards,
    recipe_of,
    state_of,
    tell,
    versions,
)
from bench.results_file import write_results
from jadeberta.checkpoint.checkpointer import Checkpointer
from jadeberta.cluster.device import choose_device
from jadeberta.cluster.process_group import join_process_group
from jadeberta.training.console import redirect_library_logs
from jadeberta.training.ledger import Ledger
from jadeberta.utils.paths import path_option

PARTS = {"stall": stall, "beside": step_during_write, "load": load_time, "overhead": overhead}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny", help="of the model whose state is saved")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--directory", type=path_option, default=Path(), help="on the disk to measure; a new directory in it is used and removed"
    )
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS), help="what to measure")
    parser.add_argument(
        "--patience", type=float, default=0.0, help="seconds to wait before each measurement while others use the machine"
    )
    parser.add_argument("--output", type=path_option, help="JSON file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the directory is removed
    directory = Path(tempfile.mkdtemp(prefix="bench-checkpoint-", dir=options.directory)).absolute()
    try:
        document = measure(options, directory)
    finally:
        remove(directory)
    if options.output is not None:
        document = with_earlier_parts(document, options.output)
        write_results(options.output, document)
    print("\n".join(table(document)))


def remove(directory: Path) -> None:
    """Removes a directory in which a writer may still be making files, and which may hold gigabytes."""
    deadline = time.monotonic() + 5
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)


def with_earlier_parts(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """A measurement with the parts of an earlier one of the same machine, versions and size that were not measured again."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if any(earlier.get(key) != document[key] for key in ("machine", "versions", "size")):
        return document
    parts = earlier["parts"] | document["parts"]
    return document | {"parts": {name: parts[name] for name in PARTS if name in parts}}


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """The parts that are asked for; the one that needs another engine comes first, while memory is free."""
    size, wanted, how = options.size, options.parts, (options.rounds, options.patience)
    run_dir = directory / "run"
    redirect_library_logs(run_dir, 0)
    recipe = recipe_of(size, run_dir)
    device = choose_device(recipe.run.device, ALONE.local_rank)
    join_process_group(ALONE, device, 600)
    parts: dict[str, dict[str, Any]] = {}
    conditions: dict[str, dict[str, Any]] = {}

    def begin(part: str, what: str) -> None:
        tell(what)
        conditions[part] = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "rounds": options.rounds}
        conditions[part]["load_before"] = os.getloadavg()

    if "beside" in wanted:
        begin("beside", "step time beside a write")
        parts["beside"] = step_during_write.measure(size, directory, device, *how)
    engine = engine_of(recipe, device)
    shards = make_shards(directory / "shards", recipe.model.vocab_size)
    ledger = Ledger(run_dir / "ledger.jsonl", 0)
    checkpointer = Checkpointer(context_of(recipe, engine, shards, ledger), engine)
    checkpointer.resume("auto")
    state_bytes = bytes_of(state_of(engine).values())
    if "stall" in wanted:
        begin("stall", f"saves of {state_bytes / 1e9:.2f} GB")
        parts["stall"] = stall.measure(engine, checkpointer, directory, *how)
    if "overhead" in wanted:
        begin("overhead", "overhead of a step")
        parts["overhead"] = overhead.measure(recipe, engine, checkpointer, run_dir, options.patience)
    if "load" in wanted:
        if not checkpointer.committed:
            Ours(checkpointer).save(directory)
        checkpointer.close()
        del checkpointer
        begin("load", "loads")
        parts["load"] = load_time.measure(recipe, engine, shards, directory, *how)
    dist.destroy_process_group()
    return {
        "machine": machine(),
        "versions": versions(),
        "size": size,
        "state_bytes": state_bytes,
        "parts": {name: conditions[name] | parts[name] for name in PARTS if name in parts},
    }


def table(document: dict[str, Any]) -> list[str]:
    """What is printed."""
    out = [
        f"{document['machine']}; torch {document['versions']['torch']}, DeepSpeed {document['versions']['deepspeed']}; "
        f"{document['size']}, {document['state_bytes'] / 1e9:.2f} GB, medians"
    ]
    for name, result in document["parts"].items():
        out += PARTS[name].lines(result)
        out.append(
            f"   {result['rounds']} rounds from {result['time']}, load of the machine before {result['load_before'][0]:.1f}"
        )
    for result in document["parts"].values():
        for goal in result["targets"]:
            value = "not measured" if goal["value"] is None else f"{goal['value']:.2%}"
            out.append(f"   {'met    ' if goal['met'] else 'NOT MET'}  {goal['target']}: {value}, at most {goal['limit']:.1%}")
    return out


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
else:
    logging.disable(logging.INFO)  # the process that torch saves with logs its start, and imports this file
