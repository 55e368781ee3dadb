"""Reads the weights of a DeBERTa V2 for masked language modelling that anybody published, in fp32 and by this program's names.

Takes safetensors, whole or sharded, and pytorch_model.bin as tensors alone: no code in a file is run. Both heads of transformers'
DebertaV2ForMaskedLM compute the same function, so the newer one (`lm_predictions`) is read into the names of the older.
"""

import hashlib
from pathlib import Path

import orjson
import torch
from safetensors import SafetensorError, safe_open

from jadeberta.errors import CheckpointError
from jadeberta.model.load import parameter_shapes

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
EMBEDDINGS, BIAS = "deberta.embeddings.word_embeddings.weight", "cls.predictions.bias"
POSITIONS = "deberta.embeddings.position_embeddings.weight"
OUTPUT_WEIGHT, OUTPUT_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
TIED = {OUTPUT_WEIGHT: EMBEDDINGS, OUTPUT_BIAS: BIAS}
"""Names that a file may hold beside or instead of the parameter that they are tied to."""
NEWER_HEAD = {
    "lm_predictions.lm_head.bias": BIAS,
    **{
        f"lm_predictions.lm_head.{part}.{kind}": f"cls.predictions.transform.{part}.{kind}"
        for part in ("dense", "LayerNorm")
        for kind in ("weight", "bias")
    },
}
OLD_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Types of published weights; those of 8 bits need factors that a file has elsewhere."""
LFS_POINTER = b"version https://git-lfs"
Weights = dict[str, torch.Tensor]


def weight_files(directory: Path) -> list[Path]:
    """Returns the files that hold the weights of a Hugging Face directory, safetensors where there are both kinds.

    Raises:
        CheckpointError: there are none, one is missing, or the list of a sharded model is damaged.
    """
    for name in SINGLE_FILES:
        path, index = directory / name, directory / f"{name}.index.json"
        if path.is_file():
            return [path]
        if index.is_file():
            return _shards(index)
    raise CheckpointError(
        f"{directory}: no {' or '.join(SINGLE_FILES)} there, whole or sharded; weights in other formats are not read. Download one of them."
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(orjson.loads(index.read_bytes())["weight_map"].values()))
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("it names no files of this directory")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{index}: damaged, not the list of a sharded model ({e}). Download it again.") from e
    paths = [index.parent / name for name in names]
    if missing := [path for path in paths if not path.is_file()]:
        raise CheckpointError(f"{missing[0]}: missing, though {index.name} lists it. Download it again.")
    return paths


def read_published(directory: Path, config: dict) -> Weights:
    """Returns every parameter of the model in a directory, fp32, by the names of `DebertaForMaskedLM`.

    Args:
        directory: in Hugging Face's format.
        config: keyword arguments of DebertaV2Config that its config.json amounts to.

    Raises:
        CheckpointError: a file is damaged, a parameter is missing, unknown, of another shape or not finite, or the output layer is not
            tied to the embeddings.
    """
    found: Weights = {}
    origins: dict[str, str] = {}
    for path in weight_files(directory):
        for given, tensor in _read_file(path).items():
            name = own_name(given)
            if name is None:
                continue
            if name in found:
                raise CheckpointError(
                    f"{path}: holds {given} beside {origins[name]}, which are one parameter. Remove one of them."
                )
            if tensor.dtype not in FLOATS:
                raise CheckpointError(f"{path}: {given} holds {tensor.dtype} numbers; give the weights in bf16, fp16 or fp32.")
            found[name], origins[name] = tensor.float(), given
    _untie(directory, found)
    check_weights(directory, found, config)
    return found


def check_weights(directory: Path, found: Weights, config: dict) -> None:
    """Raises CheckpointError where weights are not the parameters of a config: missing, unknown, of another shape, not finite."""
    try:
        expected = parameter_shapes(config)
    except Exception as e:  # transformers and torch raise many classes for sizes that fit no model
        reason = next(iter(str(e).splitlines()), "") or type(e).__name__
        raise CheckpointError(f"{directory}: its config.json describes no DeBERTa V2 ({reason}). Download it again.") from e
    what = "a DebertaV2ForMaskedLM as its config.json says"
    if missing := sorted(expected.keys() - found.keys()):
        raise CheckpointError(f"{directory}: lacks {missing[0]} ({len(missing)} tensors missing) of {what}. Download it again.")
    if extra := sorted(found.keys() - expected.keys()):
        raise CheckpointError(f"{directory}: holds {extra[0]} ({len(extra)} tensors too many), which is no part of {what}.")
    for name, tensor in found.items():
        if tuple(tensor.shape) != expected[name]:
            raise CheckpointError(
                f"{directory}: {name} is {list(tensor.shape)} there and {list(expected[name])} by its config.json."
            )
        if bad := int((~torch.isfinite(tensor)).sum()):
            raise CheckpointError(
                f"{directory}: {name} holds {bad:,} values that are not finite; the model cannot go on from them."
            )


def own_name(given: str) -> str | None:
    """Returns this program's name of a published tensor; None for one that is no parameter of the language model.

    The left out ones are the numbers of the positions, which older versions saved, and the second head of DeBERTa V3's pre-training.
    """
    if given.endswith("embeddings.position_ids") or given.startswith("mask_predictions."):
        return None
    for old, new in OLD_SUFFIXES.items():
        given = given.removesuffix(old) + new if given.endswith(old) else given
    return NEWER_HEAD.get(given, given)


def _untie(directory: Path, found: Weights) -> None:
    """Leaves one tensor of each tied pair; raises CheckpointError where the two differ."""
    for copy, name in TIED.items():
        if copy not in found:
            continue
        tensor = found.pop(copy)
        if name in found and not torch.equal(found[name], tensor):
            raise CheckpointError(
                f"{directory}: {copy} is not {name}, so its output layer is a layer of its own; here the two are tied. Name another model."
            )
        found[name] = tensor


def _read_file(path: Path) -> Weights:
    """Every tensor of one file, by its published name."""
    again = "Download or export it again."
    try:
        with path.open("rb") as file:
            refuse_pointer(path, file.read(len(LFS_POINTER)))
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        found = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as e:
        raise CheckpointError(f"{path}: cut short or damaged ({e}). {again}") from e
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({e.strerror or e}). {again}") from e
    except CheckpointError:
        raise
    except Exception as e:  # pickle, zip and torch have errors of their own
        reason = next(iter(str(e).splitlines()), "") or type(e).__name__
        if reason.startswith("Weights only load failed"):  # torch goes on to advise what would run code of the file
            reason = "it is damaged, or holds more than tensors"
        raise CheckpointError(
            f"{path}: cannot be read as tensors alone ({reason}). Give the weights as model.safetensors."
        ) from e
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()):
        raise CheckpointError(f"{path}: holds something else than named tensors. Give the weights as model.safetensors.")
    return found


def refuse_pointer(path: Path, content: bytes) -> None:
    """Raises CheckpointError where the first bytes of a file are those of Git LFS's stand-in for it."""
    if content.startswith(LFS_POINTER):
        raise CheckpointError(f"{path}: a pointer of Git LFS and not the file itself. Run 'git lfs pull' in its folder.")


def weights_sha256(weights: Weights) -> str:
    """Returns the sha256 of names, shapes and fp32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {list(weights[name].shape)}\n".encode())
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()
