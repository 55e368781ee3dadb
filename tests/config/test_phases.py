"""Phases: what holds at each step, and the sentence with which a list that cannot be is refused."""

import json
import time
from pathlib import Path

import pytest
import yaml

from jadeberta.config import Recipe, dump, load_recipe
from jadeberta.config.phases import phase_at, phases_of, recipe_in, token_sizes
from jadeberta.errors import ConfigError
from jadeberta.training.lr_schedule import learning_rate, rate_of

TRAINING = {"max_steps": 10, "global_batch_size": 4, "micro_batch_size": 2, "warmup_steps": 2, "lr": 1.0, "schedule": "constant"}
PHASES = [
    {"steps": 4, "sequence_length": 128},
    {"steps": 2, "global_batch_size": 8, "micro_batch_size": 1, "mask_probability": 0.4, "attention": "eager"},
    {
        "steps": 4,
        "lr": 0.5,
        "schedule": "linear",
        "warmup_steps": 1,
        "mask_probability": [0.3, 0.15],
        "weights": {"a": 0.25, "b": 0.75},
    },
]


def recipe_of(path: Path, phases: object = PHASES, **changes: dict) -> Recipe:
    content: dict = {"training": TRAINING, "phases": phases} | changes
    path.write_text(yaml.safe_dump(content))
    return load_recipe(path)


def test_a_recipe_without_phases_is_one_phase_of_its_own_settings() -> None:
    (phase,) = phases_of(Recipe())
    assert (phase.first_step, phase.end, phase.global_batch_size, phase.micro_batch_size) == (0, 300_000, 2304, 18)
    assert phase.mask_bounds == (0.15, 0.15) and phase.sequence_length is None and phase.attention == "sdpa"


def test_a_phase_changes_what_it_names_and_keeps_the_rest(tmp_path) -> None:
    recipe = recipe_of(tmp_path / "r.yaml")
    phases = phases_of(recipe)
    assert [(p.first_step, p.end) for p in phases] == [(0, 4), (4, 6), (6, 10)]
    assert [phase_at(phases, step).number for step in range(10)] == [1] * 4 + [2] * 2 + [3] * 4
    assert [(p.global_batch_size, p.micro_batch_size, p.attention) for p in phases] == [
        (4, 2, "sdpa"),
        (8, 1, "eager"),
        (4, 2, "sdpa"),
    ]
    assert phases[2].weights == {"a": 0.25, "b": 0.75} and phases[1].weights == {}
    assert recipe_in(recipe, phases[1]).training.global_batch_size == 8 and recipe.training.global_batch_size == 4
    assert token_sizes(recipe, 512).before(10) == 4 * 4 * 128 + 2 * 8 * 512 + 4 * 4 * 512
    again = tmp_path / "again.yaml"
    again.write_text(dump(recipe))
    assert load_recipe(again) == recipe


def test_a_phase_without_a_schedule_goes_on_with_the_runs_and_one_with_it_counts_its_own_steps(tmp_path) -> None:
    recipe = recipe_of(tmp_path / "r.yaml")
    assert [rate_of(recipe, step) for step in range(6)] == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    own = [learning_rate(n, peak=0.5, warmup_steps=1, max_steps=4, schedule="linear") for n in range(4)]
    assert [rate_of(recipe, step) for step in range(6, 10)] == own and own[1] == 0.5


def test_the_mask_probability_falls_in_a_straight_line_over_the_phase_or_over_the_run(tmp_path) -> None:
    phase = phases_of(recipe_of(tmp_path / "r.yaml"))[2]
    assert [round(phase.mask_probability_at(step), 6) for step in range(6, 10)] == [0.3, 0.25, 0.2, 0.15]
    wide = phases_of(recipe_of(tmp_path / "w.yaml", PHASES, training=TRAINING | {"mask_probability": [0.4, 0.2]}))
    first, last = wide[0].mask_probability_at(0), wide[2].mask_bounds
    assert first == 0.4 and last == (0.3, 0.15) and wide[0].mask_bounds[1] == pytest.approx(0.4 - 0.2 * 3 / 9)


