"""Rows of documents: one after the other, or each whole in the row that it fits best; no token is lost, moved or doubled."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from preprocess.tokenization import packing
from preprocess.tokenization.packing import (
    BORDER_TOKENS,
    WINDOW,
    EncodedDocument,
    Rows,
    best_fit,
    concatenate,
    fit,
    split_document,
)

CLS, SEP = 1, 2
CONTENT = 510
FIRST = 10
"""The first token that is text."""
Texts = list[list[int]]
"""Per document the tokens of its sentences."""


def counted(texts: Texts) -> list[EncodedDocument]:
    """Documents whose text counts from 10 on without a break, so that each token says where it comes from."""
    documents, token = [], FIRST
    for sentences in texts:
        length = sum(sentences)
        body = range(token, token := token + length)
        assert token < 2**16
        documents.append(EncodedDocument(np.asarray([CLS, *body, SEP], np.uint16), np.cumsum(sentences)))
    return documents


def fragments_of(rows: Rows) -> list[list[list[int]]]:
    """Per row the tokens of each of its document numbers."""
    return [
        [tokens[numbers == number].tolist() for number in range(1, int(numbers.max()) + 1)]
        for tokens, numbers in zip(rows.tokens, rows.numbers, strict=True)
    ]


def by_hand(documents: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Rows and document numbers of documents one after the other, token by token."""
    stream = [(token, number) for number, document in enumerate(documents) for token in document]
    rows, numbers = [], []
    for start in range(0, len(stream), 512):
        row = stream[start : start + 512]
        seen = list(dict.fromkeys(number for _, number in row))
        rows.append([token for token, _ in row] + [0] * (512 - len(row)))
        numbers.append([seen.index(number) + 1 for _, number in row] + [0] * (512 - len(row)))
    return rows, numbers


@pytest.mark.parametrize(
    "lengths",
    [[], [1], [512], [511, 1], [513], [512, 512], [100, 412, 3], [2000], [3] * 700, [300, 300, 1500, 2, 2, 509]],
    ids=str,
)
def test_concatenated_rows_are_the_documents_one_after_the_other(lengths: list[int]) -> None:
    ids = [np.random.default_rng(length).integers(1, 60_000, length, dtype=np.uint16) for length in lengths]
    tokens, numbers, documents = concatenate(EncodedDocument(i, np.asarray([len(i)])) for i in ids)
    expected = by_hand([i.tolist() for i in ids])
    assert tokens.dtype == numbers.dtype == np.uint16 and tokens.shape == numbers.shape == (len(expected[0]), 512)
    assert (tokens.tolist(), numbers.tolist()) == expected and documents == len(lengths)


texts = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=40), max_size=25)
word_starts = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random(2**16) < 0.3)


@given(texts, word_starts)
@example([[510], [511], [1]], np.ones(2**16, bool))
@example([[1] * 1021], np.zeros(2**16, bool))
@settings(deadline=None, max_examples=80)
def test_best_fit_holds_every_token_once_and_in_order_and_no_fragment_crosses_a_row(lengths: Texts, starts: np.ndarray) -> None:
    documents = counted(lengths)
    rows = best_fit(documents, starts)
    assert rows.documents == len(lengths)
    whole = {tuple(document.tokens.tolist()) for document in documents if len(document.tokens) <= 512}
    found = [fragment for row in fragments_of(rows) for fragment in row]
    assert all(fragment[0] == CLS and fragment[-1] == SEP and min(fragment[1:-1]) >= FIRST for fragment in found)
    assert sum(map(len, found)) == np.count_nonzero(rows.tokens)
    bodies = sorted(fragment[1:-1] for fragment in found)
    assert [token for body in bodies for token in body] == list(range(FIRST, FIRST + sum(map(sum, lengths))))
    assert whole <= {tuple(fragment) for fragment in found}
    ends = {int(document.tokens[-2]) for document in documents}
    assert ends <= {body[-1] for body in bodies}  # no fragment is of two documents


@given(texts, word_starts)
@settings(deadline=None, max_examples=40)
def test_best_fit_numbers_fragments_from_one_in_the_order_of_the_text_and_pads_at_the_end(
    lengths: Texts, starts: np.ndarray
) -> None:
    rows = best_fit(counted(lengths), starts)
    for tokens, numbers in zip(rows.tokens.tolist(), rows.numbers.tolist(), strict=True):
        live = sum(token != 0 for token in tokens)
        assert 0 not in tokens[:live] and not any(numbers[live:])
        assert numbers[0] == 1 and all(b - a in (0, 1) for a, b in pairwise(numbers[:live]))
    order = [[fragment[1] for fragment in row] for row in fragments_of(rows)]
    assert all(row == sorted(row) for row in order) and order == sorted(order)


