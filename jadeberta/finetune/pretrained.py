"""The pre-trained model: an exported directory, a checkpoint or a run, or any encoder of transformers, with fp32 weights.

Of a checkpoint the fp32 master weights are read, so that it fine-tunes exactly as its export.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, DebertaV2Config, PretrainedConfig, PreTrainedModel

from jadeberta.checkpoint.consolidate import Weights, consolidate_weights
from jadeberta.checkpoint.manifest import MANIFEST_NAME
from jadeberta.errors import CheckpointError
from jadeberta.evaluation.mlm import resolve_checkpoint
from jadeberta.finetune.own_tokenizer import OwnTokenizer, read_own_tokenizer
from jadeberta.finetune.tasks import Kind, Task
from jadeberta.model.load import pair_settings
from jadeberta.model.published import weights_sha256
from jadeberta.model.replaced_tokens import published_parts
from jadeberta.release.origin import read_origin
from jadeberta.shards.tokenizer_format import FAST_FILE, MODEL_FILE
from jadeberta.utils.files import file_sha256

ENCODER = "deberta."
HEADS: dict[Kind, tuple[str, Any]] = {
    "regression": ("sequence classification", transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    "classification": ("sequence classification", transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    "choice": ("multiple choice", transformers.MODEL_FOR_MULTIPLE_CHOICE_MAPPING),
    "span": ("question answering", transformers.MODEL_FOR_QUESTION_ANSWERING_MAPPING),
}
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PADDED_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "luke", "roberta-prelayernorm")
"""Architectures whose first position is behind the id of padding."""


@dataclass(frozen=True)
class PretrainedEncoder:
    """The encoder of a pre-trained model in memory."""

    directory: Path
    config: PretrainedConfig
    weights: dict[str, torch.Tensor]
    """fp32 weights of the encoder, by Hugging Face's names; empty for a control with random weights."""
    origin: dict[str, Any] | None
    """Segmenter and normaliser of its pre-training text; None if the directory does not name them."""
    sha256: str
    """sha256 of names, shapes and fp32 values of the weights: equal for a checkpoint and its fp32 export."""
    tokenizer_sha256: str
    encoder: str = ENCODER
    """What the names of the encoder's weights begin with."""
    own: OwnTokenizer | None = None
    """Tokenizer of a model of another architecture."""
    head: dict[str, torch.Tensor] = field(default_factory=dict)
    """Pre-trained weights of a part that transformers builds its heads on (ModernBERT's `head.`)."""

    @property
    def longest(self) -> int:
        """Most tokens of a sequence."""
        positions = int(self.config.max_position_embeddings)
        if self.config.model_type in PADDED_POSITIONS:
            return positions - int(self.config.pad_token_id) - 1
        return positions

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
        CheckpointError: it is not a model, is damaged, or has no tokenizer or no such weights.
    """
    if not path.exists() and (name := _hub_name(path)):
        raise CheckpointError(
            f"{name}: no such directory. If it is a model of the Hugging Face Hub, download it with 'hf download {name} --local-dir DIR' "
            "and name DIR."
        )
    directory = resolve_checkpoint(path)
    origin = read_origin(directory)
    try:
        # By default transformers asks on a terminal whether to run code that lies in the directory.
        config = AutoConfig.from_pretrained(str(directory), trust_remote_code=False)
        if not isinstance(config, DebertaV2Config):
            if kind != "trained":
                raise CheckpointError(f"{directory}: has one set of weights. Name a checkpoint, or leave --weights out.")
            return _load_other(directory, config, origin)
        tokenizer = tokenizer_file(directory, origin)
        if not tokenizer.is_file():
            raise CheckpointError(
                f"{tokenizer}: missing; text cannot be encoded without it. Copy it there from the shards' tokenizer/."
            )
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
                f"{directory}: its config.json asks for Python code of its own, which is never run. Name a model without."
            ) from e
        raise CheckpointError(f"{directory}: cannot be loaded ({type(e).__name__}: {e}). Export or download it again.") from e
    weights = {name: tensor.float().contiguous() for name, tensor in sorted(found.items()) if name.startswith(ENCODER)}
    if not weights:
        raise CheckpointError(
            f"{directory / 'model.safetensors'}: holds no {ENCODER}* weights. Name a model with a DeBERTa V2 encoder."
        )
    return PretrainedEncoder(directory, config, weights, origin, weights_sha256(weights), file_sha256(tokenizer))


def _hub_name(path: Path) -> str:
    """What a user typed as a name of the Hub, OWNER/MODEL; empty where the path is of another form."""
    text = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    return text if HUB_NAME.fullmatch(text) else ""


def _load_other(directory: Path, config: PretrainedConfig, origin: dict[str, Any] | None) -> PretrainedEncoder:
    """Reads an encoder of another architecture, with the tokenizer beside it."""
    _require_head(directory, config, "classification")
    own = read_own_tokenizer(directory, config)
    transformers.utils.logging.disable_progress_bar()
    try:
        loaded: Any = AutoModel.from_pretrained(
            str(directory),
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except Exception as e:  # of any class, by the architecture
        raise CheckpointError(
            f"{directory}: cannot be loaded ({type(e).__name__}: {str(e).strip()[:160]}). Download it again."
        ) from e
    model, report = loaded
    prefix = f"{model.base_model_prefix}."
    missing = {name.removeprefix(prefix) for name in report["missing_keys"]}
    # A model that was trained on masks alone has no pooler; a head that needs one makes it anew, as transformers does.
    if lost := sorted(name for name in missing if not name.startswith("pooler.")):
        raise CheckpointError(f"{directory}: its weights lack {lost[0]} and {len(lost) - 1} more. Download it again.")
    weights = {
        prefix + name: tensor.detach().contiguous() for name, tensor in sorted(model.named_parameters()) if name not in missing
    }
    head: dict[str, torch.Tensor] = {}
    if (directory / "model.safetensors").is_file():
        held = load_file(directory / "model.safetensors")
        head = {name: tensor.float() for name, tensor in held.items() if name.startswith("head.")}
    digest = hashlib.sha256(own.files.content[own.files.main]).hexdigest()
    return PretrainedEncoder(directory, config, weights, origin, weights_sha256(weights | head), digest, prefix, own, head)


def without_weights(pretrained: PretrainedEncoder) -> PretrainedEncoder:
    """The control: the same architecture and tokenizer, with random weights that follow from the seed of each trial."""
    config = {
        key: value for key, value in pretrained.config.to_dict().items() if key not in ("_name_or_path", "transformers_version")
    }
    digest = hashlib.sha256(repr(sorted(config.items())).encode()).hexdigest()
    return replace(pretrained, weights={}, head={}, sha256=f"random weights, config {digest}")


def require_head(pretrained: PretrainedEncoder, kind: Kind) -> None:
    """Raises CheckpointError if transformers has no head of this kind for the architecture."""
    _require_head(pretrained.directory, pretrained.config, kind)


def _require_head(directory: Path, config: PretrainedConfig, kind: Kind) -> None:
    if type(config) not in HEADS[kind][1]:
        raise CheckpointError(
            f"{directory / 'config.json'}: transformers has no head for {HEADS[kind][0]} on a {config.model_type}. Name a model of "
            "another architecture, or leave out the tasks that need it."
        )


def build(pretrained: PretrainedEncoder, task: Task, seed: int) -> PreTrainedModel:
    """Builds Hugging Face's model with the head of a task on the pre-trained encoder, fp32; the seed determines the head's weights.

    Raises:
        CheckpointError: the weights do not fit the config, or the architecture has no such head.
    """
    require_head(pretrained, task.kind)
    # A copy, because the head changes it and every trial starts from the original.
    # The config of a bf16 export names bf16, but the weights here are fp32.
    config = type(pretrained.config).from_dict(pretrained.config.to_dict() | {"dtype": "float32"})
    if task.kind == "regression":
        config.num_labels, config.problem_type = 1, "regression"
    elif task.labels:
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: number for number, label in config.id2label.items()}
        config.problem_type = "single_label_classification"
    torch.manual_seed(seed)
    model: PreTrainedModel = HEADS[task.kind][1][type(config)](config)
    if not pretrained.weights:
        return model
    prefix = pretrained.encoder
    own = {name: tensor.shape for name, tensor in model.named_parameters() if name.startswith(prefix)}
    given = {name: tensor.shape for name, tensor in pretrained.weights.items()}
    # Not every head has the pooler, and not every model was pre-trained with one.
    for name in [name for name in own.keys() ^ given.keys() if name.startswith(f"{prefix}pooler.")]:
        own.pop(name, None), given.pop(name, None)
    if wrong := sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name)):
        raise CheckpointError(
            f"{pretrained.directory}: {wrong[0]} is {list(given.get(wrong[0], ()))} there and {list(own.get(wrong[0], ()))} by config.json."
        )
    # Not strict, because the head has weights of its own; those of the encoder were compared above.
    shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
    head = {name: tensor for name, tensor in pretrained.head.items() if shapes.get(name) == tensor.shape}
    model.load_state_dict(pretrained.weights | head, strict=False)
    return model
