"""Checks whether answers depend on the sentences before them: some sentences are segmented again among others, and the answers compared.

The choice of sentences follows from the documents' ids, so ranks and restarts do not matter. Juman++ 2.0.0-rc3 is known to look beyond the
end of a line (`lines.py` prevents that); this check is for unknown faults.
"""

from dataclasses import dataclass

import xxhash

from preprocess.segmenters.base import Rejected, Segmenter, Spaced

ONE_IN = 256
"""The sentences of one document in ONE_IN are segmented again."""


@dataclass(frozen=True)
class Differing:
    """A sentence that had different words among other sentences."""

    sentence: str
    words: str
    words_again: str


class Recheck:
    """Collects sentences of a part with their answers, and segments them again."""

    def __init__(self, one_in: int = ONE_IN) -> None:
        self._one_in = one_in
        self._answered: list[tuple[str, str]] = []

    @property
    def sentences(self) -> int:
        """Number of sentences that will be segmented again."""
        return len(self._answered)

    def add(self, document_id: str, sentences: list[str], answers: list[Spaced]) -> None:
        """Collects the answered sentences of a document, if the document is chosen."""
        if xxhash.xxh3_64_intdigest(document_id.encode()) % self._one_in == 0:
            pairs = zip(sentences, answers, strict=True)
            self._answered += [(sentence, answer) for sentence, answer in pairs if not isinstance(answer, Rejected)]

    def differing(self, segmenter: Segmenter) -> list[Differing]:
        """Segments the sentences again, the last one first; one that is rejected now says nothing about order and is skipped."""
        # In reverse order, so that every sentence has other neighbours than before.
        backwards = self._answered[::-1]
        again = next(segmenter.segment_groups([[sentence for sentence, _ in backwards]]))
        return [
            Differing(sentence, words, second)
            for (sentence, words), second in zip(backwards, again, strict=True)
            if not isinstance(second, Rejected) and second != words
        ]
