"""A checkpoint that is older than a key of the recipe resumes where the recipe does what was done before, and only there."""

import pytest

from jadeberta.checkpoint.compatibility import binding_settings, refuse_foreign, refuse_inconsistent
from jadeberta.config import load_recipe
from jadeberta.errors import CheckpointError
from tests.helpers import ROOT

LATER = {"training.batch_size_warmup", "training.z_loss", "training.ema_decay"}
FINGERPRINTS = {"shards": "a" * 64, "tokenizer": "b" * 64}


def described(*options: str) -> dict:
    settings = binding_settings(load_recipe(ROOT / "recipes/large.yaml", options), {"wikipedia": 10})
    return {"fingerprints": FINGERPRINTS, "settings": settings}


def test_an_old_checkpoint_goes_on_with_the_new_keys_switched_off_and_is_refused_where_one_is_on(tmp_path) -> None:
    now = described()
    old = now | {"settings": {key: value for key, value in now["settings"].items() if key not in LATER}}
    assert old != now
    refuse_foreign(tmp_path, old, now)
    for key, value in (("ema_decay", "0.9"), ("z_loss", "0.1"), ("batch_size_warmup", "[[576, 2000]]")):
        with pytest.raises(CheckpointError, match=rf"another recipe \(training.{key} .* -> "):
            refuse_foreign(tmp_path, old, described(f"--training.{key}", value))


def test_the_sizes_of_a_growing_batch_bind_a_run_and_the_decay_does_not(tmp_path) -> None:
    growing = ("--training.batch_size_warmup", "[[576, 2000]]", "--training.schedule", "wsd")
    refuse_foreign(tmp_path, described(*growing), described(*growing, "--training.decay_steps", "5000"))
    with pytest.raises(CheckpointError, match=r"batch_size_warmup \[\[576, 2000\]\] -> \[\[576, 2001\]\]"):
        refuse_foreign(tmp_path, described(*growing), described("--training.batch_size_warmup", "[[576, 2001]]", *growing[2:]))


def test_the_last_rate_of_an_old_checkpoint_is_that_of_its_own_recipe(tmp_path) -> None:
    training = {"lr": 1.0, "warmup_steps": 2, "max_steps": 12, "schedule": "linear"}
    state = {"step": 8, "adam_step": 8, "skipped_steps": 0, "lr": 0.5, "recipe": {"training": training}}
    refuse_inconsistent(tmp_path, state)
    wsd = state | {"recipe": {"training": training | {"schedule": "wsd", "decay_steps": 8}}, "lr": 1 - (3 / 8) ** 0.5}
    refuse_inconsistent(tmp_path, wsd)
    with pytest.raises(CheckpointError, match=r"its last learning rate was 0\.5"):
        refuse_inconsistent(tmp_path, wsd | {"lr": 0.5})
