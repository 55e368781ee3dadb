"""The segment stage: nothing is lost, nothing is done twice, and ranks, kills and batches do not change a byte."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import orjson
import pytest

from jadeberta.errors import ConfigError, InputError
from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.document_files import read_json, write_json, write_jsonl_zst
from preprocess.executors.executor import Executor
from preprocess.stages.extract import extract
from preprocess.stages.segment import segment
from preprocess.text import split_sentences
from preprocess.workdir import list_words, read_segmenter, read_words

ROOT = Path(__file__).parents[3]
STANDIN = [sys.executable, "-I", "-S", str(ROOT / "tests" / "standins" / "jumanpp")]
MECAB = SegmenterConfig(engine="mecab")
JUMANPP = SegmenterConfig(command=shlex.join(STANDIN), batch_sentences=3)
TEXTS = ["今日は 良い天気です。明日も晴れ。\n# 見出し\n雨の日。", "", "「はい。」と言った。EOS", " \n\t", "外国人参政権。\n\n4・"]

RUN = """
import logging, sys
from pathlib import Path
from tests.preprocess.stages.test_segment import JUMANPP, configure
from preprocess.executors.executor import Executor
from preprocess.stages.segment import segment
executor = Executor()
if "--other-options-on-rank-1" in sys.argv:
    JUMANPP.command += " --beam=9" * executor.rank
logging.basicConfig(level=logging.INFO)
segment(configure(JUMANPP), Path(sys.argv[1]), executor)
"""


def configure(segmenter: SegmenterConfig) -> PreprocessConfig:
    corpora = {name: CorpusConfig(format="jsonl", path="unused") for name in ("ja", "web")}
    return PreprocessConfig(corpora=corpora, segmenter=segmenter)


def put_documents(out: Path, corpus: str, parts: list[list[str]]) -> None:
    """What the extract stage leaves: parts of documents, the marker that lists them, and the list of the corpus's markers."""
    folder = out / "work" / "documents" / corpus
    listed = []
    for number, texts in enumerate(parts):
        name = f"piece-{number:05d}.jsonl.zst"
        rows = ({"id": f"{corpus}-{name[6:11]}-{n}", "source": corpus, "title": "", "text": text} for n, text in enumerate(texts))
        write_jsonl_zst(folder / name, rows)
        listed.append({"file": name, "documents": len(texts), "bytes": len("".join(texts).encode())})
    write_json(folder / "piece.json", {"parts": listed})
    write_json(folder.with_name(f"{corpus}.complete.json"), {"pieces": ["piece"]})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    put_documents(tmp_path, "ja", [TEXTS, ["二つ目の部分。"], [f"文書{n}。悪い文。" for n in range(5)]])
    put_documents(tmp_path, "web", [["これは悪い文。良い文。"]])
    return tmp_path


def written(out: Path) -> dict[str, bytes]:
    """Every words and reject file; markers hold times."""
    files = sorted((out / "work" / "words").glob("*/*"))
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files if path.suffix != ".json"}


