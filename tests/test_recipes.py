"""The recipes beside that of the published run: they load, can be planned, and lead from text to an export that transformers opens."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer

from jadeberta.config import load_recipe
from jadeberta.config.phases import phases_of
from jadeberta.model.load import count_parameters, count_parameters_of
from jadeberta.plan.cli import main as plan
from jadeberta.release.export import main as export
from jadeberta.training.lr_schedule import rate_of
from preprocess.estimate import describe_plan
from preprocess.load_config import load_config
from tests.helpers import PUBLISHED, ROOT, read_metrics, run_ranks, write_published
from tests.preprocess import tiny_corpus as tiny

SHORT_FIRST = ROOT / "recipes/short_first.yaml"
MODERN, CONTINUE = ROOT / "recipes/modern.yaml", ROOT / "recipes/continue.yaml"
SMALL = {
    "run.device": "cpu", "data.workers": 0, "training.precision": "fp32", "training.compile": "never", "checkpoint.every_steps": 2,
    "evaluation.every_steps": 0, "logging.every_steps": 1, "logging.sinks": "[]",
}  # fmt: skip
"""What a run on a CPU in seconds changes of any recipe."""
SMALL_MODEL = {
    "model.hidden_size": 16, "model.num_hidden_layers": 2, "model.num_attention_heads": 2, "model.attention_head_size": 8,
    "model.intermediate_size": 32, "model.pooler_hidden_size": 16, "model.position_buckets": 8,
}  # fmt: skip
SMALL_STAGES = {"preprocess.heldout_documents": 4, "preprocess.part_bytes": 12_000, "preprocess.shard_bytes": 40_000}
SMALL_PHASES = [
    {"steps": 3, "sequence_length": 128},
    {"steps": 2, "sequence_length": 256, "global_batch_size": 2, "micro_batch_size": 1, "lr": 1e-3, "schedule": "constant"},
    {
        "steps": 2, "sequence_length": 256, "global_batch_size": 2, "micro_batch_size": 1, "lr": 1e-3, "schedule": "wsd",
        "decay_steps": 2, "mask_probability": [0.3, 0.15],
    },
]  # fmt: skip
"""The phases of the modern recipe, smaller; every key that it sets there is set here."""


def options(*settings: dict) -> list[str]:
    return [word for given in settings for key, value in given.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a published model, without weights: enough for all that reads no weights."""
    return write_published(tmp_path_factory.mktemp("published"))


def test_the_modern_recipe_is_what_its_head_says_and_can_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    recipe, config = load_recipe(MODERN), load_config(MODERN)
    assert recipe.model.vocab_size == config.vocab_size and 95_000 < config.vocab_size < 105_000 and config.vocab_size % 128 == 0
    assert config.byte_fallback and config.segmenter.engine == "none" and config.sequence_lengths == (1024, 8192)
    phases = phases_of(recipe)
    assert [phase.sequence_length for phase in phases] == [1024, 8192, 8192]
    assert [phase.mask_bounds for phase in phases] == [(0.3, 0.3), (0.3, 0.3), (0.3, 0.15)]
    # A step has as many tokens in every phase, and every phase fits the same numbers of GPUs.
    assert {phase.global_batch_size * (phase.sequence_length or 0) for phase in phases} == {3328 * 1024}
    for gpus in (1, 2, 4, 8, 16):
        assert all(phase.global_batch_size % (phase.micro_batch_size * gpus) == 0 for phase in phases)
    keys = [set(phase) for phase in yaml.safe_load(MODERN.read_text())["phases"]]
    assert keys == [set(phase) for phase in SMALL_PHASES]
    assert plan(["--config", str(MODERN), "--mfu", "0.3"]) in (None, 0)
    assert re.search(r"tokens +2,011 billion", capsys.readouterr().out)


