"""BERT's masking, keyed by (seed, epoch, sample): the same sample of the same epoch is masked alike on any rank and after any restart.

Chosen tokens become [MASK] (80%), a random token (10%) or stay as they are (10%) (Devlin et al., 2019, section 3.1).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jadeberta.data.sample_order import derive_key, mix64
from jadeberta.model_constants import IGNORED
from jadeberta.shards.tokenizer_format import DEFAULT_SPECIAL_TOKENS, SpecialTokens


@lru_cache(maxsize=4)
def _tables(vocab_size: int, special: SpecialTokens) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that are not special, ascending, int64; and which tokens may be masked, bool [vocab_size].

    Kept: a mask probability that changes from step to step makes a masker for each.
    """
    ordinary = np.setdiff1d(np.arange(vocab_size), special.ids)
    may_mask = np.zeros(vocab_size, bool)
    may_mask[ordinary] = True
    # [UNK] stands for text and may be masked; the other special tokens may not.
    if special.unk is not None:
        may_mask[special.unk] = True
    return ordinary, may_mask


@dataclass(frozen=True)
class Masker:
    """Masks rows of token ids; a pure function of its fields and arguments."""

    seed: int
    vocab_size: int
    probability: float = 0.15
    word_starts: np.ndarray | None = None
    """bool [vocab_size], True for pieces that start a word; where given, whole words are chosen."""
    special: SpecialTokens = DEFAULT_SPECIAL_TOKENS
    """The special tokens of the rows' tokenizer; at least one other token must be in the vocabulary."""
    always_mask: bool = False
    """Every chosen token becomes [MASK], as before a generator of replaced-token detection."""

    def __call__(
        self, tokens: np.ndarray, epochs: np.ndarray, samples: np.ndarray, word_starts: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masks rows.

        Args:
            tokens: token ids, each below vocab_size, [batch, length].
            epochs: epoch of each row, int64 [batch].
            samples: sample index of each row, int64 [batch].
            word_starts: bool [batch, length], True where a word starts in these rows; where given, whole words are chosen.

        Returns:
            Input ids and labels, both int64 [batch, length]. A label is the token where it is predicted, elsewhere IGNORED.
        """
        ids = tokens.astype(np.int64)
        ordinary, may_be_masked = _tables(self.vocab_size, self.special)
        may_mask = may_be_masked[ids]
        if word_starts is None and self.word_starts is not None:
            word_starts = self.word_starts[ids]
        if word_starts is None:
            chosen = may_mask & (self._uniform(ids.shape, epochs, samples, stream=0) < self.probability)
        else:
            chosen = may_mask & self._choose_words(word_starts | ~may_mask, may_mask, epochs, samples)
        labels = np.where(chosen, ids, IGNORED)
        if self.always_mask:
            return np.where(chosen, self.special.mask, ids), labels
        # A stream of its own for each decision: what becomes of a token must not depend on whether it was chosen.
        action = self._uniform(ids.shape, epochs, samples, stream=1)
        drawn = self._bits(ids.shape, epochs, samples, stream=2) % np.uint64(len(ordinary))
        ids = np.where(chosen & (action < 0.8), self.special.mask, ids)
        is_random = chosen & (action >= 0.8) & (action < 0.9)
        ids[is_random] = ordinary[drawn[is_random].astype(np.int64)]
        return ids, labels

    def draws(self, shape: tuple[int, ...], epochs: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Random int64 of `shape`, [batch, length], with which a token is drawn for each place; keyed as the masks are."""
        return self._bits(shape, epochs, samples, stream=3).view(np.int64)

    def _choose_words(self, starts: np.ndarray, may_mask: np.ndarray, epochs: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Chooses words with the same probability, all pieces of a word or none; bool [batch, length]. Changes `starts`."""
        # A piece cut off from its word by the start of the row, or after a special token, counts as a word of its own.
        starts[:, 0] = True
        starts[:, 1:] |= ~may_mask[:, :-1]
        first = np.maximum.accumulate(np.where(starts, np.arange(starts.shape[1]), 0), axis=1)
        drawn = self._uniform(starts.shape, epochs, samples, stream=0) < self.probability
        return np.take_along_axis(drawn, first, axis=1)

    def _bits(self, shape: tuple[int, ...], epochs: np.ndarray, samples: np.ndarray, stream: int) -> np.ndarray:
        """Random uint64 of `shape`, keyed by row and position: two rounds of mixing, first the row's key, then the position."""
        key = derive_key(self.seed, 2, stream)
        with np.errstate(over="ignore"):
            rows = mix64(mix64(key + epochs.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + samples.astype(np.uint64))
            positions = np.arange(1, shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            return mix64(rows[:, None] + positions[None, :])

    def _uniform(self, shape: tuple[int, ...], epochs: np.ndarray, samples: np.ndarray, stream: int) -> np.ndarray:
        """Random float64 in [0, 1), of `shape`."""
        # 53 bits are all that a float64 holds exactly; with more of them some values would be rounded up to 1.
        return (self._bits(shape, epochs, samples, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def read_word_starts(model: bytes) -> np.ndarray:
    """Reads which pieces of a sentencepiece model, the content of its file, start a word; bool [pieces]."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return np.asarray([processor.id_to_piece(i).startswith("▁") for i in range(len(processor))])
