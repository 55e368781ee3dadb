"""What a training step of the large model costs, counted without a device, against Hugging Face's eager one."""

import functools

import pytest

from bench.steps.counted_costs import Account, account
from jadeberta.config import load_recipe
from tests.helpers import ROOT


@functools.cache
def cost(name: str) -> Account:
    """Counts the large model at a micro-batch of 18; each takes 10 to 20 CPU-seconds."""
    config = load_recipe(ROOT / "recipes/large.yaml").model
    attention, masked_share, recompute = {
        "eager": ("eager", None, "none"),
        "sdpa": ("sdpa", 0.15, "none"),
        "cheap": ("sdpa", 0.15, "cheap"),
        "fused": ("fused", 0.15, "cheap"),
    }[name]
    return account(attention, config, 18, masked_share, recompute=recompute)


def test_the_eager_model_moves_17_gb_a_sequence_in_3220_kernels_and_keeps_1519_mib() -> None:
    """The published model as it is run: the reference that everything else is measured by."""
    eager = cost("eager")
    assert eager.bytes_moved / 1e9 == pytest.approx(17.1, abs=0.2)
    assert eager.kernels == pytest.approx(3220, rel=0.01) and eager.kept_bytes / 2**20 == pytest.approx(1519, abs=5)


def test_ours_moves_at_most_half_the_bytes_in_half_the_kernels_and_keeps_a_third() -> None:
    eager, ours = cost("eager"), cost("sdpa")
    assert ours.bytes_moved <= eager.bytes_moved / 2
    assert ours.kernels <= eager.kernels / 2
    assert ours.kept_bytes <= eager.kept_bytes / 3 and ours.kept_bytes / 2**20 <= 600


@pytest.mark.long
def test_what_is_made_again_cheaply_leaves_a_fifth_of_eagers_activations_for_at_most_half_its_bytes() -> None:
    eager, cheap = cost("eager"), cost("cheap")
    assert cheap.kept_bytes <= eager.kept_bytes / 5
    assert cheap.bytes_moved <= eager.bytes_moved / 2 and cheap.kernels <= eager.kernels / 2


@pytest.mark.long
def test_our_kernels_move_at_most_a_quarter_of_eagers_bytes_and_keep_at_most_410_mib() -> None:
    """Beside what they write for themselves and read again from the cache."""
    assert cost("fused").bytes_moved <= cost("eager").bytes_moved / 4
    assert cost("fused").kept_bytes / 2**20 <= 410


def test_an_account_grows_by_what_the_second_layer_added() -> None:
    assert Account(10, 5, 3).scaled(Account(16, 9, 3), 24) == Account(148, 97, 3)
