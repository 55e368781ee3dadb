"""Small things that many tests arrange: shard directories, recipes, and jobs of some ranks."""

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from jadeberta.jobs.local_launcher import rank_environment
from jadeberta.shards import INDEX_NAME, CorpusEntry, ShardIndex, file_sha256, write_shard
from jadeberta.shards.index import WORD_START
from jadeberta.utils.ports import free_port
from tests.fork_server import ForkedProcess, fork_server

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
CORPORA = SHARED_DATA / "corpora"

LENGTH = 128
"""Tokens in a row of `make_shards`: attention over rows of 512 would take most of the time of a test that trains."""
TINY_MODEL = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "attention_head_size": 8,
    "intermediate_size": 32, "position_buckets": 8, "pooler_hidden_size": 16,
}  # fmt: skip

PUBLISHED = {
    "model_type": "deberta-v2", "architectures": ["DebertaV2ForMaskedLM"], "vocab_size": 32000, "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "attention_head_size": 64, "intermediate_size": 3072,
    "relative_attention": True, "position_buckets": 256, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
    "norm_rel_ebd": "layer_norm", "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu",
}  # fmt: skip
"""config.json of ku-nlp/deberta-v2-base-japanese, as far as it decides what the model is."""


def write_published(directory: Path) -> Path:
    """The configuration of a published model, without weights: enough for all that reads no weights."""
    (directory / "config.json").write_text(json.dumps(PUBLISHED))
    return directory


def make_shards(
    directory: Path,
    corpora: dict[str, tuple[int, int]],
    vocab_size: int = 64,
    seed: int = 0,
    length: int = LENGTH,
    words: bool = False,
) -> Path:
    """Shards of random rows, {corpus: (sequences, repeats)}; the rows are unlike each other and end in padding now and then.

    With `words` the shards record where words start, and their rows are packed from whole documents.
    """
    generator = np.random.default_rng(seed)
    model = directory / "tokenizer" / "spm.model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"stands for a tokenizer")
    index = ShardIndex(length, vocab_size, file_sha256(model), {"engine": "none"}, "none", "none", {})
    if words:
        index.word_starts, index.packing = "documents", "best_fit"
    for corpus, (sequences, repeats) in corpora.items():
        entries = {}
        for split, count in (("train", sequences), ("valid", 3)):
            tokens = generator.integers(5, vocab_size, (count, length), dtype=np.uint16)
            cuts = np.sort(generator.integers(length // 5, length, (count, 2)), axis=1)
            places = np.arange(length)
            documents = (1 + (places >= cuts[:, :1]).astype(np.uint16) + (places >= cuts[:, 1:])).astype(np.uint16)
            tokens[-1, -length // 5 :], documents[-1, -length // 5 :] = 0, 0
            if words:
                documents[(documents > 0) & (generator.random(documents.shape) < 0.5)] |= WORD_START
            prefix = "valid-" if split == "valid" else ""
            entries[split] = [
                write_shard(directory / f"{prefix}{corpus}-00000.tar", tokens, documents, count, {"corpus": corpus}, length)
            ]
        index.corpora[corpus] = CorpusEntry(repeats, **entries)
    (directory / INDEX_NAME).write_bytes(index.to_json())
    return directory


def add_length(directory: Path, length: int, count: int) -> None:
    """Adds random rows of another length to `make_shards`'s directory: `count` of every corpus, and 3 held-out ones."""
    generator = np.random.default_rng(length)
    index = ShardIndex.load(directory / INDEX_NAME)
    for corpus, entry in index.corpora.items():
        for split, rows in (("train", count), ("valid", 3)):
            tokens = generator.integers(5, index.vocab_size, (rows, length), dtype=np.uint16)
            name = f"{'valid-' if split == 'valid' else ''}{corpus}-{length}-00000.tar"
            shard = write_shard(directory / name, tokens, np.ones_like(tokens), rows, {"corpus": corpus}, length)
            getattr(entry, split).append(replace(shard, sequence_length=length))
    (directory / INDEX_NAME).write_bytes(index.to_json())


def make_recipe(path: Path, shards: Path, run_dir: Path, **sections: dict | str | list) -> Path:
    """A recipe of a model that trains in seconds, with some keys changed."""
    recipe: dict = {
        "run": {"dir": str(run_dir), "device": "cpu"},
        "data": {"shards": str(shards), "workers": 0},
        "model": dict(TINY_MODEL),
        "training": {
            "max_steps": 6, "global_batch_size": 12, "micro_batch_size": 2,
            "lr": 1e-3, "warmup_steps": 2, "precision": "fp32", "seed": 7,
        },
        "checkpoint": {"every_steps": 2, "keep_last": 0},
        "logging": {"every_steps": 1, "tensorboard": False},
    }  # fmt: skip
    for section, values in sections.items():
        recipe[section] = values if isinstance(values, str | list) else recipe.get(section, {}) | values
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def start_ranks(ranks: int, *arguments: str, log: Path, code: str = "", preload: str = "", **env: str) -> list[ForkedProcess]:
    """Starts `jadeberta ARGUMENTS` as some ranks on this machine; rank N writes into LOG.N.log.

    Args:
        ranks: processes.
        arguments: of every rank.
        log: path without the rank's ending.
        code: a program that stands for jadeberta's, see `python -c`.
        preload: a library for LD_PRELOAD.
        env: variables of every rank, beside those of the tests.
    """
    port = free_port()
    server, processes = fork_server(preload), []
    for rank in range(ranks):
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMI"))}
        variables |= rank_environment(rank, ranks, port, cores=ranks) | {"OMP_NUM_THREADS": "1"} | env
        with open(log.with_suffix(f".{rank}.log"), "ab") as out:
            processes.append(server.start(list(arguments), variables, out.fileno(), out.fileno(), code))
    return processes


def run_ranks(ranks: int, *arguments: str, log: Path, timeout: float = 300) -> str:
    """Runs `jadeberta ARGUMENTS` as some ranks to a good end; returns what rank 0 printed."""
    processes = start_ranks(ranks, *arguments, log=log)
    try:
        statuses = [p.wait(timeout) for p in processes]
    finally:
        for p in processes:
            p.kill()
    printed = log.with_suffix(".0.log").read_text()
    assert statuses == [0] * ranks, f"statuses {statuses}: {printed[-3000:]}"
    return printed


def printed_by(log: Path) -> str:
    """What all ranks of `start_ranks` have printed."""
    return "".join(path.read_text() for path in sorted(log.parent.glob(f"{log.stem}.*.log")))


def read_metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def copy_model(model: Path, directory: Path, **changes: object) -> Path:
    """Copies the directory of a model, with some values of its config.json changed; returns the copy."""
    directory.mkdir()
    for path in model.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory


def children_of(pid: int | str) -> list[int]:
    """Child processes of all threads of a process; a thread may end while it is asked."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found
