"""Decontamination: a document that holds a text of an evaluation set is dropped and counted under that set; no other is."""

import dataclasses
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jadeberta.shards import ConfigError, InputError
from preprocess.config import CorpusConfig, DecontaminationConfig, EvaluationSetConfig, PreprocessConfig, SegmenterConfig
from preprocess.corpus_report import print_report, write_report
from preprocess.document_files import write_jsonl_zst
from preprocess.executors.executor import Executor
from preprocess.filters import decontaminate
from preprocess.filters.evaluation_sets import fold, read_texts
from preprocess.load_config import load_config
from preprocess.stages.extract import extract
from preprocess.stages.segment import segment
from preprocess.workdir import list_parts, read_documents

QUESTION = "梅雨は、世界的にどのあたりで見られる気象ですか？"
SHORT = "水を出すときに捻るものは？"
PAIR = (
    "時計がついている場所にパブリックマーケットセンターとかかれた看板が設置されています。",
    "屋根の上に看板があり時計もついています。",
)
ORDINARY = "京都は古い都である。長い歴史があり、多くの人が訪れる。"
TEXTS = {
    "plain": ORDINARY,
    "whole": f"{ORDINARY}{QUESTION}答えは東アジアである。",
    "spelled otherwise": f"{ORDINARY} 水を 出すときに\n「捻る」ものは!",
    "part of a long one": f"{ORDINARY}パブリックマーケットセンターとかかれた看板が設置されている。",
    "too little of it": f"{ORDINARY}パブリックマーケットセンターの看板。",
    "of two sets": f"{SHORT}{QUESTION}",
    "too short a text": f"{ORDINARY}畑とは。",
}
DROPPED = {"whole": "jsquad", "spelled otherwise": "jcommonsenseqa", "part of a long one": "jnli", "of two sets": "jsquad"}


