"""A share of masked tokens that changes over the run depends on the step alone, and one that stays is a constant one, bit for bit."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from jadeberta.config import load_recipe
from jadeberta.data.run_data import RunDataset, open_run_data
from tests.helpers import make_recipe, make_shards

STEPS = 5


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 2), "cc100": (20, 1)})


def masked(shards: Path, folder: Path, probability: float | list[float], world_size: int = 1, first: int = 0) -> list[list]:
    """Input ids and masked tokens of the global batch in each step from `first` on, rows in order of the ranks."""
    training = {"max_steps": STEPS, "global_batch_size": 8, "micro_batch_size": 2, "mask_probability": probability}
    recipe = load_recipe(make_recipe(folder / "recipe.yaml", shards, folder / "run", training=training))
    data = open_run_data(recipe)
    ranks = [RunDataset(recipe, data, data.order, rank, world_size, None) for rank in range(world_size)]
    return [
        [(share.input_ids.tolist(), share.labels.tolist()) for share in (r[step] for r in ranks)] for step in range(first, STEPS)
    ]


def test_a_share_that_stays_is_a_constant_one(shards, tmp_path) -> None:
    assert masked(shards, tmp_path, [0.15, 0.15]) == masked(shards, tmp_path, 0.15)


def test_masks_of_a_falling_share_are_those_of_a_constant_one_at_each_step(shards, tmp_path) -> None:
    falling = masked(shards, tmp_path, [0.4, 0.2])
    for step, probability in enumerate((0.4, 0.35, 0.3, 0.25, 0.2)):
        assert falling[step] == masked(shards, tmp_path, probability, first=step)[0]
    counts = [len(labels) for ((_, labels),) in falling]
    assert np.all(np.diff(counts) < 0), counts


def test_neither_ranks_nor_a_restart_change_them(shards, tmp_path) -> None:
    whole = masked(shards, tmp_path, [0.4, 0.2])
    assert masked(shards, tmp_path, [0.4, 0.2], first=3) == whole[3:]
    for step, shares in enumerate(masked(shards, tmp_path, [0.4, 0.2], world_size=2)):
        rows, labels = (sorted(chain.from_iterable(share[part] for share in shares)) for part in (0, 1))
        assert (rows, labels) == (sorted(whole[step][0][0]), sorted(whole[step][0][1]))
