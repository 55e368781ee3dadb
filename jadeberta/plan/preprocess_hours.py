"""Core-hours and disk of preprocessing, from the rates that docs/preprocess-at-scale.md measured. Pure functions."""

from dataclasses import dataclass
from typing import Any

from jadeberta.config import Recipe
from jadeberta.errors import ConfigError

PAGE = "docs/preprocess-at-scale.md"
RESULTS = "bench/results/preprocess-cpu-2026-11.json"
PUBLISHED_GB = 142.2
"""GB of text of the published corpora, each counted once."""
BYTES_A_TOKEN = 4.9
"""UTF-8 bytes of text in a token of the published tokenizer."""
SHARD_BYTES_A_TOKEN = 4
"""uint16 id and uint16 document number."""
TRAIN_SECONDS, TRAIN_SECONDS_A_MB = 300.0, 0.2
"""Time that one rank takes for seeds and sentencepiece: the most, and for a MB of a smaller text; as `--dry-run` has it."""


@dataclass(frozen=True)
class Rate:
    """MB of text that one core processes in a second."""

    value: float
    low: float
    high: float
    source: str


EXTRACT = {
    "wikipedia": Rate(8.0, 8.0, 13.0, f"Wikipedia from .bz2 ({PAGE})"),
    "rows": Rate(81.8, 38.8, 81.8, f"JSON Lines; low: one .xz file that is split ({RESULTS})"),
    "both": Rate(
        20.8, 8.0, 81.8, f"142.2 GB of Wikipedia, CC-100 and OSCAR in 1.9 core-hours; bounds: Wikipedia, JSON Lines ({PAGE})"
    ),
}
"""Of extract, by what the recipe's corpora are."""
SEGMENT = {
    "jumanpp": Rate(0.425, 0.425, 0.465, f"142.2 GB in 93 core-hours with an RNN; high: 85 with a linear model ({PAGE})"),
    "juman": Rate(0.295, 0.295, 0.295, f"142.2 GB in 134 core-hours, the program's own rate ({PAGE})"),
    "mecab": Rate(4.63, 4.63, 4.63, f"{RESULTS}"),
    "none": Rate(39.0, 39.0, 58.0, "splitting and normalising alone (docs/prepare-data.md)"),
}
"""Of segment, by preprocess.segmenter.engine."""
COUNT = Rate(21.9, 21.9, 21.9, f"counting words ({RESULTS})")
PACK = Rate(15.3, 15.3, 18.2, f"pack; high: of text that is segmented already ({RESULTS})")
DOCUMENT_SHARE, WORD_SHARE = (0.21, 0.36), (0.22, 0.39)
"""Bytes of documents and of words on disk for a byte of text, least and most of the samples."""


def rates_of(recipe: Recipe) -> dict[str, Rate]:
    """Returns the rate of each stage that the recipe's section `preprocess` runs.

    Raises:
        ConfigError: the section names a segmenter that is not known, or is of another form.
    """
    section = recipe.preprocess
    segmenter, corpora = section.get("segmenter") or {}, section.get("corpora") or {}
    for name, value in (("segmenter", segmenter), ("corpora", corpora)):
        if not isinstance(value, dict):
            raise ConfigError(f"preprocess.{name} is {str(value)[:60]}; it must be a section with keys of its own.")
    engine = segmenter.get("engine", "jumanpp")
    if not isinstance(engine, str) or engine not in SEGMENT:
        raise ConfigError(f"preprocess.segmenter.engine is {str(engine)[:60]}; plan knows the speed of {', '.join(SEGMENT)}.")
    kinds = {_is_wikipedia(corpus) for corpus in corpora.values()} or {True, False}
    found = {
        "extract": EXTRACT["both" if len(kinds) == 2 else "wikipedia" if True in kinds else "rows"],
        "segment": SEGMENT[engine],
        "tokenizer": COUNT,
        "pack": PACK,
    }
    if section.get("tokenizer", "train") != "train":
        del found["tokenizer"]
    return found


def _is_wikipedia(corpus: Any) -> bool:
    return isinstance(corpus, dict) and corpus.get("format") == "wikipedia"


def core_hours(rates: dict[str, Rate], text_gb: float) -> dict[str, tuple[float, float, float]]:
    """Returns core-hours by stage: likely, least, most.

    Args:
        rates: as `rates_of` returns them.
        text_gb: GB of text.
    """
    megabytes = 1000 * text_gb
    training = min(TRAIN_SECONDS, TRAIN_SECONDS_A_MB * megabytes)
    found = {}
    for stage, rate in rates.items():
        more = training if stage == "tokenizer" else 0.0
        likely, least, most = ((megabytes / each + more) / 3600 for each in (rate.value, rate.high, rate.low))
        found[stage] = (likely, least, most)
    return found
