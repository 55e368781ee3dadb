"""DeBERTa's attention by two other packages, put into Hugging Face's model: `pip install -e '.[bench]'`.

Each goes in the way its package documents for training, with the settings that are fastest for rows without padding. Weights, the rest of
the model, head and loss stay those of the other rows. Knows nothing of timing.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from jadeberta.config import ModelConfig
from jadeberta.errors import ConfigError
from jadeberta.model import DebertaForMaskedLM, build


@dataclass(frozen=True)
class Anchor:
    """One attention of another package."""

    package: str
    """Its name on PyPI, where its module has underscores for hyphens."""
    devices: tuple[str, ...]
    """Types of device where it is tried."""
    put_in: Callable[[Any, DebertaForMaskedLM], None]
    """Replaces the attention of every layer; given the package's module and Hugging Face's eager model."""


def build_with(anchor: Anchor, config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int) -> DebertaForMaskedLM:
    """A model with the attention of a package, on its device; weights, head and loss are those of `build` with the same seed.

    Raises:
        ImportError: the package is not installed, or lacks another that it needs.
        ConfigError: the package left Hugging Face's attention in place.
    """
    module = importlib.import_module(anchor.package.replace("-", "_"))
    model: Any = build(config.hugging_face(), "eager", seed=seed)
    model.to(device, dtype)
    before = _attentions(model)
    anchor.put_in(module, model)
    if any(new is old for new, old in zip(_attentions(model), before, strict=True)):
        raise ConfigError(f"{anchor.package} left Hugging Face's attention in place on {device}; is Triton installed?")
    return model


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for package in sorted({anchor.package for anchor in ANCHORS.values()}):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _attentions(model: DebertaForMaskedLM) -> list[torch.nn.Module]:
    encoder: Any = model.deberta.encoder
    return [layer.attention.self for layer in encoder.layer]


def _disentangled_flash(module: Any, model: DebertaForMaskedLM) -> None:
    module.optimize_deberta_training(model.deberta, backend="triton", assume_unpadded=True)


def _disentangled_flash_pytorch(module: Any, model: DebertaForMaskedLM) -> None:
    module.optimize_deberta_training(model.deberta, backend="torch", assume_unpadded=True)


def _flashdeberta(module: Any, model: DebertaForMaskedLM) -> None:
    """As its FlashDebertaV2Attention does; the rest of its model is Hugging Face's."""
    encoder: Any = model.deberta.encoder
    for layer in encoder.layer:
        theirs = layer.attention.self
        flash = module.FlashDisentangledSelfAttention(model.config).to(theirs.query_proj.weight)
        flash.load_state_dict(theirs.state_dict())
        layer.attention.self = flash


ANCHORS = {
    "disentangled-flash": Anchor("disentangled-flash", ("cuda",), _disentangled_flash),
    "disentangled-flash, PyTorch backend": Anchor("disentangled-flash", ("cpu",), _disentangled_flash_pytorch),
    "flashdeberta, no attention dropout": Anchor("flashdeberta", ("cuda", "cpu"), _flashdeberta),
}
"""By their names in the table. The PyTorch backend stands in where the kernels of its package cannot run; flashdeberta drops no attention
weights, so it trains another function wherever the others do."""
