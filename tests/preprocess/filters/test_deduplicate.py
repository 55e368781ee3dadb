"""Duplicates: of equal or similar documents the first stays, whatever the ranks and restarts, and every other is counted."""

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jadeberta.shards import ConfigError
from preprocess.config import CorpusConfig, DuplicatesConfig, PreprocessConfig, SegmenterConfig
from preprocess.executors.executor import Executor
from preprocess.filters import deduplicate as duplicates
from preprocess.filters.deduplicate import bands_for
from preprocess.stages.extract import extract
from preprocess.stages.pack import heldout_ids
from preprocess.stages.segment import segment
from preprocess.workdir import list_parts, list_words, read_documents, read_markers, read_words
from tests.preprocess.source_files import FOOTER, HEADER, page

KANA = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"


def text_of(number: int, length: int = 300) -> str:
    """A text that has next to no string of five characters in common with any other."""
    generator = random.Random(number)
    return "".join(generator.choices(KANA, k=length))


def changed(text: str, share: float) -> str:
    """The text with a share of its characters changed at its end: about (1 - share) / (1 + share) of all strings stay common."""
    keep = round(len(text) * (1 - share))
    return text[:keep] + text_of(999, len(text) - keep)


TEXTS = {
    "first": [*(text_of(n) for n in range(60)), text_of(3), "短い", f"　{text_of(4)[:150]}\n{text_of(4)[150:]} ", "短い"],
    "second": [
        text_of(100),
        text_of(5),
        *(changed(text_of(n), 0.03) for n in range(10, 20)),
        changed(text_of(20), 0.9),
        "短い。",
    ],
}


def write(folder: Path) -> PreprocessConfig:
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in TEXTS.items():
        rows = (json.dumps({"id": number, "text": text}) for number, text in enumerate(texts))
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    corpora = {name: CorpusConfig("jsonl", str(folder / f"{name}.jsonl")) for name in TEXTS}
    small = {"part_bytes": 9000, "heldout_documents": 4}
    return PreprocessConfig(corpora=corpora, segmenter=SegmenterConfig("mecab"), **small)  # type: ignore[arg-type]


def left(out: Path) -> dict[str, list[int]]:
    """The numbers of the documents that are left of each corpus."""
    return {
        name: [int(d["id"].rpartition("-")[2]) for part in list_parts(out, name) for d in read_documents(part)] for name in TEXTS
    }


def run(config: PreprocessConfig, out: Path, remove: Any, **settings: Any) -> dict[str, Any]:
    return extract(dataclasses.replace(config, duplicates=DuplicatesConfig(remove, **settings)), out, Executor())


def test_the_first_of_equal_texts_stays_and_the_others_are_counted(tmp_path: Path) -> None:
    config = write(tmp_path / "corpora")
    assert left_after_none(config, tmp_path / "none") == {name: len(texts) for name, texts in TEXTS.items()}
    report = run(config, tmp_path / "out", "exact")
    # The same but for its spaces and line breaks is not the same text: 62 stays.
    assert left(tmp_path / "out") == {"first": [*range(60), 61, 62], "second": [0, *range(2, 14)]}
    assert report["first"]["dropped"] == {"duplicate": 2} and report["second"]["dropped"] == {"duplicate": 1}
    assert report["first"]["documents"] == 62 and report["second"]["documents"] == 13
    kept = [TEXTS["first"][n] for n in left(tmp_path / "out")["first"]]
    assert report["first"]["bytes"] == sum(len(text.strip().encode()) for text in kept)
    assert report["first"]["files"]["first.jsonl"] == {"documents": 62, "in_file": 64}


def left_after_none(config: PreprocessConfig, out: Path) -> dict[str, int]:
    return {name: counts["documents"] for name, counts in extract(config, out, Executor()).items()}


@pytest.mark.parametrize("remove", ["exact", "near"])
def test_a_text_that_several_formats_hold_stays_in_the_first_corpus_alone(tmp_path: Path, remove: Any) -> None:
    if remove == "near":
        pytest.importorskip("rensa", reason="near duplicates need the extra `quality`, which is not installed")
    text, own = f"{text_of(1)}。", [f"{text_of(n)}。" for n in range(50, 60)]
    files = {
        "jsonl": ("a.jsonl", lambda other: "\n".join(json.dumps({"text": t}) for t in (other, text))),
        "cc100": ("ja.txt", lambda other: f"{text}\n\n{other}\n"),
        "oscar": ("ja_meta_part_1.jsonl", lambda other: "\n".join(json.dumps({"content": t, "metadata": {}}) for t in (text, other))),
        "wikiextractor": ("wiki_00", lambda other: "".join(f'<doc id="{t[:2]}" title="題">\n題\n{t}\n</doc>\n' for t in (text, other))),
        "wikipedia": ("wiki.xml", lambda other: HEADER.format("0.11") + page(1, text) + page(2, other) + FOOTER),
        "text": ("text.txt", lambda other: f"{other}\n\n{text}\n"),
    }  # fmt: skip
    pq.write_table(pa.table({"text": [own[6], text]}), tmp_path / "rows.parquet")
    corpora = {"of-parquet": CorpusConfig("parquet", str(tmp_path / "rows.parquet"))}
    for (format, (name, content)), other in zip(files.items(), own, strict=False):
        (tmp_path / name).write_text(content(other))
        documents = "paragraph" if format == "text" else ""
        corpora[f"of-{format}"] = CorpusConfig(format, str(tmp_path / name), documents=documents)  # type: ignore[arg-type]
    report = run(PreprocessConfig(corpora=corpora), tmp_path / "out", remove)
    dropped = [counts["dropped"].get("duplicate", 0) for counts in report.values()]
    assert dropped == [0] + [1] * len(files) and [counts["documents"] for counts in report.values()] == [2] + [1] * len(files)
    left_texts = [d["text"] for corpus in corpora for part in list_parts(tmp_path / "out", corpus) for d in read_documents(part)]
    assert sorted(left_texts) == sorted([text, *own[: len(files) + 1]])


