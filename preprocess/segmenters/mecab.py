"""MeCab with JumanDIC in this process, both installed by pip; the engine of the demo.

About three words in a hundred differ from those of Juman++, so a model trained on these words names MeCab as its segmenter.
"""

import re
from importlib.metadata import version
from typing import Any

from jadeberta.shards import ConfigError, SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.segmenters.base import Segmenter, Spaced

CUT_CHARACTER = re.compile(rb" (?=[\x80-\xbf])")
"""A space that a UTF-8 continuation byte follows."""


class Mecab(Segmenter):
    """fugashi's MeCab with the dictionary of the `jumandic` package."""

    def __init__(self, config: SegmenterConfig) -> None:
        if config.command:
            raise ConfigError(
                f"preprocess.segmenter.command {config.command!r} is for jumanpp and juman, not for mecab. Leave it empty."
            )
        # One string with spaces between the words is twice as fast to take over as node objects.
        self._tagger, dictionary = _open("-Owakati")
        self.description = {
            "engine": "mecab",
            "version": f"fugashi {version('fugashi')}",
            "dictionary": dictionary,
            "options": [],
        }

    def _tokenize(self, lines: list[str]) -> list[Spaced]:
        # MeCab ends a line at NUL; the caller sees the rest missing and rejects it.
        parse = self._tagger.parse
        try:
            return [parse(line) for line in lines]
        except UnicodeDecodeError:
            return [self._parse(line) for line in lines]

    def _parse(self, line: str) -> str:
        try:
            parsed: str = self._tagger.parse(line)
            return parsed
        except UnicodeDecodeError as e:
            # JumanDIC 1.0.0 holds six entries that end inside a character (で, ま or こと and half a kana). Where one of them is
            # chosen, as in でっち奉公, the character is cut into two words: joined again it is whole.
            return CUT_CHARACTER.sub(b"", e.object).decode()


class JumanDic:
    """Set of the words of JumanDIC: `"京都" in JumanDic()`."""

    def __init__(self) -> None:
        """Raises:
        SegmenterError: MeCab or the dictionary is not installed.
        """
        # Partial parsing: what is given with a tab and a star is one word, unknown unless the dictionary has it.
        self._tagger, self.description = _open("-p")

    def __contains__(self, word: str) -> bool:
        nodes = self._tagger.parseToNodeList(f"{word}\t*\nEOS")
        return len(nodes) == 1 and not nodes[0].is_unk


def _open(options: str) -> tuple[Any, str]:
    """Returns MeCab with JumanDIC, and the dictionary's name with its number of entries."""
    try:
        import fugashi
        import jumandic

        tagger = fugashi.GenericTagger(f"{jumandic.MECAB_ARGS} {options}")
    except (ImportError, RuntimeError) as e:
        raise SegmenterError(f"MeCab with JumanDIC cannot be loaded ({e}). Run 'pip install fugashi jumandic'.") from e
    entries = sum(dictionary["size"] for dictionary in tagger.dictionary_info)
    return tagger, f"jumandic {version('jumandic')} ({entries} entries)"
