"""Replaced-token detection from a recipe to a release: any number of ranks replaces the same tokens, and a kill changes no bit."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.config import load_recipe
from jadeberta.data.masking import IGNORED
from jadeberta.data.run_data import RunDataset, open_run_data
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.evaluation.mlm import main as evaluate
from jadeberta.finetune.pretrained import load_pretrained
from jadeberta.model import load, replaced_tokens
from jadeberta.model.load import load_pair
from jadeberta.release.export import export
from jadeberta.release.pair import load_discriminator
from jadeberta.shards import open as open_shards
from jadeberta.start.branch import branch_entry
from jadeberta.training.engine import decide_compilation, deepspeed_settings
from jadeberta.training.objective import build_model
from jadeberta.utils.json_lines import read_jsonl
from preprocess.config import SegmenterConfig
from tests.helpers import TINY_MODEL, make_recipe, make_shards, printed_by, read_metrics, run_ranks, start_ranks, write_published
from tests.preprocess import small_tokenizers as small
from tests.preprocess import tiny_corpus as tiny
from tests.training.test_resume import content, kill_at

STEPS = 6
RTD = {"objective": "rtd", "max_steps": STEPS, "global_batch_size": 4, "warmup_steps": 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 128 of the small corpora, with a tokenizer that texts can be encoded by."""
    folder = tmp_path_factory.mktemp("rtd")
    (folder / "given").mkdir()
    config = tiny.configure(
        tiny.write_corpora(folder / "corpora"),
        tokenizer=str(small.LAYOUTS["modernbert"](folder / "given")),
        segmenter=SegmenterConfig("none"),
        sequence_length=128,
    )
    return tiny.run_stages(config, folder / "shards")


