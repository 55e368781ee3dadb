"""A small recipe that stands for a huge one is refused at once, by pre-training and by preprocessing."""

import time

import pytest

from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError
from preprocess.load_config import load_config

LEVELS = "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
MERGES = "".join(f"  m{n}: &m{n} {{{', '.join(f'k{k}: *m{n - 1}' for k in range(10))}}}\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"preprocess:\n  a0: &a0 [x, x]\n{LEVELS}", "has more than 10,000 values with its aliases"),
        (f"preprocess:\n  m0: &m0 {{x: 1}}\n{MERGES}", "has more than 10,000 values with its aliases"),
        ("preprocess: &a [*a]\n", "has more than 10,000 values with its aliases"),
        ("preprocess: &a {k: {j: *a}}\n", "has more than 10,000 values with its aliases"),
        (f"preprocess: {'[' * 1500}{']' * 1500}\n", "is nested too deeply"),
        (f"# {'x' * 2**20}\nrun: {{dir: x}}\n", r"1,048,\d+ bytes; a recipe has at most 1,048,576"),
    ],
    ids=["lists", "mappings", "itself in a list", "itself in a mapping", "depth", "size"],
)
@pytest.mark.parametrize("load", [load_recipe, load_config])
def test_a_recipe_that_would_grow_is_refused_with_a_sentence(tmp_path, text, what, load) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ConfigError, match=rf"^{file}: {what}[^\n]*\.$"):
        load(file)
    assert time.process_time() - began < 20


def test_an_alias_that_is_used_a_few_times_is_no_fault(tmp_path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("run: {dir: &d here}\ndata: {shards: *d}\n", encoding="utf-8")
    assert load_recipe(file).data.shards == "here"


@pytest.mark.parametrize("load", [load_recipe, load_config])
def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path, load) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("training:\n  lr: 1.0e-4\n  seed: 1\n  lr: 2.0e-4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^{file}, line 4: lr stands in line 2 already\. Remove one of the two lines\.$"):
        load(file)


def test_the_same_key_in_two_sections_is_no_fault(tmp_path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("checkpoint:\n  every_steps: 5\nlogging:\n  every_steps: 7\n", encoding="utf-8")
    recipe = load_recipe(file)
    assert (recipe.checkpoint.every_steps, recipe.logging.every_steps) == (5, 7)
