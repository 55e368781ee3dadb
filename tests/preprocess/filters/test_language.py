"""Language identification: documents of the wanted languages stay, the others are counted under the language found."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jadeberta.shards import ConfigError
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.corpus_report import print_report, write_report
from preprocess.executors.executor import Executor
from preprocess.filters import language
from preprocess.load_config import load_config
from preprocess.stages.extract import extract
from preprocess.workdir import list_parts, read_documents

TEXTS = {
    "ja": "京都は古い都である。長い歴史があり、多くの人が訪れる。",
    "en": "This is a page without a single word of Japanese in it, as web corpora have.",
    "ko": "이것은 한국어로 쓰인 문장이며 일본어가 아닙니다.",
    "zh": "这是一个用中文写成的句子，网页中常常出现这样的句子，我们不需要它们。",
    "noise": "=====",
}


@pytest.fixture
def config(tmp_path: Path) -> PreprocessConfig:
    (tmp_path / "web.jsonl").write_text("\n".join(json.dumps({"id": name, "text": text}) for name, text in TEXTS.items()))
    return PreprocessConfig(corpora={"web": CorpusConfig("jsonl", str(tmp_path / "web.jsonl"))})


def run(config: PreprocessConfig, out: Path, wanted: Any, **settings: Any) -> tuple[list[str], dict[str, int]]:
    """The ids that are kept, and the counts of what is dropped."""
    counts = extract(dataclasses.replace(config, language=wanted, **settings), out, Executor())["web"]
    assert counts["files"]["web.jsonl"]["in_file"] == len(TEXTS)
    return [d["id"].removeprefix("web-") for part in list_parts(out, "web") for d in read_documents(part)], counts["dropped"]


def needs_py3langid() -> None:
    pytest.importorskip("py3langid", reason="language identification needs the extra `quality`, which is not installed")


def test_documents_of_other_languages_are_dropped_and_counted_by_language(
    config: PreprocessConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_py3langid()
    kept, dropped = run(config, tmp_path / "out", "ja")
    assert kept == ["ja"] and sum(dropped.values()) == 4
    assert {"language: en": 1, "language: ko": 1, "language: zh": 1}.items() <= dropped.items()
    counts = extract(dataclasses.replace(config, language="ja"), tmp_path / "out", Executor())
    print_report(write_report(tmp_path / "out", {"extract": {"result": counts, "seconds": 1.0, "ranks": 1}}))
    assert "  dropped: language: ko" in capsys.readouterr().out


def test_the_terminal_shows_the_most_frequent_languages_and_the_sum_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    dropped = {f"language: {name}": number for number, name in enumerate(("af", "de", "el", "en", "fr", "ko", "vi", "zh"), 1)}
    counts = {"documents": 1, "bytes": 1, "dropped": dropped | {"duplicate": 5}, "files": {}}
    print_report({"extract": {"result": {"web": counts}, "seconds": 1.0, "ranks": 1}})
    shown = {
        cells[-2]: int(cells[-1])
        for line in capsys.readouterr().out.splitlines()
        if "dropped:" in line and (cells := line.split())
    }
    assert shown == {"duplicate": 5, "el": 3, "en": 4, "fr": 5, "ko": 6, "vi": 7, "zh": 8, "others": 3}


def test_several_languages_may_be_kept_and_those_that_can_be_found_may_be_restricted(
    config: PreprocessConfig, tmp_path: Path
) -> None:
    needs_py3langid()
    assert run(config, tmp_path / "two", ["ja", "en"])[0] == ["ja", "en"]
    four = ["ja", "en", "ko", "zh"]
    kept, dropped = run(config, tmp_path / "among", "ja", language_among=four)
    # What has no feature of any language counts as one of the four too.
    assert kept == ["ja"] and sum(dropped.values()) == 4
    assert {reason.removesuffix(", unsure").removeprefix("language: ") for reason in dropped} == {"en", "ko", "zh"}


def test_what_is_found_with_less_than_the_probability_is_dropped_as_unsure(config: PreprocessConfig, tmp_path: Path) -> None:
    needs_py3langid()
    kept, dropped = run(config, tmp_path / "out", ["ja", "ko", "zh"], language_probability=0.9999)
    assert "zh" not in kept and dropped["language: zh, unsure"] == 1


def test_a_long_document_is_judged_by_its_beginning_and_its_middle() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    assert language._judged(text) == f"{text[:500]}\n{text[1500:2000]}" and language._judged(text[:1000]) == text[:1000]


def test_the_answer_is_py3langids_own(config: PreprocessConfig) -> None:
    needs_py3langid()
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    own, theirs = language._open(()), LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    for text in TEXTS.values():
        (found, probability), (expected, of_theirs) = own.classify(text), theirs.classify(text)
        assert found == expected and probability == pytest.approx(of_theirs, abs=1e-4)


def test_documents_of_another_language_are_not_mixed(config: PreprocessConfig, tmp_path: Path) -> None:
    needs_py3langid()
    run(config, tmp_path / "out", "ja")
    with pytest.raises(ConfigError, match=r"made with language=.*'keep': \['ja'\].*this run has language=None"):
        run(config, tmp_path / "out", "")
    with pytest.raises(ConfigError, match=r"this run has language=.*0\.8"):
        run(config, tmp_path / "out", "ja", language_probability=0.8)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"wanted": "jp"}, r"preprocess\.language names jp, which py3langid does not know; it knows .*ja, "),
        ({"wanted": "ja", "language_among": ["ja", "japanese"]}, r"preprocess\.language_among names japanese, which"),
    ],
)
def test_an_unknown_language_is_named_with_those_that_are_known(
    config: PreprocessConfig, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    needs_py3langid()
    with pytest.raises(ConfigError, match=said):
        run(config, tmp_path / "out", **settings)


def test_without_the_library_it_is_refused_with_the_way_to_get_it(
    config: PreprocessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise language.PackageNotFoundError(name)

    monkeypatch.setattr(language, "version", absent)
    language._open.cache_clear()
    with pytest.raises(ConfigError, match=r"preprocess\.language needs py3langid, .* pip install 'jadeberta\[quality\]'"):
        run(config, tmp_path / "out", "ja")


@pytest.mark.parametrize(
    "lines, said",
    [
        ("language: ja\n  language_probability: 1.5", r"language_probability is 1\.5; it must lie between 0 and 1"),
        ("language: ja\n  language_probability: .nan", r"language_probability is nan; it must lie between 0 and 1"),
        ("language: ja\n  language_among: [zh, en]", r"language_among does not hold ja, which preprocess\.language names"),
        ("language_among: [ja, en]", r"language_among is set and preprocess\.language is not"),
        ("language:", r"preprocess\.language has no value"),
        ("language: 5", r"preprocess\.language"),
        ("language: {ja: 0.5}", r"preprocess\.language"),
    ],
)
def test_a_wrong_value_in_the_recipe_is_one_sentence(tmp_path: Path, lines: str, said: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"preprocess:\n  corpora:\n    web: {{format: jsonl, path: web.jsonl}}\n  {lines}\n")
    with pytest.raises(ConfigError, match=said) as error:
        load_config(recipe)
    assert "\n" not in str(error.value)


def test_a_recipe_may_name_one_language_or_several(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    for wanted, expected in (("ja", "ja"), ("[ja, en]", ["ja", "en"])):
        recipe.write_text(f"preprocess:\n  corpora:\n    web: {{format: jsonl, path: web.jsonl}}\n  language: {wanted}\n")
        assert load_config(recipe).language == expected
