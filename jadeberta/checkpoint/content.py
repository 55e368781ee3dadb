"""What is in a checkpoint, and how it goes into and out of an engine: the directory itself loads as a Hugging Face model.

The optimizer's state lies in one file a rank, in fragments by parameter name; a reader at another world size or ZeRO stage takes from
each file the pieces it needs. Nothing is pickled.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from jadeberta.checkpoint.manifest import STATE_NAME
from jadeberta.errors import CheckpointError
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.zero_state import (
    adam_step,
    fragments,
    gather_working_weights,
    load_working_weights,
    set_adam_step,
)

TOKENIZER_FILES = ("spm.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """safetensors' save_file with the mode that any other new file gets; its own is for the owner alone."""
    save_file(tensors, path, metadata=metadata)
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def optimizer_name(rank: int, world_size: int) -> str:
    return f"optimizer-{rank + 1:05d}-of-{world_size:05d}.safetensors"


def write_rank(directory: Path, engine: TrainingEngine, state: dict[str, Any], tokenizer: Path) -> list[str]:
    """Writes this rank's files of a checkpoint and returns their names; every rank calls it."""
    weights = gather_working_weights(engine.engine)
    tensors: dict[str, torch.Tensor] = {}
    places: dict[str, dict[str, Any]] = {}
    for fragment in fragments(engine.engine):
        places[fragment.name] = {"start": fragment.start, "shape": fragment.shape}
        for kind, tensor in fragment.tensors().items():
            tensors[f"{kind}.{fragment.name}"] = tensor.detach().cpu().clone()
    name = optimizer_name(engine.process.rank, engine.process.world_size)
    save_tensors(directory / name, tensors, {"fragments": json.dumps(places)})
    names = [name]
    if weights is not None:
        names += _write_model(directory, engine, weights, tokenizer)
        (directory / STATE_NAME).write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        names.append(STATE_NAME)
    return names


def _write_model(directory: Path, engine: TrainingEngine, weights: dict[str, torch.Tensor], tokenizer: Path) -> list[str]:
    save_tensors(directory / "model.safetensors", weights, {"format": "pt"})
    config = engine.model.config.to_dict() | {"architectures": ["DebertaV2ForMaskedLM"], "dtype": _dtype_name(weights)}
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    present = [file for file in TOKENIZER_FILES if (tokenizer / file).is_file()]
    for file in present:
        shutil.copyfile(tokenizer / file, directory / file)
    return ["model.safetensors", "config.json", *present]


def _dtype_name(weights: dict[str, torch.Tensor]) -> str:
    return str(next(iter(weights.values())).dtype).removeprefix("torch.")


def read_state(directory: Path) -> dict[str, Any]:
    """`state.json` of a verified checkpoint."""
    return orjson.loads((directory / STATE_NAME).read_bytes())


def restore(directory: Path, engine: TrainingEngine) -> None:
    """Puts a verified checkpoint into an engine; every rank calls it, none waits for another.

    Raises:
        CheckpointError: the checkpoint's parameters are not the engine's, or its files leave a gap.
    """
    load_working_weights(engine.engine, _checked_weights(directory, engine))
    files = [safe_open(path, "pt") for path in sorted(directory.glob("optimizer-*.safetensors"))]
    places = [json.loads(f.metadata()["fragments"]) for f in files]
    for fragment in fragments(engine.engine):
        end = fragment.start + fragment.master.numel()
        covered = 0
        for file, held in zip(files, places, strict=True):
            place = held.get(fragment.name)
            if place is None:
                continue
            if tuple(place["shape"]) != fragment.shape:
                raise CheckpointError(
                    f"{directory}: {fragment.name} is {place['shape']} there and {list(fragment.shape)} in the model."
                )
            size = file.get_slice(f"master.{fragment.name}").get_shape()[0]
            low, high = max(fragment.start, place["start"]), min(end, place["start"] + size)
            if low >= high:
                continue
            for kind, tensor in fragment.tensors().items():
                piece = file.get_slice(f"{kind}.{fragment.name}")[low - place["start"] : high - place["start"]]
                tensor[low - fragment.start : high - fragment.start].copy_(piece)
            covered += high - low
        if covered != fragment.master.numel():
            raise CheckpointError(
                f"{directory}: its optimizer files hold {covered} of {fragment.master.numel()} elements of {fragment.name}."
            )
    set_adam_step(engine.engine, read_state(directory)["adam_step"])


def _checked_weights(directory: Path, engine: TrainingEngine) -> dict[str, torch.Tensor]:
    weights = load_file(directory / "model.safetensors")
    shapes = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in engine.engine.module.named_parameters()}
    found = {n: tuple(t.shape) for n, t in weights.items()}
    if wrong := sorted(n for n in shapes.keys() | found.keys() if shapes.get(n) != found.get(n)):
        name = wrong[0]
        raise CheckpointError(
            f"{directory}: {name} is {found.get(name, 'absent')} there and {shapes.get(name, 'absent')} in the recipe's model "
            f"({len(wrong)} parameters differ). Use the recipe that the run was started with."
        )
    return weights


def current_adam_step(engine: TrainingEngine) -> int:
    return adam_step(engine.engine)
