"""The tokenizer: whole words as pieces, the same ids from sentencepiece and Hugging Face, the same bytes from the same words."""

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from jadeberta.shards import ConfigError, OutputError, file_sha256
from jadeberta.shards.tokenizer_format import SPECIAL_TOKENS
from preprocess.document_files import read_json, write_jsonl_zst
from preprocess.executors.executor import Executor
from preprocess.segmenters import Segmenter, open_segmenter
from preprocess.stages import tokenizer as stage
from preprocess.stages.pack import encode_documents
from preprocess.stages.tokenizer import train_tokenizer
from preprocess.text import normalise
from preprocess.tokenization.word_counts import RankedWords
from preprocess.workdir import list_words, read_words
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made, Sample

EXAMPLE = "京都 大学 で 自然 言語 処理 を [MASK] する 。"
UNK, MASK = 3, 4


class Both:
    """Raw sentencepiece and AutoTokenizer on one directory."""

    def __init__(self, directory: Path) -> None:
        self.raw = sentencepiece.SentencePieceProcessor(model_file=str(directory / "spm.model"))
        self.auto: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(directory))

    def differing(self, sentences: list[str]) -> list[str]:
        """Sentences to which the two give other ids."""
        found: list[str] = []
        for start in range(0, len(sentences), 5000):
            batch = sentences[start : start + 5000]
            bare = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
            pairs = zip(batch, self.raw.encode(batch), self.auto(batch, **bare)["input_ids"], strict=True)
            found += [sentence for sentence, ours, theirs in pairs if ours != theirs]
        return found

    def crossing(self, sentences: list[str]) -> list[str]:
        """Sentences whose ids are not those of their words one after the other."""
        words = list({word for sentence in sentences for word in sentence.split(" ")})
        ids = dict(zip(words, self.raw.encode(words), strict=True))
        whole = zip(sentences, self.raw.encode(sentences), strict=True)
        return [s for s, found in whole if found != [piece for word in s.split(" ") for piece in ids[word]]]


def sentences_of(out: Path, corpora: Iterable[str]) -> list[str]:
    return [s for corpus in corpora for part in list_words(out, corpus) for row in read_words(part) for s in row["sentences"]]


@pytest.fixture(scope="module")
def sample_sentences(sample: Sample) -> list[str]:
    return sentences_of(sample.out, ("wikipedia", "cc100", "oscar2201", "oscar2301"))


@pytest.fixture(scope="module")
def sample_both(sample: Sample) -> Both:
    return Both(sample.out / "tokenizer")


@pytest.fixture(scope="module")
def tiny_both(tiny_shards: Made) -> Both:
    return Both(tiny_shards.out / "tokenizer")


@pytest.mark.slow
def test_nearly_every_running_word_of_the_sample_is_one_piece(sample_both: Both, sample_sentences: list[str]) -> None:
    words = Counter(word for sentence in sample_sentences for word in sentence.split(" "))
    assert len(sample_both.raw) == 32000
    whole = sum(words[word] for word, ids in zip(words, sample_both.raw.encode(list(words)), strict=True) if len(ids) == 1)
    assert whole / words.total() >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.long), 5])
def test_the_two_tokenizers_agree_on_every_sentence_of_the_sample(
    sample_both: Both, sample_sentences: list[str], every: int
) -> None:
    assert len(sample_sentences) > 250_000
    assert sample_both.differing(list(set(sample_sentences[::every]))) == []


@pytest.mark.slow
def test_no_piece_crosses_a_word_boundary_in_the_sample(sample_both: Both, sample_sentences: list[str]) -> None:
    assert sample_both.crossing(list(set(sample_sentences))) == []


@pytest.mark.slow
def test_mask_in_a_sentence_is_one_token_between_whole_words(sample_both: Both) -> None:
    pieces = sample_both.auto.convert_ids_to_tokens(sample_both.auto(EXAMPLE)["input_ids"])
    assert pieces == ["[CLS]", "▁京都", "▁大学", "▁で", "▁自然", "▁言語", "▁処理", "▁を", "[MASK]", "▁する", "▁。", "[SEP]"]


