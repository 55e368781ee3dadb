"""A run starts from published weights: its first loss is that of transformers' own model, and what does not fit is refused."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DebertaV2ForMaskedLM

from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.config import load_recipe
from jadeberta.config.lineage import describe_entry, read_lineage, write_lineage
from jadeberta.data.batches import StepDataset, iterate_steps
from jadeberta.data.masking import Masker
from jadeberta.data.sample_order import SampleOrder
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.model.published import Weights, read_published
from jadeberta.pretrain import pretrain
from jadeberta.release.card import start_section
from jadeberta.shards import open as open_shards
from jadeberta.start.plan import settle_start
from jadeberta.status import cli as status
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, printed_by, read_metrics, run_ranks, start_ranks
from tests.start.sources import planned, publish, started
from tests.training.test_resume import content, kill_at


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 3), "cc100": (40, 1)})


@pytest.fixture(scope="module")
def published(tmp_path_factory, shards) -> Path:
    directory = publish(tmp_path_factory.mktemp("published"))
    shutil.copyfile(shards / "tokenizer/spm.model", directory / "spm.model")
    return directory


def first_loss(directory: Path, recipe_file: Path) -> float:
    """transformers' own loss of the model in a directory on the first global batch of a recipe."""
    recipe = load_recipe(recipe_file)
    training, shards = recipe.training, open_shards(recipe.data.shards)
    repeats = {name: corpus.repeats for name, corpus in shards.index.corpora.items()}
    order = SampleOrder.of(training.seed, training.global_batch_size, shards.corpora, repeats)
    masker = Masker(training.seed, shards.index.vocab_size, training.mask_probability)
    batch = next(iterate_steps(StepDataset(shards, order, masker, training.global_batch_size, 0, 1, False, False), 0, 1, 0, 1))
    (inputs,) = batch.micro_batches
    labels = torch.full((inputs.input_ids.numel(),), -100)
    count = int((inputs.labels != -100).sum())
    labels[inputs.masked_index[:count]] = inputs.labels[:count]
    model = DebertaV2ForMaskedLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        loss = model(inputs.input_ids, attention_mask=inputs.attention_mask, labels=labels.view_as(inputs.input_ids)).loss
    return float(loss)


def test_the_first_loss_is_that_of_the_source_and_its_hashes_are_in_lineage_ledger_and_checkpoint(
    shards, published, tmp_path
) -> None:
    recipe = started(tmp_path, shards, published)
    printed = run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    assert "started from the weights of" in printed
    assert read_metrics(tmp_path / "run")[0]["loss"] == pytest.approx(first_loss(published, recipe), rel=2e-6)
    (entry,) = json.loads((tmp_path / "run/lineage.json").read_text())
    assert entry["source"] == str(published) and entry["tokenizer"] == "same" and "model.safetensors" in entry["files"]
    state = json.loads((tmp_path / "run/checkpoints/step-00000001/state.json").read_text())
    (start,) = [row for row in read_jsonl(tmp_path / "run/ledger.jsonl") if row["event"] == "start"]
    assert state["lineage"] == start["lineage"] == [entry]
    # A branch needs the checkpoint alone: neither the source nor the run that has started from it.
    step = shutil.copytree(tmp_path / "run/checkpoints/step-00000001", tmp_path / "copy/step-00000001")
    gone = ("--model.init_from", str(tmp_path / "gone"), "--training.max_steps", "3")
    branch = planned(recipe, step, *gone, "--run.dir", str(tmp_path / "branch"))
    assert [e["kind"] for e in branch.lineage] == ["init", "branch"] and branch.lineage[1]["changed"] == {
        "training.max_steps": [2, 3]
    }
    with pytest.raises(ConfigError, match=r"gone: no config\.json there"):
        planned(recipe, None, *gone, "--run.dir", str(tmp_path / "branch"))
    # Nor does the run itself, should it have lost the record of its start.
    (tmp_path / "run/lineage.json").unlink()
    assert planned(recipe, None, *gone).lineage == (entry,)