def run(arguments: list[str], launcher: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*launcher, sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def mpirun(ranks: int) -> tuple[str, ...]:
    program = Path(sys.executable).with_name("mpirun")
    if not program.exists():
        pytest.skip(f"no mpirun beside {sys.executable}")
    return (str(program), "--allow-run-as-root", "--oversubscribe", "-n", str(ranks))


def test_words_of_every_document_in_order_joined_by_one_space(out):
    summary = segment(configure(MECAB), out, Executor())
    rows = [row for part in list_words(out, "ja") for row in read_words(part)]
    assert [row["id"] for row in rows[:5]] == [f"ja-00000-{n}" for n in range(5)]
    assert rows[0]["sentences"] == ["今日 は 良い 天気 です 。", "明日 も 晴れ 。", "# 見出し", "雨 の 日 。"]
    assert rows[1] == {"id": "ja-00000-1", "sentences": []}
    for text, row in zip(TEXTS, rows, strict=False):
        assert ["".join(s.split()) for s in row["sentences"]] == ["".join(s.split()) for s in split_sentences(text)]
    lines = [line for row in rows for line in row["sentences"]]
    expected = {"documents": 11, "sentences": len(lines), "words": sum(len(line.split(" ")) for line in lines)}
    expected |= {"bytes": sum(len(line.encode()) for line in lines), "restarts": 0, "quarantined": {}}
    assert {key: summary["ja"][key] for key in expected} == expected
    assert not list(out.glob("work/words/*/*.rejects.jsonl"))


def test_sentence_that_kills_the_program_is_quarantined_with_its_place_and_counted(out, monkeypatch):
    segment(configure(JUMANPP), out, Executor())
    healthy = {part: list(read_words(part)) for part in list_words(out, "ja")}
    put_documents(out / "again", "ja", [TEXTS, ["二つ目の部分。"], [f"文書{n}。悪い文。" for n in range(5)]])
    put_documents(out / "again", "web", [["これは悪い文。良い文。"]])
    monkeypatch.setenv("STANDIN_ABORT", "悪い")
    summary = segment(configure(JUMANPP), out / "again", Executor())
    rejects = [json.loads(line) for line in (out / "again/work/words/ja/piece-00002.rejects.jsonl").read_text().splitlines()]
    assert [(row["id"], row["sentence number"], row["sentence"], row["reason"]) for row in rejects] == [
        (f"ja-00002-{n}", 2, "悪い文。", "crash") for n in range(5)
    ]
    assert "signal 6" in rejects[0]["detail"]
    assert summary["ja"]["quarantined"] == {"crash": 5} and summary["web"]["quarantined"] == {"crash": 1}
    assert summary["ja"]["restarts"] > 0
    for part, rows in healthy.items():
        survivors = [{**row, "sentences": [s for s in row["sentences"] if "悪" not in s]} for row in rows]
        assert list(read_words(out / "again" / part.relative_to(out))) == survivors


def test_finished_parts_are_skipped_and_an_unfinished_one_is_done(out):
    first = segment(configure(MECAB), out, Executor())
    before = written(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("work/words/*/*")}
    missing = out / "work/words/ja/piece-00001.json"
    missing.unlink()
    assert segment(configure(MECAB), out, Executor())["web"] == first["web"]
    assert written(out) == before
    touched = {path.name for path, then in times.items() if path.stat().st_mtime_ns != then and path.parent.name == "ja"}
    assert touched == {"piece-00001.json", "piece-00001.jsonl.zst"}


def test_words_file_that_was_cut_short_is_made_again(out):
    segment(configure(MECAB), out, Executor())
    before = written(out)
    victim = out / "work/words/ja/piece-00000.jsonl.zst"
    victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(InputError, match="piece-00000"):
        list(read_words(victim))
    segment(configure(MECAB), out, Executor())
    assert written(out) == before


def test_other_engine_is_refused_with_the_difference_and_the_remedy(out):
    segment(configure(MECAB), out, Executor())
    with pytest.raises(
        ConfigError, match=r"segmenter\.engine: 'mecab' then, 'jumanpp' now; give another --out or delete .*words/ja"
    ):
        segment(configure(JUMANPP), out, Executor())


def test_documents_extracted_anew_are_refused_beside_old_words(out):
    segment(configure(MECAB), out, Executor())
    put_documents(out, "web", [["まったく別の、ずっと長い文章がここに入ります。"]])
    with pytest.raises(ConfigError, match=r"piece-00000\.json: made with another source\.bytes: \d+ then, \d+ now"):
        segment(configure(MECAB), out, Executor())


def test_a_corpus_of_empty_documents_says_what_was_dropped(tmp_path):
    (tmp_path / "web.jsonl").write_text('{"text": ""}\n{"text": " "}\n')
    config = PreprocessConfig(
        corpora={"web": CorpusConfig("jsonl", str(tmp_path / "web.jsonl"))}, segmenter=SegmenterConfig("mecab")
    )
    extract(config, tmp_path / "out", Executor())
    with pytest.raises(ConfigError, match=r"no document of 'web' is left \(2 empty\)"):
        segment(config, tmp_path / "out", Executor())


def test_missing_documents_and_missing_words_name_the_stage_to_run(out, tmp_path):
    with pytest.raises(ConfigError, match=r"no documents of 'ja'\. Run 'python -m preprocess extract'"):
        segment(configure(MECAB), tmp_path / "empty", Executor())
    with pytest.raises(ConfigError, match=r"piece-00000\.jsonl\.zst: not segmented yet\. Run 'python -m preprocess segment'"):
        list_words(out, "ja")
    with pytest.raises(ConfigError, match="no words"):
        read_segmenter(out)


def test_documents_of_an_extraction_that_did_not_end_are_refused(out):
    (out / "work/documents/web.complete.json").unlink()
    with pytest.raises(ConfigError, match=r"the documents of 'web' are not all extracted\. Run 'python -m preprocess extract'"):
        segment(configure(MECAB), out, Executor())
    assert not list(out.glob("work/words/*/*"))


def test_description_of_the_engine_is_read_back_unless_words_are_mixed(out):
    segment(configure(MECAB), out, Executor())
    description = read_segmenter(out)
    assert description["engine"] == "mecab"
    marker = out / "work/words/web/piece-00000.json"
    content = read_json(marker)
    content["settings"]["segmenter"]["version"] = "another"
    write_json(marker, content)
    with pytest.raises(ConfigError, match="words of different segmenters"):
        read_segmenter(out)


def test_sentence_lost_by_an_engine_stops_the_stage(out, monkeypatch):
    from preprocess.segmenters.mecab import Mecab

    monkeypatch.setattr(Mecab, "_tokenize", lambda self, lines: lines[1:])
    with pytest.raises(RuntimeError, match="argument 2 is shorter"):
        segment(configure(MECAB), out, Executor())
    assert not list(out.glob("work/words/*/*"))


def calls_of_the_file_system(out: Path, parts: int) -> Counter[str]:
    """How often the stage lists a folder under `out`, and opens a file there, while it segments so many parts."""
    calls: Counter[str] = Counter()

    def see(event: str, arguments: tuple) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(f"{out}/"):
            calls["open" if event == "open" else "list"] += 1

    put_documents(out, "ja", [[f"文{n}。"] for n in range(parts)])
    put_documents(out, "web", [["文。"]])
    watching = [True]
    sys.addaudithook(see)  # stays to the end of the process, and sees nothing more
    segment(configure(MECAB), out, Executor())
    watching.clear()
    return calls


def test_work_beside_the_words_is_in_proportion_to_the_number_of_parts(tmp_path):
    few, many = (calls_of_the_file_system(tmp_path / str(parts), parts) for parts in (5, 25))
    assert 0 < many["list"] == few["list"], "a part lists a folder"
    assert 5 < (many["open"] - few["open"]) / 20 < 20


def test_what_a_killed_process_of_a_pool_left_is_removed_at_the_end(out):
    leftover = out / "work/words/ja/.piece-00001.jsonl.zst.tmp-4711"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    segment(configure(MECAB), out, Executor())
    assert not list(out.glob("work/words/*/.*"))


def test_batch_size_changes_no_byte(out, tmp_path):
    segment(configure(JUMANPP), out, Executor())
    small = written(out)
    for path in out.glob("work/words/*/*"):
        path.unlink()
    segment(configure(SegmenterConfig(command=JUMANPP.command, batch_sentences=5000)), out, Executor())
    assert written(out) == small


def test_two_ranks_write_what_one_rank_writes(out, tmp_path):
    for name, launcher in (("one", ()), ("two", mpirun(2))):
        put_documents(tmp_path / name, "ja", [[f"部分{n}の文。", "悪い文。" * (n % 2)] for n in range(5)])
        put_documents(tmp_path / name, "web", [TEXTS])
        done = run([str(tmp_path / name)], launcher, STANDIN_ABORT="悪い")
        assert done.returncode == 0, done.stderr
    assert written(tmp_path / "two") == written(tmp_path / "one")
    assert len(written(tmp_path / "one")) == 6 + 2


def test_rank_with_another_version_ends_the_stage_before_any_work(out):
    done = run([str(out), "--other-options-on-rank-1"], mpirun(2))
    assert done.returncode != 0
    assert "rank 1 has another segmenter than rank 0 (options:" in done.stderr
    assert not (out / "work/words").exists()


def test_killed_stage_continues_to_the_same_bytes(out):
    put_documents(out / "whole", "ja", [TEXTS, ["遅い文。"], ["終わり。"]])
    put_documents(out / "whole", "web", [TEXTS * 3])
    put_documents(out / "killed", "ja", [TEXTS, ["遅い文。"], ["終わり。"]])
    put_documents(out / "killed", "web", [TEXTS * 3])
    segment(configure(JUMANPP), out / "whole", Executor())
    late = {"STANDIN_LATE": "遅い", "STANDIN_LATE_SECONDS": "5"}
    process = subprocess.Popen([sys.executable, "-c", RUN, str(out / "killed")], cwd=ROOT, env=os.environ | late)
    deadline = time.monotonic() + 60
    while len(list(out.glob("killed/work/words/*/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    finished = {path: path.read_bytes() for path in out.glob("killed/work/words/*/*.json")}
    assert 2 <= len(finished) < 4
    segment(configure(JUMANPP), out / "killed", Executor())
    assert written(out / "killed") == written(out / "whole")
    assert all(path.read_bytes() == content for path, content in finished.items())


def test_markers_are_plain_json_with_settings_and_counts(out):
    segment(configure(MECAB), out, Executor())
    content = orjson.loads((out / "work/words/web/piece-00000.json").read_bytes())
    assert set(content["settings"]) == {"segmenter", "normaliser", "splitter", "source"}
    assert content["settings"]["source"]["name"] == "piece-00000.jsonl.zst"
    assert content["counts"]["documents"] == 1 and content["counts"]["sentences"] == 2
