"""Part: memory of a row and the largest micro-batch, predicted from two sizes and then tried, with the optimizer's state on the device."""

import gc

import torch

from bench.gpu_run.one_part import PartRows
from bench.gpu_run.stand_in import GIB, Machine
from bench.steps.variants import Setting, models_of
from jadeberta.config import ModelConfig

STATE_BYTES = 16
"""Of a parameter, on one GPU under ZeRO-1: fp32 master, two moments, and the fp32 sum of gradients."""
SHARE = 0.95
"""Of the memory; the rest is CUDA's, cuBLAS's and what lies between blocks."""


def measure(machine: Machine, rows: PartRows, way: str) -> None:
    """A row for each attention, uncompiled: compiled steps keep less, so what fits here fits there."""
    sizes = machine.sizes
    config = ModelConfig(**sizes.model, pooler_hidden_size=sizes.model["hidden_size"])  # type: ignore[arg-type]
    setting = Setting(config, sizes.batch, machine.dtype, machine.device)
    for attention in ("fused", "sdpa"):
        taken = machine.kernel_form(attention)
        model = models_of(setting, [taken])[taken]
        state = torch.empty(STATE_BYTES * sum(p.numel() for p in model.parameters()), dtype=torch.uint8, device=machine.device)

        def peak(batch: int, model: torch.nn.Module = model) -> int:
            inputs = setting.inputs(batch, True)
            gc.collect()
            machine.free()
            try:
                return machine.peak_of(lambda: model(**inputs).loss.backward(), batch)
            finally:
                model.zero_grad(set_to_none=True)

        row: dict[str, object] = {"way": attention, "state_gib": state.numel() / GIB}
        half, whole = peak(max(1, sizes.batch // 2)), peak(sizes.batch)
        for_each = (whole - half) / (sizes.batch - max(1, sizes.batch // 2))
        predicted = int((SHARE * machine.total_memory() - whole) / for_each) + sizes.batch
        row |= {"mib_of_a_row": for_each / 2**20, "peak_gib": whole / GIB, "batch": sizes.batch, "predicted_rows": predicted}
        rows.add(row)
        # The largest is known from below: what ran.
        for rows_tried in (predicted, int(0.95 * predicted), int(0.9 * predicted)):
            try:
                row["peak_of_largest_gib"] = peak(rows_tried) / GIB
            except torch.OutOfMemoryError:
                row["refused_rows"] = rows_tried
                continue
            row["ran_rows"] = rows_tried
            break
        rows.add(row)
        del model, state
        gc.collect()
        machine.free()
