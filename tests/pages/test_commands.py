"""Every command of the pages is run by a test, or the program's own parser accepts its words and the reason why it is not run is here."""

import argparse
import contextlib
import importlib
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jadeberta.config
from jadeberta import cli
from jadeberta.config import known_keys
from jadeberta.errors import ConfigError, JadebertaError
from jadeberta.utils.command_line import OneSentenceParser
from preprocess.load_config import _known_keys
from tests.helpers import ROOT, write_published
from tests.pages.page_commands import Command, blocks, commands, variables_of
from tests.status.run_files import DAY, NOW, RunFiles

SYSTEM = {
    "cat": "shows a file of a run", "head": "shows a file of a run", "tail": "shows a file of a run",
    "git": "clones over the network", "kill": "sends a signal to a rank; tests/training/test_watchdog.py has its effect", "cd": "",
    "mkdir": "makes a folder", "mv": "moves checkpoints aside",
    "hf": "downloads a model over the network",
    "xz": "unpacks the generated corpus", "zcat": "unpacks the generated corpus",
}  # fmt: skip
"""Programs of the system, and what for."""
NOT_RUN = {
    "sbatch": "needs Slurm; tests/cluster submits these scripts on a cluster of its own, where there is one",
    ".venv/bin/tensorboard": "a server that runs until it is interrupted",
    "launch/local.sh": "trains for minutes; tests/jobs/test_local_launcher.py starts small runs with it",
    "make demo": "trains for minutes; tests/test_end_to_end.py has its result, and .ci/run runs its parts",
    "make test": "is these tests",
    "make setup": "installs gigabytes; tests/test_setup.py has its parts",
    "make docs": "needs the network; tests/pages/test_site.py builds the site where mkdocs is installed",
    "make shards": "takes long at the sizes of the pages; tests/test_own_text_page.py and tests/preprocess/stages make small shards",
    "python -m preprocess": "needs corpora; tests/preprocess/stages runs every stage",
    "python -m preprocess.demo": "tests/preprocess/test_demo_corpus.py writes the corpus",
    "python -m jadeberta.shards.scrub": "needs shards; tests/shards/test_scrub.py runs it",
    "python -m jadeberta.jobs.local_launcher": "trains for minutes; tests/jobs/test_local_launcher.py runs it",
    "python -m http.server": "a server that runs until it is interrupted",
    "python docs/pictures/make_pictures.py": "needs chromium; tests/pages/test_pictures.py runs it where it is installed",
    "python -m pytest": "is part of these tests",
    "python bench/race.py": "takes three hours; tests/bench/test_race_bench.py runs its short form",
    "python -c": "needs a release; tests/test_end_to_end.py fills masks with one",
    "jadeberta pretrain": "needs shards; tests/test_end_to_end.py trains",
    "jadeberta evaluate": "needs a trained model; tests/test_end_to_end.py evaluates one",
    "jadeberta export": "needs a trained model; tests/test_end_to_end.py exports one",
    "jadeberta publish": "needs a release and the Hub; tests/hub publishes to a stand-in",
    "jadeberta verify-release": "needs a release; tests/provenance follows one to its corpora",
    "openssl genpkey": "tests/provenance/test_signed_release.py makes such keys",
    "openssl pkey": "tests/provenance/test_signed_release.py makes such keys",
    "jadeberta fill": "needs a trained model; tests/release/test_raw_text.py runs it",
    "jadeberta compare": "needs two models; tests/compare compares small ones",
    "jadeberta finetune": "needs JGLUE and a model; tests/finetune trains on small files",
    "jadeberta checkpoint": "needs checkpoints; tests/checkpoint/ lists, verifies and prunes them",
    "jadeberta race": "needs shards and days; tests/race runs a small race",
    "jadeberta scaling": "needs Slurm; tests/scaling runs its points as ranks of one machine",
    "jadeberta publish-metrics --to wandb": "needs an account; tests/publish writes W&B's offline directory",
    "jadeberta publish-metrics --to mlflow": "needs a server; tests/publish writes MLflow's file store",
}
"""Commands that no test here runs, each with the reason, and where it is run in another form."""
RUN = ("jadeberta plan", "jadeberta status", "jadeberta report", "jadeberta watch", "jadeberta publish-metrics")
"""Commands that a test here runs as the page has them, on a small run directory in place of the page's."""
MODULES = {
    "preprocess": "preprocess.cli", "preprocess.demo": "preprocess.demo.__main__",
    "jadeberta.shards.scrub": "jadeberta.shards.scrub", "jadeberta.jobs.local_launcher": "jadeberta.jobs.local_launcher",
}  # fmt: skip
SBATCH = {"--nodes", "--time", "--export", "--array", "--dependency", "--job-name", "--no-requeue", "--ntasks-per-node"}
"""Options of sbatch that the pages use; Slurm knows each."""


