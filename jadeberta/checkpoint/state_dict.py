"""Content of a checkpoint, and how it goes into and out of an engine. The directory itself loads as a Hugging Face model.

The optimizer's state lies in one file a rank, as fragments of flattened parameters. A reader at another world size or ZeRO stage takes
the parts it needs from each file. Nothing is pickled.
"""

import json
import os
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from jadeberta.checkpoint.manifest import STATE_NAME, read_manifest_files
from jadeberta.checkpoint.snapshot import Tensors
from jadeberta.errors import CheckpointError
from jadeberta.model.replaced_tokens import PAIR_KEY, ReplacedTokenModel
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.zero_state import (
    adam_step,
    fragments,
    gather_working_weights,
    load_working_weights,
    set_adam_step,
)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Saves tensors with the file mode of any other new file; the library's own mode lets only the owner read."""
    save_file(tensors, path, metadata=metadata)
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def optimizer_name(rank: int, world_size: int) -> str:
    """Returns the name of a rank's optimizer file."""
    return f"optimizer-{rank + 1:05d}-of-{world_size:05d}.safetensors"


def tensor_files(engine: TrainingEngine) -> dict[str, tuple[Tensors, dict[str, str]]]:
    """Returns the tensors that this rank writes, by file, with the metadata of each file; views of the engine's where it has them.

    A collective under ZeRO 3: rank 0 gathers the weights of the other ranks, so every rank must call it.
    """
    tensors: Tensors = {}
    places: dict[str, dict[str, Any]] = {}
    for fragment in fragments(engine.engine):
        places[fragment.name] = {"start": fragment.start, "shape": fragment.shape}
        for kind, tensor in fragment.tensors().items():
            tensors[f"{kind}.{fragment.name}"] = tensor
    name = optimizer_name(engine.process.rank, engine.process.world_size)
    files = {name: (tensors, {"fragments": json.dumps(places)})}
    weights = gather_working_weights(engine.engine)
    if weights is not None:
        files["model.safetensors"] = (weights, {"format": "pt"})
    return files


def text_files(engine: TrainingEngine, state: dict[str, Any]) -> dict[str, str]:
    """Returns the content of the small files that rank 0 writes, by name."""
    dtype = str(engine.working_dtype).removeprefix("torch.")
    config = engine.model.config.to_dict() | {"architectures": ["DebertaV2ForMaskedLM"], "dtype": dtype}
    if isinstance(engine.model, ReplacedTokenModel):
        config |= {"architectures": ["ReplacedTokenModel"], PAIR_KEY: engine.model.settings()}
    text = orjson.dumps(state, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    return {"config.json": json.dumps(config, indent=2, sort_keys=True) + "\n", STATE_NAME: text}


def read_state(directory: Path) -> dict[str, Any]:
    """Reads `state.json` of a verified checkpoint."""
    return orjson.loads((directory / STATE_NAME).read_bytes())


def restore(directory: Path, engine: TrainingEngine) -> None:
    """Reads a verified checkpoint into an engine; every rank calls it, none waits for another.

    Raises:
        CheckpointError: the checkpoint has other parameters than the engine, or its files leave a gap.
    """
    load_working_weights(engine.engine, _checked_weights(directory, engine))
    files = [safe_open(directory / name, "pt") for name in read_manifest_files(directory) if name.startswith("optimizer-")]
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
                continue  # the file holds another part of this parameter
            for kind, tensor in fragment.tensors().items():
                part = file.get_slice(f"{kind}.{fragment.name}")[low - place["start"] : high - place["start"]]
                tensor[low - fragment.start : high - fragment.start].copy_(part)
            covered += high - low
        # Elements that no file holds would keep their initial values, and training would go on with them.
        if covered != fragment.master.numel():
            raise CheckpointError(
                f"{directory}: its optimizer files hold {covered} of {fragment.master.numel()} elements of {fragment.name}."
            )
    set_adam_step(engine.engine, read_state(directory)["adam_step"])
    if engine.average is not None:
        engine.average.recall()


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
    """Returns the number of updates that the optimizer has made."""
    return adam_step(engine.engine)
