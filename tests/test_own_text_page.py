"""The commands of docs/your-own-text.md are those of the programs: targets, settings, options and files exist, and their order works."""

import argparse
import re
import shlex
import sys

import pytest
import yaml

from jadeberta.config import known_keys, load_recipe
from preprocess import cli as preprocess_main
from preprocess.load_config import _known_keys, load_config
from tests.helpers import ROOT

PAGE = (ROOT / "docs/your-own-text.md").read_text(encoding="utf-8")
RECIPE = ROOT / "recipes/own_text.yaml"


def commands() -> list[str]:
    """Every command of the page, one string each; a quoted program of several lines belongs to its command."""
    found = []
    for block in re.findall(r"(?ms)^```sh\n(.*?)^```", PAGE):
        lines = [block] if "python -c '" in block else block.splitlines()
        found += [line.strip() for line in lines]
    return found


def options_of(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if word.startswith("--")}


def explained(module: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The options that a verb's parser knows."""
    parsers: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda self, file=None: parsers.append(self))
    with pytest.raises(SystemExit):
        if module == "preprocess":
            monkeypatch.setattr(sys, "argv", ["preprocess", "--help"])
            preprocess_main.main()
        else:
            __import__(module, fromlist=["main"]).main(["--help"])
    return {option for action in parsers[0]._actions for option in action.option_strings}


def test_the_page_has_every_step_in_order() -> None:
    steps = ["make setup", "mkdir -p runs/own/text", "make shards", "launch/local.sh", "evaluate mlm", "export", "fill-mask"]
    places = [next(n for n, command in enumerate(commands()) if step in command) for step in steps]
    assert places == sorted(places)


def test_targets_settings_and_files_of_the_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    local = (ROOT / "launch/local.sh").read_text(encoding="utf-8") + (ROOT / "launch/paths.sh").read_text(encoding="utf-8")
    for command in commands():
        words = shlex.split(command)
        settings = [word.split("=")[0] for word in words if re.match(r"[A-Z]+=", word)]
        if words[0] == "make":
            assert re.search(rf"(?m)^{words[1]}:", makefile) and all(
                re.search(rf"(?m)^{name} +\?=", makefile) for name in settings
            )
        elif words[-1] == "launch/local.sh":
            assert settings and all(f'{name}="${{{name}:-' in local for name in settings)
        for name in re.findall(r"recipes/\w+\.yaml", command):
            assert (ROOT / name).is_file()


def test_options_of_the_commands_are_those_of_their_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "evaluate": explained("jadeberta.evaluation.mlm", monkeypatch),
        "export": explained("jadeberta.release.export", monkeypatch),
        "shards": explained("preprocess", monkeypatch) | {f"--{key}" for key in _known_keys()},
        "launch": {f"--{key}" for key in known_keys()},
    }
    checked = 0
    for command in commands():
        words = shlex.split(command)
        extra = shlex.split(next((w.removeprefix("EXTRA=") for w in words if w.startswith("EXTRA=")), ""))
        if words[0] == ".venv/bin/jadeberta":
            assert options_of(words) - known[words[1]] == set(), command
            checked += 1
        elif extra:
            assert options_of(extra) - known["shards" if words[0] == "make" else "launch"] == set(), command
            checked += 1
    assert checked >= 5


def test_the_recipe_reads_what_the_page_makes_and_writes_where_the_page_looks() -> None:
    recipe, config = load_recipe(RECIPE), load_config(RECIPE)
    assert (recipe.run.dir, recipe.data.shards) == ("runs/own/run", "runs/own/shards")
    assert {corpus.path for corpus in config.corpora.values()} == {"runs/own/text/**/*.txt", "runs/own/text/**/*.jsonl"}
    assert recipe.model.vocab_size == config.vocab_size and recipe.training.accumulation(2) >= 1
    assert yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["run"]["device"] == "auto"
    assert f"{config.vocab_size:,} pieces" in PAGE


def test_every_command_with_a_path_uses_the_folder_of_the_page() -> None:
    shards = [command for command in commands() if command.startswith("make shards")]
    assert len(shards) == 2 and all("OUT=runs/own/shards" in command for command in shards)
    assert all("--preprocess.vocab_size 1500" in command for command in shards) and "--model.vocab_size 1500" in " ".join(
        commands()
    )