@pytest.mark.parametrize(
    ("phases", "sentence"),
    [
        ([{"steps": 4}, {"steps": 5}], r"the steps of phases are 4 \+ 5 = 9, but training.max_steps is 10"),
        ([{"steps": 10, "weights": {"a": 0.4, "b": 0.5}}], "entry 1: weights add up to 0.9"),
        ([{"steps": 10, "weights": {"a": -1.0, "b": 2.0}}], "entry 1: weights holds a number below 0"),
        ([{"steps": 10, "weights": {}}], "entry 1: weights is empty"),
        ([{"steps": 10, "weights": {"a": 1.0}, "repeats": {"a": 2}}], "weights and repeats are two ways"),
        ([{"steps": 10, "color": 1}], "entry 1: unknown key color"),
        ([{"steps": 10, "sequence_lenght": 128}], "did you mean sequence_length"),
        ([{"steps": 4}, 3], "entry 2 is 3; it must be a mapping"),
        ([{"steps": "ten"}], "steps is 'ten'; it must be a whole number"),
        ([{"sequence_length": 128}], "entry 1: steps is 0; it must be at least 1"),
        ([{"steps": 10, "mask_probability": [0.3]}], r"must be a number or \[from, to\]"),
        ([{"steps": 10, "mask_probability": [0.3, 1.5]}], "entry 1, .*mask_probability is .* must lie between 0 and 1"),
        ([{"steps": 10, "schedule": "steep"}], "schedule is 'steep'; it must be one of linear"),
        ([{"steps": 10, "decay_steps": 3}], "entry 1, .*belongs to training.schedule wsd"),
        ([{"steps": 10, "schedule": "wsd", "warmup_steps": 6, "decay_steps": 6}], "entry 1, .*together are more than"),
        ([{"steps": 10, "micro_batch_size": 3}], "entry 1, .*not divisible by training.micro_batch_size 3"),
        ([{"steps": 10, "sequence_length": 1024}], "sequence_length is 1024, but model.max_position_embeddings is 512"),
        ([{"steps": 10, "lr": float("nan")}], "phases.lr is nan"),
        (
            [{"steps": 10, "global_batch_size": 10**30, "micro_batch_size": 10**30}],
            "entry 1, .*global_batch_size is 10+; it may be at most",
        ),
        ([{"steps": 10, "repeats": {"a": 10**30}}], "entry 1, .*data.repeats holds a number above 1,000,000"),
        ([{"steps": 1}] * 201, "phases has 201 entries; it may have at most 200"),
        (7, "phases is 7; it must be a list of mappings"),
        ({"steps": 10}, "phases is {'steps': 10}; it must be a list"),
        ([{"steps": 4}, {"steps": 6, "attention": "eager"}], "entry 2, .*data.packing 'documents' needs model.attention"),
        ([{"steps": 10, "repeats": {"a": -1}}], "repeats is .*whole numbers of at least 0"),
    ],
)
def test_phases_that_cannot_be_are_refused_in_one_sentence(tmp_path, phases, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        recipe_of(tmp_path / "r.yaml", phases, data={"packing": "documents"})
    assert "\n" not in str(caught.value) and "phases" in str(caught.value)


def test_an_attention_that_no_phase_has_forbids_nothing(tmp_path) -> None:
    phases = [{"steps": 4, "attention": "sdpa"}, {"steps": 6, "attention": "fused"}]
    sections = {"model": {"attention": "eager"}, "data": {"packing": "documents"}}
    for training in (TRAINING, TRAINING | {"recompute": "layers"}, TRAINING | {"objective": "rtd"}):
        recipe = recipe_of(tmp_path / "r.yaml", phases, training=training, **sections)
        assert [phase.attention for phase in phases_of(recipe)] == ["sdpa", "fused"]
    with pytest.raises(ConfigError, match=r"data\.packing 'documents' needs"):
        recipe_of(tmp_path / "r.yaml", [], **sections)


def test_a_list_of_thousands_of_phases_is_refused_at_once_in_a_file_and_on_the_command_line(tmp_path) -> None:
    many = [{"steps": 1}] * 3000
    began = time.process_time()
    with pytest.raises(ConfigError, match=r"r\.yaml, line \d+: a list of 3,000 entries; one may have 500\."):
        recipe_of(tmp_path / "r.yaml", many)
    (tmp_path / "r.yaml").write_text("training: {max_steps: 3000}\n")
    for key, entries in (("phases", many), ("training.batch_size_warmup", [[1, 1]] * 3000)):
        with pytest.raises(ConfigError, match=rf"--{key}=.* characters; an option may have 10,000\. Write it into the recipe\.$"):
            load_recipe(tmp_path / "r.yaml", (f"--{key}={json.dumps(entries)}",))
    assert time.process_time() - began < 5


def test_steps_that_no_run_reaches_are_refused_before_the_phases_are_added_up(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"training\.max_steps is 10{30}; it may be at most 99999999\."):
        recipe_of(tmp_path / "r.yaml", [{"steps": 10**30}], training=TRAINING | {"max_steps": 10**30})


@pytest.mark.parametrize(
    ("section", "changes", "sentence"),
    [
        ("data", {"weights": {"a": 0.5}}, "data.weights add up to 0.5"),
        ("data", {"weights": {"a": 1.0}, "repeats": {"a": 2}}, "data.weights and data.repeats are two ways"),
        ("training", TRAINING | {"batch_size_warmup": [[2, 3]]}, "batch_size_warmup does not go together with phases"),
        ("training", TRAINING | {"mask_probability": [0.3, 0.2, 0.1]}, r"it may be one number or \[from, to\]"),
    ],
)
def test_what_contradicts_phases_or_weights_is_refused(tmp_path, section, changes, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        recipe_of(tmp_path / "r.yaml", PHASES, **{section: changes})
