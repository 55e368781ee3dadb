"""The learning rate is transformers' own schedule, as a function of the step."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup, get_wsd_schedule

from jadeberta.config import Recipe, TrainingConfig
from jadeberta.training.lr_schedule import learning_rate, rate_of

PEAK = 1e-4
REFERENCES = {
    "linear": lambda optimizer, warmup, steps, decay: get_linear_schedule_with_warmup(optimizer, warmup, steps),
    "cosine": lambda optimizer, warmup, steps, decay: get_cosine_schedule_with_warmup(optimizer, warmup, steps),
    "wsd": lambda optimizer, warmup, steps, decay: get_wsd_schedule(optimizer, warmup, decay, steps, decay_type="1-sqrt"),
}


@pytest.mark.parametrize("schedule", REFERENCES)
@pytest.mark.parametrize("warmup,steps,decay", [(10, 50, 15), (0, 20, 20), (20, 20, 0), (1, 7, 6), (5, 30, 1)])
def test_a_schedule_equals_that_of_transformers_at_every_step(schedule, warmup, steps, decay) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    reference = REFERENCES[schedule](optimizer, warmup, steps, decay)
    for step in range(steps):
        expected = optimizer.param_groups[0]["lr"]
        found = learning_rate(step, peak=PEAK, warmup_steps=warmup, max_steps=steps, schedule=schedule, decay_steps=decay)
        assert found == pytest.approx(expected, rel=1e-12, abs=PEAK * 1e-15), step
        optimizer.step()
        reference.step()


def test_constant_stays_at_its_peak_after_the_warm_up() -> None:
    rates = [learning_rate(s, peak=2.0, warmup_steps=4, max_steps=10, schedule="constant") for s in range(10)]
    assert rates == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_wsd_without_decay_steps_stays_and_a_later_end_changes_no_step_before_its_decay() -> None:
    first = {"schedule": "wsd", "warmup_steps": 3, "max_steps": 20, "lr": 1.0}
    stable = [rate_of(Recipe(training=TrainingConfig(**first)), step) for step in range(20)]
    assert stable[3:] == [1.0] * 17
    longer = Recipe(training=TrainingConfig(**first | {"max_steps": 25, "decay_steps": 5}))
    assert [rate_of(longer, step) for step in range(20)] == stable
    assert 1.0 == rate_of(longer, 20) > rate_of(longer, 21) > rate_of(longer, 24) > 0.0


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="sawtooth"):
        learning_rate(5, peak=1.0, warmup_steps=0, max_steps=10, schedule="sawtooth")
