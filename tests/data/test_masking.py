"""Masks follow BERT's rule, depend on nothing but their key, and never touch a special token."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jadeberta.data.masking import IGNORED, Masker
from jadeberta.shards.tokenizer_format import CLS, MASK, PAD, SEP, UNK, SpecialTokens

VOCAB = 1000


def make_rows(rows: int = 400) -> np.ndarray:
    tokens = np.random.default_rng(0).integers(5, VOCAB, (rows, 512)).astype(np.uint16)
    tokens[:, 0], tokens[:, 255], tokens[:, 500:] = CLS, SEP, PAD
    tokens[:, 7] = UNK
    return tokens


def mask(masker: Masker, tokens: np.ndarray, first: int = 0):
    samples = np.arange(first, first + len(tokens))
    return masker(tokens, np.zeros(len(tokens), np.int64), samples)


def test_shares_are_15_percent_and_80_10_10() -> None:
    tokens = make_rows()
    ids, labels = mask(Masker(1, VOCAB), tokens)
    chosen = labels != IGNORED
    maskable = np.isin(tokens, (PAD, CLS, SEP), invert=True)
    assert chosen[maskable].mean() == pytest.approx(0.15, abs=0.003)
    original = tokens[chosen]
    assert (ids[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.008)
    # A random token is the original one time in a thousand.
    assert (ids[chosen] == original).mean() == pytest.approx(0.1001, abs=0.006)
    random_ids = ids[chosen][(ids[chosen] != MASK) & (ids[chosen] != original)]
    assert random_ids.min() >= 5 and random_ids.max() < VOCAB
    assert np.bincount(random_ids - 5, minlength=VOCAB - 5).std() < 3 * np.sqrt(len(random_ids) / VOCAB)


def test_special_tokens_and_padding_are_never_masked_but_unknown_words_are() -> None:
    tokens = make_rows()
    ids, labels = mask(Masker(1, VOCAB), tokens)
    special = np.isin(tokens, (PAD, CLS, SEP))
    assert (labels[special] == IGNORED).all() and np.array_equal(ids[special], tokens[special])
    assert (labels[:, 7] == UNK).mean() == pytest.approx(0.15, abs=0.06)


def test_labels_hold_the_original_and_everything_else_is_left_as_it_was() -> None:
    tokens = make_rows()
    ids, labels = mask(Masker(1, VOCAB), tokens)
    chosen = labels != IGNORED
    assert np.array_equal(labels[chosen], tokens[chosen])
    assert np.array_equal(ids[~chosen], tokens[~chosen])


def test_the_mask_of_a_sample_does_not_depend_on_its_neighbours() -> None:
    tokens, masker = make_rows(8), Masker(1, VOCAB)
    ids, labels = mask(masker, tokens)
    alone_ids, alone_labels = masker(tokens[5:6], np.zeros(1, np.int64), np.asarray([5]))
    assert np.array_equal(alone_ids[0], ids[5]) and np.array_equal(alone_labels[0], labels[5])


def test_places_are_chosen_independently_of_each_other_and_of_the_sample() -> None:
    tokens = np.full((4000, 64), 9, np.uint16)
    chosen = mask(Masker(3, VOCAB), tokens)[1] != IGNORED
    assert np.abs(np.corrcoef(chosen.T) - np.eye(64)).max() < 0.09
    assert chosen.mean(0).std() < 0.01
    assert chosen.sum(1).var() == pytest.approx(64 * 0.15 * 0.85, rel=0.1)


def test_whole_words_are_chosen_with_all_their_pieces_or_none() -> None:
    starts = np.zeros(VOCAB, bool)
    starts[5:300] = True
    tokens = make_rows()
    _, labels = mask(Masker(1, VOCAB, word_starts=starts), tokens)
    chosen = labels != IGNORED
    maskable = np.isin(tokens, (PAD, CLS, SEP), invert=True)
    assert chosen[maskable].mean() == pytest.approx(0.15, abs=0.01)
    words = 0
    for row in range(50):
        word: list[bool] = []
        for place in range(512):
            begins = starts[tokens[row, place]] or not maskable[row, place] or not maskable[row, place - 1] or place == 0
            if begins:
                assert len(set(word)) <= 1
                word = []
                words += 1
            if maskable[row, place]:
                word.append(bool(chosen[row, place]))
    assert words > 1000


@pytest.mark.parametrize(
    ("whole_words", "digest"),
    [
        (False, "d158c283ff8755ac2114ef6480a16dd3abd8ffb9e719499ed3eb9c90ef6912bb"),
        (True, "f230eb2a3cfffd1b555847e89e93dade5ab88cb474da73e73f76e54658663380"),
    ],
)
def test_masks_of_the_published_special_tokens_are_those_of_the_first_version(whole_words: bool, digest: str) -> None:
    # The digests were made by the version that knew these five ids alone: checkpoints of that time go on with the same masks.
    tokens = np.random.default_rng(7).integers(0, 32000, (16, 512)).astype(np.uint16)
    tokens[:, 500:] = PAD
    starts = np.arange(32000) % 3 == 0 if whole_words else None
    ids, labels = Masker(5, 32000, 0.15, starts)(tokens, np.arange(16) // 4, np.arange(16) * 7)
    assert hashlib.sha256(ids.astype("<i8").tobytes() + labels.astype("<i8").tobytes()).hexdigest() == digest


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[int, SpecialTokens]:
    size = draw(st.sampled_from([12, 300, 99_574]))
    ids = draw(st.lists(st.integers(0, size - 1) | st.integers(size - 11, size - 1), min_size=5, max_size=11, unique=True))
    pad, cls, sep, unk, mask, *others = ids
    return size, SpecialTokens(pad, cls, sep, unk if draw(st.booleans()) else None, mask, tuple(others))


@given(vocabularies(), st.integers(0, 2**32), st.booleans())
def test_special_tokens_anywhere_are_neither_masked_nor_drawn(
    vocabulary: tuple[int, SpecialTokens], seed: int, whole_words: bool
) -> None:
    size, special = vocabulary
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, size, (6, 300), dtype=np.uint32)
    tokens[:, :40] = generator.choice(special.ids, (6, 40))
    starts = generator.random(size) < 0.5 if whole_words else None
    ids, labels = mask(Masker(seed, size, 0.5, starts, special), tokens)
    chosen, fixed = labels != IGNORED, sorted({*special.ids} - {special.unk})
    assert not chosen[np.isin(tokens, fixed)].any()
    assert np.array_equal(ids[~chosen], tokens[~chosen]) and np.array_equal(labels[chosen], tokens[chosen])
    changed = chosen & (ids != tokens)
    assert ids.min() >= 0 and ids.max() < size
    assert not np.isin(ids[changed], sorted({*special.ids} - {special.mask})).any()


def test_every_token_but_the_special_ones_is_drawn() -> None:
    special = SpecialTokens(pad=9, cls=2, sep=0, unk=None, mask=19, others=(5, 6))
    tokens = np.full((400, 64), 10, np.uint32)
    ids, _ = mask(Masker(1, 20, 0.9, special=special), tokens)
    counts = np.bincount(ids.ravel(), minlength=20)
    ordinary = np.setdiff1d(np.arange(20), [*special.ids, 10])
    assert set(np.flatnonzero(counts)) == {*ordinary.tolist(), 10, 19}
    assert counts[ordinary].std() < 3 * np.sqrt(counts[ordinary].mean())
