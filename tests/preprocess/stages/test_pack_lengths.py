"""Rows of several lengths from the same words: the same documents in each, the bytes of a recipe of one length, and nothing made twice."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jadeberta.shards import INDEX_NAME, ShardIndex, open_shards, verify
from preprocess import cli as preprocess_main
from preprocess.corpus_report import print_report, write_report
from preprocess.estimate import CorpusEstimate, describe_plan, estimate_corpus
from preprocess.executors.executor import Executor
from preprocess.job_status import describe_directory, read_table
from preprocess.segmenters import open_segmenter
from preprocess.stages import shard_set
from preprocess.stages.extract import plan_splits
from preprocess.stages.pack import pack
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made
from tests.preprocess.stages.test_pack import contents, remade, states

LENGTHS = [512, 1024, 128]
SPLITS: tuple[Any, ...] = ("train", "valid")


@pytest.fixture(scope="module", params=["concat", "best_fit"])
def packed(request: pytest.FixtureRequest, tiny_shards: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The tiny corpus with rows of three lengths, packed over finished rows of 512; not to be changed."""
    out = shutil.copytree(tiny_shards.out, tmp_path_factory.mktemp("lengths") / "out")
    config = tiny.configure(tiny_shards.corpora, sequence_length=LENGTHS, packing=request.param)
    pack(config, out, Executor())
    return Made(tiny_shards.corpora, config, out)


@pytest.fixture
def copied(packed: Made, tmp_path: Path) -> Made:
    return Made(packed.corpora, packed.config, shutil.copytree(packed.out, tmp_path / "copy"))


def documents_of(out: Path, split: Any, corpus: str, length: int) -> list[int]:
    """Token ids of the text, in order, without padding and the frames of documents and fragments."""
    shards = open_shards(out, split, sequence_length=length)
    tokens, _ = shards.rows(np.asarray(shards.corpora[corpus]))
    assert tokens.shape[1] == length
    text: list[int] = tokens[tokens > 2].tolist()
    return text


def test_every_length_has_the_same_documents_and_the_same_ones_are_held_out(packed: Made) -> None:
    assert verify(packed.out) == []
    index = ShardIndex.load(packed.out / INDEX_NAME)
    assert (index.version, index.sequence_lengths) == (2, tuple(LENGTHS))
    for split in SPLITS:
        for corpus in packed.config.corpora:
            found = [documents_of(packed.out, split, corpus, length) for length in LENGTHS]
            if packed.config.packing == "concat":
                assert found[0] == found[1] == found[2]
            assert sorted(found[0]) == sorted(found[1]) == sorted(found[2])
            entries = [getattr(index.of_length(length).corpora[corpus], split) for length in LENGTHS]
            assert len({sum(entry.documents for entry in of_length) for of_length in entries}) == 1


def test_shards_of_the_first_length_are_those_of_a_recipe_of_this_length(packed: Made, tiny_shards: Made, tmp_path: Path) -> None:
    for length in LENGTHS:
        out = shutil.copytree(tiny_shards.out, tmp_path / str(length))
        pack(tiny.configure(packed.corpora, sequence_length=length, packing=packed.config.packing), out, Executor())
        alone = ShardIndex.load(out / INDEX_NAME)
        assert (alone.version, alone.sequence_length) == (1, length)
        shown = open_shards(packed.out, sequence_length=length).index
        if length == LENGTHS[0]:
            assert contents(out).items() - contents(packed.out).items() == {(INDEX_NAME, alone.to_json())}
            assert shown.fingerprint == alone.fingerprint and shown.to_json() == alone.to_json()
        for split in SPLITS:
            one, other = open_shards(out, split), open_shards(packed.out, split, sequence_length=length)
            assert len(one) == len(other)
            for here, there in zip(one.rows(np.arange(len(one))), other.rows(np.arange(len(one))), strict=True):
                np.testing.assert_array_equal(here, there)


def test_a_length_that_is_added_leaves_the_others_as_they_are_and_one_that_goes_is_removed(copied: Made) -> None:
    then = states(copied.out)
    settings = {"packing": copied.config.packing}
    pack(tiny.configure(copied.corpora, sequence_length=[512, 128, 2048], **settings), copied.out, Executor())
    assert ShardIndex.load(copied.out / INDEX_NAME).sequence_lengths == (512, 128, 2048)
    assert all(name.endswith("-s2048.tar") for name in remade(copied, then))
    assert not list(copied.out.glob("*-s1024.*")) and not list(copied.out.glob("work/pack/*-s1024.*"))
    assert verify(copied.out) == []
    pack(tiny.configure(copied.corpora, sequence_length=[128, 512], **settings), copied.out, Executor())
    assert ShardIndex.load(copied.out / INDEX_NAME).sequence_lengths == (128, 512) and verify(copied.out) == []
    assert {path.name.partition("-s")[2] for path in copied.out.glob("*.tar")} == {"", "512.tar"}