def write_sets(folder: Path) -> dict[str, EvaluationSetConfig]:
    """Three files in the formats in which JGLUE ships its tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    squad = {"data": [{"title": "梅雨", "paragraphs": [{"qas": [{"id": "a", "question": QUESTION}], "context": ORDINARY}]}]}
    (folder / "jsquad.json").write_text(json.dumps(squad))
    pairs = [{"sentence_pair_id": "0", "sentence1": PAIR[0], "sentence2": PAIR[1], "label": "neutral"}] * 2
    (folder / "jnli.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, pairs)).encode()))
    choices = [{"q_id": n, "question": text, "choice0": "蛇口", "label": 0} for n, text in enumerate((SHORT, "畑とは？"))]
    (folder / "jcommonsenseqa-1.json").write_text("\n".join(map(json.dumps, choices)) + "\n")
    paths = {"jsquad": "jsquad.json", "jnli": "jnli.json.gz", "jcommonsenseqa": "jcommonsenseqa*.json"}
    return {name: EvaluationSetConfig(str(folder / path)) for name, path in paths.items()}


@pytest.fixture
def config(tmp_path: Path) -> PreprocessConfig:
    rows = (json.dumps({"id": name, "text": text}, ensure_ascii=False) for name, text in TEXTS.items())
    (tmp_path / "web.jsonl").write_text("\n".join(rows))
    return PreprocessConfig(
        corpora={"web": CorpusConfig("jsonl", str(tmp_path / "web.jsonl"))},
        segmenter=SegmenterConfig("mecab"),
        decontamination=DecontaminationConfig(write_sets(tmp_path / "sets")),
    )


def judged(texts: list[str], config: DecontaminationConfig) -> list[int]:
    """The numbers of the texts that are dropped."""
    documents = ({"id": str(number), "text": text} for number, text in enumerate(texts))
    kept = {int(document["id"]) for document in decontaminate.keep(documents, config, decontaminate.Counter(), [])}
    return [number for number in range(len(texts)) if number not in kept]


def test_documents_that_hold_a_text_are_dropped_counted_and_named(
    config: PreprocessConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = extract(config, tmp_path / "out", Executor())["web"]
    kept = [d["id"].removeprefix("web-") for part in list_parts(tmp_path / "out", "web") for d in read_documents(part)]
    assert kept == [name for name in TEXTS if name not in DROPPED]
    expected = {f"evaluation set: {name}": list(DROPPED.values()).count(name) for name in ("jcommonsenseqa", "jnli", "jsquad")}
    assert counts["dropped"] == expected and counts["files"]["web.jsonl"] == {"documents": 3, "in_file": 7}
    assert {row["id"].removeprefix("web-"): row["set"] for row in counts["contaminated"]} == DROPPED
    assert [row["text"] for row in counts["contaminated"]] == [QUESTION, SHORT, PAIR[0], QUESTION]
    report = write_report(tmp_path / "out", {"extract": {"result": {"web": counts}, "seconds": 1.0, "ranks": 1}})
    print_report(report)
    shown = capsys.readouterr().out
    assert re.search(r"  dropped: evaluation set: jsquad +2\n", shown)
    said = "web: 4 documents hold a text of an evaluation set and are dropped; report.json names the first:"
    assert f"{said}\n  web-whole: jsquad: {QUESTION}\n" in shown


def test_a_document_is_dropped_exactly_where_a_plain_search_finds_a_string(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Small blocks, so that strings lie across their borders.
    monkeypatch.setattr(decontaminate, "BLOCK", 64)
    monkeypatch.setattr(decontaminate, "COMPARED", 5)
    generator = random.Random(7)

    def text(length: int) -> str:
        return "".join(generator.choices("あいう、 ABａ。", k=length))

    asked = [text(generator.choice([9, 14, 20, 90, 200])) for _ in range(40)]
    (tmp_path / "set.json").write_text("\n".join(json.dumps({"question": q}) for q in asked))
    sets = {"s": EvaluationSetConfig(str(tmp_path / "set.json"))}
    config = DecontaminationConfig(sets, characters=12, shortest=8)
    texts = []
    for number in range(200):
        source, start = generator.choice(asked), generator.randrange(60)
        texts.append(
            text(generator.randrange(150)) + (source[start : start + 30] if number % 2 else "") + text(generator.randrange(150))
        )
    folded = ["".join(map(chr, fold(q))) for q in asked]
    strings = [q[i : i + 12] for q in folded for i in range(len(q) - 11)] + [q for q in folded if 8 <= len(q) < 12]
    searched = ["".join(map(chr, fold(t))) for t in texts]
    expected = [n for n, t in enumerate(searched) if any(s in t for s in strings)]
    assert 20 < len(expected) < 180
    decontaminate._made.cache_clear()
    assert judged(texts, config) == expected
    decontaminate._made.cache_clear()


def test_letters_do_not_depend_on_where_a_long_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "ｶﾞｷﾞ、がぎ！ＡＢＣ café é 𠮷野家\n１２㌔\ud800"
    whole = fold(text)
    assert "".join(map(chr, whole)) == "ガギがぎabccaféé𠮷野家12キロ"
    for length in range(1, 8):
        monkeypatch.setattr("preprocess.filters.evaluation_sets.PIECE", length)
        assert fold(text).tolist() == whole.tolist()


def test_equal_hashes_of_other_letters_drop_nothing(config: PreprocessConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    decontaminate._made.cache_clear()
    monkeypatch.setattr(decontaminate, "_mixed", lambda hashes: hashes & np.uint64(3))
    texts = list(TEXTS.values())
    found = judged(texts, dataclasses.replace(config.decontamination, characters=12))
    decontaminate._made.cache_clear()
    assert found and all(list(TEXTS)[number] in {*DROPPED, "too little of it"} for number in found)


@pytest.mark.parametrize("ranks", [2, 3])
def test_parts_are_the_same_whatever_the_splits_and_a_changed_set_is_seen(
    config: PreprocessConfig, tmp_path: Path, ranks: int
) -> None:
    lines = (tmp_path / "web.jsonl").read_text().splitlines()
    for number in range(ranks):
        (tmp_path / f"web-{number}.jsonl").write_text("\n".join(lines[number::ranks]))
    config.corpora["web"].path = str(tmp_path / "web-*.jsonl")
    counts = extract(config, tmp_path / "out", Executor())["web"]
    assert sum(counts["dropped"].values()) == len(DROPPED)
    assert extract(config, tmp_path / "out", Executor())["web"] == counts
    # The same texts in another file, with a label more: the same set.
    with open(tmp_path / "sets/jcommonsenseqa-2.json", "w") as f:
        f.write(json.dumps({"question": SHORT, "label": 3}))
    assert extract(config, tmp_path / "out", Executor())["web"] == counts
    with open(tmp_path / "sets/jcommonsenseqa-2.json", "a") as f:
        f.write("\n" + json.dumps({"question": "しゃがんだりする様を何という？"}))
    with pytest.raises(ConfigError, match=r"made with decontamination=.*but this run has decontamination=.*give another --out"):
        extract(config, tmp_path / "out", Executor())
    off = dataclasses.replace(config, decontamination=DecontaminationConfig())
    with pytest.raises(ConfigError, match=r"but this run has decontamination=None"):
        extract(off, tmp_path / "out", Executor())


def test_a_rank_that_sees_other_texts_of_a_set_is_named(config: PreprocessConfig, tmp_path: Path) -> None:
    class Other(Executor):
        """Two ranks, of which the second finds one question more."""

        def run_on_all(self, work: Any) -> list[tuple[str, Any]]:
            first = work()
            with open(tmp_path / "sets/jcommonsenseqa-1.json", "a") as f:
                f.write(json.dumps({"question": "しゃがんだりする様を何という？"}))
            return [("rank 0", first), ("rank 1", work())]

    with pytest.raises(
        ConfigError, match=r"preprocess\.decontamination: rank 1 has .*'texts': 2.* and rank 0 has .*'texts': 1.*; install"
    ):
        extract(config, tmp_path / "out", Other())


def test_parts_and_counts_are_the_same_after_kills(
    config: PreprocessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text * 3 for text in TEXTS.values()]
    for number in range(5):
        rows = (json.dumps({"id": f"{number}-{n}", "text": text}) for n, text in enumerate(texts[number:] + texts[:number]))
        (tmp_path / f"web-{number}.jsonl").write_text("\n".join(rows))
    config.corpora["web"].path = str(tmp_path / "web-*.jsonl")
    config.part_bytes = 300
    whole = extract(config, tmp_path / "whole", Executor())
    parts = [part.relative_to(tmp_path / "whole") for part in list_parts(tmp_path / "whole", "web")]
    writes = 0

    class Killed(BaseException):
        pass

    def dying(path: Path, rows: Any, **options: Any) -> None:
        nonlocal writes
        writes += 1
        if writes % 4 == 0:
            next(iter(rows))  # some of its documents are judged already
            raise Killed
        write_jsonl_zst(path, rows, **options)

    monkeypatch.setattr("preprocess.stages.extract.write_jsonl_zst", dying)
    lives = 0
    while True:
        lives += 1
        try:
            found = extract(config, tmp_path / "killed", Executor())
            break
        except Killed:
            pass
    assert lives > 3 and found == whole and sum(whole["web"]["dropped"].values()) == 5 * len(DROPPED)
    assert [part.relative_to(tmp_path / "killed") for part in list_parts(tmp_path / "killed", "web")] == parts
    for part in parts:
        assert (tmp_path / "killed" / part).read_bytes() == (tmp_path / "whole" / part).read_bytes()


def test_without_sets_markers_are_those_of_earlier_versions(config: PreprocessConfig, tmp_path: Path) -> None:
    extract(dataclasses.replace(config, decontamination=DecontaminationConfig()), tmp_path / "out", Executor())
    marker = json.loads((tmp_path / "out/work/documents/web/web.json").read_text())
    assert not {"language", "decontamination"} & marker["settings"].keys() and "contaminated" not in marker


def test_all_documents_may_be_dropped(config: PreprocessConfig, tmp_path: Path) -> None:
    (tmp_path / "web.jsonl").write_text(json.dumps({"text": QUESTION}))
    counts = extract(config, tmp_path / "out", Executor())["web"]
    assert counts["documents"] == 0 and counts["dropped"] == {"evaluation set: jsquad": 1}
    with pytest.raises((ConfigError, InputError), match="evaluation set: jsquad"):
        segment(config, tmp_path / "out", Executor())


def test_fields_are_those_named_or_the_usual_ones_at_any_depth(tmp_path: Path) -> None:
    sets = write_sets(tmp_path)
    assert read_texts("jsquad", sets["jsquad"]) == [QUESTION]
    assert read_texts("jnli", sets["jnli"]) == list(PAIR)
    sets["jsquad"].fields = ["question", "context"]
    assert read_texts("jsquad", sets["jsquad"]) == [QUESTION, ORDINARY]
    (tmp_path / "list.json").write_text(
        json.dumps({"question": {"stem": SHORT, "choices": [{"text": "蛇口"}]}, "choices": ["畑", "海"]})
    )
    assert read_texts("x", EvaluationSetConfig(str(tmp_path / "list.json"), ["choices", "text"])) == ["蛇口", "畑", "海"]


@pytest.mark.parametrize(
    "content, fields, said",
    [
        (b"", [], "the file is empty; copy or download it again"),
        (b"\n \n", [], "the file is empty"),
        (b'{"question": "a"}\n{"question": \n', [], r"set\.json: line 2 is not JSON \(.*\); take the file as its project"),
        (b'{"data": [', [], r"set\.json: line 1 is not JSON"),
        (b'{"question": "\xff"}', [], r"set\.json: line 1 is not JSON"),
        (b'{"question": "a"}\n7\n', [], "line 2 is not an object with fields"),
        (b'{"text": "a", "label": 1}\n', [], "has no text in question, sentence, sentence1 or sentence2; name fields that it has: text"),
        (b'{"question": "a"}\n', ["question", "context"], "has no text in context; name fields that it has: question"),
        (b'["a", "b"]\n', [], "has no text in question, sentence, sentence1 or sentence2; it has no text in any field"),
        (b'{"question": 5}\n', [], "has no text in question, sentence"),
        ('{"question": "畑とは？"}\n'.encode(), [], "has no text of 10 letters or more in its fields; lower"),
    ],
)  # fmt: skip
def test_a_set_that_cannot_be_used_is_one_sentence(
    config: PreprocessConfig, tmp_path: Path, content: bytes, fields: list[str], said: str
) -> None:
    (tmp_path / "set.json").write_bytes(content)
    config.decontamination.sets = {"own": EvaluationSetConfig(str(tmp_path / "set.json"), fields)}
    with pytest.raises((ConfigError, InputError), match=said) as error:
        extract(config, tmp_path / "out", Executor())
    assert "\n" not in str(error.value) and not (tmp_path / "out/work/documents/web").exists()


def test_missing_damaged_and_huge_files_are_one_sentence(
    config: PreprocessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = config.decontamination.sets = {"own": EvaluationSetConfig(str(tmp_path / "no*.json"))}
    with pytest.raises(InputError, match=r"no file matches; correct preprocess\.decontamination\.sets\.own\.path"):
        extract(config, tmp_path / "out", Executor())
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(json.dumps({"question": QUESTION * 50}).encode())[:-9])
    one["own"].path = str(tmp_path / "cut.json.gz")
    with pytest.raises(InputError, match=r"cut\.json\.gz: byte \d+: .*; copy or download it again"):
        extract(config, tmp_path / "out", Executor())
    one["own"].path = str(tmp_path / "sets/jsquad.json")
    monkeypatch.setattr("preprocess.filters.evaluation_sets.MOST_BYTES", 100)
    with pytest.raises(InputError, match=r"sets\.own hold more than 0 MiB; name those of an evaluation set"):
        extract(config, tmp_path / "out", Executor())
    monkeypatch.undo()
    monkeypatch.setattr(decontaminate, "MOST_LETTERS", 10)
    with pytest.raises(ConfigError, match="the sets up to own hold 22 letters and may hold 10"):
        extract(config, tmp_path / "out", Executor())


@pytest.mark.parametrize(
    "lines, said",
    [
        ("sets: {a: {path: x}}, characters: 5", "characters is 5; it must lie between 12 and 512"),
        ("sets: {a: {path: x}}, shortest: 3", "shortest is 3; it must lie between 8 and 25"),
        ("sets: {a: {path: x}}, shortest: 26", "shortest is 26; it must lie between 8 and 25"),
        ("sets: {a/b: {path: x}}", r"sets\.a/b: a set's name may hold letters, digits, - and _"),
        ("sets: {a: {path: }}", r"sets\.a\.path"),
        ("sets: {a: {}}", r"preprocess\.decontamination\.sets\.a\.path"),
        ("sets: {a: {path: x, field: [question]}}", r"unknown key preprocess\.decontamination\.sets\.a\.field; did you mean .*fields"),
        ("sets: {a: {path: x, fields: question}}", r"preprocess\.decontamination\.sets\.a\.fields: Expected .*list"),
        ("set: {a: {path: x}}", r"unknown key preprocess\.decontamination\.set\.a\.path; did you mean preprocess\.decontamination\.sets"),
    ],
)  # fmt: skip
def test_a_wrong_value_in_the_recipe_is_one_sentence(tmp_path: Path, lines: str, said: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    corpora = "preprocess:\n  corpora:\n    web: {format: jsonl, path: web.jsonl}\n"
    recipe.write_text(f"{corpora}  decontamination: {{{lines}}}\n")
    with pytest.raises(ConfigError, match=said) as error:
        load_config(recipe)
    assert "\n" not in str(error.value)


def test_sets_are_read_from_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    text = (
        "preprocess:\n  corpora:\n    web: {format: jsonl, path: web.jsonl}\n  decontamination:\n    characters: 30\n    sets:\n"
    )
    recipe.write_text(f"{text}      jnli: {{path: 'jnli-*/*.json', fields: [sentence1]}}\n      jsquad: {{path: jsquad.json}}\n")
    found: Any = load_config(recipe).decontamination
    sets = {"jnli": EvaluationSetConfig("jnli-*/*.json", ["sentence1"]), "jsquad": EvaluationSetConfig("jsquad.json")}
    assert found == DecontaminationConfig(sets, 30, 10)
