"""One rule for every path of a user: `~` is a home directory, a relative path starts at the current directory, nothing else is expanded."""

import argparse
from pathlib import Path

import pytest

from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError
from jadeberta.jobs.local_launcher import run_directory
from jadeberta.utils.paths import expand_user, path_option, user_path
from preprocess.config import CorpusConfig
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


@pytest.mark.parametrize("text", ["a\0b", "\ud83d"])
def test_a_character_that_no_path_can_hold_is_named(text) -> None:
    with pytest.raises(ConfigError, match=r"^data.shards is '.*\\.*no path can hold such a character"):
        user_path(text, "data.shards")


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
