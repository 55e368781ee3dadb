"""No segmentation: text as it is, for models of characters. Not an engine of the stage, which keeps words for their masking."""

from preprocess.segmenters.base import Segmenter, Spaced


class PlainText(Segmenter):
    """Gives a text back with nothing between its characters but its own spaces."""

    def __init__(self) -> None:
        self.description = {"engine": "none"}

    def _tokenize(self, lines: list[str]) -> list[Spaced]:
        return list(lines)
