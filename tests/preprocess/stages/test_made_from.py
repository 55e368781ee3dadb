"""Which files shards were made from is recorded by hashes that sha256sum(1) gives too, whichever way a file was read."""

import bz2
import gzip
import hashlib
import shutil
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jadeberta.shards import INDEX_NAME, InputError, find_index, open_shards
from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.executors.executor import Executor
from preprocess.readers import input_split
from preprocess.stages.extract import extract
from preprocess.stages.raw_files import list_raw_files
from preprocess.workdir import list_markers, list_parts, list_words, raw_dir
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sums_of(paths: list[Path]) -> str:
    return hashlib.sha256("".join(f"{sha256(path)}  {path.name}\n" for path in paths).encode()).hexdigest()


def described(path: Path, name: str = "") -> dict[str, Any]:
    return {"file": name or path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def test_the_chain_beside_the_index_names_every_link_by_its_hash(tiny_shards: Made) -> None:
    out = tiny_shards.out
    found = orjson.loads((out / "provenance.json").read_bytes())
    assert (found["format"], found["version"]) == ("jadeberta-shards-provenance", 1)
    assert found["index_sha256"] == sha256(find_index(out))
    assert found["shards"] == open_shards(out).index.fingerprint
    assert found["tokenizer"]["spm.model"] == sha256(out / "tokenizer" / "spm.model")
    assert list(found["corpora"]) == ["web", "web-ja"]
    for corpus, made in found["corpora"].items():
        assert made["raw"] == [described(tiny_shards.corpora / f"{corpus}.jsonl")]
        parts = list_parts(out, corpus)
        assert made["documents"]["sha256"] == made["words"]["documents_sha256"] == sums_of(parts)
        assert made["words"]["sha256"] == sums_of(list_words(out, corpus))
        assert made["documents"]["documents"] == tiny.DOCUMENTS[corpus] and made["documents"]["parts"] == len(parts)


def extracted(path: str, out: Path, **settings: Any) -> list[dict[str, Any]]:
    extract(configured(path, **settings), out, Executor())
    return list_raw_files(out, "web")


def configured(path: str, **settings: Any) -> PreprocessConfig:
    corpus = CorpusConfig(settings.pop("format", "jsonl"), path)
    return PreprocessConfig(corpora={"web": corpus}, segmenter=SegmenterConfig("none"), heldout_documents=0, **settings)


def test_every_way_of_reading_gives_the_hash_of_the_file_as_it_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"".join(b'{"text": "%d %s"}\n' % (number, b"x" * 40) for number in range(400))
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jsonl").write_bytes(text)
    (raw / "b.jsonl.gz").write_bytes(gzip.compress(text))
    (raw / "c.jsonl.bz2").write_bytes(bz2.compress(text))
    pq.write_table(pa.table({"text": ["one", "two"]}), raw / "d.parquet")
    for folder in ("x", "y"):
        (raw / folder).mkdir()
        (raw / folder / "e.txt").write_text(f"{folder} の文。\n")
    whole = [described(raw / name) for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.bz2")]
    assert extracted(f"{raw}/*.jsonl*", tmp_path / "whole") == whole
    assert not raw_dir(tmp_path / "whole", "web").exists()  # hashed while they were read
    assert extracted(f"{raw}/*.parquet", tmp_path / "parquet", format="parquet") == [described(raw / "d.parquet")]
    texts = [described(raw / folder / "e.txt", f"{folder}/e.txt") for folder in ("x", "y")]
    assert extracted(f"{raw}/?/*.txt", tmp_path / "texts", format="text") == texts
    monkeypatch.setattr(input_split, "SPLIT_BYTES", 512)
    monkeypatch.setattr(input_split, "LARGE_SHARE", 10**6)
    split = tmp_path / "split"
    assert extracted(f"{raw}/*.jsonl*", split) == whole
    assert len(list_markers(split, "web")) > 10
    # A kill between the documents and the hash: the next start takes it.
    shutil.rmtree(raw_dir(split, "web"))
    assert extracted(f"{raw}/*.jsonl*", split) == whole


def test_documents_of_an_older_version_have_files_without_hashes(tmp_path: Path) -> None:
    raw, out = tmp_path / "a.jsonl", tmp_path / "out"
    raw.write_text('{"text": "文"}\n')
    extracted(str(raw), out)
    (marker,) = list_markers(out, "web")
    content = orjson.loads(marker.read_bytes())
    del content["raw"], content["parts"][0]["sha256"]
    marker.write_bytes(orjson.dumps(content))
    assert extracted(str(raw), out) == [{"file": "a.jsonl", "bytes": raw.stat().st_size}]


def test_a_file_that_changes_before_it_is_hashed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from preprocess.stages import raw_files

    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["one", "two"]}), path)
    before = raw_files.hash_file

    def later(task: Any, out: Path) -> None:
        path.write_bytes(path.read_bytes() + b"more")
        before(task, out)

    monkeypatch.setattr(raw_files, "hash_file", later)
    with pytest.raises(InputError, match=r"d\.parquet: \d+ bytes, and \d+ when it was extracted; put the file back"):
        extracted(str(path), tmp_path / "out", format="parquet")


def test_an_index_is_written_after_what_its_shards_were_made_from(tiny_shards: Made) -> None:
    times = [(tiny_shards.out / name).stat().st_mtime_ns for name in ("provenance.json", INDEX_NAME)]
    assert times == sorted(times)
