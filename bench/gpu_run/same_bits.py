"""Part: whether two starts give the same bits: the same micro-step in two processes, sha256 of every gradient, each way with and without
the settings that make CUDA deterministic. Each process compiles for itself, as a restart on another node does.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch

from bench.gpu_run.one_part import PartRows
from bench.gpu_run.process_tree import end
from bench.gpu_run.stand_in import Machine
from bench.steps.variants import Setting, models_of
from jadeberta.config import ModelConfig
from jadeberta.training.repeatable.determinism import make_deterministic

BATCH = 18
CHILD = "one micro-step"


def measure(machine: Machine, rows: PartRows, way: str) -> int:
    """A row for each way: whether two processes agree, and which gradients do not. The status is 1 where the settings do not hold."""
    if way.startswith(CHILD):
        _, attention, deterministic = way.split(", ")
        rows.put("gradients", micro_step(machine, attention, deterministic == "True"))
        return 0
    begun = {}
    with tempfile.TemporaryDirectory() as folder:
        for taken, fixed, number in product(machine.sizes.same_bits_attentions, (False, True), (1, 2)):
            output = Path(folder) / f"{taken}-{fixed}-{number}.json"
            begun[taken, fixed, number] = output, _start(machine, taken, fixed, output)
        try:
            return _compared(machine, rows, begun)
        finally:
            for _, process in begun.values():
                end(process)


def _start(machine: Machine, attention: str, deterministic: bool, output: Path) -> "subprocess.Popen[bytes]":
    own = str(output.with_suffix(""))  # nothing that another process compiled or chose
    environment = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": f"{own}-inductor", "TRITON_CACHE_DIR": f"{own}-triton", "TORCHINDUCTOR_COMPILE_THREADS": "2",
    }  # fmt: skip
    way = f"{CHILD}, {attention}, {deterministic}"
    command = [sys.executable, "-m", "bench.gpu_run.one_part", "same_bits", "--way", way, "--output", str(output)]
    command += ["--rehearse"] if machine.rehearse else []
    return subprocess.Popen(command, env=environment, start_new_session=True)


def _compared(
    machine: Machine, rows: PartRows, begun: "dict[tuple[str, bool, int], tuple[Path, subprocess.Popen[bytes]]]"
) -> int:
    broken = 0
    for attention, deterministic in dict.fromkeys(key[:2] for key in begun):
        row: dict[str, object] = {
            "way": f"{attention}{', deterministic' if deterministic else ''}",
            "deterministic": deterministic,
        }
        found = []
        for number in (1, 2):
            output, process = begun[attention, deterministic, number]
            try:
                process.wait(max(0.1, machine.left() - 2))
                found.append(json.loads(output.read_text(encoding="utf-8"))["gradients"])
            except (subprocess.TimeoutExpired, OSError, ValueError, KeyError) as e:
                row["no_result"] = f"process {number}: {type(e).__name__}, status {process.poll()}"
        if len(found) == 2:
            differing = [name for name in found[0] if found[0][name] != found[1][name]]
            whole = [hashlib.sha256("".join(one.values()).encode()).hexdigest()[:16] for one in found]
            row |= {"same": not differing, "sha256": whole, "gradients": len(found[0]), "differing": len(differing)}
            row["first_differing"] = differing[:4]
        broken += deterministic and row.get("same") is not True
        rows.add(row)
    return int(broken > 0)


def micro_step(machine: Machine, attention: str, deterministic: bool) -> dict[str, str]:
    """sha256 of each gradient of one compiled micro-step from fixed weights, tokens and dropout."""
    if deterministic:
        make_deterministic()  # as a run with training.deterministic does, before CUDA starts
    sizes = machine.sizes
    config = ModelConfig(**sizes.same_bits_model, pooler_hidden_size=sizes.same_bits_model["hidden_size"])  # type: ignore[arg-type]
    setting = Setting(config, 2 if machine.rehearse else BATCH, machine.dtype, machine.device)
    attention = machine.kernel_form(attention)
    model = models_of(setting, [attention])[attention]
    inputs = setting.inputs(setting.batch, masked_head=True)
    torch.manual_seed(7)
    machine.compiled(model.forward)(**inputs).loss.backward()
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            as_bytes = parameter.grad.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes()
            found[name] = hashlib.sha256(as_bytes).hexdigest()
    return found
