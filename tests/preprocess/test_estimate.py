"""What `--dry-run` expects, against what the stages then do."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jadeberta.shards import ShardIndex
from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.estimate import describe_plan, estimate_corpus
from preprocess.readers import cc100
from preprocess.readers import input_split as split
from preprocess.readers.split_file import head_lines
from preprocess.segmenters import open_segmenter
from preprocess.stages.extract import plan_splits
from preprocess.tokenization.encoders import find_tokenizer, open_encoder
from tests.preprocess import small_tokenizers as small
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made
from tests.preprocess.source_files import COMPRESS


def test_a_corpus_that_is_tried_whole_is_expected_as_it_comes_out(tiny_shards: Made, tmp_path: Path) -> None:
    config = tiny_shards.config
    with open_segmenter(config.segmenter) as segmenter:
        splits = plan_splits(config, tmp_path)
        found = {name: estimate_corpus(name, splits[name], tmp_path, segmenter, config) for name in splits}
        done = estimate_corpus("web", plan_splits(config, tiny_shards.out)["web"], tiny_shards.out, segmenter, config)
    for name, expected in found.items():
        markers = tiny_shards.out / "work" / "documents" / name
        assert (expected.splits, expected.done) == (1, 0)
        assert expected.file_bytes == (tiny_shards.corpora / f"{name}.jsonl").stat().st_size
        text = sum(part["bytes"] for marker in _json(markers) for part in marker["parts"])
        assert expected.text_bytes == text
        assert expected.sentences == sum(m["counts"]["sentences"] for m in _json(tiny_shards.out / "work" / "words" / name))
        assert expected.disk["cuts"] == 0 and expected.disk["documents"] > 0 and expected.disk["words"] > 0
        assert set(expected.seconds) == {"extract", "segment", "tokenizer", "pack"} and all(expected.seconds.values())
    assert done.done == 1


def _json(folder: Path) -> list:
    from preprocess.document_files import read_json

    return [read_json(path) for path in sorted(folder.glob("*.json"))]


@pytest.mark.parametrize("engine", ["none", "mecab"])
def test_tokens_of_a_given_tokenizer_are_measured_on_the_text(tmp_path: Path, engine: Any) -> None:
    corpora = tiny.write_corpora(tmp_path / "corpora")
    given = {"segmenter": SegmenterConfig(engine), "sequence_length": 128}
    found = {}
    for name in ("modernbert", "ku_nlp_v3"):
        (tmp_path / name).mkdir()
        config = tiny.configure(corpora, tokenizer=str(small.LAYOUTS[name](tmp_path / name)), **given)
        encoder = open_encoder(find_tokenizer(tmp_path / name))
        splits = plan_splits(config, tmp_path / "out")["web"]
        with open_segmenter(config.segmenter) as segmenter:
            found[name] = estimate_corpus("web", splits, tmp_path / "out", segmenter, config, encoder).disk["shards"]
    shards = tiny.run_stages(config, tmp_path / "out")
    corpus = ShardIndex.load(shards / "index.json").corpora["web"]
    rows = sum(entry.sequences for entry in (*corpus.train, *corpus.valid))
    # Tokens and document numbers of two bytes each; a row of padding more or less for each shard.
    assert found["ku_nlp_v3"] == pytest.approx(rows * 128 * 4, rel=0.1)
    assert found["modernbert"] > 1.1 * found["ku_nlp_v3"]


def test_the_head_of_a_file_is_whole_documents_of_about_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ja.txt.gz"
    texts = [f"{n} " + "text " * 40 for n in range(20_000)]
    path.write_bytes(COMPRESS[".gz"]("\n\n".join(texts).encode()))
    read, lines = head_lines(path, cc100.begins, 1000)
    found = [line.decode() for line in lines if line]
    assert found == texts[: len(found)] and 0 < len(found) < len(texts)
    assert 1000 <= read <= path.stat().st_size
    assert head_lines(path, cc100.begins, 10**9) == (path.stat().st_size, "\n\n".join(texts).encode().split(b"\n"))


def test_the_plan_names_files_that_will_be_split_and_time_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "SPLIT_BYTES", 10_000)
    config = tiny.configure(tiny.write_corpora(tmp_path / "corpora"))
    lines = describe_plan(config, tmp_path / "out", ("extract", "segment"), 4)
    row = next(line for line in lines if line.startswith("web ")).split()
    size = (tmp_path / "corpora/web.jsonl").stat().st_size
    assert int(row[1]) == -(-size // 10_000) and row[2] == "0"
    assert (
        re.search(r"hours \([0-9.]+ ?s\)", lines[-2]) and "on 4 ranks like this one" in lines[-2] and "tokenizer" not in lines[-2]
    )
    assert "GB of disk for all stages: cuts 0.00, documents 0.00" in lines[-1] and lines[-1].endswith("GB are free")
    assert not (tmp_path / "out").exists()


def test_filters_count_in_a_format_without_lines_and_a_filter_that_leaves_nothing_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"文{number}。" for number in range(40)]
    pq.write_table(pa.table({"text": texts, "score": [number % 4 for number in range(40)]}), tmp_path / "a.parquet")
    found = {}
    for name, options in {
        "all": {},
        "where": {"where": "score == 1"},
        "none": {"where": "score > 7"},
        "quality": {},
    }.items():
        quality = {"DocumentLengthFilter": {"min_doc_len": 4}} if name == "quality" else {}
        config = PreprocessConfig({name: CorpusConfig("parquet", str(tmp_path / "*.parquet"), **options)}, quality=quality)
        with open_segmenter(SegmenterConfig("none")) as segmenter:
            splits = plan_splits(config, tmp_path / "out")[name]
            found[name] = estimate_corpus(name, splits, tmp_path / "out", segmenter, config).text_bytes
    size = sum(len(text.encode()) for text in texts)
    assert found["all"] == size and found["where"] == pytest.approx(size / 4, rel=0.1) and found["none"] == 0
    assert found["quality"] == sum(len(text.encode()) for text in texts[10:])
    assert caplog.messages == ["none: no document is left of what was read of a.parquet (40 where)"]
