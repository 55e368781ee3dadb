"""The release of replaced-token detection: the discriminator as an encoder with its head beside it, and the generator in a folder.

Knows transformers' names; what belongs to every release (tokenizer, card, rename) is `export.py`.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from jadeberta.checkpoint.state_dict import save_tensors
from jadeberta.errors import CheckpointError
from jadeberta.model.load import load_pair
from jadeberta.model.replaced_tokens import PAIR_KEY, ReplacedTokenDetector, Sharing, build_replaced_token_model, published_parts

HEAD_FILE = "replaced_token_head.safetensors"
"""The discriminator's head, by the names `mask_predictions.*`; what a fine-tuned model does not need."""
GENERATOR = "generator"
"""Folder of the generator within the release."""
TOLERANCE = 2e-4
"""Relative difference of fp32 results from another order of additions."""


def write_pair(checkpoint: Path, out: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Writes both models with their configurations, and compares what transformers loads with the checkpoint's own models.

    Args:
        checkpoint: with its config.json.
        out: directory of the discriminator; that of the generator is made in it.
        weights: every parameter of the checkpoint, fp32, by name.
        dtype: of the released weights.

    Raises:
        CheckpointError: transformers gives other results than the checkpoint.
    """
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    settings = config.pop(PAIR_KEY)
    discriminator, generator = published_parts(weights, settings["sharing"])
    encoder = {name: tensor for name, tensor in discriminator.items() if name.startswith("deberta.")}
    head = {name: tensor for name, tensor in discriminator.items() if not name.startswith("deberta.")}
    folder = out / GENERATOR
    folder.mkdir()
    common = {"dtype": str(dtype).removeprefix("torch.")}
    _write_config(out, config | common | {"architectures": ["DebertaV2Model"]})
    layers = {"num_hidden_layers": settings["generator_layers"]}
    _write_config(folder, config | common | layers | {"architectures": ["DebertaV2ForMaskedLM"]})
    for path, tensors in (
        (out / "model.safetensors", encoder), (out / HEAD_FILE, head), (folder / "model.safetensors", generator)
    ):  # fmt: skip
        save_tensors(path, {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    _compare(checkpoint, out, weights, dtype, settings["sharing"])


def load_discriminator(directory: Path, attention: str = "sdpa") -> ReplacedTokenDetector:
    """Loads the discriminator of a release with its head, fp32 and in eval mode.

    Args:
        directory: of the release.
        attention: sdpa or fused.

    Raises:
        CheckpointError: the directory holds none, or its files do not fit each other.
    """
    try:
        config = transformers.DebertaV2Config.from_pretrained(directory)
        model = ReplacedTokenDetector(config, attention)
        model.float().load_state_dict(load_file(directory / "model.safetensors") | load_file(directory / HEAD_FILE))
    except (OSError, RuntimeError, ValueError) as e:
        raise CheckpointError(f"{directory}: no discriminator with its head there ({e}). Export it again.") from e
    return model.eval()


def _write_config(directory: Path, config: dict[str, Any]) -> None:
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _compare(checkpoint: Path, out: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype, sharing: Sharing) -> None:
    """Raises CheckpointError where a model that transformers loads is not the checkpoint's, rounded to the released dtype.

    Args:
        checkpoint: as for `write_pair`, like the next three.
        out: directory of the discriminator.
        weights: of the checkpoint.
        dtype: of the released weights.
        sharing: of the embeddings.
    """
    transformers.utils.logging.disable_progress_bar()
    pair = load_pair(checkpoint, weights).eval()
    if dtype != torch.float32:
        # Both sides have the weights as they are released: rounding to that dtype is no difference.
        config = pair.config.to_dict()
        pair = build_replaced_token_model(config, pair.generator.config.num_hidden_layers, "nes").eval()
        for model, part in zip((pair.discriminator, pair.generator), published_parts(weights, sharing), strict=True):
            model.load_state_dict({name: tensor.to(dtype).float() for name, tensor in part.items()}, strict=False)
    ids = torch.randint(5, pair.config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(0))
    ids = ids[:, : pair.config.max_position_embeddings]
    encoder = transformers.AutoModel.from_pretrained(out, trust_remote_code=False, dtype=torch.float32).eval()
    lm = transformers.AutoModelForMaskedLM.from_pretrained(out / GENERATOR, trust_remote_code=False, dtype=torch.float32).eval()
    head = load_discriminator(out)
    with torch.inference_mode():
        pairs = {
            "the discriminator": (pair.discriminator.encode_rows(ids, None, None), encoder(input_ids=ids).last_hidden_state),
            "the discriminator's head": (pair.discriminator(ids), head(ids)),
            "the generator": (pair.generator(ids).logits, lm(input_ids=ids).logits),
        }
    for what, (expected, found) in pairs.items():
        difference = (expected - found).abs().max().item() / max(1.0, expected.abs().max().item())
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{out}: {what} gives other results than the checkpoint (by {difference:.1e}); nothing was exported."
            )
