"""The training state of this rank: views into ZeRO's fp32 master weights, Adam moments and average, by parameter name.

Names and flat ranges are the same under ZeRO 1, 2 and 3, in bf16 and fp32, so that a checkpoint knows nothing of stages. The layouts are
those of DeepSpeed 0.19.8; nothing else in the project reaches into its optimizers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Fragment:
    """This rank's part of one parameter."""

    name: str
    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    start: int
    """First element in the flattened parameter."""
    master: torch.Tensor  # fp32 [length], a view: writing to it writes the optimizer's
    exp_avg: torch.Tensor  # likewise
    exp_avg_sq: torch.Tensor
    ema: torch.Tensor | None = None  # likewise; None where the run keeps no average of its weights

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that a checkpoint holds of this fragment, by kind, each fp32 [length]."""
        kinds = {"master": self.master, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return kinds if self.ema is None else kinds | {"ema": self.ema}


def create_optimizer_state(engine: Any, averaged: bool = False) -> None:
    """Makes Adam's moments and step count before its first step; without them there is nothing to restore into.

    Args:
        engine: DeepSpeed's, of any stage, before its first step.
        averaged: also keep an average of the weights, which begins as what they are now.
    """
    inner = engine.optimizer.optimizer
    for flat in flat_masters(engine):
        if not inner.state[flat]:
            step = torch.zeros((), dtype=torch.float32, device=flat.device)
            inner.state[flat] = {"step": step, **{m: torch.zeros_like(flat) for m in MOMENTS}}
        if averaged:
            # Beside the moments: it is partitioned as they are, and Adam does not look at names it does not know.
            inner.state[flat]["ema"] = flat.detach().clone()


def fragments(engine: Any) -> Iterator[Fragment]:
    """This rank's fragments, in the order of the model's parameters; the fragments of all ranks cover each parameter once."""
    state = engine.optimizer.optimizer.state
    if engine.zero_optimization_stage() == 3:
        yield from _fragments_stage3(engine, state)
        return
    flats = flat_masters(engine)
    for name, parameter in engine.module.named_parameters():
        mapping = parameter._hp_mapping
        if mapping is None:
            continue  # no part of this parameter is on this rank
        flat = flats[mapping.param_group_index]
        offset, size = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
        views = {m: state[flat][m].narrow(0, offset, size) for m in (*MOMENTS, "ema") if m in state[flat]}
        master = flat.detach().narrow(0, offset, size)
        yield Fragment(name, tuple(parameter.shape), mapping.lp_fragment_address.start, master, **views)


def adam_step(engine: Any) -> int:
    """Number of updates that Adam has made."""
    return max((int(s["step"]) for s in engine.optimizer.optimizer.state.values() if "step" in s), default=0)


def set_adam_step(engine: Any, step: int) -> None:
    """Sets the number of updates that Adam has made, which its bias correction counts; restoring the moments does not set it."""
    for state in engine.optimizer.optimizer.state.values():
        state["step"].fill_(step)


def load_working_weights(engine: Any, weights: dict[str, torch.Tensor]) -> None:
    """Sets the weights that the forward pass uses: they are a copy of the masters, which restoring the masters does not renew.

    Args:
        engine: DeepSpeed's, of any stage.
        weights: every parameter whole, in any floating dtype.
    """
    for name, parameter in engine.module.named_parameters():
        load_working_weight(parameter, weights[name])


def load_working_weight(parameter: Any, value: torch.Tensor) -> None:
    """Sets one parameter that the forward pass uses.

    Args:
        parameter: of the module, under any stage.
        value: the whole parameter, in any floating dtype.
    """
    if not hasattr(parameter, "ds_tensor"):
        parameter.data.copy_(value)
        return
    partition = parameter.ds_tensor
    start = partition.numel() * torch.distributed.get_rank()
    own = value.flatten()[start : start + partition.numel()]
    partition.data[: own.numel()].copy_(own)
    if parameter.data.numel() == parameter.ds_numel:  # small parameters are kept whole on every rank
        parameter.data.copy_(value.view(parameter.data.shape))


def gather_working_weights(engine: Any) -> dict[str, torch.Tensor] | None:
    """Every parameter whole on rank 0, None on the others; every rank calls it. Under ZeRO 3 the weights are copies on the CPU."""
    root = torch.distributed.get_rank() == 0
    weights: dict[str, torch.Tensor] = {}
    if engine.zero_optimization_stage() < 3:
        return {n: p.detach() for n, p in engine.module.named_parameters()} if root else None
    from deepspeed.runtime.zero import GatheredParameters

    for name, parameter in engine.module.named_parameters():
        # Gathered one by one by all ranks: the whole model need not fit on one device.
        with GatheredParameters([parameter]):
            if root:
                weights[name] = parameter.detach().cpu().clone()
    return weights if root else None


def flat_masters(engine: Any) -> list[torch.Tensor]:
    """The flat fp32 tensors that the inner optimizer updates, one for each group (ZeRO 3: sub-group).

    Raises:
        RuntimeError: another version of DeepSpeed keeps them elsewhere.
    """
    optimizer = engine.optimizer
    for attribute in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, attribute):
            return list(getattr(optimizer, attribute))
    raise RuntimeError(
        f"{type(optimizer).__name__} keeps its master weights where this version does not look; pin deepspeed==0.19.8"
    )


def _fragments_stage3(engine: Any, state: Any) -> Iterator[Fragment]:
    optimizer, rank = engine.optimizer, torch.distributed.get_rank()
    for name, parameter in engine.module.named_parameters():
        group, offset, numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
        flat = optimizer.fp32_partitioned_groups_flat[group]
        start = parameter.ds_tensor.numel() * rank
        length = min(numel, max(0, parameter.ds_numel - start))  # the last rank's partition may end in padding
        if length == 0:
            continue
        views = {m: state[flat][m].narrow(0, offset, length) for m in (*MOMENTS, "ema") if m in state[flat]}
        yield Fragment(name, tuple(parameter.ds_shape), start, flat.detach().narrow(0, offset, length), **views)
