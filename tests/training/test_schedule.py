"""The learning rate is transformers' own schedule, as a function of the step."""

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from jadeberta.training.schedule import learning_rate


@pytest.mark.parametrize("warmup,steps", [(10, 50), (0, 20), (20, 20), (1, 7)])
def test_linear_equals_the_schedule_of_transformers_at_every_step(warmup, steps) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    reference = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    for step in range(steps):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(step, peak=1e-4, warmup_steps=warmup, max_steps=steps, schedule="linear") == pytest.approx(
            expected, rel=1e-12
        )
        optimizer.step()
        reference.step()


def test_constant_stays_at_its_peak_after_the_warm_up() -> None:
    rates = [learning_rate(s, peak=2.0, warmup_steps=4, max_steps=10, schedule="constant") for s in range(10)]
    assert rates == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="cosine"):
        learning_rate(5, peak=1.0, warmup_steps=0, max_steps=10, schedule="cosine")
