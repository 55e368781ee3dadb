"""Part: what the figures belong to, in a few seconds: GPU, driver, versions, two ceilings, and what is missing here."""

import importlib.util
import os
import platform
import shutil
import subprocess
from importlib import metadata

import torch

from bench.gpu_run.one_part import PartRows
from bench.gpu_run.stand_in import Machine

PACKAGES = ("torch", "triton", "transformers", "deepspeed", "numpy", "orjson", "safetensors", "tokenizers")
QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,ecc.mode.current"


def measure(machine: Machine, rows: PartRows, way: str) -> None:
    """The facts, then the two ceilings that every other figure is held against: a matrix product and a copy."""
    rows.put("facts", _facts(machine))
    size = 64 if machine.rehearse else 8192
    a, b = (torch.randn(size, size, device=machine.device, dtype=machine.dtype) for _ in range(2))
    large = torch.empty(2**16 if machine.rehearse else 2**31, dtype=torch.int8, device=machine.device)
    other = torch.empty_like(large)
    with machine.alone():
        products = min(machine.timed(lambda: torch.mm(a, b)).device for _ in range(6))
        copies = min(machine.timed(lambda: other.copy_(large)).device for _ in range(4))
    rows.put("matrix_tflops", 2 * size**3 / products / 1e12)
    rows.put("copy_tb_per_s", 2 * large.numel() / copies / 1e12)


def _facts(machine: Machine) -> dict[str, object]:
    found: dict[str, object] = {
        "machine": "the CPU, as a stand-in" if machine.rehearse else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "cuda": torch.version.cuda,
        "packages": {name: _version(name) for name in PACKAGES},
        "missing": [
            name for name in ("orjson", "xxhash", "zstandard", "deepspeed", "triton") if not importlib.util.find_spec(name)
        ],
        "compute_sanitizer": shutil.which("compute-sanitizer") is not None,
    }
    if not machine.rehearse:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "multiprocessors": properties.multi_processor_count,
            "l2_mib": getattr(properties, "L2_cache_size", 0) / 2**20,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
        }
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
        found["nvidia_smi"] = dict(
            zip(QUERY.split(","), (asked.stdout.strip().splitlines() or [""])[0].split(", "), strict=False)
        )
    for key, value in found.items():
        print(f"{key}: {value}", flush=True)
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
