"""No segmentation: text as it is, for `segmenter.engine: none` and for fine-tuning models that read plain text."""

from collections.abc import Iterable, Iterator

from preprocess.segmenters.base import LONE_SURROGATE, Rejected, Segmenter, Spaced


class PlainText(Segmenter):
    """Returns texts unchanged."""

    def __init__(self) -> None:
        self.description = {"engine": "none"}

    def segment_groups(self, groups: Iterable[list[str]]) -> Iterator[list[Spaced]]:
        """Yields every text as it is, newlines and spaces included; one with a lone surrogate, which no file can hold, is rejected."""
        for group in groups:
            found = [LONE_SURROGATE.search(text) for text in group]
            yield [
                Rejected("encoding", f"lone surrogate U+{ord(match[0]):04X} at character {match.start() + 1}") if match else text
                for match, text in zip(found, group, strict=True)
            ]

    def _tokenize(self, lines: list[str]) -> list[Spaced]:
        return list(lines)
