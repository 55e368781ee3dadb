"""Quality filters: what HojiChar's filters reject is left out and counted, and nothing else changes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jadeberta.shards import ConfigError
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.executors.executor import Executor
from preprocess.filters import quality
from preprocess.load_config import load_config
from preprocess.stages.extract import extract
from preprocess.workdir import list_parts, read_documents
from tests.helpers import ROOT

ENGLISH = "This is a page without a single word of Japanese in it, as web corpora have."
TEXTS = ["京都は古い都である。長い歴史がある。", "短い。", ENGLISH, "詳しくは公式サイトへ。" * 3]


@pytest.fixture
def config(tmp_path: Path) -> PreprocessConfig:
    path = tmp_path / "web.jsonl"
    path.write_text("\n".join(json.dumps({"id": n, "text": text}) for n, text in enumerate(TEXTS)))
    return PreprocessConfig(corpora={"web": CorpusConfig("jsonl", str(path))})


def run(config: PreprocessConfig, out: Path, filters: dict[str, Any]) -> dict[str, Any]:
    return extract(dataclasses.replace(config, quality=filters), out, Executor())["web"]


def needs_hojichar() -> None:
    pytest.importorskip("hojichar", reason="quality filters need the extra `quality`, which is not installed")


def test_no_filter_is_asked_in_the_recipes_of_published_models() -> None:
    for recipe in ("large", "base", "char_wwm"):
        config = load_config(ROOT / f"recipes/{recipe}.yaml")
        assert config.quality == {} and config.duplicates.remove == "none"
        assert config.language == "" and config.decontamination.sets == {}


def test_a_document_is_dropped_by_the_first_filter_that_rejects_it(config: PreprocessConfig, tmp_path: Path) -> None:
    needs_hojichar()
    report = run(config, tmp_path / "out", {"DocumentLengthFilter": {"min_doc_len": 10}, "AcceptJapanese": None})
    assert report["dropped"] == {"quality: AcceptJapanese": 1, "quality: DocumentLengthFilter": 1}
    texts = [d["text"] for part in list_parts(tmp_path / "out", "web") for d in read_documents(part)]
    assert texts == [TEXTS[0], TEXTS[3]] and report["files"]["web.jsonl"] == {"documents": 2, "in_file": 4}


def test_documents_of_other_filters_are_not_mixed(config: PreprocessConfig, tmp_path: Path) -> None:
    needs_hojichar()
    run(config, tmp_path / "out", {})
    with pytest.raises(ConfigError, match=r"made with quality=None but this run has quality=.*AcceptJapanese"):
        run(config, tmp_path / "out", {"AcceptJapanese": {}})


@pytest.mark.parametrize(
    "filters, said",
    [
        ({"AcceptJapanes": {}}, "names AcceptJapanes, which HojiChar does not have; it has AcceptJapanese, "),
        ({"AcceptJapanese": {"lookup": 5, "p": 0.5}}, r"AcceptJapanese\.p: no filter may depend on chance"),
        ({"NgWordsFilterJa": {}}, r"NgWordsFilterJa cannot be used \(.*dict_path"),
        ({"DocumentNormalizer": {}}, "names DocumentNormalizer, which changes texts"),
    ],
)
def test_a_filter_that_cannot_be_used_is_named_with_the_reason(
    config: PreprocessConfig, tmp_path: Path, filters: dict[str, Any], said: str
) -> None:
    needs_hojichar()
    config.corpora["web"].path = str(tmp_path / "wide.jsonl")
    (tmp_path / "wide.jsonl").write_text(json.dumps({"text": "ＡＢＣ"}))
    with pytest.raises(ConfigError, match=said):
        run(config, tmp_path / "out", filters)


def test_filters_without_the_library_are_refused_with_the_way_to_get_it(
    config: PreprocessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise quality.PackageNotFoundError(name)

    monkeypatch.setattr(quality, "version", absent)
    with pytest.raises(
        ConfigError, match=r"AcceptJapanese, a filter of HojiChar, which is not installed\. .*jadeberta\[quality\]"
    ):
        run(config, tmp_path / "out", {"AcceptJapanese": {}})


def test_filters_are_read_from_a_recipe_in_their_order(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "preprocess:\n  corpora:\n    web: {format: jsonl, path: web.jsonl}\n"
        "  quality:\n    DiscardAds:\n    AcceptJapanese: {lookup_size: 80}\n  duplicates: {remove: near, similarity: 0.7}\n"
    )
    config = load_config(recipe)
    assert list(config.quality.items()) == [("DiscardAds", None), ("AcceptJapanese", {"lookup_size": 80})]
    assert (config.duplicates.remove, config.duplicates.similarity) == ("near", 0.7)
