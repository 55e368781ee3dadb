"""Facts about a rank's own host: software versions, devices, and processes that should not run there."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import jadeberta
from jadeberta.cluster.device import choose_device, cpu_name
from jadeberta.errors import ConfigError
from jadeberta.preflight.results import Fault, LocalResults
from jadeberta.utils.procfs import process_table

QUERY_DEVICES = ("--query-gpu=index,uuid,driver_version,ecc.errors.uncorrected.volatile.total", "--format=csv,noheader,nounits")
QUERY_PROCESSES = ("--query-compute-apps=gpu_uuid,pid,used_memory,process_name", "--format=csv,noheader,nounits")

PACKAGES = ("torch", "deepspeed", "transformers", "safetensors")
JOB_VARIABLES = (
    "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "PMIX_NAMESPACE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Variables that the ranks of one attempt share, and that differ between attempts."""
NVIDIA_SMI_S = 8.0
STALE_NAMED = 3


@dataclass(frozen=True)
class GpuInfo:
    """A GPU of the host, visible to this job or not."""

    index: int
    uuid: str
    driver: str
    uncorrected_errors: int
    """Uncorrected memory errors since boot; 0 if the GPU does not count them."""


def read_devices(output: str) -> list[GpuInfo]:
    """Parses the output of `nvidia-smi` with QUERY_DEVICES."""
    found = []
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[0].isdigit():
            errors = int(fields[3]) if fields[3].isdigit() else 0  # "[N/A]" where ECC is off
            found.append(GpuInfo(int(fields[0]), fields[1], fields[2], errors))
    return found


def read_processes(output: str, uuid: str) -> list[tuple[int, str, str]]:
    """Parses process id, name and MiB of memory ("[N/A]" if the driver does not report it) of the processes on one GPU.

    Args:
        output: of `nvidia-smi` with QUERY_PROCESSES.
        uuid: of the GPU, as nvidia-smi writes it.
    """
    found = []
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) == 4 and fields[0] == uuid and fields[1].isdigit():
            found.append((int(fields[1]), fields[3], fields[2]))
    return found


def job_key(env: Mapping[str, str]) -> str:
    """Returns a key that is equal on all ranks of one attempt and differs between attempts."""
    common = "\0".join(f"{name}={env.get(name, '')}" for name in JOB_VARIABLES)
    return hashlib.sha256(common.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Returns the versions that must be equal on all ranks, by name."""
    found = {"python": platform.python_version(), "jadeberta": jadeberta.__version__, "jadeberta's files": source_hash()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    found["CUDA"] = torch.version.cuda or "none"
    if torch.cuda.is_available():
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def source_hash() -> str:
    """Returns the hash of all source files of this package."""
    root = Path(jadeberta.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def check_device(wanted: str, results: LocalResults) -> None:
    """Adds this rank's device and its faults to the local results.

    Args:
        wanted: the recipe's run.device.
        results: of this rank.
    """
    try:
        device = choose_device(wanted, results.local_rank)
    except ConfigError as e:
        results.faults.append(Fault("device", str(e).rstrip(".")))
        return
    if device.type == "cpu":
        results.device, results.device_name = "cpu", cpu_name()
        return
    results.device, results.device_name = "cuda", torch.cuda.get_device_name(device)
    results.device_free_bytes, results.device_total_bytes = torch.cuda.mem_get_info(device)
    results.versions["GPU"] = results.device_name
    devices = read_devices(_nvidia_smi(QUERY_DEVICES))
    # Found by UUID and not by index, because CUDA_VISIBLE_DEVICES renumbers the GPUs for torch alone.
    own_uuid = str(torch.cuda.get_device_properties(device).uuid)
    gpu = next((d for d in devices if d.uuid.removeprefix("GPU-") == own_uuid.removeprefix("GPU-")), None)
    if gpu is None:
        results.warnings.append("nvidia-smi does not list this rank's GPU: its driver, errors and processes were not checked")
        return
    results.versions["driver"] = gpu.driver
    _check_gpu_health(gpu, results)


def _check_gpu_health(device: GpuInfo, results: LocalResults) -> None:
    if device.uncorrected_errors:
        results.faults.append(
            Fault(
                "device memory errors", f"GPU {device.index} had {device.uncorrected_errors} uncorrected memory errors since boot"
            )
        )
    for pid, name, used in read_processes(_nvidia_smi(QUERY_PROCESSES), device.uuid):
        # In a container, process ids are those of the host's name space: a process that is not visible here may belong to this job.
        if (environment := _environment(pid)) is not None and job_key(environment) != job_key(os.environ):
            results.warnings.append(f"GPU {device.index} is also used by process {pid} ({name}), {used} MiB")


def _nvidia_smi(query: tuple[str, ...]) -> str:
    """The output of nvidia-smi; empty if it is missing, fails or hangs."""
    try:
        done = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, timeout=NVIDIA_SMI_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def stale_processes() -> list[str]:
    """Returns one sentence about trainings of this user on this host that belong to another attempt, or none."""
    found = []
    for pid in process_table():
        try:
            if Path(f"/proc/{pid}").stat().st_uid != os.getuid():
                continue
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        environment = _environment(pid)
        if is_training(command) and environment is not None and job_key(environment) != job_key(os.environ):
            job = environment.get("SLURM_JOB_ID")
            found.append(f"{pid}{f' of job {job}' if job else ''}")
    if not found:
        return []
    more = f" and {len(found) - STALE_NAMED} more" if len(found) > STALE_NAMED else ""
    return [f"trainings of another attempt run here: process {', '.join(found[:STALE_NAMED])}{more}"]


def is_training(command: list[str]) -> bool:
    """Whether a command line runs `jadeberta pretrain`, with any launcher."""
    positions = [position for position, word in enumerate(command) if word == "jadeberta" or word.endswith("/jadeberta")]
    return any(command[position + 1 : position + 2] == ["pretrain"] for position in positions)


def _environment(pid: int) -> dict[str, str] | None:
    """The environment of a process of this user; None if it cannot be read."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return None
    return dict(pair.split("=", 1) for pair in content.split("\0") if "=" in pair)
