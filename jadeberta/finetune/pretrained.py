"""The pre-trained model: an exported directory, a checkpoint or a run, with fp32 weights and the origin of its text.

Of a checkpoint the fp32 master weights are read, so that it fine-tunes exactly as its export.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, DebertaV2Config, PreTrainedModel

from jadeberta.checkpoint.consolidate import Weights, consolidate_weights
from jadeberta.checkpoint.manifest import MANIFEST_NAME
from jadeberta.errors import CheckpointError
from jadeberta.evaluation.mlm import resolve_checkpoint
from jadeberta.finetune.tasks import Kind, Task
from jadeberta.model.load import pair_settings
from jadeberta.model.published import weights_sha256
from jadeberta.model.replaced_tokens import published_parts
from jadeberta.release.origin import read_origin
from jadeberta.shards.tokenizer_format import FAST_FILE, MODEL_FILE
from jadeberta.utils.files import file_sha256

ENCODER = "deberta."
HEADS: dict[Kind, Any] = {
    "regression": transformers.DebertaV2ForSequenceClassification,
    "classification": transformers.DebertaV2ForSequenceClassification,
    "choice": transformers.DebertaV2ForMultipleChoice,
    "span": transformers.DebertaV2ForQuestionAnswering,
}


@dataclass(frozen=True)
class PretrainedEncoder:
    """The encoder of a pre-trained model in memory."""

    directory: Path
    config: DebertaV2Config
    weights: dict[str, torch.Tensor]
    """fp32 weights of the encoder, by Hugging Face's names."""
    origin: dict[str, Any] | None
    """Segmenter and normaliser of its pre-training text; None if the directory does not name them."""
    sha256: str
    """sha256 of names, shapes and fp32 values of the weights: equal for a checkpoint and its fp32 export."""
    tokenizer_sha256: str

    @property
    def tokenizer(self) -> Path:
        """The file that gives the ids: the sentencepiece model, or what the pre-training names."""
        return tokenizer_file(self.directory, self.origin)


def tokenizer_file(directory: Path, origin: dict[str, Any] | None) -> Path:
    """The file of a model's directory that gives the ids of its tokenizer.

    Args:
        directory: of the model.
        origin: of its pre-training text; None where the directory does not name one.
    """
    name = (origin or {}).get("tokenizer_file", MODEL_FILE)
    # A model from elsewhere may have the other file alone.
    if origin is None and not (directory / name).is_file() and (directory / FAST_FILE).is_file():
        name = FAST_FILE
    return directory / name


def load_pretrained(path: Path, kind: Weights = "trained") -> PretrainedEncoder:
    """Reads a model; of a checkpoint the fp32 master weights, or their running average.

    Raises:
        CheckpointError: it is not a model, is damaged, has no tokenizer or no such weights, or is not a DeBERTa V2.
    """
    directory = resolve_checkpoint(path)
    origin = read_origin(directory)
    tokenizer = tokenizer_file(directory, origin)
    if not tokenizer.is_file():
        raise CheckpointError(
            f"{tokenizer}: missing; text cannot be encoded without it. Copy it there from the shards' tokenizer/."
        )
    try:
        # By default transformers asks on a terminal whether to run code that lies in the directory.
        config = AutoConfig.from_pretrained(str(directory), trust_remote_code=False)
        if not isinstance(config, DebertaV2Config):
            raise CheckpointError(f"{directory / 'config.json'}: a {config.model_type} and no deberta-v2. Name a DeBERTa V2.")
        if (directory / MANIFEST_NAME).exists():
            found = consolidate_weights(directory, kind)
            if (pair := pair_settings(directory)) is not None:
                found, _ = published_parts(found, pair["sharing"])  # the discriminator is what is fine-tuned
        elif kind != "trained":
            raise CheckpointError(f"{directory}: an export has one set of weights. Name a checkpoint, or leave --weights out.")
        elif not (directory / "model.safetensors").is_file():
            raise CheckpointError(f"{directory}: no model.safetensors there; weights in other formats are not read.")
        else:
            found = load_file(directory / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as e:
        if "trust_remote_code" in str(e):
            raise CheckpointError(
                f"{directory}: its config.json asks for Python code of its own, which is never run. Name a DeBERTa V2."
            ) from e
        raise CheckpointError(f"{directory}: cannot be loaded ({type(e).__name__}: {e}). Export or download it again.") from e
    weights = {name: tensor.float().contiguous() for name, tensor in sorted(found.items()) if name.startswith(ENCODER)}
    if not weights:
        raise CheckpointError(
            f"{directory / 'model.safetensors'}: holds no {ENCODER}* weights. Name a model with a DeBERTa V2 encoder."
        )
    return PretrainedEncoder(directory, config, weights, origin, weights_sha256(weights), file_sha256(tokenizer))


def build(pretrained: PretrainedEncoder, task: Task, seed: int) -> PreTrainedModel:
    """Builds Hugging Face's model with the head of a task on the pre-trained encoder, fp32; the seed determines the head's weights.

    Raises:
        CheckpointError: the weights do not fit the config.
    """
    # A copy, because the head changes it and every trial starts from the original.
    # The config of a bf16 export names bf16, but the weights here are fp32.
    config = DebertaV2Config.from_dict(pretrained.config.to_dict() | {"dtype": "float32"})
    if task.kind == "regression":
        config.num_labels, config.problem_type = 1, "regression"
    elif task.labels:
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: number for number, label in config.id2label.items()}
        config.problem_type = "single_label_classification"
    torch.manual_seed(seed)
    model: PreTrainedModel = HEADS[task.kind](config)
    own = {name: tensor.shape for name, tensor in model.named_parameters() if name.startswith(ENCODER)}
    given = {name: tensor.shape for name, tensor in pretrained.weights.items()}
    if wrong := sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name)):
        raise CheckpointError(
            f"{pretrained.directory}: {wrong[0]} is {list(given.get(wrong[0], ()))} there and {list(own.get(wrong[0], ()))} by config.json."
        )
    # Not strict, because the head has weights of its own; those of the encoder were compared above.
    model.load_state_dict(pretrained.weights, strict=False)
    return model