@given(st.lists(st.integers(1, 512), max_size=300))
@settings(deadline=None)
def test_any_two_rows_are_too_full_for_one(lengths: list[int]) -> None:
    rows = fit(lengths)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    used = sorted(sum(lengths[place] for place in row) for row in rows)
    assert max(used, default=0) <= 512 and (len(rows) < 2 or sum(used[:2]) > 512)


def test_a_fragment_goes_where_it_leaves_the_least_space() -> None:
    assert fit([60, 400, 150, 300]) == [[0, 2, 3], [1]]


@pytest.mark.parametrize(("mean", "sigma"), [(430, 1.2), (240, 1.0), (380, 1.1), (120, 1.0)])
def test_padding_of_documents_as_long_as_those_of_the_web_is_under_one_percent(mean: int, sigma: float) -> None:
    generator = np.random.default_rng(0)
    lengths = np.maximum(8, generator.lognormal(np.log(mean) - sigma**2 / 2, sigma, 6000).astype(int))
    documents = [sentence_lengths(length, generator) for length in lengths.tolist()]
    text = np.full(4, FIRST, np.uint16)
    rows = best_fit(
        [EncodedDocument(np.resize(text, sum(s) + 2), np.cumsum(s)) for s in documents], generator.random(2**16) < 0.9
    )
    assert np.count_nonzero(rows.tokens == 0) / rows.tokens.size < 0.01


def sentence_lengths(length: int, generator: np.random.Generator) -> list[int]:
    """A document of so many tokens in sentences of 25 on average."""
    sentences: list[int] = []
    while (left := length - sum(sentences)) > 0:
        sentences.append(min(left, 1 + int(generator.gamma(2, 12))))
    return sentences


def bodies(fragments: list[np.ndarray]) -> list[int]:
    return [len(fragment) - 2 for fragment in fragments]


EVERYWHERE, NOWHERE = np.ones(2**16, bool), np.zeros(2**16, bool)


def test_long_document_is_cut_after_the_last_sentence_that_ends_near_the_end_of_the_row() -> None:
    (document,) = counted([[500, 3, 4, 600]])  # sentences end 500, 503, 507 tokens on
    assert bodies(split_document(document, EVERYWHERE)) == [507, 510, 90]


def test_without_a_sentence_end_near_it_is_cut_between_words_and_else_where_the_row_ends() -> None:
    (document,) = counted([[CONTENT - BORDER_TOKENS - 1, 1000]])
    starts = NOWHERE.copy()
    starts[[FIRST + 505, FIRST + 505 + CONTENT - BORDER_TOKENS - 1]] = True  # the second one is too far from its row's end
    assert bodies(split_document(document, starts)) == [505, CONTENT, 1501 - 505 - CONTENT]


def test_cut_document_gives_each_fragment_its_own_frame() -> None:
    (document,) = counted([[1200]])
    fragments = split_document(document, NOWHERE)
    assert [(fragment[0], fragment[-1]) for fragment in fragments] == [(CLS, SEP)] * 3
    assert np.concatenate([fragment[1:-1] for fragment in fragments]).tolist() == document.tokens[1:-1].tolist()


def test_no_more_fragments_than_a_window_are_weighed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed = []
    monkeypatch.setattr(packing, "fit", lambda lengths, length: (weighed.append(len(lengths)), fit(lengths, length))[1])
    rows = best_fit(counted([[2]] * (2 * WINDOW + 5)), EVERYWHERE)
    assert weighed == [WINDOW, WINDOW, 5] and len(rows.tokens) == 2 * WINDOW * 4 // 512 + 1


def test_rows_of_a_window_do_not_depend_on_what_comes_after_it() -> None:
    lengths = [[1 + n % 20] for n in range(WINDOW)]
    few, many = (best_fit(counted(texts), EVERYWHERE) for texts in ([*lengths[:-1], [1]], [*lengths[:-1], [1], [100], [200]]))
    assert np.array_equal(many.tokens[: len(few.tokens)], few.tokens)
