"""No segmentation, for fine-tuning models of characters. Not an engine of the segment stage, which needs words for masking."""

from preprocess.segmenters.base import Segmenter, Spaced


class PlainText(Segmenter):
    """Returns texts unchanged."""

    def __init__(self) -> None:
        self.description = {"engine": "none"}

    def _tokenize(self, lines: list[str]) -> list[Spaced]:
        return list(lines)
