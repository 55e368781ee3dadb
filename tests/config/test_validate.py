"""What a recipe may not be is refused with one sentence that names the key and what would do."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from jadeberta.config import TrainingConfig, accumulation_steps, load_recipe
from jadeberta.errors import ConfigError
from jadeberta.pretrain import check_against_shards
from tests.helpers import ROOT

LARGE = ROOT / "recipes/large.yaml"
SOURCES = {"card", "char", "paper", "HF", "CPT", "MB", "LLMjp", "V3", "ours", "recalled"}
"""Marks of the values' sources; the head of a recipe says what each is."""


@pytest.mark.parametrize(
    "options,words",
    [
        (["--training.batch_size_warmup", "[[576]]"], r"holds \[576\]; each of its entries is \[sequences, steps\]"),
        (["--training.batch_size_warmup", "[[576, 0]]"], r"holds \[576, 0\]"),
        (["--training.batch_size_warmup", "[[2304, 10]]"], r"\[\[2304, 10\]\] must grow .* stay below .* 2304"),
        (["--training.batch_size_warmup", "[[576, 10], [288, 10]]"], "must grow from entry to entry"),
        (["--training.batch_size_warmup", "[[576, 10], [1000, 10]]"], "batch_size_warmup: 1000 .* 18; .* that fit: 1, 2, 4, 8."),
        (["--training.batch_size_warmup", "much"], "training.batch_size_warmup"),
        (["--training.decay_steps", "10"], "decay_steps 10 belongs to training.schedule wsd, which is linear; set it to 0"),
        (["--training.schedule", "wsd", "--training.decay_steps", "295000"], "10000 and training.decay_steps 295000 together"),
        (["--training.schedule", "sawtooth"], "training.schedule"),
        (["--training.ema_decay", "1.0"], "training.ema_decay is 1.0; it must be at least 0 and below 1"),
        (["--training.z_loss", "-0.1"], "training.z_loss is -0.1; it must be at least 0"),
        (["--evaluation.weights", "ema"], "evaluation.weights is ema, but training.ema_decay 0 keeps no average"),
        *[
            ([f"--{key}={10**30}"], f"{key} is 10+; it may be at most")
            for key in (
                "training.max_steps",
                "training.global_batch_size",
                "training.seed",
                "model.vocab_size",
                "model.hidden_size",
            )
        ],
        (
            ["--model.position_buckets", "1"],
            "model.position_buckets is 1, which divides no distances; set it to 2 or more, or to -1",
        ),
        (["--training.max_steps", "100000000"], "training.max_steps is 100000000; it may be at most 99999999"),
        (["--data.repeats", "{wikipedia: 2000000}"], "data.repeats holds a number above 1,000,000"),
        *[
            ([f"--{key}={value}"], f"{key} is {value.replace('.', '')}; it must be a finite number")
            for key in ("training.weight_decay", "training.lr", "watchdog.step_s", "guard.deviations", "run.max_hours")
            for value in (".nan", ".inf", "-.inf")
        ],
    ],
)
def test_a_setting_that_cannot_be_is_refused(options, words) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        load_recipe(LARGE, tuple(options))
    assert "\n" not in str(refused.value)


def test_every_extra_is_off_in_the_published_run_and_can_be_set_from_the_command_line() -> None:
    training = load_recipe(LARGE).training
    off = TrainingConfig()
    for key in ("batch_size_warmup", "schedule", "decay_steps", "ema_decay", "z_loss"):
        assert getattr(training, key) == getattr(off, key)
    options = ("--training.batch_size_warmup", "[[576, 2000], [1152, 500]]", "--training.ema_decay", "0.999")
    training = load_recipe(LARGE, options).training
    assert training.batch_sizes.warmup == ((576, 2000), (1152, 500)) and training.ema_decay == 0.999
    assert training.batch_sizes.before(3000) == 576 * 2000 + 1152 * 500 + 2304 * 500
    assert training.accumulation(8) == 16


def test_ranks_that_fit_the_full_batch_alone_are_refused_with_those_that_fit_all() -> None:
    assert accumulation_steps(24, 2, 4) == 3
    with pytest.raises(ConfigError, match=r"24 \(and in training.batch_size_warmup 4, 12\) .* fit: 1, 2; .* fit 4 ranks: 1\."):
        accumulation_steps(24, 2, 4, [4, 12])
    assert accumulation_steps(24, 2, 2, [4, 12]) == 6


@pytest.mark.parametrize(("micro", "world"), [(10**30, 1), (5, 10**30), (10**30, 10**30)])
def test_sizes_that_nobody_has_are_refused_at_once(micro: int, world: int) -> None:
    with pytest.raises(ConfigError, match=f"does not divide over {world} ranks"):
        accumulation_steps(24, micro, world)


def test_the_vocabulary_of_the_shards_decides_and_its_remedy_leads_to_no_other_error(monkeypatch) -> None:
    index = SimpleNamespace(vocab_size=900, packing="concat", sequence_length=512)
    shards: Any = SimpleNamespace(index=index, index_path="shards/index.json")
    recipe = load_recipe(LARGE, ("--preprocess.vocab_size", "900"))
    with pytest.raises(
        ConfigError, match=r"32000, but the tokenizer of .*index.json has 900 pieces. Set model.vocab_size to 900; "
    ) as e:
        check_against_shards(recipe, shards)
    assert "\n" not in str(e.value)
    monkeypatch.setattr("jadeberta.pretrain.read_tokenizer", lambda shards: {})
    for other in ((), ("--preprocess.vocab_size", "900")):
        assert check_against_shards(load_recipe(LARGE, ("--model.vocab_size", "900", *other)), shards) == {}


@pytest.mark.parametrize("name", ["large", "base", "char_wwm", "modern", "continue", "demo"])
def test_every_value_of_a_shipped_recipe_has_a_source_that_can_be_read(name: str) -> None:
    text = (ROOT / f"recipes/{name}.yaml").read_text(encoding="utf-8")
    sources = set(re.findall(r"(?m)^#   \[(\w+)\]", text))
    used = set(re.findall(r"\[(\w+)(?=[\]:, ])", text)) & SOURCES
    assert "recalled" not in text and used <= sources
