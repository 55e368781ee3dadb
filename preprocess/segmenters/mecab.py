"""MeCab with JumanDIC in process: all of it installed by pip, the embedded engine of the demo.

About three words in a hundred differ from Juman++'s, so a model trained on its words names it as its segmenter.
"""

import re
from importlib.metadata import version

from jadeberta.shards import ConfigError, SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.segmenters import Answer, Segmenter

CUT_CHARACTER = re.compile(rb" (?=[\x80-\xbf])")
"""A space that a UTF-8 continuation byte follows."""


class Mecab(Segmenter):
    """fugashi's MeCab with the dictionary of the `jumandic` package."""

    def __init__(self, config: SegmenterConfig) -> None:
        if config.command:
            raise ConfigError(
                f"preprocess.segmenter.command {config.command!r} is for jumanpp and juman, not for mecab. Leave it empty."
            )
        try:
            import fugashi
            import jumandic

            # One string with spaces between the words is twice as fast to take over as node objects.
            self._tagger = fugashi.GenericTagger(f"{jumandic.MECAB_ARGS} -Owakati")
        except (ImportError, RuntimeError) as e:
            raise SegmenterError(f"MeCab with JumanDIC cannot be loaded ({e}). Run 'pip install fugashi jumandic'.") from e
        entries = sum(dictionary["size"] for dictionary in self._tagger.dictionary_info)
        self.description = {
            "engine": "mecab",
            "version": f"fugashi {version('fugashi')}",
            "dictionary": f"jumandic {version('jumandic')} ({entries} entries)",
            "options": [],
        }

    def _tokenize(self, lines: list[str]) -> list[Answer]:
        # MeCab ends a line at NUL; the caller sees the rest missing and rejects it.
        return [self._parse(line).split(" ") for line in lines]

    def _parse(self, line: str) -> str:
        try:
            parsed: str = self._tagger.parse(line)
            return parsed
        except UnicodeDecodeError as e:
            # JumanDIC 1.0.0 holds six entries that end inside a character (で, ま or こと and half a kana). Where one of them is
            # chosen, as in でっち奉公, the character is cut into two words: joined again it is whole.
            return CUT_CHARACTER.sub(b"", e.object).decode()