def test_words_of_a_small_corpus_are_whole_and_both_tokenizers_agree(tiny_shards: Made, tiny_both: Both) -> None:
    sentences = sentences_of(tiny_shards.out, tiny.DOCUMENTS)
    assert tiny_both.raw.encode("京都 の 大学 を 読む 。", out_type=str) == ["▁京都", "▁の", "▁大学", "▁を", "▁読む", "▁。"]
    assert tiny_both.differing(sentences) == [] and tiny_both.crossing(sentences) == []


def test_special_tokens_have_the_ids_of_their_places(tiny_both: Both) -> None:
    assert SPECIAL_TOKENS == ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    assert [tiny_both.raw.id_to_piece(i) for i in range(5)] == list(SPECIAL_TOKENS)
    auto = tiny_both.auto
    assert [auto.pad_token_id, auto.cls_token_id, auto.sep_token_id, auto.unk_token_id, auto.mask_token_id] == [0, 1, 2, 3, 4]
    assert len(auto) == len(tiny_both.raw) == 150 and auto.model_max_length == 512


def test_sentence_and_pair_are_framed_as_deberta_wants_them(tiny_both: Both) -> None:
    kyoto, university = tiny_both.raw.encode(["京都", "大学"])
    one, two = tiny_both.auto("京都"), tiny_both.auto("京都", "大学 大学")
    assert one["input_ids"] == [1, *kyoto, 2] and one["token_type_ids"] == [0, 0, 0]
    assert two["input_ids"] == [1, *kyoto, 2, *university, *university, 2] and two["token_type_ids"] == [0, 0, 0, 1, 1, 1]


def test_special_tokens_written_in_a_text_never_become_special_ids(tiny_both: Both) -> None:
    rows = [{"sentences": ["[MASK]", "京都 [MASK] [CLS] x[MASK]y [PAD][SEP] [UNK] ▁[MASK]▁"]}]
    ((ids, _),) = encode_documents(rows, tiny_both.raw)
    assert ids.dtype == np.uint16 and ids[0] == 1 and ids[-1] == 2
    assert not set(ids[1:-1].tolist()) & {0, 1, 2, 4}
    assert tiny_both.auto("京都 [MASK]", add_special_tokens=False)["input_ids"][-1] == MASK


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Segmenter]:
    with open_segmenter(tiny.configure(tmp_path_factory.mktemp("segmenter")).segmenter) as opened:
        yield opened


@given(st.lists(st.text(), max_size=6).map("。".join) | st.text("京都大学のを▁ \t\n𠮷😀か\u3099A1", max_size=20))
@example("前▁後")
@example("▁")
@example("𠮷 𠀋 ሀ")
@settings(deadline=None)
def test_any_normalised_and_segmented_text_has_the_same_ids_from_both(tiny_both: Both, segmenter: Segmenter, text: str) -> None:
    special = any(token in text for token in SPECIAL_TOKENS)
    answer = segmenter.segment([normalise(text)])[0]
    assert isinstance(answer, list)
    assert special or tiny_both.differing([" ".join(answer)]) == []


def test_word_of_unknown_characters_is_one_unknown_piece_of_its_own(tiny_both: Both) -> None:
    (mark,) = {tuple(tiny_both.raw.encode("𠮷")[:-1])}
    assert tiny_both.raw.encode("京都 𠮷ሀ𠮷 大学") == [*tiny_both.raw.encode("京都"), *mark, UNK, *tiny_both.raw.encode("大学")]


def test_pieces_that_fit_in_two_orders_are_ordered_alike(tmp_path: Path) -> None:
    """'III', 'I' and 'I', 'III' have the same score: rounding must not choose between them."""
    stems = sorted(set("".join(tiny.NOUNS)))
    counts = Counter({stem + "I" * n: 50 - 3 * n + place for place, stem in enumerate(stems) for n in (1, 3)})
    write_jsonl_zst(tmp_path / "ranked.jsonl.zst", [counts.most_common()])
    ranked = RankedWords(counts.total(), len(counts), [tmp_path / "ranked.jsonl.zst"])
    stage._train(tiny.configure(tmp_path, vocab_size=60), tmp_path, ranked, {}, tmp_path)
    both = Both(tmp_path)
    assert both.raw.encode("III", out_type=str)[-1] == "III"
    before = [f"{stem} " * words for stem in stems for words in (1, 5, 20)]
    sentences = [f"{words}{stem}{'I' * n}" for words in before for stem in stems[:8] for n in range(4, 9)]
    assert both.differing(sentences) == [] and both.crossing(sentences) == []


