"""Part: whole optimizer steps through the training's own engine on one rank; what DeepSpeed's throughput timer costs each micro-step.

The timer is switched between steps of one engine, in turn, so that all else is the same.
"""

import contextlib
import io
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from bench.gpu_run.one_part import PartRows
from bench.gpu_run.stand_in import Machine
from jadeberta.cluster.process_group import join_process_group
from jadeberta.training.control import RankFlags
from jadeberta.training.engine import TrainingEngine


def measure(machine: Machine, rows: PartRows, way: str) -> None:
    """Rows timer on and timer off: milliseconds a micro-step and of the update, whole and as the host queues them."""
    from bench.checkpointing.workload import ALONE, batch_of, recipe_of

    sizes = machine.sizes
    with tempfile.TemporaryDirectory() as folder:
        join_process_group(ALONE, machine.device, 600)
        recipe = recipe_of("large", Path(folder), **sizes.engine_model)
        rows_of_step = sizes.engine_batch * sizes.micro_batches
        training = replace(recipe.training, micro_batch_size=sizes.engine_batch, global_batch_size=rows_of_step)
        recipe = replace(recipe, training=training)
        with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints its memory
            engine = TrainingEngine(recipe, ALONE, machine.device)
        batch = batch_of(recipe, sizes.engine_batch, sizes.length, sizes.micro_batches)
        began = time.monotonic()
        engine.step(batch, 1e-4, RankFlags())
        rows.put("first_step_s", time.monotonic() - began)
        rows.put("compiled", engine.compiled)
        rows.put("attention", engine.model.attention_backend if hasattr(engine.model, "attention_backend") else None)
        timer = engine.engine.tput_timer
        rows.put("timer_of_the_recipe", bool(timer.config.enabled))
        timer.global_step_count = timer.start_step  # it waits for the device from this step on
        walls: dict[bool, list[float]] = {True: [], False: []}
        machine.free()
        for round_ in range(1 + sizes.rounds):
            for enabled in (True, False):
                with machine.alone():
                    timer.config.enabled = enabled
                    wall = _wall(machine, engine, batch)
                    machine.free()
                if round_:
                    walls[enabled].append(wall)
                    tokens = rows_of_step * sizes.length
                    median = statistics.median(walls[enabled])
                    row = {"way": f"throughput timer {'on' if enabled else 'off'}", "micro_batches": sizes.micro_batches}
                    row |= {"batch": sizes.engine_batch, "step_ms": median * 1e3, "tokens_per_s": tokens / median}
                    rows.add(row | {"measured": len(walls[enabled])})
            if machine.left() < 5:
                break
        engine.close()
        dist.destroy_process_group()


def _wall(machine: Machine, engine: TrainingEngine, batch: object) -> float:
    """Seconds of one step, with nothing queued before and after."""
    machine.synchronize()
    began = time.perf_counter()
    engine.step(batch, 1e-4, RankFlags())  # type: ignore[arg-type]
    machine.synchronize()
    return time.perf_counter() - began
