"""Times training micro-steps of the ways to compute one model, in turn, in one process, on the same weights and batches."""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from bench.steps.other_packages import ANCHORS, build_with
from jadeberta.config import ModelConfig
from jadeberta.data.batches import masked_capacity
from jadeberta.model import build

Found = TypeVar("Found")
COMPILING_SHARE = 0.7
"""Of the time there is; the rest is for rounds."""


@dataclass(frozen=True)
class Way:
    """One row of the table."""

    attention: str
    """One of ours, or a name of ANCHORS."""
    compiled: bool
    masked_head: bool

    @property
    def name(self) -> str:
        model = "Hugging Face eager" if self.attention == "eager" else self.attention
        return f"{model}{' + compile' if self.compiled else ''}, {'masked' if self.masked_head else 'whole'} head"


def ways_on(device: torch.device) -> list[Way]:
    """All that a device can try, Hugging Face's first: ratios are to it. Other packages go uncompiled, as they are published."""
    heads = (False, True)
    attentions = ("eager", "sdpa", "fused") if device.type == "cuda" else ("eager", "sdpa")  # our kernels run on GPUs alone
    ours = [Way(attention, compiled, head) for attention in attentions for compiled in (False, True) for head in heads]
    theirs = [Way(name, False, head) for name, anchor in ANCHORS.items() if device.type in anchor.devices for head in heads]
    return ours + theirs


@dataclass
class Timing:
    """What was measured of one way."""

    way: Way
    seconds: list[float] = field(default_factory=list)
    """Of each round's micro-step, forward and backward."""
    peak_bytes: int | None = None
    """The most that torch held on the GPU for this model in a micro-step, weights and gradients included; None on CPUs."""
    largest_micro_batch: int | None = None
    """The most sequences that fit beside weights and gradients; None where it was not looked for."""


@dataclass(frozen=True)
class Setting:
    """What all ways share."""

    config: ModelConfig
    batch: int
    dtype: torch.dtype
    device: torch.device
    mask_probability: float = 0.15

    def inputs(self, batch: int, masked_head: bool) -> dict[str, Any]:
        """A batch of random tokens and the places to predict: as many as a loader gives, or all."""
        generator = torch.Generator().manual_seed(0)
        length = self.config.max_position_embeddings
        ids = torch.randint(5, self.config.vocab_size, (batch, length), generator=generator)
        inputs: dict[str, Any] = {"input_ids": ids.to(self.device)}
        labels = ids.flatten()
        if masked_head:
            places = torch.randperm(ids.numel(), generator=generator)[: masked_capacity(ids.numel(), self.mask_probability)]
            inputs["masked_index"] = places.sort().values.to(self.device)
            labels = labels[inputs["masked_index"].cpu()]
        return inputs | {"labels": labels.to(self.device), "z_loss": 0.0}


