"""The optimizer of a recipe, built over any module tree."""

from typing import Any

import torch

from jadeberta.config import TrainingConfig
from jadeberta.errors import ConfigError
from jadeberta.training.optimizers.groups import decay_groups, matrix_groups
from jadeberta.training.optimizers.lion import Lion
from jadeberta.training.optimizers.matrix import MatrixOptimizer
from jadeberta.training.optimizers.stable_adamw import StableAdamW

WHOLE_PARAMETERS = {"muon", "stable_adamw"}
"""Optimizers that look at a parameter as a whole."""


def build_optimizer(model: torch.nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Builds `training.optimizer` for a model that ZeRO is about to cut.

    A group's `rate_share` is its learning rate as a multiple of the run's; 1 where it is absent.

    Raises:
        ConfigError: Muon is asked for and the model has no hidden matrix.
    """
    decay = training.weight_decay
    adam: dict[str, Any] = {
        "lr": training.lr, "betas": (training.adam_beta1, training.adam_beta2), "eps": training.adam_eps, "fused": True
    }  # fmt: skip
    match training.optimizer:
        case "muon":
            matrix = {
                "rule": "matrix",
                "rate_share": (training.muon_lr or training.lr) / training.lr,
                "momentum": training.muon_momentum,
                "scale": training.muon_scale,
                "weight_decay": decay if training.muon_weight_decay == -1 else training.muon_weight_decay,
            }
            groups = matrix_groups(model, decay, matrix)
            if not groups[0]["params"]:
                raise ConfigError("training.optimizer is muon, but the model has no hidden matrix; set it to adamw.")
            return MatrixOptimizer(groups, **adam)
        case "stable_adamw":
            return StableAdamW([{**group, "rule": "stable"} for group in decay_groups(model, decay)], **adam)
        case "lion":
            adam["betas"] = (training.lion_beta1, training.lion_beta2)
            return Lion([{**group, "rule": "lion"} for group in decay_groups(model, decay)], **adam)
    return torch.optim.AdamW(decay_groups(model, decay), **adam)


def require_stage(optimizer: str, settings: dict[str, Any]) -> None:
    """Checks that DeepSpeed's settings leave the optimizer what it needs.

    Args:
        optimizer: `training.optimizer`.
        settings: DeepSpeed's.

    Raises:
        ConfigError: ZeRO's stage or an offload takes whole parameters, or the update itself, away from it.
    """
    if optimizer == "adamw":
        return
    zero = settings.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if stage == 0 or (stage == 3 and optimizer in WHOLE_PARAMETERS):
        fits = "1 or 2" if optimizer in WHOLE_PARAMETERS else "1, 2 or 3"
        raise ConfigError(
            f"training.optimizer {optimizer} works under ZeRO stage {fits}, and the recipe's DeepSpeed file has stage {stage}; set "
            "deepspeed to ds_configs/zero1.json or zero2.json, or training.optimizer to adamw."
        )
    offloads = [key for key in ("offload_optimizer", "offload_param", "cpu_offload", "zenflow") if _is_on(zero.get(key))]
    if offloads:
        raise ConfigError(
            f"training.optimizer {optimizer} does not go together with {offloads[0]} in the recipe's DeepSpeed file; take it out there, "
            "or set training.optimizer to adamw."
        )


def _is_on(value: Any) -> bool:
    return value.get("device", "none") != "none" if isinstance(value, dict) and "device" in value else bool(value)
