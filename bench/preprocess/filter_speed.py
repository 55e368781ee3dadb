"""The filters that judge each document: megabytes of UTF-8 a second of one core.

Language identification is measured beside py3langid on the same beginning of each document, the search for evaluation texts beside
normalising alone. Texts are the sample's documents as the readers yield them; the evaluation sets are the sample's JGLUE.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from bench.preprocess.measure import Row, some_of, speed_row, speeds
from preprocess import readers
from preprocess.config import DecontaminationConfig, EvaluationSetConfig, PreprocessConfig
from preprocess.filters import decontaminate, language
from preprocess.readers.discover import discover
from preprocess.text import normalise

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SETS = {
    name: EvaluationSetConfig(str(DATA / f"jglue/{name}-v1.3/valid*.json"))
    for name in ("jsts", "jnli", "jsquad", "jcommonsenseqa")
}
MEGABYTES = 8
"""Of each corpus; an eighth where it has to be quick."""


def measure(work: Path, rounds: int, quick: bool) -> list[Row]:
    """The rows of the filters; none where the sample is not there."""
    if not (DATA / "corpora").is_dir() or not (DATA / "jglue").is_dir():
        print("filters: left out, as the sample (../shared/data beside the repository) is not there")
        return []
    judged = PreprocessConfig(language="ja", decontamination=DecontaminationConfig(SETS))
    language.describe(judged)  # reads the model
    decontaminate.describe(judged.decontamination)  # reads the sets
    bare = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    rows = []
    for name, config in discover(DATA / "corpora").items():
        found = (d["text"] for split in readers.splits(name, config) for d in readers.documents(split, Counter()))
        texts = some_of(found, MEGABYTES / 8 if quick else MEGABYTES)
        documents = [{"id": str(number), "text": text} for number, text in enumerate(texts)]

        ways = {
            "ours": _each(documents, language.keep, judged, Counter()),
            "py3langid alone": _each_text(texts, bare.classify, language.JUDGED),
        }
        rows.append(speed_row(f"language identification, {name}", speeds(ways, texts, rounds), None, texts))
        searched = _each(documents, decontaminate.keep, judged.decontamination, Counter(), [])
        ways = {"ours": searched, "normalise alone": _each_text(texts, normalise)}
        rows.append(speed_row(f"search for evaluation texts, {name}", speeds(ways, texts, rounds), None, texts))
    return rows


def _each(documents: list[dict[str, str]], keep: Callable[..., Iterator[Any]], *settings: Any) -> Callable[[], object]:
    return lambda: sum(1 for _ in keep(iter(documents), *settings))


def _each_text(texts: list[str], work: Callable[[str], object], most: int | None = None) -> Callable[[], object]:
    return lambda: [work(text[:most]) for text in texts]
