"""Part, one process a way: forward and backward of the large model. The process compiles while others measure, then takes its rounds alone.

Rounds of all ways alternate, because each waits for the lock again. The first row is there as soon as the first round is.
"""

import gc
import statistics
import time
from collections.abc import Callable

import torch

from bench.gpu_run.one_part import PartRows
from bench.gpu_run.stand_in import GIB, Machine, Times, median_of
from bench.steps.variants import Setting, Way, models_of
from jadeberta.config import ModelConfig
from jadeberta.training.metrics import training_flops_per_token
from jadeberta.utils.hardware import peak_flops

WAYS = {
    "eager": Way("eager", False, False),
    "eager, compiled": Way("eager", True, False),
    "sdpa, compiled": Way("sdpa", True, True),
    "fused, compiled": Way("fused", True, True),
}
"""Hugging Face's predicts at every position, as published; ours where a token is masked."""
STEPS = 3
"""Of a round that count, after one that does not."""


def measure(machine: Machine, rows: PartRows, way: str) -> None:
    """One row, better after each round: milliseconds on the device and of the host, tokens/s, MFU, memory."""
    chosen, sizes = WAYS[way], machine.sizes
    config = ModelConfig(**sizes.model, pooler_hidden_size=sizes.model["hidden_size"])  # type: ignore[arg-type]
    setting = Setting(config, sizes.batch, machine.dtype, machine.device)
    attention = machine.kernel_form(chosen.attention)
    model = models_of(setting, [attention])[attention]
    run = machine.compiled(model.forward, whole=chosen.attention != "eager") if chosen.compiled else model.forward
    inputs = setting.inputs(sizes.batch, chosen.masked_head)

    def step() -> None:
        run(**inputs).loss.backward()
        model.zero_grad(set_to_none=True)

    began = time.monotonic()
    first_step(machine, model, step)
    first_step_s = time.monotonic() - began
    rows.put("first_step_s", first_step_s)
    machine.free()
    times: list[Times] = []
    walls: list[float] = []
    for _ in range(sizes.rounds):
        with machine.alone():
            peak = machine.peak_of(step, sizes.batch)
            times += [machine.timed(step) for _ in range(STEPS)]
            walls.append(_wall(machine, step))
            machine.free()
        rows.add({"way": chosen.name, "first_step_s": first_step_s} | _row(setting, chosen, times, walls, peak, machine))
        time.sleep(0.05)  # the lock is not handed on in turn: give the others a chance


def first_step(machine: Machine, model: torch.nn.Module, step: Callable[[], None]) -> None:
    """Takes the step that compiles, again and alone where other parts had the memory; what was compiled is kept.

    Raises:
        torch.OutOfMemoryError: the memory does not suffice for this part alone.
    """
    try:
        step()
        machine.synchronize()
        return
    except torch.OutOfMemoryError:
        pass  # the error holds the frames of the step, and they its activations: it must be gone before the next one
    model.zero_grad(set_to_none=True)
    gc.collect()
    machine.free()
    with machine.alone():
        step()
        machine.synchronize()


def _wall(machine: Machine, step: object) -> float:
    """Seconds a step of two in a row, as the host sees them."""
    assert callable(step)
    began = time.perf_counter()
    step()
    step()
    machine.synchronize()
    return (time.perf_counter() - began) / 2


def _row(setting: Setting, way: Way, times: list[Times], walls: list[float], peak: int, machine: Machine) -> dict[str, object]:
    length = setting.config.max_position_embeddings
    tokens, wall = setting.batch * length, statistics.median(walls)
    share = setting.mask_probability if way.masked_head else 1.0
    flops = training_flops_per_token(setting.config, length, setting.batch, share) * tokens
    matrix_peak = None if machine.rehearse else peak_flops(torch.cuda.get_device_name())
    return {
        "batch": setting.batch,
        **median_of(times),
        "wall_ms": wall * 1e3,
        "tokens_per_s": tokens / wall,
        "mfu": flops / wall / matrix_peak if matrix_peak else None,
        "peak_gib": peak / GIB,
    }
