"""A checkpoint that is older than a key of the recipe resumes where the recipe does what was done before, and only there."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from jadeberta.checkpoint.compatibility import (
    BEFORE_THE_KEY,
    binding_settings,
    refuse_begun_decay,
    refuse_foreign,
    refuse_inconsistent,
    state_fault,
)
from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.checkpoint.manifest import manifest_bytes
from jadeberta.config import Recipe, load_recipe
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.training.lr_schedule import rate_of
from tests.helpers import ROOT, make_recipe

LATER = set(BEFORE_THE_KEY)
FINGERPRINTS = {"shards": "a" * 64, "tokenizer": "b" * 64}


def described(*options: str) -> dict:
    settings = binding_settings(load_recipe(ROOT / "recipes/large.yaml", options), {"wikipedia": 10})
    return {"fingerprints": FINGERPRINTS, "settings": settings}


def test_an_old_checkpoint_goes_on_with_the_new_keys_switched_off_and_is_refused_where_one_is_on(tmp_path) -> None:
    now = described()
    old = now | {"settings": {key: value for key, value in now["settings"].items() if key not in LATER}}
    assert old != now
    refuse_foreign(tmp_path, old, now)
    for key, value in (("ema_decay", "0.9"), ("z_loss", "0.1"), ("batch_size_warmup", "[[576, 2000]]"), ("optimizer", "muon")):
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


def test_a_decay_that_would_have_begun_before_the_checkpoint_is_refused(tmp_path) -> None:
    def load(steps: int, decay: int) -> Recipe:
        training = {"schedule": "wsd", "max_steps": steps, "decay_steps": decay}
        return load_recipe(make_recipe(tmp_path / "r.yaml", tmp_path, tmp_path, training=training))

    for then, step in ((load(12, 0), 8), (load(12, 4), 9)):  # stable, and in its decay
        state = {"step": step, "adam_step": step, "recipe": asdict(then), "lr": rate_of(then, step - 1)}
        refuse_begun_decay(then, tmp_path, STATE | state)
        refuse_begun_decay(load(20, 6), tmp_path, STATE | state)  # it begins later
        refuse_begun_decay(load(12, 12 - step), tmp_path, STATE | state)
        reason = (
            rf"is 6, but only {12 - step} steps are left from step {step} .* fall at once\. Raise max_steps by {step - 6}, or"
        )
        with pytest.raises(ConfigError, match=reason):
            refuse_begun_decay(load(12, 6), tmp_path, STATE | state)
    directory = tmp_path / "step-00000009"
    directory.mkdir()
    (directory / "state.json").write_text(json.dumps(STATE | state))
    assert state_fault(directory, EXPECTED, then) is None
    with pytest.raises(ConfigError, match="decay_steps is 6"):
        state_fault(directory, EXPECTED, load(12, 6))


TRAINING = {"lr": 1.0, "warmup_steps": 2, "max_steps": 12, "schedule": "linear"}
STATE = {
    "step": 8, "tokens": 80, "skipped_steps": 0, "rollbacks": 0, "stepped_over": [[1, 3]], "adam_step": 8, "lr": 0.5,
    "recipe": {"training": TRAINING}, "guard": {"loss": [1.0, 2.0]}, "fingerprints": FINGERPRINTS, "settings": {},
}  # fmt: skip
EXPECTED = {"fingerprints": FINGERPRINTS, "settings": BEFORE_THE_KEY}


def fault_of(tmp_path: Path, content: object) -> str | None:
    directory = tmp_path / "step-00000008"
    directory.mkdir(exist_ok=True)
    (directory / "state.json").write_text(json.dumps(content))
    return state_fault(directory, EXPECTED)


def test_a_state_of_another_form_is_passed_over_with_one_sentence(tmp_path) -> None:
    assert fault_of(tmp_path, STATE) is None
    crafted: list[object] = [[], None, 3, "text", {}]
    for key in (
        "step",
        "tokens",
        "skipped_steps",
        "adam_step",
        "lr",
        "recipe",
        "fingerprints",
        "stepped_over",
        "guard",
        "settings",
    ):
        crafted += [STATE | {key: value} for value in (None, [], {}, "x", [None], -1)]
    crafted += [STATE | {"tokens": float("nan")}, STATE | {"guard": {"loss": ["x"]}}, STATE | {"stepped_over": [[1, 2, 3]]}]
    sound = 0
    for content in crafted:
        try:
            fault = fault_of(tmp_path, content)
        except CheckpointError as e:
            fault = str(e)  # it says that it is another run's, or contradicts itself
        sound += fault is None
        assert fault is None or ("step-00000008" in fault and "\n" not in fault)
    # No guard, or an empty one; no data skipped; settings without a key that is younger than they are.
    assert sound <= 8


def test_a_state_of_another_step_than_its_directory_is_passed_over(tmp_path) -> None:
    assert "its step is 7, the manifest says 8" in str(fault_of(tmp_path, STATE | {"step": 7, "adam_step": 7}))


def test_weights_are_put_together_from_the_files_that_the_manifest_lists_and_no_others(tmp_path) -> None:
    def write(name: str, count: int) -> None:
        places = {"fragments": json.dumps({"w": {"start": 0, "shape": [4]}})}
        save_file({"master.w": torch.arange(float(count))}, tmp_path / name, metadata=places)

    write("optimizer-00001-of-00001.safetensors", 4)
    write("optimizer-00002-of-00002.safetensors", 2)  # of a save at another world size
    listed = {"optimizer-00001-of-00001.safetensors": (1, "")}
    (tmp_path / "manifest.json").write_bytes(manifest_bytes(1, listed))
    assert consolidate_weights(tmp_path)["w"].tolist() == [0, 1, 2, 3]
    write("optimizer-00001-of-00001.safetensors", 9)
    with pytest.raises(CheckpointError, match="its optimizer files cannot be read as weights"):
        consolidate_weights(tmp_path)
