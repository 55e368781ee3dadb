"""One rule for every path of a user: `~` is a home directory, a relative path starts at the current directory, nothing else is expanded."""

import argparse
import errno
import os
from pathlib import Path

import pytest

from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError
from jadeberta.jobs.local_launcher import run_directory
from jadeberta.utils.paths import expand_user, path_option, require_current_directory, user_path
from jadeberta.utils.resources import explain_system_error
from preprocess.config import CorpusConfig, EvaluationSetConfig
from preprocess.filters.evaluation_sets import find_files
from preprocess.readers import splits
from preprocess.segmenters.process import find_program
from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_a_tilde_is_the_home_directory_and_all_else_stays(home) -> None:
    assert user_path("~/runs/large") == home / "runs/large" and user_path("~") == home
    assert expand_user("~/corpora/**/*.jsonl/") == f"{home}/corpora/**/*.jsonl/"
    for text in ("runs/large", "./~/x", "a~b", "/data/~x", "price$5/x", ""):
        assert expand_user(text) == text


@pytest.mark.parametrize("text", ["~nobody-of-this-name/x", "$HOME/x", "${SCRATCH}/x", "/data/$USER", "/data/$USER/x"])
def test_a_path_that_would_make_a_directory_with_an_odd_name_is_refused(text) -> None:
    with pytest.raises(ConfigError, match=r"^run.dir .*write the path in full"):
        user_path(text, "run.dir")
    with pytest.raises(argparse.ArgumentTypeError, match="write the path in full"):
        path_option(text)


def test_a_character_that_no_path_can_hold_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^data.shards is 'a\\x00b'; no path can hold such a character"):
        user_path("a\0b", "data.shards")


def test_a_name_that_is_not_utf8_is_refused_wherever_it_comes_from(tmp_path, monkeypatch) -> None:
    name = os.fsdecode("表".encode("shift_jis"))  # as archives of Windows have them
    with pytest.raises(ConfigError, match=r"^run.dir is '.udc95.*'; this name is not UTF-8. Rename it"):
        user_path(name, "run.dir")
    (tmp_path / "corpora" / name).mkdir(parents=True)
    (tmp_path / "corpora" / name / "a.jsonl").write_text('{"text": "文。"}\n')
    with pytest.raises(ConfigError, match=r"^preprocess.corpora.mine.path is .*udc95.*/a.jsonl'; this name is not UTF-8"):
        splits("mine", CorpusConfig("jsonl", str(tmp_path / "corpora/*/*.jsonl")))
    with pytest.raises(ConfigError, match=r"sets.j.path is .*this name is not UTF-8"):
        find_files("j", EvaluationSetConfig(str(tmp_path / "corpora/*/*.jsonl")))
    monkeypatch.chdir(tmp_path / "corpora" / name)
    with pytest.raises(ConfigError, match=r"^the current directory is .*this name is not UTF-8"):
        require_current_directory()


def test_a_current_directory_that_is_gone_is_one_sentence(tmp_path, monkeypatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(
        ConfigError, match=r"^the current directory cannot be used \(No such file or directory\); change into another"
    ):
        require_current_directory()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("text", ["x" * 256, "あ" * 86, "x/" * 2100])
def test_a_path_that_is_too_long_is_not_echoed_as_a_whole(text) -> None:
    with pytest.raises(ConfigError, match=r"^run.dir is longer than a path can be, from .{60} on; correct it.$"):
        user_path(text, "run.dir")
    assert user_path("x" * 255) == Path("x" * 255)


def test_an_empty_option_does_not_mean_the_current_directory() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="empty; name a path"):
        path_option(" ")


def test_every_path_of_a_recipe_is_expanded(home) -> None:
    Path("recipe.yaml").write_text(
        "run: {dir: ~/run}\ndata: {shards: ~/shards}\ncheckpoint: {staging: ~/s}\ndeepspeed: ~/ds.json\n"
    )
    recipe = load_recipe("recipe.yaml")
    found = [recipe.run.dir, recipe.data.shards, recipe.checkpoint.staging, recipe.deepspeed]
    assert found == [f"{home}/{name}" for name in ("run", "shards", "s", "ds.json")]
    (home / "recipe.yaml").write_text("run: {dir: runs/one}")
    assert load_recipe("~/recipe.yaml").run.dir == "runs/one"
    assert load_recipe("recipe.yaml", ("--run.dir", "~/two")).run.dir == f"{home}/two"
    with pytest.raises(ConfigError, match=r"data.shards \$HOME/shards"):
        load_recipe("recipe.yaml", ("--data.shards", "$HOME/shards"))


def test_a_recipe_that_is_no_file_is_called_so(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="a folder, a pipe or a device; a recipe is a file"):
            load_recipe(path)


def test_the_local_launcher_and_the_preprocessing_follow_the_same_rule(home) -> None:
    Path("recipe.yaml").write_text("run: {dir: ~/run}\n")
    assert run_directory(["pretrain", "--config", "recipe.yaml"]) == home / "run"
    assert run_directory(["pretrain", "--run.dir=~/other"]) == home / "other"
    (home / "text.jsonl").write_text('{"text": "文。"}\n')
    assert [split.path for split in splits("mine", CorpusConfig("jsonl", "~/text.jsonl"))] == [home / "text.jsonl"]
    program = home / "jumanpp"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_program("~/jumanpp --model=~/a.jppmdl", "jumanpp", "") == [str(program), f"--model={home}/a.jppmdl"]


def test_no_command_line_reads_a_path_without_the_rule() -> None:
    files = [f for top in ("jadeberta", "preprocess", "bench") for f in (ROOT / top).rglob("*.py")]
    assert [str(f) for f in files if "type=Path" in f.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "this process has no file descriptor left"),
        (MemoryError(), "this host has no memory left"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/x"), "/runs/x: Permission denied. Mend the disk or the path"),
        (OSError(errno.ENOSPC, "No space left on device"), "reading or writing: No space left on device. Mend"),
    ],
)
def test_a_fault_of_the_host_or_a_disk_is_a_sentence_and_one_of_the_program_is_not(error, sentence) -> None:
    assert str(explain_system_error(error)).startswith(sentence)
    assert [explain_system_error(e) for e in (FileNotFoundError(errno.ENOENT, "x"), ValueError("x"))] == [None, None]
