"""What an evaluation is of: hashes of the weights, of the rows and of the tokenizer, so that its figures can be tied to a release.

An evaluation names what it has asked and whom; `jadeberta export` takes the figures of its own weights, run and shards alone.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from jadeberta.checkpoint.consolidate import Weights, consolidate_weights
from jadeberta.checkpoint.manifest import MANIFEST_NAME, STATE_NAME
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.model.published import weights_sha256
from jadeberta.shards import ShardIndex, ShardReader
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES
from jadeberta.utils.files import file_sha256

REQUIRED = ("weights_sha256", "fingerprints")
"""Keys without which an evaluation cannot be tied to anything; those of older versions lack them."""


@dataclass(frozen=True)
class Evaluated:
    """Whose figures they are."""

    weights: dict[str, torch.Tensor]
    """Every parameter in fp32, as `jadeberta export` releases it."""
    sha256: str
    """sha256 of names, shapes and fp32 values: equal for a checkpoint and its fp32 export."""
    step: int | None
    """Training step; None for a directory that does not say."""
    packing: str
    """`data.packing` of the training; empty where the directory does not say."""


def read_evaluated(directory: Path, kind: Weights) -> Evaluated:
    """Reads the weights to evaluate: of a checkpoint the fp32 master weights or their average, as `export` releases them.

    Raises:
        CheckpointError: they cannot be read, or there is no average.
    """
    if (directory / MANIFEST_NAME).is_file():
        weights = consolidate_weights(directory, kind)
    elif kind != "trained":
        raise CheckpointError(f"{directory}: an export has one set of weights. Name a checkpoint, or leave --weights out.")
    else:
        path = directory / "model.safetensors"
        try:
            weights = {name: tensor.float().contiguous() for name, tensor in load_file(path).items()}
        except (OSError, SafetensorError) as e:
            raise CheckpointError(f"{path}: cannot be read ({e}). Name a checkpoint or an exported directory.") from e
    state = _read_state(directory)
    return Evaluated(weights, weights_sha256(weights), state.get("step"), state.get("settings", {}).get("data.packing", ""))


def _read_state(directory: Path) -> dict[str, Any]:
    path = directory / STATE_NAME
    if not path.is_file():
        return {}
    try:
        state = orjson.loads(path.read_bytes())
        if not isinstance(state["settings"], dict) or not isinstance(state["fingerprints"]["tokenizer"], str):
            raise TypeError("another layout")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{path}: cannot be read ({e}). Name another checkpoint.") from e
    return state


def split_fingerprint(index: ShardIndex, split: Literal["train", "valid"]) -> str:
    """sha256 over the tokenizer and the content of every shard of a split, in order: which questions an evaluation can ask."""
    content = [[name, [[e.file, e.sha256, e.sequences] for e in getattr(c, split)]] for name, c in index.corpora.items()]
    return hashlib.sha256(orjson.dumps([1, split, index.sequence_length, index.tokenizer_sha256, content])).hexdigest()


def training_fingerprints(shards: ShardReader) -> dict[str, str]:
    """Fingerprint of the training rows by row length: a run records that of the length that it reads."""
    index = ShardIndex.load(shards.index_path)
    return {str(length): shards.fingerprint_of(length) for length in index.sequence_lengths}


def refuse_other_tokenizer(directory: Path, shards: ShardReader) -> None:
    """Refuses shards whose ids are not the model's: sizes of vocabularies may be equal by chance.

    The ids are the same where a file of the model's directory is, byte for byte, the one that gave the shards their ids, or where the
    checkpoint was trained with that file.

    Raises:
        ConfigError: they are not, or the directory does not say.
        CheckpointError: the checkpoint's state is damaged.
    """
    wanted, remedy = shards.index.tokenizer_sha256, "Name the shards of this model's tokenizer."
    found = {name: file_sha256(directory / name) for name in ALL_TOKENIZER_FILES if (directory / name).is_file()}
    state = _read_state(directory)
    if state:
        found = {STATE_NAME: state["fingerprints"]["tokenizer"]}
    if wanted in found.values():
        return
    if not found:
        raise ConfigError(
            f"{directory}: has no tokenizer, so that nothing says whether {shards.index_path} has its ids. Put the model's tokenizer there."
        )
    name, sha256 = next(iter(found.items()))
    raise ConfigError(
        f"{directory}: its tokenizer ({name}, sha256 {sha256[:12]}…) is not that of {shards.index_path} ({wanted[:12]}…), so that the "
        f"rows have other ids. {remedy}"
    )


def refuse_foreign_evaluation(evaluation: dict[str, Any], state: dict[str, Any], path: Path, kind: str) -> None:
    """Refuses an evaluation of another run, step, set of shards or kind of weights than those of a checkpoint.

    Args:
        evaluation: content of the JSON of `evaluate mlm`.
        state: the checkpoint's.
        path: the checkpoint, for messages.
        kind: trained or ema, whichever is released.

    Raises:
        CheckpointError: it is of something else, or of a version that recorded no hashes.
    """
    command = f"'jadeberta evaluate mlm --checkpoint {path} --weights {kind} --output'"
    if missing := next((key for key in REQUIRED if key not in evaluation), ""):
        raise CheckpointError(
            f"the evaluation does not say whose figures it has (no {missing}: an older version made it). Make it anew with {command}."
        )
    step, shards = evaluation.get("step"), state["fingerprints"]["shards"]
    if evaluation.get("weights", "trained") != kind:
        raise CheckpointError(
            f"the evaluation is of the {evaluation['weights']} weights, the export of the {kind} ones. Make it anew with {command}."
        )
    if step is not None and step != state["step"]:
        raise CheckpointError(f"the evaluation is of step {step}, {path} of step {state['step']}. Make it anew with {command}.")
    fingerprints = evaluation["fingerprints"]
    if not isinstance(fingerprints, dict) or shards not in fingerprints.values():
        raise CheckpointError(
            f"the evaluation is on rows of other shards than those that {path} was trained on ({shards[:12]}…), so its documents may be "
            f"among the training ones. Make it anew on its own with {command}."
        )


def refuse_other_weights(evaluation: dict[str, Any], sha256s: Sequence[str], path: Path, kind: str) -> None:
    """Raises CheckpointError where an evaluation is of other weights than those of a checkpoint; `sha256s` are all that these go by."""
    if (found := str(evaluation["weights_sha256"])) not in sha256s:
        raise CheckpointError(
            f"the evaluation is of other weights (sha256 {found[:12]}…) than {path} ({sha256s[0][:12]}…). Make it anew with "
            f"'jadeberta evaluate mlm --checkpoint {path} --weights {kind} --output'."
        )