@pytest.mark.parametrize(("size", "layers", "parameters"), [("large", 12, 522_193_153), ("base", 6, None)])
def test_the_recipes_of_v3_have_the_sizes_of_their_kin_and_a_generator_of_half_the_layers(size, layers, parameters) -> None:
    recipe, kin = load_recipe(ROOT / f"recipes/{size}_v3.yaml"), load_recipe(ROOT / f"recipes/{size}.yaml")
    assert recipe.model == replace(kin.model, conv_kernel_size=0)
    assert (recipe.training.objective, recipe.rtd.embedding_sharing) == ("rtd", "gdes")
    assert recipe.rtd.layers_of_generator(recipe.model.num_hidden_layers) == layers
    assert (recipe.training.global_batch_size, recipe.training.max_steps) == (
        kin.training.global_batch_size,
        kin.training.max_steps,
    )
    for gpus in (1, 2, 4, 8, 16):
        assert recipe.training.accumulation(gpus) >= 1
    # Two encoders, a head each, the words once, and what the discriminator adds to them.
    alone, words = count_parameters(recipe.model), recipe.model.vocab_size * recipe.model.hidden_size
    half = count_parameters(replace(recipe.model, num_hidden_layers=layers))
    width = recipe.model.hidden_size
    heads_differ = (width + 1) - recipe.model.vocab_size  # one logit and its bias, for a bias of each word
    assert count_parameters_of(recipe) == alone + half + heads_differ
    assert parameters in (None, count_parameters_of(recipe)) and words < alone


