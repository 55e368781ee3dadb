"""What `evaluate mlm` is given: refused before a GPU is touched, in one sentence, where model, rows and options do not fit together."""

import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers

from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.evaluation.identity import refuse_other_tokenizer
from jadeberta.model import DebertaForMaskedLM, load
from jadeberta.shards import ShardReader


def read_config(directory: Path) -> dict[str, Any]:
    """Reads config.json; raises CheckpointError where it is of another architecture than this program's models."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as e:
        raise CheckpointError(
            f"{path}: cannot be read ({type(e).__name__}: {e}). Name a checkpoint or an exported directory."
        ) from e
    if kind != "deberta-v2":
        raise CheckpointError(
            f"{path}: a {str(kind)[:40]} and no deberta-v2, whose ids these shards are not. Name a checkpoint or an exported directory."
        )
    return config


def refuse_unfit_shards(checkpoint: Path, config: dict[str, Any], shards: ShardReader) -> None:
    """Refuses shards whose rows are not of a model's tokenizer, or too long for it.

    Args:
        checkpoint: the model's directory.
        config: content of its config.json.
        shards: the rows.

    Raises:
        ConfigError: they do not fit.
        CheckpointError: the checkpoint's state is damaged.
    """
    vocabulary, longest = (config.get(key, 0) for key in ("vocab_size", "max_position_embeddings"))
    # More embeddings than pieces: those of a model that was published so stay, and are no token's.
    if vocabulary < shards.index.vocab_size:
        raise ConfigError(
            f"{checkpoint}: a vocabulary of {vocabulary}, but {shards.index_path} was made with "
            f"{shards.index.vocab_size} pieces. Name the shards of this model's tokenizer."
        )
    refuse_other_tokenizer(checkpoint, shards)
    if shards.sequence_length > longest:
        raise ConfigError(
            f"{checkpoint}: takes rows of up to {longest} tokens (max_position_embeddings), but those of "
            f"{shards.index_path} have {shards.sequence_length}. Name another length with --sequence-length, or other shards."
        )


def keeps_apart(asked: str, packing: str, shards: ShardReader, attention: str) -> bool:
    """Whether the documents of a row are kept apart: as in the training, where the checkpoint or the shards say how that was.

    Args:
        asked: auto, apart or together.
        packing: `data.packing` of the training; empty where it is not known.
        shards: the rows.
        attention: form of the attention.

    Raises:
        ConfigError: it cannot be done.
    """
    is_best_fit = shards.index.packing == "best_fit"
    if asked == "together" and is_best_fit:
        raise ConfigError(
            f"--documents together: {shards.index_path} was packed best_fit, so the documents of a row are unrelated. Leave it out."
        )
    is_apart = asked == "apart" or (asked == "auto" and (is_best_fit or packing == "documents"))
    if is_apart and attention == "eager":
        why = (
            f"{shards.index_path} was packed best_fit" if is_best_fit else "so they were in the training, or --documents says so"
        )
        raise ConfigError(f"--attention eager: cannot keep the documents of a row apart, and {why}. Choose sdpa.")
    return is_apart


def load_model(directory: Path, weights: dict[str, torch.Tensor], attention: str) -> DebertaForMaskedLM:
    """The model with fp32 weights: rounding to bf16 would make the figures depend on the number of rows at once."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # of weights that do not fit, the error says enough
    try:
        model = load(directory, attention).float()
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    model.load_state_dict(weights, strict=False)
    return model


def refuse_unwritable(output: Path, option: str = "--output") -> None:
    """Raises ConfigError where the file of an option cannot be written, before the hours of work that it is for."""
    if output.is_dir():
        raise ConfigError(f"{option} {output}: is a directory; name a file.")
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if there != output and not there.is_dir():
        raise ConfigError(f"{option} {output}: {there} is no directory; name another file.")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"{option} {output}: cannot be written there; name another file.")
