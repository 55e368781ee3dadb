"""The advice on ZeRO and the largest micro-batch, against trying every size."""

import pytest

from jadeberta.config import load_recipe
from jadeberta.config.deepspeed_file import read_deepspeed_file
from jadeberta.config.phases import phases_of, with_lengths
from jadeberta.plan.forecast import ClusterShape, Input, forecast
from jadeberta.plan.gpu_memory import activation_parts, state_parts
from jadeberta.plan.world_sizes import network_inputs, networks
from jadeberta.plan.zero_advice import ZeroAdvice, advise
from tests.helpers import ROOT

LARGE = str(ROOT / "recipes" / "large.yaml")
PARAMETERS = 339_838_208
ZERO = read_deepspeed_file("ds_configs/zero1.json")[1]["zero_optimization"]


def advice(gigabytes: float | None, *options: str, nodes: int = 1, gpus: int = 8, linked: bool = True) -> ZeroAdvice:
    recipe, cluster = load_recipe(LARGE, options), ClusterShape(nodes, gpus)
    plan = forecast(recipe, cluster, {"tokens_per_second_per_gpu": Input(14200, "given", "")}, PARAMETERS, 512)
    rings = networks(network_inputs("A100", {}, {}, ""), gpus, {}) if linked else None
    memory = None if gigabytes is None else gigabytes * 1e9
    return advise(recipe, with_lengths(phases_of(recipe), 512)[0], plan, cluster, memory, rings, ZERO)


def test_the_simplest_stage_is_advised_where_memory_is_no_trouble() -> None:
    found = advice(36)
    assert (found.stage, [each.fits for each in found.stages]) == (1, [True] * 3)
    assert "ZeRO 2" in found.reason and "ZeRO 3" in found.reason
    assert [each.bytes for each in found.stages] == sorted((each.bytes for each in found.stages), reverse=True)
    # ZeRO 2 reduces after each of 16 micro-batches.
    first, second, third = (each.sent_bytes for each in found.stages)
    assert second == pytest.approx(first / 2 * 17) and third > second


def test_where_memory_is_short_the_stage_that_fits_is_advised_and_where_none_does_what_would() -> None:
    whole = [each.bytes / 1e9 for each in advice(None).stages]
    assert advice((whole[0] + whole[1]) / 2).stage == 2
    assert advice((whole[1] + whole[2]) / 2).stage == 3
    none = advice(whole[2] - 0.1)
    assert none.stage is None and "training.micro_batch_size 16 fits" in none.reason
    assert "not even one row" in advice(0.1).reason


@pytest.mark.parametrize("options", [("--training.optimizer", "muon"), ("--training.objective", "rtd")])
def test_a_stage_that_the_recipe_cannot_use_is_not_advised(options) -> None:
    whole = [each.bytes / 1e9 for each in advice(None, *options).stages]
    found = advice((whole[1] + whole[2]) / 2, *options)
    assert found.stage is None and found.stages[2].refused and "micro_batch_size" in found.reason


def test_one_rank_has_nobody_to_share_with() -> None:
    found = advice(36, gpus=1)
    assert found.stage == 1 and "one rank" in found.reason
    assert len({each.memory["optimizer"] for each in found.stages}) == 1 and {each.sent_bytes for each in found.stages} == {0.0}


def test_without_links_the_bytes_that_are_sent_decide() -> None:
    found = advice(36, linked=False)
    assert found.stage == 1 and {each.step_s for each in found.stages} == {None}


@pytest.mark.parametrize(
    "options", [(), ("--training.recompute", "layers"), ("--model.attention", "fused"), ("--training.ema_decay", "0.99")]
)
def test_the_largest_micro_batch_is_what_trying_every_size_finds(options) -> None:
    gigabytes, recipe = 20.0, load_recipe(LARGE, options)
    found = advice(gigabytes, *options).stages[0]
    phase = with_lengths(phases_of(recipe), 512)[0]
    state = sum(state_parts(PARAMETERS, recipe.training, 1, 8).values())
    fit = [rows for rows in range(1, 400) if state + sum(activation_parts(recipe, phase, rows).values()) <= gigabytes * 1e9]
    assert found.most_rows == max(fit) and found.largest_micro_batch == max(rows for rows in fit if 2304 // 8 % rows == 0)
