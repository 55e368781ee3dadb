"""Every verb explains every option in a sentence, at 80 columns."""

import argparse
import importlib
import re

import pytest

from jadeberta import cli
from jadeberta.config import known_keys
from jadeberta.config.option_help import docstrings, render_help
from jadeberta.errors import ConfigError
from jadeberta.utils.command_line import OneSentenceParser

VERBS = {
    "jadeberta.compare.evaluate_text": ["text"], "jadeberta.compare.compare_command": [],
    "jadeberta.evaluation.mlm": [], "jadeberta.checkpoint.cli": [], "jadeberta.status.cli": [], "jadeberta.alerts.cli": [],
    "jadeberta.report.cli": [], "jadeberta.plan.cli": [], "jadeberta.publish.cli": [],
    "jadeberta.scaling.cli": ["run", "report"], "jadeberta.race.cli": ["plan", "run", "task", "report"],
    "jadeberta.preflight.cli": [], "jadeberta.finetune.cli": [], "jadeberta.release.export": [],
    "jadeberta.provenance.cli": [], "jadeberta.fill": [], "jadeberta.hub.cli": [],
}  # fmt: skip


@pytest.fixture(autouse=True)
def terminal(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_the_help_of_pretrain_has_a_sentence_for_every_key_and_fits_80_columns(capsys) -> None:
    assert cli._pretrain(["--config", "none.yaml", "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    entries = dict(re.findall(r"(?m)^  --(\S+).*\n((?:      .+\n)+)", text))
    assert set(known_keys()) - entries.keys() == set()
    assert [name for name, sentence in entries.items() if len(sentence.split()) < 2] == []
    words = " ".join(text.split())
    assert "Peak learning rate. (default 0.0001)" in words and "--run.dir PATH" in words
    assert "c2p, p2c or both. (default p2c, c2p)" in words


def test_a_wide_terminal_gets_lines_of_at_most_100_and_a_narrow_one_no_error(monkeypatch) -> None:
    for columns, longest in (("300", 100), ("10", 60)):
        monkeypatch.setenv("COLUMNS", columns)
        assert max(map(len, render_help([]).splitlines())) <= longest


def test_only_the_string_below_a_field_is_its_sentence() -> None:
    assert docstrings(argparse.Namespace) == {}


@pytest.mark.parametrize(("module", "verb"), [(m, v) for m, verbs in VERBS.items() for v in verbs or [""]])
def test_every_option_of_every_verb_is_explained_and_fits_80_columns(module: str, verb: str, monkeypatch, capsys) -> None:
    asked: list[argparse.ArgumentParser] = []
    show = argparse.ArgumentParser.print_help
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda self, file=None: (asked.append(self), show(self, file))[1])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main([*([verb] if verb else []), "--help"])
    assert end.value.code == 0 and [action.dest for action in asked[0]._actions if not action.help] == []
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_the_verbs_are_listed_within_80_columns(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["jadeberta"])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert "pretrain" in text and [line for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(("module", "verb"), [(m, v) for m, verbs in VERBS.items() for v in verbs or [""]])
def test_a_mistake_in_a_command_line_is_one_sentence_for_every_verb(module: str, verb: str) -> None:
    with pytest.raises(ConfigError) as refused:
        importlib.import_module(module).main([verb] if verb else [])
    assert re.fullmatch(
        r"the following arguments are required: [^\n]+; 'jadeberta [a-z -]+ --help' explains\.", str(refused.value)
    )


def test_a_pasted_file_is_not_repeated_in_the_error() -> None:
    parser = OneSentenceParser(prog="jadeberta")
    parser.add_argument("--split", choices=["valid"])
    with pytest.raises(ConfigError) as refused:
        parser.parse_args(["--split", "a" * 5000])
    assert len(str(refused.value)) < 300 and "a" * 100 in str(refused.value)