def test_same_words_give_the_same_bytes_in_any_directory(tiny_shards: Made, tmp_path: Path) -> None:
    again = tmp_path / "別の, directory"
    shutil.copytree(tiny_shards.out / "work", again / "work")
    train_tokenizer(tiny_shards.config, again, Executor())
    for path in (tiny_shards.out / "tokenizer").iterdir():
        assert (again / "tokenizer" / path.name).read_bytes() == path.read_bytes(), path.name
    assert b"seed.tsv" not in (again / "tokenizer" / "spm.model").read_bytes()


def test_counts_are_of_running_words_times_the_repeats_of_their_corpus(tiny_shards: Made) -> None:
    expected: Counter[str] = Counter()
    for corpus, weight in (("web", 1), ("web-ja", 3)):
        for sentence in sentences_of(tiny_shards.out, [corpus]):
            for word in sentence.split(" "):
                expected[word] += weight
    lines = (tiny_shards.out / "tokenizer" / "words.tsv").read_text(encoding="utf-8").splitlines()
    assert {word: int(count) for word, count in (line.split("\t") for line in lines)} == dict(expected)
    found = read_json(tiny_shards.out / "tokenizer" / "training.json")
    assert (found["words"], found["distinct_words"]) == (expected.total(), len(expected))


@pytest.fixture
def copied(tiny_shards: Made, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_shards.out, tmp_path / "copy")


def test_finished_tokenizer_is_kept_and_a_damaged_or_missing_one_is_made_again(tiny_shards: Made, copied: Path) -> None:
    model = copied / "tokenizer" / "spm.model"
    sha256, inode = file_sha256(model), model.stat().st_ino
    assert train_tokenizer(tiny_shards.config, copied, Executor())["sha256"] == sha256
    assert model.stat().st_ino == inode
    for damage in (lambda: model.write_bytes(b"damaged"), model.unlink):
        damage()
        train_tokenizer(tiny_shards.config, copied, Executor())
        assert file_sha256(model) == sha256


def test_other_settings_give_another_tokenizer(tiny_shards: Made, copied: Path) -> None:
    train_tokenizer(tiny.configure(tiny_shards.corpora, vocab_size=140), copied, Executor())
    assert len(Both(copied / "tokenizer").raw) == 140


def test_too_many_pieces_are_refused_with_the_number_that_fits(tiny_shards: Made, copied: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        train_tokenizer(tiny.configure(tiny_shards.corpora, vocab_size=32000), copied, Executor())
    words = read_json(tiny_shards.out / "tokenizer" / "training.json")["distinct_words"]
    start = f"preprocess.vocab_size 32000 is too large for a text of {words} distinct words, which gives at most "
    assert str(refused.value).startswith(start)
    most = int(str(refused.value).removeprefix(start).split()[0])
    assert str(refused.value).endswith(
        f"{most} pieces. Set preprocess.vocab_size and model.vocab_size to {most} or less, or add text."
    )
    train_tokenizer(tiny.configure(tiny_shards.corpora, vocab_size=most), copied, Executor())
    assert len(Both(copied / "tokenizer").raw) == most


def test_fewer_pieces_than_characters_are_refused_with_the_number_needed(tiny_shards: Made, copied: Path) -> None:
    with pytest.raises(ConfigError, match=r"^preprocess\.vocab_size 20 is too small: .* alone are (\d+) pieces\. Set .* to more"):
        train_tokenizer(tiny.configure(tiny_shards.corpora, vocab_size=20), copied, Executor())
    assert not (copied / "tokenizer" / "training.json").exists()


def test_a_full_disk_under_the_trainer_is_not_taken_for_a_fault_of_the_text(
    tiny_shards: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> bytes:
        raise RuntimeError("INTERNAL: writing failed: No space left on device")

    shutil.copytree(tiny_shards.out, tmp_path / "out")
    monkeypatch.setattr(stage, "train_sentencepiece", fails)
    with pytest.raises(OutputError, match=r"No space left on device, on rank 0\. Make room"):
        train_tokenizer(tiny.configure(tiny_shards.corpora, vocab_size=140), tmp_path / "out", Executor())
