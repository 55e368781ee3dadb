"""A mistake in a recipe is one sentence with file, line and key, wherever it stands."""

import pytest

from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError


@pytest.mark.parametrize(
    "text,overrides,message",
    [
        ("training:\n  lr: 0.1\n  max_step: 5\n", (), "{file}, line 3: unknown key training.max_step; did you mean training.max_steps?"),
        ("run: {dir: x}\ntrainin: {lr: 0.1}\n", (), "{file}, line 2: unknown key trainin.lr; did you mean training.lr?"),
        ("training:\n  lr: fast\n", (), "{file}, line 2: training.lr: Expected float. Got value: fast."),
        ("cluster: {fruitless_lives: many}\n", (), "cluster.fruitless_lives is many; it must be a whole number."),
        ("cluster:\n  fruitless_lives: 4\n  drop_host: 1\n", (), "{file}, line 3: unknown key cluster.drop_host; did you mean cluster."),
        ("run: {dir: x}\n", ("--training.max_step", "5"), "command line: unknown key training.max_step; did you mean training.max_steps?"),
        ("run: {dir: x}\n", ("--training.lr=fast",), "command line: training.lr: Expected float. Got value: fast."),
        ("alerts: 3\n", (), "alerts is 3; it must be a section of keys."),
        ("logging: [1]\n", (), "logging is [1]; it must be a section of keys."),
        ("run: [\n", (), "{file}: "),
        ("- a list\n", (), "{file}: "),
        ("data:\n  weights:\n", (), "data.weights has no value; give it one, or leave the key out for its default."),
        ("model:  # all left out\ntraining: {max_steps: 9}\n", (), "model has no value; give it one, or leave it out"),
        ("training: {max_steps: 9}\ndeepspeed:\n", (), "deepspeed has no value; give it one, or leave it out"),
        ("training: {max_steps: 9}\nphases:\n", (), "phases has no value; give it one, or leave it out"),
        ("preprocess: ~\n", (), "preprocess has no value; give it one, or leave it out"),
        ("training: {max_steps: null}\n", (), "training.max_steps has no value; give it one, or leave the key out"),
        ("training: {schedule: ~}\n", (), "training.schedule has no value; give it one, or leave the key out"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(tmp_path, text, overrides, message) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_recipe(file, overrides)
    said = str(raised.value)
    assert said.startswith(message.format(file=file)) and "\n" not in said


def test_any_key_may_stand_in_a_section_that_another_program_checks(tmp_path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("preprocess: {anything: {at: all}}\ndata: {repeats: {web: 2}}\ntraining: {max_step: 5}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 3: unknown key training\.max_step"):
        load_recipe(file)