class Parsed(BaseException):
    """Ends a program when it has read its command line. No `except Exception` takes it for a fault."""

    def __init__(self, options: Any, rest: list[str]) -> None:
        self.options, self.rest = options, rest


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Parsed]:
    """Calls a program until its own parser, or the check of its recipe, has accepted the command line."""
    read_all, read_known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args

    def known(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        result = read_known(self, args, namespace)
        if type(self) not in (argparse.ArgumentParser, OneSentenceParser) or self.prog == "jadeberta":
            return result
        raise Parsed(*result)

    def strict(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        if type(self) not in (argparse.ArgumentParser, OneSentenceParser) or self.prog == "jadeberta":
            return read_all(self, args, namespace)
        options, rest = read_known(self, args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        raise Parsed(options, [])

    def recipe(options: Any, *rest: Any) -> None:
        raise Parsed(checked(options, *rest), [])

    def refuse(error: JadebertaError) -> None:
        raise error

    checked = jadeberta.config.recipe_from_arguments
    monkeypatch.setattr(cli, "_report", refuse)  # what follows it would end this process
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", known)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", strict)
    monkeypatch.setattr(jadeberta.config, "recipe_from_arguments", recipe)

    def call(program: Callable[[], object], *arguments: str) -> Parsed:
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        try:
            program()
        except Parsed as parsed:
            return parsed
        except SystemExit as e:
            raise ConfigError(f"ended with status {e.code}; what it printed says why") from e
        raise AssertionError("it did something before it had read its command line")

    return call


def all_commands() -> list[Command]:
    return commands((*SYSTEM, "sbatch", "make", "openssl"))


def kind_of(command: Command) -> str:
    """The words by which the tables above name a command."""
    program, *rest = command.words
    if program == ".venv/bin/jadeberta":
        to = (
            ["--to", rest[rest.index("--to") + 1]]
            if "--to" in rest and rest[rest.index("--to") + 1] in ("wandb", "mlflow")
            else []
        )
        return " ".join(["jadeberta", rest[0], *to])
    if program == ".venv/bin/python":
        return " ".join(["python", *rest[: 2 if rest[0] == "-m" else 1]])
    return f"{program} {rest[0]}" if program in ("make", "openssl") else program


def training_options(settings: dict[str, str], defaults: dict[str, str]) -> list[str]:
    """Options that a script hands to `pretrain` or `preflight`."""
    given = defaults | settings
    return [
        "--config",
        given["RECIPE"],
        "--run.dir",
        given["RUN_DIR"],
        "--data.shards",
        given["SHARDS"],
        *given.get("EXTRA", "").split(),
    ]


def test_every_block_has_a_command_that_is_run_or_has_its_reason() -> None:
    found = all_commands()
    assert len(found) > 120 and {page for page, _ in blocks()} == {command.page for command in found}
    kinds = {kind_of(command) for command in found} - SYSTEM.keys() - {"EXTRA"}
    assert {kind for kind in kinds if kind not in NOT_RUN and kind not in RUN} == set()
    assert {kind for kind in NOT_RUN if kind not in kinds} == set(), "no page has this any more"


def test_the_tests_that_the_reasons_name_exist() -> None:
    named = re.findall(r"tests/[\w/.]*\w", " ".join([*NOT_RUN.values(), *SYSTEM.values()]))
    assert len(named) > 10 and [name for name in named if not (ROOT / name).exists()] == []


def test_programs_accept_the_words_of_the_pages(parse: Callable[..., Parsed], tmp_path: Path) -> None:
    """Options, choices, numbers and keys of the recipe, also those that a script or EXTRA hands on."""
    source = str(write_published(tmp_path))  # weights that the pages take from elsewhere
    keys, checked = {"training": set(known_keys()), "preprocess": set(_known_keys())}, 0

    def accept(command: Command, program: Callable[[], object], *arguments: str) -> Parsed:
        words = [source if word == "/data/models/deberta-v2-base-japanese" else word.replace("%a", "1") for word in arguments]
        try:
            parsed = parse(program, *words)
        except JadebertaError as e:
            pytest.fail(f"{command}: {e}")
        of = "preprocess" if program is importlib.import_module("preprocess.cli").main else "training"
        names = [word.partition("=")[0].removeprefix("--") for word in parsed.rest if word.startswith("--")]
        assert [name for name in names if name not in keys[of]] == [], command
        return parsed

    for command in all_commands():
        program, *rest = command.words
        if program == ".venv/bin/jadeberta":
            accept(command, cli.main, *rest)
        elif program == ".venv/bin/python" and rest[0] == "-m" and rest[1] in MODULES:
            parsed = accept(command, importlib.import_module(MODULES[rest[1]]).main, *rest[2:])
            if rest[1] == "jadeberta.jobs.local_launcher":
                accept(command, cli.main, *parsed.options.arguments[1:])
        elif program == ".venv/bin/python" and rest[0].startswith("bench/"):
            path = rest[0]
            accept(command, lambda path=path: runpy.run_path(str(ROOT / path), run_name="__main__"), *rest[1:])
        elif program == ".venv/bin/python" and rest[0] in ("-", "-c"):
            compile(rest[1] if rest[0] == "-c" else command.standard_input, command.page, "exec")
        elif program == ".venv/bin/python":
            assert (ROOT / rest[0]).is_file() or rest[1] in ("pytest", "http.server"), command
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests/")), command
        elif program == "make":
            accept_make(command, accept)
        elif program in ("launch/local.sh", "sbatch"):
            accept_script(command, accept)
        elif program == "EXTRA":
            names = [word.removeprefix("--") for word in shlex.split(command.settings["EXTRA"]) if word.startswith("--")]
            assert names and all(name in keys["training"] | keys["preprocess"] for name in names), command
        else:
            assert program in SYSTEM or kind_of(command) in NOT_RUN, command
            continue
        checked += 1
    assert checked > 100


def accept_make(command: Command, accept: Callable[..., Parsed]) -> None:
    """A target of the Makefile, with settings that it has."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = command.words[1]
    assert re.search(rf"(?m)^{target}:", makefile), command
    settings = dict(word.split("=", 1) for word in command.words[2:]) | command.settings
    settings.pop("SOURCE", None)
    assert all(re.search(rf"(?m)^{name} +\?=", makefile) for name in settings), command
    if target == "shards":
        corpora = ["--corpora", settings["CORPORA"]] if "CORPORA" in settings else []
        options = ["--config", settings["RECIPE"], "--out", settings["OUT"], *corpora, *shlex.split(settings.get("EXTRA", ""))]
        accept(command, importlib.import_module("preprocess.cli").main, "all", *options)
        assert (ROOT / settings["RECIPE"]).is_file(), command


def accept_script(command: Command, accept: Callable[..., Parsed]) -> None:
    """A script of slurm/ or launch/, with settings that it reads; what it hands to `pretrain` is accepted too."""
    script = command.words[-1]
    assert (ROOT / script).is_file(), command
    options = [word for word in command.words[1:-1] if word.startswith("-")]
    assert {option.partition("=")[0] for option in options} <= SBATCH, command
    settings = {name: value for name, value in command.settings.items() if not name.startswith("SBATCH_")}
    for option in options:
        if option.startswith("--export=ALL,"):
            settings |= dict(pair.split("=", 1) for pair in option.removeprefix("--export=ALL,").split(","))
    assert settings.keys() - variables_of(script) == set(), command
    if "pretrain" in script or script == "launch/local.sh":
        defaults = {
            "RECIPE": "recipes/base.yaml" if "base" in script else "recipes/large.yaml",
            "RUN_DIR": "runs/a",
            "SHARDS": "shards",
        }
        accept(command, cli.main, "pretrain", *training_options(settings, defaults))
    elif script == "slurm/preflight.sh":
        defaults = {"RECIPE": "recipes/large.yaml", "RUN_DIR": "runs/a", "SHARDS": "shards"}
        accept(command, cli.main, "preflight", *training_options(settings, defaults))
    elif script == "slurm/race.sh":
        accept(command, cli.main, "race", "task", settings["RACE"], "--stage", settings["STAGE"], "--number", "0")
    elif script == "slurm/finetune_jglue.sh":
        given = {"SEEDS": "42"} | settings
        words = ["--task", given["TASK"], "--model", given["MODEL"], "--data", given["DATA"], "--seeds", given["SEEDS"], "--grid"]
        accept(command, cli.main, "finetune", *words)
    else:
        accept(
            command,
            importlib.import_module("preprocess.cli").main,
            "all",
            "--corpora",
            settings["CORPORA"],
            "--out",
            settings["OUT"],
        )


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a day that stands in for every run directory of the pages."""
    files = RunFiles(tmp_path_factory.mktemp("runs") / "large")
    files.attempt_from(NOW - DAY, 12.0)
    files.event(NOW, "done", step=files.step)
    (files.run / "DONE").touch()
    return files.run


def test_commands_that_look_at_a_run_or_plan_one_run_as_they_stand(
    a_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(error: JadebertaError) -> None:
        raise error

    monkeypatch.setattr(cli, "_report", refuse)  # what follows it would end this process
    for folder in ("recipes", "bench"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    runs = {"/data/runs/large", "/data/runs/base", "/data/runs/try", "runs/a", "runs/b"}
    ran = 0
    for command in all_commands():
        if kind_of(command) not in RUN:
            continue
        words = [str(a_run) if word in runs else word for word in command.words[1:]]
        words = [
            str(tmp_path / word.strip("/").replace("/", "-")) if before == "--out" else word
            for before, word in zip(["", *words], words, strict=False)
        ]
        monkeypatch.setattr(sys, "argv", ["jadeberta", *words])
        with pytest.raises(SystemExit) as end, contextlib.chdir(tmp_path):
            cli.main()
        # A watch says nothing the second time.
        assert end.value.code == 0 and (capsys.readouterr().out or words[0] == "watch"), command
        ran += 1
    assert ran > 15
