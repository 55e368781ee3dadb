"""Whether an answer depends on the sentences asked before it: some are asked again in other company, and the answers compared.

Which ones follows from the documents' ids, so ranks and restarts change nothing. Juman++ 2.0.0-rc3 is known to look beyond the end of a
line (`lines.py` takes that away); this is for what is not known.
"""

from dataclasses import dataclass

import xxhash

from preprocess.segmenters.base import Rejected, Segmenter, Spaced

ONE_IN = 256
"""Documents of which the sentences of one are asked again."""


@dataclass(frozen=True)
class Differing:
    """A sentence that had one answer among its neighbours and another without them."""

    sentence: str
    words: str
    words_again: str


class Recheck:
    """Collects sentences of a part with their answers, and asks them again."""

    def __init__(self, one_in: int = ONE_IN) -> None:
        self._one_in = one_in
        self._answered: list[tuple[str, str]] = []

    @property
    def sentences(self) -> int:
        """How many will be asked again."""
        return len(self._answered)

    def add(self, document_id: str, sentences: list[str], answers: list[Spaced]) -> None:
        """Takes note of a document's sentences that were answered, if its turn has come."""
        if xxhash.xxh3_64_intdigest(document_id.encode()) % self._one_in == 0:
            pairs = zip(sentences, answers, strict=True)
            self._answered += [(sentence, answer) for sentence, answer in pairs if not isinstance(answer, Rejected)]

    def differing(self, segmenter: Segmenter) -> list[Differing]:
        """Asks them again, the last one first; one that is rejected now says nothing about order and is passed over."""
        backwards = self._answered[::-1]
        again = next(segmenter.segment_groups([[sentence for sentence, _ in backwards]]))
        return [
            Differing(sentence, words, second)
            for (sentence, words), second in zip(backwards, again, strict=True)
            if not isinstance(second, Rejected) and second != words
        ]