def test_near_duplicates_go_and_what_is_merely_alike_stays(tmp_path: Path) -> None:
    pytest.importorskip("rensa", reason="near duplicates need the extra `quality`, which is not installed")
    report = run(write(tmp_path / "corpora"), tmp_path / "out", "near", similarity=0.8)
    assert left(tmp_path / "out") == {"first": [*range(60), 61], "second": [0, 12, 13]}
    assert report["first"]["dropped"] == {"duplicate": 2, "near duplicate": 1}
    assert report["second"]["dropped"] == {"duplicate": 1, "near duplicate": 10}


def test_what_goes_depends_neither_on_partitions_nor_on_a_kill_and_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path / "corpora")
    run(config, tmp_path / "whole", "exact")
    found = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole/work/duplicates").rglob("*.json"))
    assert len(found) > 6
    monkeypatch.setattr(duplicates, "PARTITION_BYTES", 200)
    writes: list[Path] = []
    real_save, real_json = duplicates._save, duplicates.write_json

    class Killed(BaseException):
        pass

    def counting(real: Any) -> Any:
        def write(path: Path, value: Any) -> None:
            writes.append(path)
            if len(writes) % 3 == 0:
                raise Killed
            real(path, value)

        return write

    monkeypatch.setattr(duplicates, "_save", counting(real_save))
    monkeypatch.setattr(duplicates, "write_json", counting(real_json))
    lives = 0
    while True:
        lives += 1
        try:
            run(config, tmp_path / "killed", "exact")
            break
        except Killed:
            pass
    assert lives > 5
    for path in found:
        assert (tmp_path / "killed" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
    done = len(writes)
    run(config, tmp_path / "killed", "exact")
    assert len(writes) == done and [p.name for p in (tmp_path / "killed/work/duplicates").iterdir() if p.name not in TEXTS] == []


@pytest.mark.parametrize("engine", ["mecab", "none"])
def test_words_held_out_documents_and_counts_are_of_what_is_left(engine: Any, tmp_path: Path) -> None:
    config, out = write(tmp_path / "corpora"), tmp_path / "out"
    config.segmenter.engine = engine
    config.duplicates = DuplicatesConfig("exact")
    extract(config, out, Executor())
    segment(config, out, Executor())
    for name, numbers in left(out).items():
        ids = [row["id"] for part in list_words(out, name) for row in read_words(part)]
        assert ids == [f"{name}-{number}" for number in numbers]
        assert heldout_ids(out, name, 4) <= set(ids)
        markers = read_markers(out, name)
        assert sum(part["documents"] for marker in markers for part in marker["parts"]) == len(ids)


def test_words_of_other_duplicates_are_refused_and_none_brings_all_documents_back(tmp_path: Path) -> None:
    config, out = write(tmp_path / "corpora"), tmp_path / "out"
    extract(config, out, Executor())
    segment(config, out, Executor())
    run(config, out, "exact")
    with pytest.raises(ConfigError, match=r"source\.without: None then, '[0-9a-f]{16}' now"):
        segment(config, out, Executor())
    extract(config, out, Executor())
    assert {name: len(numbers) for name, numbers in left(out).items()} == {name: len(texts) for name, texts in TEXTS.items()}
    segment(config, out, Executor())


def test_other_parts_are_looked_through_anew(tmp_path: Path) -> None:
    config, out = write(tmp_path / "corpora"), tmp_path / "out"
    run(config, out, "exact")
    shutil.rmtree(out / "work/documents/second")
    (tmp_path / "corpora/second.jsonl").write_text(json.dumps({"id": 0, "text": text_of(100)}) + "\n")
    report = run(config, out, "exact")
    assert report["second"]["dropped"] == {} and left(out)["second"] == [0]


def test_a_signature_has_the_bands_whose_threshold_is_nearest() -> None:
    for similarity in (0.5, 0.7, 0.8, 0.9):
        bands, rows = bands_for(similarity)
        assert bands * rows <= 128 and (1 / bands) ** (1 / rows) == pytest.approx(similarity, abs=0.03)


def test_near_duplicates_without_the_library_are_refused_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise duplicates.PackageNotFoundError(name)

    monkeypatch.setattr(duplicates, "version", absent)
    with pytest.raises(ConfigError, match=r"needs rensa, .* pip install 'jadeberta\[quality\]'"):
        run(write(tmp_path / "corpora"), tmp_path / "out", "near")
