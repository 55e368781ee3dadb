"""The filters that judge each document alone, in their order: language, quality, evaluation sets. Stages call these functions."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from preprocess.config import PreprocessConfig
from preprocess.filters import decontaminate, language, quality
from preprocess.readers.input_split import Document


def describe(config: PreprocessConfig) -> dict[str, Any]:
    """Returns the entries for the settings of what is made of the documents; filters that are off have none, but `quality` has None.

    Raises:
        ConfigError: a library is missing, or a filter cannot be used as the recipe says.
        InputError: a file of an evaluation set cannot be read.
    """
    found = {"language": language.describe(config), "decontamination": decontaminate.describe(config.decontamination)}
    # Markers of earlier versions have no other entry.
    return {"quality": quality.describe(config.quality)} | {name: entry for name, entry in found.items() if entry is not None}


def keep(
    documents: Iterator[Document], config: PreprocessConfig, dropped: Counter[str], named: list[dict[str, str]]
) -> Iterator[Document]:
    """Yields the documents that no filter drops.

    Args:
        documents: the documents to judge.
        config: section of the recipe.
        dropped: counts the others by the first filter that drops them.
        named: gets the first documents that hold a text of an evaluation set, see `decontaminate.keep`.
    """
    kept = language.keep(documents, config, dropped)
    kept = quality.keep(kept, config.quality, dropped)
    return decontaminate.keep(kept, config.decontamination, dropped, named)
