"""From a run's checkpoint to its release, the launchers, and what is refused before a run starts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.errors import CheckpointError
from jadeberta.evaluation.mlm import main as evaluate_main
from jadeberta.hub.card_check import card_faults
from jadeberta.hub.cli import exported, files_of
from jadeberta.model import load
from jadeberta.release.export import export
from jadeberta.release.export import main as export_main
from jadeberta.release.origin import read_origin
from jadeberta.shards.tokenizer_format import TOKENIZER_FILES
from tests.fork_server import run_forked as jadeberta
from tests.helpers import ROOT, make_recipe, make_shards, read_metrics, run_ranks

LAUNCHERS = ["mpi", "torchrun", "deepspeed", pytest.param("local", marks=pytest.mark.long)]
"""Scripts of launch/. The local launcher is at work in the kills of tests/chaos too."""


def make_tokenizer(directory: Path) -> str:
    """A sentencepiece model of 64 pieces with its Hugging Face files; returns its sha256."""
    from collections import Counter

    from preprocess.config import PreprocessConfig
    from preprocess.document_files import write_jsonl_zst
    from preprocess.stages.tokenizer import _train
    from preprocess.tokenization.word_counts import RankedWords

    # 64 pieces, the five special ones among them: few characters and enough words of them.
    words = Counter({first + second: 50 + i for i, first in enumerate("アイウエオカキク") for second in "アイウエオカキク"})
    words |= Counter({"を": 99, "で": 98, "する": 97, "。": 96})
    file = directory / "ranked.jsonl.zst"
    write_jsonl_zst(file, [words.most_common()])
    ranked = RankedWords(words.total(), len(words), [file])
    return _train(PreprocessConfig(vocab_size=64, character_coverage=1.0), directory, ranked, {}, directory)["sha256"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of two ranks with its shards and tokenizer, trained to the end."""
    folder = tmp_path_factory.mktemp("run")
    shards = make_shards(folder / "shards", {"wikipedia": (20, 3), "cc100": (30, 1)})
    index = json.loads((shards / "index.json").read_text())
    index["tokenizer_sha256"] = make_tokenizer(shards / "tokenizer")
    (shards / "index.json").write_text(json.dumps(index))
    recipe = make_recipe(
        folder / "recipe.yaml",
        shards,
        folder / "run",
        training={"precision": "bf16", "ema_decay": 0.5},
        logging={"tensorboard": True},
    )
    run_ranks(2, "pretrain", "--config", str(recipe), log=folder / "log")
    return folder


@pytest.mark.slow
def test_a_checkpoint_directory_itself_loads_with_auto_classes(finished) -> None:
    checkpoint = finished / "run/checkpoints/step-00000006"
    model = AutoModelForMaskedLM.from_pretrained(checkpoint)
    assert type(model).__name__ == "DebertaV2ForMaskedLM" and model.dtype == torch.bfloat16
    assert len(AutoTokenizer.from_pretrained(checkpoint)) == 64
    assert not list(checkpoint.glob("*.pt")) and not list(checkpoint.glob("*.bin"))