def test_the_length_curriculum_has_as_many_tokens_a_step_in_both_phases_and_the_sizes_of_base(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, base = load_recipe(SHORT_FIRST), load_recipe(ROOT / "recipes/base.yaml")
    assert load_config(SHORT_FIRST).sequence_lengths == (128, 512)
    assert (recipe.model, recipe.training) == (base.model, base.training)
    phases = phases_of(recipe)
    assert [(phase.sequence_length, phase.steps) for phase in phases] == [(128, 450_000), (512, 50_000)]
    assert {phase.global_batch_size * (phase.sequence_length or 0) for phase in phases} == {2112 * 512}
    for gpus in (1, 2, 4, 8, 16):
        assert all(phase.global_batch_size % (phase.micro_batch_size * gpus) == 0 for phase in phases)
    # The learning rate is that of the run without phases, over the border too.
    assert all(rate_of(recipe, step) == rate_of(base, step) for step in (0, 9_999, 449_999, 450_000, 499_999))
    assert plan(["--config", str(SHORT_FIRST), "--mfu", "0.3"]) in (None, 0)
    shorter = capsys.readouterr().out
    assert plan(["--config", str(ROOT / "recipes/base.yaml"), "--mfu", "0.3"]) in (None, 0)
    work = [float(re.search(r"work .*, ([0-9.e+]+) FLOP", text)[1]) for text in (shorter, capsys.readouterr().out)]  # type: ignore[index]
    assert work[0] < work[1]


def test_the_recipe_that_continues_takes_the_architecture_of_its_source(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(CONTINUE, ("--model.init_from", str(published)))
    model = recipe.model.hugging_face()
    assert {key: model[key] for key in PUBLISHED if key in model} == {key: PUBLISHED[key] for key in PUBLISHED if key in model}
    written = yaml.safe_load(CONTINUE.read_text())
    assert written["model"] == {"init_from": "models/deberta-v2-base-japanese", "init_tokenizer": "same"}
    assert load_config(CONTINUE).tokenizer == written["model"]["init_from"]
    for gpus in (1, 2, 4, 8, 16):
        assert recipe.training.accumulation(gpus) == 16 // gpus
    assert plan(["--config", str(CONTINUE), "--model.init_from", str(published), "--mfu", "0.3"]) in (None, 0)
    assert re.search(r"tokens +5\.243 billion", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("recipe", "changed", "words"),
    [
        (MODERN, {}, "words by none, 99584 pieces"),
        # Its segmenter and its tokenizer are no part of the project.
        (CONTINUE, {"preprocess.segmenter.engine": "mecab", "preprocess.tokenizer": "train"}, "words by mecab"),
    ],
    ids=["modern", "continue"],
)
def test_a_dry_run_of_the_stages_goes_through(recipe: Path, changed: dict, words: str, tmp_path: Path) -> None:
    config = load_config(recipe, tuple(options(changed)), tiny.write_corpora(tmp_path / "corpora"))
    lines = describe_plan(config, tmp_path / "out", ("extract", "segment", "tokenizer", "pack"), 1)
    assert words in lines[0] and lines[-1].startswith("about ") and not (tmp_path / "out").exists()


def shards_of(recipe: Path, corpora: Path, out: Path, **settings: object) -> Path:
    changed = SMALL_STAGES | {f"preprocess.{key}": value for key, value in settings.items()}
    return tiny.run_stages(load_config(recipe, tuple(options(changed)), corpora), out)


def trained(recipe: Path, run: Path, shards: Path, *settings: dict) -> Path:
    """A small run of a recipe to its end."""
    own = {"data.shards": shards, "run.dir": run}
    run_ranks(1, "pretrain", "--config", str(recipe), *options(SMALL, own, *settings), log=run.with_suffix(".log"))
    return run


def released(recipe: Path, run: Path, shards: Path, out: Path, *settings: dict) -> Path:
    """A small run of a recipe to its end, and its export."""
    trained(recipe, run, shards, *settings)
    assert export(["--checkpoint", str(run), "--out", str(out)]) in (None, 0)
    return out


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the modern recipe, from text to its export."""
    folder = tmp_path_factory.mktemp("modern")
    corpora = tiny.write_corpora(folder / "corpora")
    shards = shards_of(MODERN, corpora, folder / "shards", vocab_size=420, sequence_length=[128, 256])
    training = {
        "training.max_steps": 7, "training.global_batch_size": 4, "training.micro_batch_size": 2, "training.warmup_steps": 1,
        "phases": json.dumps(SMALL_PHASES), "model.vocab_size": 420, "model.max_position_embeddings": 256,
    }  # fmt: skip
    return released(MODERN, folder / "run", shards, folder / "release", SMALL_MODEL, training)


TEXT = "京都の大学で寿司🍣を食べる。"


@pytest.mark.long
def test_text_becomes_a_modern_model(modern: Path) -> None:
    rows = read_metrics(modern.parent / "run")
    assert [row["step"] for row in rows] == list(range(1, 8))
    tokenizer, model = AutoTokenizer.from_pretrained(modern), AutoModelForMaskedLM.from_pretrained(modern)
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    # No character is unknown, and nothing is lost.
    assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids[0], skip_special_tokens=True) == TEXT
    with torch.inference_mode():
        assert model(ids).logits.shape == (1, ids.shape[1], 420)


@pytest.mark.long
def test_a_published_model_goes_on_with_new_text(modern: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    lines = (json.dumps({"text": f"{n}日目の天気は晴れ、料理は寿司🍣。" * 9}, ensure_ascii=False) for n in range(60))
    (tmp_path / "new/new.jsonl").write_text("\n".join(lines), encoding="utf-8")
    given = {"tokenizer": modern, "segmenter.engine": "none", "sequence_length": 128}
    shards = shards_of(CONTINUE, tmp_path / "new", tmp_path / "shards", **given)
    training = {
        "training.max_steps": 4,
        "training.global_batch_size": 4,
        "training.micro_batch_size": 2,
        "training.warmup_steps": 1,
    }
    start = {"model.init_from": modern}
    continued = released(CONTINUE, tmp_path / "run", shards, tmp_path / "release", start, training)
    before, after = (AutoTokenizer.from_pretrained(directory)(TEXT).input_ids for directory in (modern, continued))
    assert before == after
    was, now = (AutoModelForMaskedLM.from_pretrained(directory).state_dict() for directory in (modern, continued))
    assert {key: tensor.shape for key, tensor in was.items()} == {key: tensor.shape for key, tensor in now.items()}
    assert any(not torch.equal(was[key], now[key]) for key in was)
