"""The training state of this rank: views into ZeRO's fp32 master weights, the optimizer's moments and the average, by parameter name.

Names and flat ranges are the same under ZeRO 1, 2 and 3, in bf16 and fp32, so that a checkpoint knows nothing of stages. The layouts are
those of DeepSpeed 0.19.8; nothing else in the project reaches into its optimizers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from jadeberta.training.optimizers.partitioned import PartitionedOptimizer
from jadeberta.training.optimizers.partitions import Partitions

Views = tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor | None]
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Fragment:
    """This rank's part of one parameter."""

    name: str
    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    start: int
    """First element in the flattened parameter."""
    master: torch.Tensor  # fp32 [length], a view: writing to it writes the optimizer's
    moments: dict[str, torch.Tensor]  # likewise, by the optimizer's name of it
    ema: torch.Tensor | None = None  # likewise; None where the run keeps no average of its weights

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that a checkpoint holds of this fragment, by kind, each fp32 [length]."""
        kinds = {"master": self.master, **self.moments}
        return kinds if self.ema is None else kinds | {"ema": self.ema}


def create_optimizer_state(engine: Any, averaged: bool = False) -> None:
    """Makes the optimizer's moments and step count before its first step; without them there is nothing to restore into.

    Every rank calls it: the optimizers of this project learn here how ZeRO has cut the parameters.

    Args:
        engine: DeepSpeed's, of any stage, before its first step.
        averaged: also keep an average of the weights, which begins as what they are now.
    """
    inner = engine.optimizer.optimizer
    flats = flat_masters(engine)
    if isinstance(inner, PartitionedOptimizer) and engine.zero_optimization_stage() < 3:
        inner.partitions = Partitions(engine, flats)
    for number, flat in enumerate(flats):
        if not inner.state[flat]:
            step = torch.zeros((), dtype=torch.float32, device=flat.device)
            inner.state[flat] = {"step": step, **{m: torch.zeros_like(flat) for m in _moments_of(inner, number)}}
        if averaged:
            # Beside the moments: it is partitioned as they are, and no optimizer looks at names it does not know.
            inner.state[flat]["ema"] = flat.detach().clone()


def _moments_of(inner: Any, number: int) -> tuple[str, ...]:
    """Names of the moments of a flat tensor; under ZeRO 3 its number is no group's, and all groups have the same."""
    if not isinstance(inner, PartitionedOptimizer):
        return ADAM_MOMENTS
    return inner.moments(inner.param_groups[min(number, len(inner.param_groups) - 1)])


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
        yield Fragment(name, tuple(parameter.shape), mapping.lp_fragment_address.start, *_views(flat, state[flat], offset, size))


def adam_step(engine: Any) -> int:
    """Number of updates that the optimizer has made."""
    return max((int(s["step"]) for s in engine.optimizer.optimizer.state.values() if "step" in s), default=0)


def set_adam_step(engine: Any, step: int) -> None:
    """Sets the number of updates that the optimizer has made, which Adam's bias correction counts; restoring moments does not set it."""
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
        yield Fragment(name, tuple(parameter.ds_shape), start, *_views(flat, state[flat], offset, length))


def _views(flat: torch.Tensor, state: dict[str, Any], offset: int, length: int) -> Views:
    """Part of the weights, of the moments and of the average, where there is one."""
    views = {kind: tensor.narrow(0, offset, length) for kind, tensor in state.items() if kind != "step"}
    average = views.pop("ema", None)
    return flat.detach().narrow(0, offset, length), views, average
