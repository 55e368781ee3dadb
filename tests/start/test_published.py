"""Published weights in every layout are read alike, and what is no sound DeBERTa V2 is refused with one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

from jadeberta.config import ModelConfig, load_recipe
from jadeberta.config.init_from import read_architecture
from jadeberta.errors import CheckpointError, ConfigError, JadebertaError
from jadeberta.model.published import EMBEDDINGS, Weights, read_published
from tests.helpers import make_recipe
from tests.start.sources import SOURCE, publish

HEAD = "cls.predictions.transform.dense.weight"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture
def copy(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "model"))


def read(directory: Path) -> Weights:
    return read_published(directory, ModelConfig(**read_architecture(directory)).hugging_face())


def rewrite(directory: Path, change: Callable[[Weights], Any]) -> None:
    """Changes the tensors of a model's one file."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def edit(directory: Path, **keys: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def as_bin(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def sharded(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    parts = [dict(list(tensors.items())[i::2]) for i in range(2)]
    for number, part in enumerate(parts):
        save_file(part, directory / f"model-{number + 1:05d}-of-00002.safetensors")
    places = {name: f"model-{number + 1:05d}-of-00002.safetensors" for number, part in enumerate(parts) for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (directory / "model.safetensors").unlink()


def with_newer_head(tensors: Weights) -> None:
    """The names of transformers' newer head, as DeBERTa V3 is published, with the second head of its pre-training."""
    for name in [n for n in tensors if n.startswith("cls.")]:
        tensors[
            name.replace("predictions.transform", "lm_head").replace("predictions.", "lm_head.").replace("cls", "lm_predictions")
        ] = tensors.pop(name)
    tensors["mask_predictions.dense.weight"] = torch.ones(2, 2)


def with_tied_copies(tensors: Weights) -> None:
    tensors["cls.predictions.decoder.weight"] = tensors[EMBEDDINGS].clone()
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    tensors["deberta.embeddings.position_ids"] = torch.arange(128)[None]


def with_old_suffixes(tensors: Weights) -> None:
    for name in [n for n in tensors if n.endswith("LayerNorm.weight")]:
        tensors[name.removesuffix("weight") + "gamma"] = tensors.pop(name)


def test_weights_of_16_and_64_bits_are_read_as_their_values_in_fp32(published, tmp_path) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        copy = Path(shutil.copytree(published, tmp_path / str(dtype)))
        rewrite(copy, lambda t, dtype=dtype: t.update({name: tensor.to(dtype) for name, tensor in t.items()}))
        expected, found = read(published), read(copy)
        assert all(tensor.dtype == torch.float32 for tensor in found.values())
        assert all(torch.equal(found[name], expected[name].to(dtype).float()) for name in expected)


@pytest.mark.parametrize(
    "layout",
    [as_bin, sharded, *[lambda d, c=c: rewrite(d, c) for c in (with_newer_head, with_tied_copies, with_old_suffixes)]],
)
def test_every_layout_gives_the_same_weights(published, copy, layout) -> None:
    layout(copy)
    expected, found = read(published), read(copy)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_newer_head_of_transformers_is_the_same_function(tmp_path) -> None:
    torch.manual_seed(0)
    theirs = DebertaV2ForMaskedLM(DebertaV2Config(**SOURCE, legacy=False)).eval()
    theirs.save_pretrained(tmp_path)
    from jadeberta.model import build

    ours = build(ModelConfig(**read_architecture(tmp_path)).hugging_face()).eval()
    ours.load_state_dict(read(tmp_path), strict=False)
    ids = torch.randint(5, 64, (2, 40))
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)