def recipe_of(path: Path, shards: Path, **sections: dict | str) -> Path:
    size = -(-open_shards(shards).index.vocab_size // 64) * 64
    model = TINY_MODEL | {"vocab_size": size, "conv_kernel_size": 0} | dict(sections.pop("model", {}))
    training = RTD | dict(sections.pop("training", {}))
    return make_recipe(path, shards, path.with_suffix(""), model=model, training=training, **sections)


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks under ZeRO 2 in bf16, with everything that it may have."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = recipe_of(folder / "run.yaml", shards, **SECTIONS)
    run_ranks(2, "pretrain", "--config", str(recipe), log=folder / "log")
    return folder / "run"


SPIKES = """
import sys
from jadeberta.cli import main
from jadeberta.training.engine import TrainingEngine
step, forward = TrainingEngine.step, TrainingEngine.forward
def noted(self, batch, *rest):
    self.now = batch.step
    return step(self, batch, *rest)
def spoilt(self, micro_batch):
    sums = list(forward(self, micro_batch))
    for place in {8: [0], 10: [2]}.get(self.now, []):
        sums[place] = sums[place] + 99 * sums[place].detach()
    return tuple(sums)
TrainingEngine.step, TrainingEngine.forward = noted, spoilt
sys.argv = ["jadeberta", *sys.argv[1:]]
main()
"""
"""Multiplies the generator's loss at step 9 and the discriminator's at step 11, without their gradients; all else is the real command."""


def test_a_spike_of_either_loss_is_skipped_in_a_run(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", {"wikipedia": (20, 2)})
    training = RTD | {"max_steps": 12, "global_batch_size": 2}
    recipe = make_recipe(
        tmp_path / "run.yaml", shards, tmp_path / "run", training=training, guard={"window": 8}, checkpoint={"every_steps": 12}
    )
    (process,) = start_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "log", code=SPIKES)
    assert process.wait(200) == 0, printed_by(tmp_path / "log")[-3000:]
    skips = [row for row in read_jsonl(tmp_path / "run/ledger.jsonl") if row["event"] == "skip"]
    assert [(row["step"], row["reason"].split()[0]) for row in skips] == [(9, "loss"), (11, "discriminator_loss")]
    state = json.loads((tmp_path / "run/checkpoints/step-00000012/state.json").read_text())
    assert (state["adam_step"], state["skipped_steps"], len(state["guard"]["discriminator_loss"])) == (10, 2, 8)


SECTIONS: dict = {
    "deepspeed": "ds_configs/zero2.json",
    "training": {"precision": "bf16", "ema_decay": 0.9, "optimizer": "muon"},
    "phases": [{"steps": 3}, {"steps": 3, "mask_probability": 0.3}],
    "data": {"packing": "documents"},
    "evaluation": {"every_steps": 3, "sequences": 2},
}


@pytest.mark.long
def test_a_run_that_is_killed_ends_with_the_same_bits(shards: Path, run: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "killed.yaml", shards, **SECTIONS)
    kill_at(2, 3, 0.2, tmp_path / "killed", "pretrain", "--config", str(recipe), log=tmp_path / "log")
    run_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    last = f"checkpoints/step-{STEPS:08d}"
    assert content(tmp_path / "killed" / last) == content(run / last)


def test_the_metrics_have_both_losses_and_what_the_discriminator_found(run: Path) -> None:
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert 0.5 < row["discriminator_loss"] < 1 and 0 < row["loss"] < 10
        assert 0.05 < row["replaced_share"] < (0.3 if row["step"] <= 3 else 0.5)
        assert 0 <= row["replaced_accuracy"] <= 1 and 0 <= row["original_accuracy"] <= 1
    state = json.loads((run / f"checkpoints/step-{STEPS:08d}/state.json").read_text())
    # Of the steps since the phase began.
    assert [len(state["guard"][name]) for name in ("loss", "grad_norm", "discriminator_loss")] == [3] * 3


REPLACED = """
import json, sys
from pathlib import Path
from jadeberta.cli import main
from jadeberta.model import replaced_tokens
place, plain = Path(sys.argv[1]), replaced_tokens.fill_places
def noted(input_ids, *rest):
    found = plain(input_ids, *rest)
    with open(place, "a") as f:
        f.writelines(json.dumps([row, other]) + chr(10) for row, other in zip(input_ids.tolist(), found[1].tolist(), strict=True))
    return found
replaced_tokens.fill_places = noted
sys.argv = ["jadeberta", *sys.argv[2:]]
main()
"""
"""Notes each masked row and the row with the drawn tokens; everything else is the real command."""


@pytest.mark.long
def test_every_row_of_a_run_gets_the_same_replaced_tokens_on_1_2_and_4_ranks(tmp_path: Path) -> None:
    shards, found = make_shards(tmp_path / "shards", {"wikipedia": (40, 2)}), []
    exact = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    training = RTD | {"max_steps": 3, "global_batch_size": 8, "micro_batch_size": 2}
    for ranks in (1, 2, 4):
        recipe = make_recipe(
            tmp_path / f"{ranks}.yaml", shards, tmp_path / str(ranks), training=training, model=TINY_MODEL | exact
        )
        rows = tmp_path / f"{ranks}.jsonl"
        processes = start_ranks(ranks, str(rows), "pretrain", "--config", str(recipe), log=tmp_path / "log", code=REPLACED)
        assert [process.wait(240) for process in processes] == [0] * ranks, printed_by(tmp_path / "log")[-3000:]
        found.append(sorted(read_jsonl_lists(rows)))
    assert len(found[0]) == 3 * 8 and all(masked != replaced for masked, replaced in found[0])
    assert found[0] == found[1] == found[2]


def read_jsonl_lists(path: Path) -> list[list[list[int]]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.long
def test_any_number_of_ranks_and_any_micro_batch_replaces_the_same_tokens(shards: Path, tmp_path: Path) -> None:
    exact = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    found = []
    for ranks, size, stage in ((1, 4, 1), (2, 1, 2), (2, 2, 1)):
        training, name = {"micro_batch_size": size, "max_steps": 3}, f"{ranks}-{size}"
        recipe = recipe_of(
            tmp_path / f"{name}.yaml", shards, model=exact, training=training, deepspeed=f"ds_configs/zero{stage}.json"
        )
        run_ranks(ranks, "pretrain", "--config", str(recipe), log=tmp_path / "log")
        found.append(read_metrics(tmp_path / name))
    for rows in found[1:]:
        for row, expected in zip(rows, found[0], strict=True):
            for key in ("batch_hash", "masked_tokens", "replaced_share"):
                assert row[key] == expected[key]
            for key in ("loss", "discriminator_loss", "grad_norm"):
                assert row[key] == pytest.approx(expected[key], rel=1e-4)


def test_a_place_has_the_same_random_number_on_any_rank_and_in_any_micro_batch(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", {"wikipedia": (20, 2)})
    recipe = load_recipe(make_recipe(tmp_path / "r.yaml", shards, tmp_path / "run", training={"objective": "rtd"}))
    data = open_run_data(recipe)

    def drawn(world_size: int, size: int) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Random numbers of a row's masked places, by the row's masked tokens."""
        found = {}
        for rank in range(world_size):
            recipe.training.micro_batch_size = size
            changed = open_run_data(recipe)
            for micro in (
                RunDataset(recipe, changed, changed.order, rank, world_size, None)
                .batch(RunDataset(recipe, changed, changed.order, rank, world_size, None)[1])
                .micro_batches
            ):
                assert micro.draws is not None
                real = micro.labels != IGNORED
                assert (micro.input_ids.flatten()[micro.masked_index[real]] == 4).all()  # every chosen token is [MASK]
                rows = micro.masked_index[real] // 128
                for row in range(size):
                    found[tuple(micro.input_ids[row].tolist())] = tuple(micro.draws[real][rows == row].tolist())
        return found

    whole = drawn(1, 12)
    assert whole == drawn(2, 1) == drawn(4, 3)
    numbers = [n for row in whole.values() for n in row]
    assert len(numbers) > 100 and len(set(numbers)) == len(numbers)
    assert data.order == open_run_data(recipe).order


def test_every_rank_draws_the_same_tokens_for_a_row_whatever_shares_its_batch(tmp_path: Path, monkeypatch) -> None:
    shards = make_shards(tmp_path / "shards", {"wikipedia": (20, 2)})
    recipe = load_recipe(make_recipe(tmp_path / "r.yaml", shards, tmp_path / "run", training=RTD))
    model = build_model(recipe, open_shards(shards).index.special_tokens, "sdpa").eval()
    plain, found = replaced_tokens.fill_places, []

    def noted(input_ids: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        original, replaced = plain(input_ids, *rest)
        found[-1] |= {(step, *masked): row for masked, row in zip(input_ids.tolist(), replaced.tolist(), strict=True)}
        assert (replaced != original).any()
        return original, replaced

    monkeypatch.setattr(replaced_tokens, "fill_places", noted)
    for ranks, size in ((1, 4), (2, 1), (4, 1)):
        recipe.training.micro_batch_size = size
        found.append({})
        for rank in range(ranks):
            data = open_run_data(recipe)
            dataset = RunDataset(recipe, data, data.order, rank, ranks, None)
            for step in (0, 3):
                for micro in dataset.batch(dataset[step]).micro_batches:
                    with torch.inference_mode():
                        model(**{name: value for name, value in vars(micro).items() if value is not None})
    assert len(found[0]) == 2 * 4 and found[0] == found[1] == found[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_loads_both_models_of_an_export_with_equal_outputs(run: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint, out = run / f"checkpoints/step-{STEPS:08d}", tmp_path / "release"
    assert len(export(checkpoint, out, dtype)) == 5
    pair = load_pair(checkpoint, consolidate_weights(checkpoint)).eval()
    encoder = transformers.AutoModel.from_pretrained(out, dtype=torch.float32).eval()
    lm = transformers.AutoModelForMaskedLM.from_pretrained(out / "generator", dtype=torch.float32).eval()
    assert (type(encoder), type(lm)) == (transformers.DebertaV2Model, transformers.DebertaV2ForMaskedLM)
    assert (lm.config.num_hidden_layers, encoder.config.num_hidden_layers) == (1, 2)
    ids = torch.randint(5, 64, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        states = encoder(input_ids=ids).last_hidden_state
        bound = {"rtol": 1e-4, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
        torch.testing.assert_close(pair.discriminator.encode_rows(ids, None, None), states, **bound)
        torch.testing.assert_close(pair.generator(ids).logits, lm(input_ids=ids).logits, **bound)
        torch.testing.assert_close(pair.discriminator(ids), load_discriminator(out)(ids), **bound)
    assert 'AutoModelForMaskedLM.from_pretrained("PATH/generator")' in (out / "README.md").read_text(encoding="utf-8")
    ours, of_generator = (transformers.AutoTokenizer.from_pretrained(path).get_vocab() for path in (out, out / "generator"))
    assert ours == of_generator
    if dtype == torch.float32:  # fine-tuned from either, it is the discriminator, with the same bits
        assert load_pretrained(out).sha256 == load_pretrained(checkpoint).sha256


def test_an_evaluation_has_the_generators_accuracy_and_the_discriminators(run: Path, shards: Path, capsys) -> None:
    given = ["mlm", "--checkpoint", str(run), "--shards", str(shards), "--limit", "2"]
    evaluate(given)
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["accuracy"] <= 1
    figures = found["discriminator"]["all"]
    assert figures["tokens"] > 100 and 0.4 < figures["loss"] < 1
    replaced = figures["replaced_share"]
    assert figures["accuracy"] == pytest.approx(
        replaced * figures["replaced_accuracy"] + (1 - replaced) * figures["original_accuracy"], abs=1e-9
    )
    evaluate([*given, "--batch-size", "1"])
    assert json.loads(capsys.readouterr().out)["discriminator"]["all"]["replaced_share"] == replaced


def test_a_branch_keeps_the_objective(run: Path, shards: Path, tmp_path: Path) -> None:
    reader = open_shards(shards)
    repeats = {name: corpus.repeats for name, corpus in reader.index.corpora.items()}
    other = load_recipe(recipe_of(tmp_path / "other.yaml", shards, training={"objective": "mlm"}, phases=SECTIONS["phases"]))
    with pytest.raises(ConfigError, match=r"training\.objective is mlm, and rtd in .*with the same objective"):
        branch_entry(other, reader, repeats, run)
    longer = SECTIONS | {
        "training": SECTIONS["training"] | {"max_steps": 2 * STEPS},
        "phases": [*SECTIONS["phases"], {"steps": STEPS}],
    }
    same = load_recipe(recipe_of(tmp_path / "same.yaml", shards, **longer))
    assert branch_entry(same, reader, repeats, run)[-1]["step"] == STEPS


def test_one_model_is_not_read_from_a_checkpoint_of_two(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"generator and a discriminator .* 'jadeberta export'"):
        load(run / f"checkpoints/step-{STEPS:08d}")


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"rtd": {"loss_weight": 0}}, r"rtd\.loss_weight is 0.*above 0"),
        ({"rtd": {"temperature": -1}}, r"rtd\.temperature is -1.*above 0"),
        ({"rtd": {"generator_layers": -1}}, r"rtd\.generator_layers is -1"),
        (
            {"training": {"objective": "mlm"}, "rtd": {"temperature": 2}},
            r"rtd\.temperature 2.* belongs to training.objective rtd",
        ),
        ({"model": TINY_MODEL | {"attention": "eager"}}, "needs model.attention 'sdpa' or 'fused'"),
        ({"training": {"objective": "rtd", "recompute": "cheap"}}, "'cheap' is the compiler's choice, and compile 'auto' leaves"),
        ({"training": {"objective": "rtd", "whole_word_mask": True}}, "whole_word_mask does not go together"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(tmp_path: Path, sections, reason) -> None:
    sections = {"training": {"objective": "rtd"}} | sections
    with pytest.raises(ConfigError, match=reason):
        load_recipe(make_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run", **sections))


def test_a_source_of_weights_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: {{init_from: {write_published(tmp_path)}}}\ntraining: {{objective: rtd}}\n")
    reason = r"rtd starts from random weights, and model\.init_from is .*, which has no generator; leave it out, or [^\n]*mlm\.$"
    with pytest.raises(ConfigError, match=reason):
        load_recipe(recipe)


def test_it_is_compiled_where_that_is_asked_for_alone(tmp_path: Path) -> None:
    for objective, wish, decided in (
        ("mlm", "auto", True),
        ("rtd", "auto", False),
        ("rtd", "always", True),
        ("rtd", "never", False),
    ):
        training = {"objective": objective, "compile": wish}
        recipe = load_recipe(make_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run", training=training))
        assert decide_compilation(recipe, "sdpa", 1, torch.device("cuda")) is decided


def test_zero_3_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(
        make_recipe(
            tmp_path / "r.yaml", tmp_path, tmp_path / "run", training={"objective": "rtd"}, deepspeed="ds_configs/zero3.json"
        )
    )
    with pytest.raises(ConfigError, match="ZeRO stage 1 or 2"):
        deepspeed_settings(recipe, 1)
