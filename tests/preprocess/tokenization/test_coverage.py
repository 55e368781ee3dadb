"""Coverage: what the pieces make of running words, counted as by hand, and the comparison that a user asks for."""

import shutil
import subprocess
from pathlib import Path

import pytest
import sentencepiece

from preprocess.corpus_report import print_report
from preprocess.document_files import read_json
from preprocess.executors.executor import Executor
from preprocess.segmenters.mecab import JumanDic
from preprocess.stages.tokenizer import train_tokenizer
from preprocess.tokenization.coverage import compare, describe, measure
from preprocess.tokenization.sentencepiece_training import read_counts
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made
from tests.preprocess.test_main import call


@pytest.fixture(scope="module")
def dictionary() -> JumanDic:
    return JumanDic()


def test_figures_are_those_of_the_running_words(tiny_shards: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.tokenization.coverage.BATCH_WORDS", 3)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tiny_shards.out / "tokenizer" / "spm.model"))
    counts = [("京都", 5), ("京都大学", 2), ("𠮷", 1), ("の", 10), ("大学", 2)]
    ids = {word: model.encode(word) for word, _ in counts}
    assert [len(ids[word]) for word, _ in counts] == [1, 3, 2, 1, 1] and ids["𠮷"][1] == 3
    found = measure(model, counts)
    assert (found.one_piece, found.tokens_per_word, found.unknown) == (17 / 20, 25 / 20, 1 / 25)


def test_stage_writes_and_prints_the_coverage_of_its_corpus(tiny_shards: Made, capsys: pytest.CaptureFixture[str]) -> None:
    training = read_json(tiny_shards.out / "tokenizer" / "training.json")
    model = sentencepiece.SentencePieceProcessor(model_file=str(tiny_shards.out / "tokenizer" / "spm.model"))
    running = dict(read_counts(tiny_shards.out / "tokenizer" / "words.tsv"))
    whole = sum(count for word, count in running.items() if len(model.encode(word)) == 1)
    assert training["coverage"]["one_piece"] == whole / training["words"]
    print_report({"tokenizer": {"result": training, "seconds": 1.0, "ranks": 1}})
    assert f"{whole / training['words']:.2%} of the running words are one piece" in capsys.readouterr().out


def test_dictionary_has_its_words_and_no_others(dictionary: JumanDic) -> None:
    assert [word in dictionary for word in [*tiny.NOUNS, *tiny.VERBS]] == [True] * 38
    assert not any(word in dictionary for word in ("カカカ", "京都大学", "", " ", "食べるる"))


def coverage(out: Path) -> subprocess.CompletedProcess[str]:
    return call("coverage", out)


def test_our_seeds_make_more_words_whole_than_sentencepiece_does_by_itself(tmp_path: Path, tiny_shards: Made) -> None:
    out = shutil.copytree(tiny_shards.out, tmp_path / "out")
    training = train_tokenizer(tiny.configure(tiny_shards.corpora, vocab_size=80), out, Executor())
    done = coverage(out)
    assert done.returncode == 0, done.stderr
    report = read_json(out / "report.json")
    found = report["coverage"]["result"]
    assert (found["words"], found["distinct_words"]) == (training["words"], training["distinct_words"])
    assert found["ours"] == training["coverage"] | {"jumandic": found["ours"]["jumandic"]}
    assert found["ours"]["one_piece"] > found["plain"]["one_piece"]
    assert found["ours"]["tokens_per_word"] < found["plain"]["tokens_per_word"]
    assert done.stdout.rstrip("\n") == describe(found)
    print_report(report)  # an entry that is of none of the four stages harms no table


def test_both_models_have_the_options_of_the_tokenizer_and_one_without_seeds_is_refused(
    tmp_path: Path, tiny_shards: Made, dictionary: JumanDic
) -> None:
    out = shutil.copytree(tiny_shards.out, tmp_path / "out")
    words = out / "tokenizer/words.tsv"
    training = train_tokenizer(tiny.configure(tiny_shards.corpora, vocab_size=336, byte_fallback=True), out, Executor())
    found = compare(words, out / "tokenizer/spm.model", training["settings"], dictionary)
    assert found["plain"]["unknown"] == found["ours"]["unknown"] == 0
    train_tokenizer(tiny.configure(tiny_shards.corpora, model_type="bpe"), out, Executor())
    done = coverage(out)
    assert done.returncode == 2 and "made without a list of seeds" in done.stderr


def test_more_pieces_than_sentencepiece_finds_by_itself_are_reported(tiny_shards: Made) -> None:
    done = coverage(tiny_shards.out)
    assert (
        done.returncode == 2 and "sentencepiece alone finds no 150 pieces in it. There is nothing to compare with." in done.stderr
    )


@pytest.mark.parametrize("damage", ["tokenizer/training.json", "tokenizer/words.tsv"])
def test_without_a_finished_tokenizer_it_says_what_to_run(tmp_path: Path, tiny_shards: Made, damage: str) -> None:
    shutil.copytree(tiny_shards.out / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / damage).unlink()
    done = coverage(tmp_path)
    assert done.returncode == 2 and not (tmp_path / "report.json").exists()
    assert "no finished tokenizer with its words.tsv. Run 'python -m preprocess tokenizer' first." in done.stderr