def cut(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_pickled_code(directory: Path) -> None:
    torch.save({"x": Path("/")}, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def with_text_as_bin(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_text("not a checkpoint")
    (directory / "model.safetensors").unlink()


def without_a_shard(directory: Path) -> None:
    sharded(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()


def leading_outside(directory: Path) -> None:
    sharded(directory)
    path = directory / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("model-00002", "../model-00002"))


def untied(tensors: Weights) -> None:
    tensors["cls.predictions.decoder.weight"] = tensors[EMBEDDINGS] + 1


def with_nan(tensors: Weights) -> None:
    tensors[HEAD][0, :3] = float("nan")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, r"model\.safetensors: cut short or damaged \("),
        (with_pickled_code, r"pytorch_model\.bin: cannot be read as tensors alone"),
        (lambda d: rewrite(d, lambda t: t.update({HEAD: t[HEAD].to(torch.float8_e4m3fn)})), rf"{HEAD} holds torch.float8_e4m3fn numbers"),
        (lambda d: (d / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), r"a pointer of Git LFS and not"),
        (with_text_as_bin, r"pytorch_model\.bin: cannot be read as tensors alone \(it is damaged, or holds more than tensors\)\. Give"),
        (without_a_shard, r"model-00002-of-00002\.safetensors: missing, though model\.safetensors\.index\.json lists it"),
        (leading_outside, r"index\.json: damaged, not the list of a sharded model \(it names no files of this directory\)"),
        (lambda d: (d / "model.safetensors").unlink(), r"no model\.safetensors or pytorch_model\.bin there"),
        (lambda d: rewrite(d, lambda t: t.pop(HEAD)), rf"lacks {HEAD} \(1 tensors missing\)"),
        (lambda d: rewrite(d, lambda t: t.update(x=torch.ones(1))), r"holds x \(1 tensors too many\)"),
        (lambda d: rewrite(d, lambda t: t.update({HEAD: torch.ones(2, 2)})), rf"{HEAD} is \[2, 2\] there and \[16, 16\] by its"),
        (lambda d: rewrite(d, lambda t: t.update({HEAD: torch.ones(16, 16).int()})), rf"{HEAD} holds torch.int32 numbers"),
        (lambda d: rewrite(d, with_nan), rf"{HEAD} holds 3 values that are not finite"),
        (lambda d: rewrite(d, untied), r"decoder\.weight is not .*word_embeddings\.weight, so its output layer is a layer of its own"),
        (lambda d: edit(d, model_type="bert", architectures=["BertForMaskedLM"]), "the model is a bert; model.init_from takes a"),
        (lambda d: edit(d, model_type="deberta"), "the model is a deberta;"),
        (lambda d: edit(d, model_type=None), "of no known kind"),
        (lambda d: edit(d, architectures=["DebertaV2ForSequenceClassification"]), "the model is a DebertaV2ForSequenceClassification"),
        (lambda d: edit(d, architectures=5), r"the model is a 5; model\.init_from takes a"),
        (lambda d: edit(d, auto_map={"AutoModel": "x.Y"}), "Python code of its own, which is never run"),
        (lambda d: edit(d, embedding_size=8), "its embedding_size 8 is not its hidden_size 16"),
        (lambda d: edit(d, num_attention_heads=5), r"its config\.json describes no DeBERTa V2 \(The hidden size"),
        (lambda d: edit(d, num_hidden_layers=10**9), "its num_hidden_layers is 1,000,000,000, more than 1,000"),
        (lambda d: edit(d, pos_att_type=["c2p", 5]), r"its pos_att_type is \['c2p', 5\], where a DeBERTa V2 has list"),
        (lambda d: edit(d, hidden_size="16"), "its hidden_size is '16', where a DeBERTa V2 has int"),
        (lambda d: (d / "config.json").write_text("{"), r"config\.json: cannot be read as a model's configuration"),
        (lambda d: (d / "config.json").write_text("[1]"), r"config\.json: cannot be read as a model's configuration \(no object\)"),
    ],
)  # fmt: skip
def test_what_is_no_sound_model_is_refused_with_one_sentence(copy, damage, words) -> None:
    damage(copy)
    with pytest.raises(JadebertaError, match=words) as e:
        read(copy)
    assert str(copy) in str(e.value) and "\n" not in str(e.value) and isinstance(e.value, CheckpointError | ConfigError)


def recipe_of(tmp_path: Path, published: Path, *options: str) -> ModelConfig:
    recipe = make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run")
    text = recipe.read_text()
    recipe.write_text(text[: text.index("model:")] + text[text.index("run:") :])
    return load_recipe(recipe, ("--model.init_from", str(published), *options)).model


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"kind": "branch", "manifest_sha256": "0"}, r"lineage\.json: damaged, not the lineage of a run \(an entry of kind branch lacks"),
        ({"tokenizer": {"shared": "5"}}, r"the tokenizer of an entry counts something else than pieces"),
        ({"model": {"max_position_embeddings": "512"}}, r"lineage\.json: its max_position_embeddings is '512', where a DeBERTa V2 has int"),
    ],
)  # fmt: skip
def test_a_damaged_lineage_is_refused_with_one_sentence(published, tmp_path, entry, words) -> None:
    (tmp_path / "run").mkdir()
    whole = {"kind": "init", "source": "/a", "given": "/a", "weights_sha256": "0", **entry}
    (tmp_path / "run/lineage.json").write_text(json.dumps([whole]))
    with pytest.raises(JadebertaError, match=words):
        recipe_of(tmp_path, published)


def test_keys_left_out_are_the_sources_and_those_written_must_agree(published, tmp_path) -> None:
    model = recipe_of(tmp_path, published, "--model.hidden_size", "16", "--model.pos_att_type", "[c2p, p2c]")
    assert (model.vocab_size, model.num_hidden_layers, model.position_buckets, model.max_position_embeddings) == (64, 2, 8, 128)
    assert model.hidden_dropout_prob == 0.1  # the recipe's own
    # The default value counts too where it is written.
    for key, value, theirs in (
        ("num_hidden_layers", "24", "2"),
        ("layer_norm_eps", "1e-5", "1e-07"),
        ("conv_kernel_size", "0", "3"),
    ):
        with pytest.raises(
            ConfigError, match=rf"model\.{key} is {value.replace('1e-5', '1e-05')} in the recipe and {theirs} in .*config.json"
        ):
            recipe_of(tmp_path, published, f"--model.{key}", value)
    with pytest.raises(ConfigError, match=r"no config\.json there. Name a Hugging Face directory"):
        recipe_of(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"init_tokenizer belongs to model\.init_from, which is empty"):
        recipe_of(tmp_path, Path(), "--model.init_from", "", "--model.init_tokenizer", "match")


def test_longer_rows_keep_the_distances_of_the_source_and_absolute_positions_are_only_cut(published, copy, tmp_path) -> None:
    longer = recipe_of(tmp_path, published, "--model.max_position_embeddings", "256")
    assert (longer.max_position_embeddings, longer.max_relative_positions) == (256, 128)
    with pytest.raises(ConfigError, match="max_relative_positions is -1 in the recipe, which makes 256 tokens, and 128 in"):
        recipe_of(tmp_path, published, "--model.max_position_embeddings", "256", "--model.max_relative_positions", "-1")
    edit(copy, position_biased_input=True)
    assert recipe_of(tmp_path, copy, "--model.max_position_embeddings", "64").max_relative_positions == 128
    with pytest.raises(ConfigError, match=r"256 in the recipe and 128 in .* hold absolute positions for 128 tokens and no more"):
        recipe_of(tmp_path, copy, "--model.max_position_embeddings", "256")
