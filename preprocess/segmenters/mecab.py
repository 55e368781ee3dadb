"""MeCab with JumanDIC in a child process, both installed by pip; the engine of the demo.

About three words in a hundred differ from those of Juman++, so a model trained on these words names MeCab as its segmenter.
"""

import re
from importlib.metadata import version
from typing import Any

from jadeberta.shards import ConfigError, SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.engines.mecab_engine import open_tagger
from preprocess.segmenters.cuts import ONE_SCRIPT, cut_long, cut_runs
from preprocess.segmenters.in_child import InChild

REMEDY = "Run 'pip install fugashi jumandic', and leave preprocess.segmenter.memory_mib at 500 or more"

# MeCab adds up the costs of a line's words in 32 bits and dies where the sum does not fit (no path is then cheaper than 2^31 - 1). A word
# costs at most 65,534 (two numbers of 16 bits), so 32,768 words are the fewest that can: 140,000 digits do.
MAX_CHARACTERS = 30_000
# It reads the rest of a run of one kind of character at each place of the run: 66,000 of one script take 4 to 7 s, 1,000 some milliseconds.
MAX_RUN = 1000
RUNS = re.compile(rf"{ONE_SCRIPT}|\d+|[^\w ]+|[_]+")


def fragments(line: str) -> list[str]:
    """Splits a line into fragments of at most MAX_CHARACTERS without runs of over MAX_RUN characters; joined they are the line."""
    if len(line) <= MAX_RUN:
        return [line]
    runs = cut_runs(line, RUNS, MAX_RUN)
    return [fragment for run in runs for fragment in cut_long(run, lambda text, start: MAX_CHARACTERS)]


class Mecab(InChild):
    """fugashi's MeCab with the dictionary of the `jumandic` package."""

    name, remedy = "mecab", REMEDY
    engine = "preprocess.engines.mecab_engine:open_parser"
    fragments = staticmethod(fragments)

    def __init__(self, config: SegmenterConfig) -> None:
        if config.command:
            raise ConfigError(
                f"preprocess.segmenter.command {config.command!r} is for jumanpp and juman, not for mecab. Leave it empty."
            )
        _, dictionary = _open("-Owakati")
        self.description = {
            "engine": "mecab",
            "version": f"fugashi {version('fugashi')}",
            "dictionary": dictionary,
            "options": [],
        }
        super().__init__(config)


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
    try:
        return open_tagger(options)
    except (ImportError, RuntimeError) as e:
        raise SegmenterError(f"MeCab with JumanDIC cannot be loaded ({e}). Run 'pip install fugashi jumandic'.") from e