@pytest.mark.slow
def test_the_release_gives_the_checkpoints_logits_and_a_filled_card(finished, tmp_path) -> None:
    evaluation = tmp_path / "evaluation.json"
    result = jadeberta(
        "evaluate", "mlm", "--checkpoint", finished / "run", "--shards", finished / "shards", "--output", evaluation
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert set(figures["corpora"]) == {"wikipedia", "cc100"}
    total = figures["all"]["masked_tokens"]
    assert total == sum(c["masked_tokens"] for c in figures["corpora"].values()) and total > 90
    weighted = sum(c["accuracy"] * c["masked_tokens"] for c in figures["corpora"].values()) / total
    assert figures["accuracy"] == pytest.approx(weighted)

    out = tmp_path / "release"
    result = jadeberta("export", "--checkpoint", finished / "run", "--out", out, "--evaluation", evaluation)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 7  # two lines about it, five predictions
    ids = torch.randint(5, 64, (2, 512), generator=torch.Generator().manual_seed(1))
    released = AutoModelForMaskedLM.from_pretrained(out).eval()
    assert released.dtype == torch.float32
    checkpoint = load(finished / "run/checkpoints/step-00000006").float().eval()
    with torch.inference_mode():
        # The checkpoint's working copy is bf16, the release has the fp32 masters it was rounded from.
        torch.testing.assert_close(released(input_ids=ids).logits, checkpoint(ids).logits, rtol=0.05, atol=0.01)
        torch.testing.assert_close(released(input_ids=ids).logits, load(out).eval()(ids).logits, rtol=1e-4, atol=1e-5)
    assert all((out / name).is_file() for name in TOKENIZER_FILES)
    assert read_origin(out) == {"segmenter": {"engine": "none"}, "normaliser": "none", "sentence_splitter": "none"}
    card = (out / "README.md").read_text(encoding="utf-8")
    for text in (
        "0.001",
        "2 ranks" if "2 ranks" in card else "2, ZeRO 1",
        f"{figures['accuracy']:.4f}",
        "| wikipedia | 20 |",
        "deepspeed 0.19.8",
    ):
        assert text in card
    assert "None" not in card and "unknown" not in card
    assert (out / "model.safetensors").stat().st_mode & 0o044 == 0o044, "a release must be readable by others"
    result = jadeberta("verify-release", out, "--run", finished / "run", "--shards", finished / "shards")
    assert result.returncode == 0 and "the trained weights of step-00000006 as float32" in result.stdout, result.stdout
    head = "---\nlicense: mit\n---\n"
    with exported(finished / "run/checkpoints/step-00000006", "step-6", head, "o/n") as revision:
        assert (revision / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
        assert files_of(revision).keys() == {p.name for p in revision.iterdir()}
        assert card_faults((revision / "README.md").read_text(encoding="utf-8")) == []


@pytest.mark.slow
def test_the_average_of_the_weights_is_released_and_evaluated_where_it_is_asked_for(finished, tmp_path, capsys) -> None:
    checkpoint, out = finished / "run/checkpoints/step-00000006", tmp_path / "average"
    export_main(["--checkpoint", str(finished / "run"), "--out", str(out), "--weights", "ema", "--dtype", "bfloat16"])
    released, average = load_file(out / "model.safetensors"), consolidate_weights(checkpoint, "ema")
    assert released.keys() == average.keys() and all(released[name].equal(average[name].bfloat16()) for name in average)
    assert any(not released[name].equal(weight) for name, weight in load_file(checkpoint / "model.safetensors").items())
    assert "running average of those that were trained, decay 0.5" in (out / "README.md").read_text(encoding="utf-8")

    losses = {}
    for name, options in (("trained", [checkpoint]), ("ema", [checkpoint, "--weights", "ema"]), ("released", [out])):
        capsys.readouterr()
        evaluate_main(
            ["mlm", "--shards", str(finished / "shards"), "--output", str(tmp_path / name), "--checkpoint", *map(str, options)]
        )
        losses[name] = json.loads(capsys.readouterr().out)["all"]["loss"]
    # The release is rounded to bf16, and what is evaluated of a checkpoint is not.
    assert losses["ema"] == pytest.approx(losses["released"], rel=1e-4) != losses["trained"]
    with pytest.raises(CheckpointError, match="evaluation is of the trained weights, the export of the ema ones"):
        export(checkpoint, tmp_path / "mixed", evaluation=json.loads((tmp_path / "trained").read_text()), kind="ema")
    foreign = json.loads((tmp_path / "trained").read_text()) | {
        "weights_sha256": json.loads((tmp_path / "ema").read_text())["weights_sha256"]
    }
    with pytest.raises(CheckpointError, match="evaluation is of other weights"):
        export(checkpoint, tmp_path / "mixed", evaluation=foreign)
    assert not list(tmp_path.glob("*mixed*"))


@pytest.mark.slow
def test_a_release_is_refused_over_an_existing_directory_and_from_a_damaged_checkpoint(finished, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    result = jadeberta("export", "--checkpoint", finished / "run", "--out", tmp_path / "out")
    assert result.returncode == 1 and "exists already" in result.stderr and "Traceback" not in result.stderr
    copy = shutil.copytree(finished / "run/checkpoints/step-00000006", tmp_path / "step-00000006")
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    (tmp_path / "not.json").write_text('{"all": {}}')
    evaluation = ["--evaluation", tmp_path / "not.json"]
    result = jadeberta("export", "--checkpoint", finished / "run", "--out", tmp_path / "new", *evaluation)
    assert result.returncode == 1 and "not the JSON of" in result.stderr and "Traceback" not in result.stderr
    result = jadeberta("export", "--checkpoint", copy, "--out", tmp_path / "new")
    assert result.returncode == 1 and "sha256 differs" in result.stderr
    assert not (tmp_path / "new").exists()
    listing = jadeberta("checkpoint", "verify", tmp_path)
    assert listing.returncode == 1 and "NOT TO BE TRUSTED" in listing.stdout


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A recipe of three steps, and the sha256 of what two ranks without a launcher have trained by it."""
    folder = tmp_path_factory.mktemp("launched")
    shards = make_shards(folder / "shards", {"wikipedia": (20, 1)})
    steps = {"training": {"max_steps": 3}, "checkpoint": {"every_steps": 3}}
    recipe = make_recipe(folder / "recipe.yaml", shards, folder / "run", **steps)
    run_ranks(2, "pretrain", "--config", str(recipe), log=folder / "log")
    return recipe, trained(folder / "run")


def trained(run_dir: Path) -> dict[str, str]:
    manifest = json.loads((run_dir / "checkpoints/step-00000003/manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items() if name.endswith(".safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_trains_to_the_bits_of_ranks_without_one(tmp_path, three_steps, launcher) -> None:
    recipe, expected = three_steps
    run_dir = tmp_path / f"run by {launcher}"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "SLURM_"))}
    env |= {"RANKS": "2", "RECIPE": str(recipe), "RUN_DIR": str(run_dir), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([ROOT / "launch" / f"{launcher}.sh"], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]} {done.stderr[-2000:]}"
    assert (run_dir / "DONE").exists() and [row["step"] for row in read_metrics(run_dir)] == [1, 2, 3]
    assert trained(run_dir) == expected


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    shards = make_shards(folder / "shards", {"wikipedia": (20, 3)})
    make_recipe(folder / "recipe.yaml", shards, folder / "run", training={"micro_batch_size": 1})
    return folder


@pytest.mark.parametrize(
    "options,message",
    [
        (
            ["--training.global_batch_size", "2304", "--training.micro_batch_size", "7"],
            "2304 is not divisible by training.micro_batch_size 7",
        ),
        (
            ["--model.vocab_size", "63"],
            "model.vocab_size is 63, but .*index.json has 64 pieces. Set model.vocab_size to 64",
        ),
        (["--data.repeats.oscar", "2"], "data.repeats names 'oscar'.*it holds wikipedia"),
        (["--data.shards", "/nowhere"], "/nowhere/index.json: cannot be read"),
        (["--deepspeed", "nothing.json"], "nothing.json: no such file"),
        (["--training.max_step", "5"], "unknown key training.max_step; did you mean training.max_steps"),
        (["--training.lr", "fast"], "training.lr: .*fast"),
        (["--training.lr", "nan"], r"ConfigError: (command line|training\.lr)"),
        (["--training.seed", "-1"], "training.seed is -1; it must be at least 0"),
        (["--checkpoint.every_steps", "0"], "checkpoint.every_steps is 0; it must be at least 1"),
        (["--training.adam_beta2", "2"], "training.adam_beta2 is 2.0; it must be at least 0 and below 1"),
        (["--model.attention", "fused"], "'fused' takes a model.attention_head_size of 32, 64, 128, not"),
        (["--model.attention", "eager", "--data.packing", "documents"], "cannot keep documents apart"),
        (["--model.num_attention_heads", "3"], "hidden_size 16 is not divisible by model.num_attention_heads 3"),
    ],
)
def test_a_contradictory_recipe_is_refused_in_one_sentence_and_leaves_nothing(small, tmp_path, options, message) -> None:
    import re

    result = jadeberta("pretrain", "--config", small / "recipe.yaml", "--run.dir", tmp_path / "run", *options)
    assert result.returncode in (1, 2), result.stdout
    lines = [line for line in result.stderr.splitlines() if "Error" in line]
    assert len(lines) == 1 and re.search(message, lines[0]), result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "run").rglob("step-*"))


def test_a_world_size_that_does_not_divide_is_refused_with_the_sizes_that_fit(small, tmp_path) -> None:
    env = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "5", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    result = jadeberta("pretrain", "--config", small / "recipe.yaml", "--run.dir", tmp_path / "run", **env)
    assert (
        result.returncode == 2
        and "12 does not divide over 5 ranks" in result.stderr
        and "World sizes that fit: 1, 2, 3, 4, 6, 12" in result.stderr
    )


def test_a_dry_run_says_what_would_be_and_writes_nothing(small, tmp_path) -> None:
    result = jadeberta("pretrain", "--config", small / "recipe.yaml", "--run.dir", tmp_path / "run", "--dry-run")
    assert result.returncode == 0 and "accumulation 12" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_resume_with_other_shards_or_another_recipe_is_refused_with_both_named(finished, tmp_path) -> None:
    run = shutil.copytree(finished / "run", tmp_path / "run")
    shutil.rmtree(run / "checkpoints/step-00000006")
    (run / "DONE").unlink()
    arguments = ["pretrain", "--config", finished / "recipe.yaml", "--run.dir", run]
    result = jadeberta(*arguments, "--training.lr", "0.5")
    assert result.returncode == 1 and "training.lr 0.001 -> 0.5" in result.stderr
    other = make_shards(tmp_path / "other", {"wikipedia": (20, 3), "cc100": (30, 1)}, seed=1)
    result = jadeberta(*arguments, "--data.shards", other)
    assert result.returncode == 1 and "other shards" in result.stderr
    result = jadeberta(*arguments, "--data.repeats.wikipedia", "4")
    assert result.returncode == 1 and "data.repeats.wikipedia 3 -> 4" in result.stderr
    result = jadeberta(*arguments, "--logging.every_steps", "3", "--data.workers", "2", "--checkpoint.every_steps", "5")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_max_steps_behind_the_checkpoint_is_refused_and_writes_no_done(finished, tmp_path) -> None:
    run = shutil.copytree(finished / "run", tmp_path / "run")
    (run / "DONE").unlink()
    result = jadeberta("pretrain", "--config", finished / "recipe.yaml", "--run.dir", run, "--training.max_steps", "4")
    assert result.returncode == 2 and "step 6 already, beyond training.max_steps 4" in result.stderr
    assert not (run / "DONE").exists()


@pytest.mark.slow
def test_a_shard_that_shrinks_while_training_is_named_by_the_loader(finished, tmp_path) -> None:
    shards = shutil.copytree(finished / "shards", tmp_path / "shards")
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", data={"workers": 1})
    # The size is checked at the start; a hole in the index's offsets stands for a file that changes later.
    index = json.loads((shards / "index.json").read_text())
    for entry in index["corpora"]["cc100"]["train"]:
        entry["blocks"] = [[rows, tokens + entry["bytes"], documents] for rows, tokens, documents in entry["blocks"]]
    (shards / "index.json").write_text(json.dumps(index))
    result = jadeberta("pretrain", "--config", recipe)
    assert result.returncode == 1 and "cc100-00000.tar" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_required_resume_with_nothing_there_ends_with_status_3(small, tmp_path) -> None:
    result = jadeberta("pretrain", "--config", small / "recipe.yaml", "--run.dir", tmp_path / "run", "--resume", "required")
    assert result.returncode == 3 and "no valid checkpoint" in result.stderr
    assert not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.slow
def test_a_run_directory_tells_what_happened(finished) -> None:
    run = finished / "run"
    events = [json.loads(line)["event"] for line in (run / "ledger.jsonl").read_text().splitlines()]
    assert events[0] == "start" and events[-1] == "done" and events.count("save") == 3
    row = read_metrics(run)[-1]
    assert set(row) >= {
        "step", "loss", "masked_accuracy", "masked_tokens", "lr", "grad_norm", "tokens", "tokens_per_second", "mfu", "data_wait_s",
        "step_s", "epoch", "batch_hash", "life",
    }  # fmt: skip
    assert yaml.safe_load((run / "recipe.yaml").read_text())["training"]["precision"] == "bf16"
    assert list((run / "tensorboard").glob("events.*"))


def test_the_large_recipe_holds_the_published_run() -> None:
    from transformers import DebertaV2ForMaskedLM

    from jadeberta.config import accumulation_steps, load_recipe
    from jadeberta.model import build

    recipe = load_recipe(ROOT / "recipes/large.yaml")
    training = recipe.training
    assert accumulation_steps(training.global_batch_size, training.micro_batch_size, 8) == 16
    assert (training.lr, training.max_steps, training.warmup_steps, training.schedule) == (1e-4, 300_000, 10_000, "linear")
    assert (training.adam_beta1, training.adam_beta2, training.adam_eps) == (0.9, 0.999, 1e-6)
    assert recipe.preprocess["corpora"]["wikipedia"]["repeats"] == 10 and recipe.preprocess["segmenter"]["engine"] == "jumanpp"
    with torch.device("meta"):
        ours = build(recipe.model.hugging_face())
        theirs = DebertaV2ForMaskedLM(ours.config)
    assert sum(p.numel() for p in ours.parameters()) == 339_838_208
    # The published 373M count the tied decoder, weight and bias, once more.
    assert sum(p.numel() for p in theirs.parameters()) + 32_000 * 1024 + 32_000 == 372_638_208
