"""The recipes that come with the project beside that of the published run: they load, and lead from text to an export."""

import re
from pathlib import Path

import pytest
import yaml

from jadeberta.config import load_recipe
from jadeberta.plan.cli import main as plan
from preprocess.load_config import load_config
from tests.helpers import PUBLISHED, ROOT, write_published


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a published model, without weights: enough for all that reads no weights."""
    return write_published(tmp_path_factory.mktemp("published"))


def test_the_recipe_that_continues_takes_the_architecture_of_its_source(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(ROOT / "recipes/continue.yaml", ("--model.init_from", str(published)))
    model = recipe.model.hugging_face()
    assert {key: model[key] for key in PUBLISHED if key in model} == {key: PUBLISHED[key] for key in PUBLISHED if key in model}
    written = yaml.safe_load((ROOT / "recipes/continue.yaml").read_text())["model"]
    assert written == {"init_from": "models/deberta-v2-base-japanese", "init_tokenizer": "same"}
    assert load_config(ROOT / "recipes/continue.yaml").vocab_size == PUBLISHED["vocab_size"]
    for gpus in (1, 2, 4, 8, 16):
        assert recipe.training.accumulation(gpus) == 16 // gpus
    assert plan(["--config", str(ROOT / "recipes/continue.yaml"), "--model.init_from", str(published), "--mfu", "0.3"]) in (
        None,
        0,
    )
    assert re.search(r"tokens +5\.243 billion", capsys.readouterr().out)
