"""Any model with a head that fills masks, and its own tokenizer, as one thing that turns raw texts into pieces and predicts masked ones.

Takes our own runs, checkpoints and releases, and every directory that AutoModelForMaskedLM and AutoTokenizer load; no code in a directory
is ever run.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from jadeberta.checkpoint.manifest import MANIFEST_NAME
from jadeberta.compare.restoring import Fold
from jadeberta.compare.text_encoders import TextPieces, open_foreign, open_own
from jadeberta.errors import CheckpointError, ConfigError, NothingToResume
from jadeberta.evaluation.identity import read_evaluated
from jadeberta.evaluation.mlm import resolve_checkpoint
from jadeberta.model.load import load_pair, pair_settings
from jadeberta.model.published import weights_sha256
from jadeberta.release.origin import read_origin

Logits = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From ids [B, L] and the places of masked tokens, rows [M] and columns [M]: logits [M, V]."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
WITH_OFFSET = ("roberta", "xlm-roberta", "camembert", "luke", "xlm-roberta-xl", "roberta-prelayernorm")
"""Model types whose positions begin behind the id of the pad token."""


@dataclass
class TextModel:
    """An open model."""

    name: str
    encode: Callable[[str], TextPieces]
    logits: Logits
    fold: Fold
    """What its normalisation makes of a character."""
    frame: tuple[list[int], list[int]]
    """Ids before and after a text."""
    mask: int
    unknown: frozenset[int]
    """Ids of pieces that do not spell their characters: [UNK] and other special tokens."""
    longest: int
    """Pieces of a text that fit into a row."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Hashes and settings, for the result."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def open_model(path: Path, segmenter: str | None, words: str, command: str, device: torch.device) -> TextModel:
    """Opens a model.

    Args:
        path: a run, a checkpoint, an exported directory, or a directory of Hugging Face's.
        segmenter: that of its pre-training where the directory does not record it; none where it read plain text.
        words: what is masked together, see `text_encoders.WORDS`.
        command: the segmenter's program and options.
        device: where it runs.

    Raises:
        CheckpointError: the directory is missing, damaged, has no such head, or asks for code of its own.
        ConfigError: its tokenizer does not fit it, or the segmenter is not named or not the model's.
        SegmenterError: the segmenter does not work here.
    """
    directory = _directory(path)
    origin = read_origin(directory)
    opened = (
        open_foreign(directory, segmenter, words, command)
        if origin is None
        else open_own(directory, origin, segmenter, words, command)
    )
    model, sha256 = _load(directory)
    config = model.config
    size, ids = int(model.get_input_embeddings().weight.shape[0]), opened.vocab_size
    if ids > size:
        raise ConfigError(
            f"{directory}: its tokenizer has {ids:,} pieces, its model embeddings of {size:,}; they are not of one model. Put the "
            "model's own tokenizer there."
        )
    positions = getattr(config, "max_position_embeddings", None) or 512
    if config.model_type in WITH_OFFSET:
        positions -= (config.pad_token_id or 0) + 1
    longest = min(positions, opened.longest) - len(opened.frame[0]) - len(opened.frame[1])
    if longest < 1:
        raise ConfigError(f"{directory}: rows of {positions} tokens have no room for text. Name another model.")
    facts = {
        "model": str(path), "directory": str(directory), "type": config.model_type, "weights_sha256": sha256,
        "tokenizer_sha256": opened.sha256, "segmenter": opened.segmenter, "words": opened.words, "window": longest,
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    logits = masked_logits(model.eval().to(device))
    return TextModel(
        str(path), opened.encode, logits, opened.fold, opened.frame, opened.mask, opened.unknown, longest, facts, device
    )


def records_segmenter(path: Path) -> bool:
    """Whether a model's directory says which segmenter made its text; errors are those of `open_model`."""
    return read_origin(_directory(path)) is not None


def _directory(path: Path) -> Path:
    if not path.is_dir():
        remedy = "Name a run, a checkpoint or the directory of a model."
        if HUB_NAME.fullmatch(str(path)):
            remedy = f"Download a model of the Hugging Face Hub first: 'hf download {path} --local-dir DIR'."
        raise CheckpointError(f"{path}: no such directory. {remedy}")
    try:
        return resolve_checkpoint(path)
    except NothingToResume as e:
        raise CheckpointError(str(e)) from e


def _load(directory: Path) -> tuple[Any, str]:
    """The model in fp32 and the sha256 of its weights."""
    if (directory / MANIFEST_NAME).is_file() and pair_settings(directory) is not None:
        weights = read_evaluated(directory, "trained").weights
        return load_pair(directory, weights).generator, weights_sha256(weights)
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(str(directory), trust_remote_code=False)
        if hasattr(config, "reference_compile"):
            config.reference_compile = False  # compiling for each length would take longer than the texts
        loaded: Any = transformers.AutoModelForMaskedLM.from_pretrained(
            str(directory), config=config, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except Exception as e:  # transformers, safetensors and torch have classes of their own
        raise CheckpointError(_sentence(directory, e)) from e
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    model, report = loaded
    if lacking := sorted([*report["missing_keys"], *map(str, report["mismatched_keys"])]):
        raise CheckpointError(
            f"{directory}: its weights lack {lacking[0]} ({len(lacking)} tensors) of a model that fills masks. Name a model that was saved "
            "with its head for masked language modelling."
        )
    if (directory / MANIFEST_NAME).is_file():
        evaluated = read_evaluated(directory, "trained")
        model.load_state_dict(evaluated.weights, strict=False)
        return model, evaluated.sha256
    unique = {name: p.detach().float().contiguous() for name, p in model.named_parameters()}
    return model, weights_sha256(unique)


def _sentence(directory: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return f"{directory}: its config.json asks for Python code of its own, which is never run. Name a model that transformers knows."
    if "Unrecognized configuration class" in text:
        return (
            f"{directory}: an architecture without a head that fills masks. Name an encoder: BERT, RoBERTa, ModernBERT, DeBERTa."
        )
    return f"{directory}: cannot be loaded ({type(error).__name__}: {text[:200]}). Export or download it again."


def masked_logits(model: Any) -> Logits:
    """A model's logits at masked places alone: those of all places would take gigabytes."""
    chosen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def choose(_: Any, arguments: tuple[Any, ...]) -> Any:
        hidden = arguments[0]
        return (hidden[chosen[-1]], *arguments[1:]) if hidden.dim() == 3 else None

    decoder = model.get_output_embeddings()
    if isinstance(decoder, torch.nn.Module):
        decoder.register_forward_pre_hook(choose)

    def logits(ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        chosen[:] = [(rows, columns)]
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return found if found.dim() == 2 else found[rows, columns]

    return logits