def measure(
    setting: Setting,
    ways: list[Way],
    rounds: int,
    warm_up: int,
    look_for_largest: bool,
    seconds: float = math.inf,
    keep: Callable[[list[Timing]], None] = lambda timings: None,
) -> list[Timing]:
    """Times every way once a round, after some rounds that do not count.

    One model of each attention lives through all rounds; all start from the same weights. A package that is absent or refuses this
    device, and a way that fails, get no rows and one printed line.

    Args:
        setting: what all ways share.
        ways: the rows.
        rounds: that count, one at least.
        warm_up: rounds that do not, in the first of which ways are compiled.
        look_for_largest: whether the largest micro-batch is wanted too.
        seconds: after so long no way is compiled any more, and no other round begun.
        keep: told of all rows after each round that counts: what was measured outlives a job that is cut off.
    """
    began = time.monotonic()
    models = models_of(setting, list(dict.fromkeys(way.attention for way in ways)))
    ways = [way for way in ways if way.attention in models]
    runs: dict[Way, Callable[..., Any]] = {}
    for way in ways:
        forward = models[way.attention].forward
        runs[way] = torch.compile(forward, dynamic=False) if way.compiled else forward

    def step(way: Way) -> tuple[float, int | None]:
        return _step(runs[way], models[way.attention], setting.inputs(setting.batch, way.masked_head))

    timings = list[Timing]()
    for way in ways:
        if timings and time.monotonic() - began > seconds * COMPILING_SHARE:
            print(f"no time left for {way.name}", flush=True)
        elif (first := attempt(lambda way=way: step(way), way.name)) is not None:  # type: ignore[misc]
            if way.compiled:
                print(f"{way.name}: its first step took {first[0]:.1f} s", flush=True)
            timings.append(Timing(way))
    # From 1, because the steps above were the first round.
    for round_ in range(1, max(1, warm_up) + rounds):
        if timings and timings[0].seconds and time.monotonic() - began > seconds:
            print(f"no time left for round {round_ + 1 - max(1, warm_up)} of {rounds}", flush=True)
            break
        for timing in timings:
            took, peak = step(timing.way)
            if round_ >= warm_up:
                timing.seconds.append(took)
                timing.peak_bytes = peak
        if round_ >= warm_up:
            keep(timings)
    if look_for_largest and setting.device.type == "cuda":
        for timing in timings:
            if time.monotonic() - began < seconds:
                timing.largest_micro_batch = attempt(
                    lambda way=timing.way: _largest(setting, way, models[way.attention]),  # type: ignore[misc]
                    timing.way.name,
                )
        keep(timings)
    return timings


def attempt(work: Callable[[], Found], what: str) -> Found | None:
    """The result of `work()`; None and a printed line where it raises: the other rows are to be had."""
    try:
        return work()
    except Exception as e:
        reason = str(e).strip().partition("\n")[0]
        print(f"no figure of {what}: {type(e).__name__}: {reason}", flush=True)
        return None


def models_of(setting: Setting, attentions: list[str]) -> dict[str, torch.nn.Module]:
    """One model of each attention, ready to train; of a package only if a whole micro-step works, else its reason is printed."""
    models: dict[str, torch.nn.Module] = {}
    for attention in attentions:
        model: Any
        if attention not in ANCHORS:
            model = build(setting.config.hugging_face(), attention, seed=1)
            models[attention] = model.to(setting.device, setting.dtype).train()
            continue
        try:
            model = build_with(ANCHORS[attention], setting.config, setting.device, setting.dtype, seed=1).train()
            _step(model.forward, model, setting.inputs(setting.batch, masked_head=False))
        except Exception as e:  # whatever a package raises, the other rows are to be timed
            reason = str(e).strip().partition("\n")[0]
            print(f"no rows of {attention} on {setting.device.type}: {type(e).__name__}: {reason}", flush=True)
        else:
            models[attention] = model
    return models


def _step(run: Callable[..., Any], model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[float, int | None]:
    """Seconds of one forward and backward pass, and the most memory that the model took on a GPU, without other models there."""
    on_gpu, others = inputs["input_ids"].is_cuda, 0
    if on_gpu:
        torch.cuda.synchronize()
        others = torch.cuda.memory_allocated() - sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    run(**inputs).loss.backward()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    # Freed, because the models of all ways stay on the device together.
    model.zero_grad(set_to_none=True)
    return seconds, torch.cuda.max_memory_allocated() - others if on_gpu else None


def _largest(setting: Setting, way: Way, model: torch.nn.Module) -> int:
    """By memory at two batch sizes: a micro-step needs a fixed part and one for each sequence. Compiled ways are asked uncompiled.

    Raises:
        RuntimeError: memory does not grow with the batch.
    """
    peaks = []
    for batch in (setting.batch // 2, setting.batch):
        # Compared are two peaks, so nothing of an earlier size may still be held.
        gc.collect()
        torch.cuda.empty_cache()
        peaks.append(_step(model.forward, model, setting.inputs(batch, way.masked_head))[1] or 0)
    for_each = (peaks[1] - peaks[0]) / (setting.batch - setting.batch // 2)
    if for_each <= 0:
        raise RuntimeError(f"{way.name}: {peaks} bytes at half and whole batch; take a larger --batch.")
    free = torch.cuda.get_device_properties(setting.device).total_memory * 0.95
    return int((free - peaks[1]) / for_each) + setting.batch
