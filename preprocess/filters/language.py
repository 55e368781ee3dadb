"""Optional filter: keeps documents of some languages, as py3langid finds them, and counts the others under the language found.

Off in the faithful recipe. Each document is judged alone, so the result does not depend on other documents, ranks or restarts.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from jadeberta.shards import ConfigError
from preprocess.config import PreprocessConfig, wanted_languages
from preprocess.readers.input_split import Document

JUDGED = 1000
"""Most characters of a document that are judged: half of them from its beginning, half from its middle."""


def describe(config: PreprocessConfig) -> dict[str, Any] | None:
    """Returns all that decides which documents are kept; None: all are.

    Raises:
        ConfigError: py3langid is not installed, or does not know a language.
    """
    if not (wanted := wanted_languages(config)):
        return None
    _require_known("language", wanted)
    _require_known("language_among", config.language_among)
    settings = {"keep": wanted, "probability": config.language_probability, "among": config.language_among, "judged": JUDGED}
    return {"py3langid": _version()} | settings


def keep(documents: Iterator[Document], config: PreprocessConfig, dropped: Counter[str]) -> Iterator[Document]:
    """Yields the documents of the wanted languages.

    Args:
        documents: the documents to judge.
        config: the languages.
        dropped: counts the others by the language found.
    """
    if not (wanted := wanted_languages(config)):
        yield from documents
        return
    identifier = _open(tuple(config.language_among))
    for document in documents:
        found, probability = identifier.classify(_judged(document["text"]))
        if found not in wanted:
            dropped[f"language: {found}"] += 1
        elif probability < config.language_probability:
            dropped[f"language: {found}, unsure"] += 1
        else:
            yield document


def _judged(text: str) -> str:
    """Returns the characters that are judged: a whole document of a book takes seconds, and is no surer for it."""
    if len(text) <= JUDGED:
        return text
    middle, half = len(text) // 2, JUDGED // 2
    return f"{text[:half]}\n{text[middle : middle + half]}"


def _version() -> str:
    try:
        return version("py3langid")
    except PackageNotFoundError:
        raise ConfigError(
            "preprocess.language needs py3langid, and that is not installed. Install it with: pip install 'jadeberta[quality]'."
        ) from None


def _require_known(key: str, names: list[str]) -> None:
    known = _open(()).labels
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"preprocess.{key} names {unknown[0]}, which py3langid does not know; it knows {', '.join(sorted(known))}."
        )


@lru_cache(maxsize=2)
def _open(among: tuple[str, ...]) -> Any:
    """Returns an identifier that chooses among some languages; empty: among all. Reading its model takes half a second."""
    _version()
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    class Identifier(LanguageIdentifier):  # type: ignore[misc]
        """Sums the scores in one order: BLAS divides a sum among its threads, and its last bits then depend on their number."""

        __slots__ = ()

        def _sparse_score(self, visits: Counter[int], table: np.ndarray) -> np.ndarray:
            features = np.fromiter(visits.keys(), np.intp, len(visits))
            counts = np.fromiter(visits.values(), np.float32, len(visits))
            scores: np.ndarray = np.einsum("f,fl->l", np.log1p(counts), table[features]) + self.nb_pc
            return scores

    identifier = Identifier.from_model_file(MODEL_FILE, norm_probs=True)
    if among:
        identifier.set_languages(among)
    return identifier
