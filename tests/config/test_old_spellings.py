"""Keys and values that were renamed are still read, and the resolved recipe has the new spelling."""

import pytest
import yaml

from jadeberta.config import dump, load_recipe
from jadeberta.errors import ConfigError


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"

    def write(text: str, *overrides: str):
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides)

    return write


def test_fruitless_lives_is_max_attempts_without_progress(recipe) -> None:
    for found in (recipe("cluster: {fruitless_lives: 7}"), recipe("run: {dir: one}", "--cluster.fruitless_lives", "7")):
        assert found.cluster.max_attempts_without_progress == 7
        assert yaml.safe_load(dump(found))["cluster"] == {
            "max_attempts_without_progress": 7, "drop_hosts": 0, "excluded_hosts": 2, "excluded_hours": 24.0,
        }  # fmt: skip
    with pytest.raises(ConfigError, match=r"max_attempts_without_progress is 0; it must be at least 1"):
        recipe("cluster: {fruitless_lives: 0}")


def test_set_aside_is_exclude(recipe) -> None:
    for found in (recipe("data: {damaged: set_aside}"), recipe("run: {dir: one}", "--data.damaged", "set_aside")):
        assert found.data.damaged == "exclude"
        assert yaml.safe_load(dump(found))["data"]["damaged"] == "exclude"


@pytest.mark.parametrize(
    ("text", "sinks"),
    [
        ("logging: {every_steps: 1}", ["tensorboard"]), ("logging: {tensorboard: true, sinks: []}", ["tensorboard"]),
        ("logging: {tensorboard: false}", []), ("logging: {sinks: [other, tensorboard], tensorboard: false}", ["other"]),
    ],
)  # fmt: skip
def test_tensorboard_adds_its_sink_or_takes_it_out(recipe, text, sinks) -> None:
    found = recipe(text)
    assert found.logging.sinks == sinks and "tensorboard" not in yaml.safe_load(dump(found))["logging"]
    assert recipe(dump(found)) == found


def test_tensorboard_is_an_option_too_and_only_true_or_false(recipe) -> None:
    assert recipe("run: {dir: one}", "--logging.tensorboard", "false").logging.sinks == []
    with pytest.raises(ConfigError, match=r"logging\.tensorboard is often; it must be true or false"):
        recipe("logging: {tensorboard: often}")


def test_a_resolved_recipe_reads_as_itself(recipe) -> None:
    found = recipe("cluster: {fruitless_lives: 7}\ndata: {damaged: set_aside}")
    assert recipe(dump(found)) == found