def test_a_second_run_makes_nothing_and_a_lost_shard_alone_is_made_again(copied: Made) -> None:
    then, before = states(copied.out), contents(copied.out)
    pack(copied.config, copied.out, Executor())
    assert states(copied.out) == then and contents(copied.out) == before
    for name in ("web-00001-s1024.tar", "valid-web-00000-s128.tar", "web-ja-00000.tar"):
        (copied.out / name).unlink()
        (copied.out / "web-00000-s128.sums").unlink(missing_ok=True)
        pack(copied.config, copied.out, Executor())
        assert contents(copied.out) == before and remade(copied, then) == {name}
        then = states(copied.out)


def test_broken_off_at_any_shard_it_goes_on_to_the_same_bytes(copied: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = contents(copied.out), shard_set.write_shard
    names = sorted(path.name for path in copied.out.glob("*.tar"))
    for name in names[:3] + names[-4:]:
        for made in copied.out.glob("*.tar"):
            made.unlink()

        def fails(path: Path, *rows: Any, name: str = name) -> Any:
            if path.name == name:
                raise OSError("no space left")
            return write(path, *rows)

        monkeypatch.setattr(shard_set, "write_shard", fails)
        with pytest.raises(RuntimeError, match="no space left"):
            pack(copied.config, copied.out, Executor())
        assert not (copied.out / INDEX_NAME).exists()
        monkeypatch.setattr(shard_set, "write_shard", write)
        pack(copied.config, copied.out, Executor())
        assert contents(copied.out) == before


def test_no_name_of_a_further_length_is_that_of_another_corpus() -> None:
    corpora = ("web", "web-00000", "web-00000-s1024", "web-s1024", "web-00000-s128-00000")
    made = [
        shard_set.name_of_length(f"{corpus}-{number:05d}", length, (512, 1024, 128))
        for corpus in corpora
        for number in (0, 1, 1024, 123456)
        for length in (512, 1024, 128)
    ]
    assert len(set(made)) == len(made) and not any(a == b for a, b in pairwise(sorted(made)))


def test_verify_status_and_report_say_the_lengths(copied: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = ShardIndex.load(copied.out / INDEX_NAME)
    assert preprocess_main.READ_ONLY_VERBS["verify"](copied.out, None, Executor()) == 0
    counts = [len(open_shards(copied.out, split, sequence_length=length)) for length in LENGTHS for split in SPLITS]
    said = f"{sum(counts[:2])} sequences of 512 tokens and {sum(counts[2:4])} sequences of 1,024 tokens and {sum(counts[4:])} sequences"
    assert f"{copied.out}: {said} of 128 tokens in 2 corpora, all as index.json says" in capsys.readouterr().out
    packed = {row.corpus: (row.done, row.tasks) for row in read_table(copied.out) if row.stage == "pack"}
    assert packed == {f"rows of {length}": (7, 7) for length in LENGTHS}
    (copied.out / INDEX_NAME).unlink()
    (copied.out / "work/pack/web-00000-s128.json").unlink()
    packed = {row.corpus: (row.done, row.tasks) for row in read_table(copied.out) if row.stage == "pack"}
    assert packed == {"rows of the first length": (7, None), "rows of 1024": (7, None), "rows of 128": (6, None)}
    assert any("rows of 1024" in line for line in describe_directory(copied.out))
    report = write_report(tmp_path, {"pack": {"result": index, "seconds": 1.0, "ranks": 1}})
    web = report["pack"]["result"]["web"]
    assert sorted(web["lengths"]) == ["1024", "128"] and web["lengths"]["128"]["train"]["sequences"] > web["train"]["sequences"]
    assert web["lengths"]["128"]["train"]["documents"] == web["train"]["documents"]
    print_report(report)
    assert "valid of 1,024: padding" in capsys.readouterr().out


def test_the_estimate_counts_each_length_and_wide_ids(tiny_shards: Made, tmp_path: Path) -> None:
    def expected(**settings: Any) -> CorpusEstimate:
        config = tiny.configure(tiny_shards.corpora, **settings)
        with open_segmenter(config.segmenter) as segmenter:
            return estimate_corpus("web", plan_splits(config, tmp_path)["web"], tmp_path, segmenter, config)

    one, three, wide = expected(), expected(sequence_length=LENGTHS), expected(vocab_size=100_000)
    assert three.disk["shards"] == 3 * one.disk["shards"] and wide.disk["shards"] == 1.5 * one.disk["shards"]
    assert one.seconds["pack"] < three.seconds["pack"] < 1.3 * one.seconds["pack"] and wide.seconds["pack"] == one.seconds["pack"]
    said = describe_plan(tiny.configure(tiny_shards.corpora, sequence_length=LENGTHS), tmp_path, ("pack",), 1)[0]
    assert "150 pieces, rows of 512 and 1,024 and 128 tokens, into" in said