def test_killed_before_its_first_checkpoint_it_starts_again_and_ends_with_the_bits_of_an_unkilled_run(
    shards, published, tmp_path
) -> None:
    changes: dict = {"training": {"max_steps": 6}, "model": {"hidden_dropout_prob": 0.1}, "checkpoint": {"every_steps": 6}}
    unbroken = started(tmp_path, shards, published, run={"dir": str(tmp_path / "unbroken")}, **changes)
    run_ranks(1, "pretrain", "--config", str(unbroken), log=tmp_path / "unbroken-log")
    recipe, run = started(tmp_path, shards, published, **changes), tmp_path / "run"
    (process,) = start_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    while not (run / "lineage.json").exists():
        assert process.poll() is None, printed_by(tmp_path / "log")[-2000:]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    first = (run / "lineage.json").read_bytes()
    kill_at(1, 2, 0.0, run, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    assert not list(run.glob("checkpoints/step-????????"))
    run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    last = "checkpoints/step-00000006"
    assert content(run / last) == content(tmp_path / "unbroken" / last)
    assert (run / "lineage.json").read_bytes() == first == (tmp_path / "unbroken/lineage.json").read_bytes()


@pytest.mark.slow
def test_masters_and_average_are_the_sources_values_to_the_bit_under_bf16_and_zero3(shards, published, tmp_path) -> None:
    recipe = started(
        tmp_path, shards, published, deepspeed="ds_configs/zero3.json",
        training={"max_steps": 1, "warmup_steps": 1, "precision": "bf16", "ema_decay": 0.5},  # the first update has a rate of 0
    )  # fmt: skip
    run_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    expected = load_file(published / "model.safetensors")
    for kind in ("trained", "ema"):
        found = consolidate_weights(tmp_path / "run/checkpoints/step-00000001", kind)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_until_the_first_checkpoint_the_source_must_be_what_it_was(shards, published, tmp_path) -> None:
    model = Path(shutil.copytree(published, tmp_path / "model"))
    recipe, run = started(tmp_path, shards, model), tmp_path / "run"
    first = planned(recipe, None)
    run.mkdir()
    settle_start(run, first)
    assert planned(recipe, None).lineage == first.lineage
    moved = model.rename(tmp_path / "moved")
    assert planned(recipe, None, "--model.init_from", str(moved)).lineage == first.lineage
    with pytest.raises(
        ConfigError,
        match=r"init_from is empty, but .* started from .*model\. Set the key.*\(or remove lineage\.json",
    ):
        planned(make_recipe(tmp_path / "random.yaml", shards, run), None)
    tensors = load_file(moved / "model.safetensors")
    tensors["cls.predictions.bias"][0] += 1
    save_file(tensors, moved / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"moved: is not what it was when the run in .* and the run has no checkpoint yet"
    ) as e:
        planned(recipe, None, "--model.init_from", str(moved))
    assert "\n" not in str(e.value)


def test_shards_that_do_not_fit_and_a_source_that_vanishes_are_refused_with_the_way_out(
    shards, published, tmp_path, monkeypatch
) -> None:
    other = make_shards(tmp_path / "other", {"wikipedia": (20, 3)}, vocab_size=80)
    longer = make_shards(tmp_path / "longer", {"wikipedia": (20, 3)}, length=256)
    for directory, words in (
        (other, r"has 64 embeddings, but the tokenizer of .* has 80 pieces, .*init_tokenizer: match and model\.vocab_size: 80"),
        (longer, r"is 128 but the rows of .* have 256 tokens\. Set it to 256 or more"),
    ):
        with pytest.raises(ConfigError, match=words):
            pretrain(load_recipe(started(tmp_path, directory, published)), dry_run=True)
    model = Path(shutil.copytree(published, tmp_path / "model"))
    recipe = started(tmp_path, shards, model)

    def read_and_vanish(directory: Path, config: dict) -> Weights:
        weights = read_published(directory, config)
        shutil.rmtree(directory)
        return weights

    with monkeypatch.context() as patched:
        patched.setattr("jadeberta.start.source.weight_files", lambda directory: [directory / "gone"])
        with pytest.raises(
            CheckpointError, match=r"model/gone: cannot be read \(No such file or directory\), and the run starts from it"
        ):
            planned(recipe, None)
    monkeypatch.setattr("jadeberta.start.source.read_published", read_and_vanish)
    with pytest.raises(CheckpointError, match=r"model: no model\.safetensors or pytorch_model\.bin there"):
        planned(recipe, None)
    assert not (tmp_path / "run/lineage.json").exists()


def test_a_source_is_read_and_nothing_is_written_there(shards, published, tmp_path) -> None:
    model = Path(shutil.copytree(published, tmp_path / "model"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in model.iterdir()}
    planned(started(tmp_path, shards, model), None)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in model.iterdir()} == before


def test_a_run_from_random_weights_does_not_change_its_start(shards, published, tmp_path) -> None:
    step = tmp_path / "run/checkpoints/step-00000001"
    step.mkdir(parents=True)
    (step / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"but .*run holds a run that has started from random weights\. Leave the key out"):
        planned(started(tmp_path, shards, published), None)


def test_status_and_card_say_what_a_run_has_started_from(shards, published, tmp_path, capsys) -> None:
    entry = planned(started(tmp_path, shards, published), None).lineage[0]
    counts = {"shared": 1200, "from_parts": 34, "from_all": 5, "special": 5}
    branch = {
        "kind": "branch", "source": "/a/b/large/checkpoints/step-00001000", "given": "", "manifest_sha256": "c" * 64, "step": 1000,
        "tokens": 5000, "changed": {"training.schedule": ["constant", "wsd"], "data.shards": ["a" * 64, "b" * 64]},
    }  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    write_lineage(run, (entry | {"tokenizer": counts}, branch))
    (run / "ledger.jsonl").write_text('{"event": "start", "time": 1.0, "attempt": 0}\n')
    assert status.main([str(run)]) == 0
    assert "started from  branch of /a/b/large/checkpoints/step-00001000, step 1,000, 5,000 tokens" in capsys.readouterr().out
    sentences = [describe_entry(e, with_path=False) for e in read_lineage(run)]
    assert sentences[0].startswith(
        f"weights of {published.name} (sha256 {entry['weights_sha256'][:16]}…); another tokenizer: 1,200 pieces kept"
    )
    assert sentences[1] == (
        "branch of the run large, step 1,000, 5,000 tokens (manifest sha256 cccccccccccccccc…); "
        "changed: data.shards aaaaaaaaaaaa… -> bbbbbbbbbbbb…, training.schedule constant -> wsd"
    )
    assert start_section([entry, branch]).count("\n1. weights of") == 1 and start_section([]) == ""
