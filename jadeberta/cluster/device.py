"""The device of a rank: chosen, described, and never a CPU in silence where the job holds GPUs that torch cannot use."""

import os
import platform
import re
import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from jadeberta.errors import ConfigError

LISTS = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")
"""Variables of Slurm that list the indices of a job's GPUs on this host."""
COUNTS = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS_PER_SOCKET")
"""Variables of Slurm that count them, such as "8" or "a100:8"."""
HIDDEN = ("", "-1", "NoDevFiles", "void", "none")
"""Values of CUDA_VISIBLE_DEVICES that hide every GPU; Slurm sets one of them in a job that has asked for none."""
NVIDIA_SMI_S = 8.0
"""Time limit of nvidia-smi, seconds: with a broken driver it may hang."""


def gpus_held(env: Mapping[str, str], dev: Path = Path("/dev")) -> str:
    """Returns what says that this process has GPUs, such as "SLURM_GPUS_ON_NODE=8" or "/dev/nvidia0"; empty where nothing does.

    Args:
        env: the environment, e.g. os.environ.
        dev: directory of the device files.
    """
    for name in (*LISTS, *COUNTS):
        value = env.get(name, "")
        if value and (name in LISTS or re.search(r"[1-9]\d*$", value)):
            return f"{name}={value}"
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return "" if visible in HIDDEN else f"CUDA_VISIBLE_DEVICES={visible}"
    # In a job without GPUs the files may be there, but Slurm lets nobody open them.
    files = [path for path in sorted(dev.glob("nvidia[0-9]*")) if os.access(path, os.R_OK | os.W_OK)]
    if files:
        return str(files[0])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], env=dict(env), capture_output=True, text=True, timeout=NVIDIA_SMI_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")] if listed.returncode == 0 else []
    return f"nvidia-smi lists {len(gpus)}" if gpus else ""


def why_unseen() -> str:
    """Returns why torch sees no GPU, and what to do about it."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is a build for CPUs; install the one for GPUs with 'make setup HARDWARE=cuda'"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as e:
        reason = re.split(r"\. |\n", str(e).strip())[0].rstrip(".")
        return f"torch {torch.__version__} says: {reason}; look at the driver with nvidia-smi"
    return "look at the driver with nvidia-smi"


def require_no_gpus(env: Mapping[str, str], key: str = "run.device") -> None:
    """Checks that nothing says that this process has GPUs; call it where torch sees none and a CPU would be taken.

    Args:
        env: the environment, e.g. os.environ.
        key: the setting with which the user can ask for a CPU; empty: there is none.

    Raises:
        ConfigError: something does.
    """
    if held := gpus_held(env):
        remedy = (
            f", or set {key} to cpu if a CPU is meant"
            if key
            else ", or hide the GPUs with CUDA_VISIBLE_DEVICES= if a CPU is meant"
        )
        raise ConfigError(f"this process has GPUs ({held}) but torch sees none: {why_unseen()}{remedy}.")


def choose_device(wanted: str, local_rank: int, env: Mapping[str, str] = os.environ) -> torch.device:
    """Chooses the device of a rank, and makes it torch's current one.

    Args:
        wanted: auto, cpu or cuda, as the recipe's run.device.
        local_rank: number of the rank on its host, from 0.
        env: the environment.

    Raises:
        ConfigError: a GPU is wanted or held by the job and torch sees none, or there are more ranks than GPUs on the host.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if not sees_gpus():
        if wanted == "cuda":
            raise ConfigError(
                f"run.device is cuda but torch sees no GPU on this machine: {why_unseen()}, or set run.device to cpu."
            )
        require_no_gpus(env)
        return torch.device("cpu")
    devices, index = torch.cuda.device_count(), gpu_index(local_rank)
    if index >= devices:
        raise ConfigError(
            f"local rank {local_rank} has no GPU: {devices} are visible on this host. Start one rank a GPU (--ntasks-per-node)."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def gpu_index(local_rank: int) -> int:
    """Number of a rank's GPU among those that it sees: srun --gpus-per-task shows each rank a single one, its own."""
    return local_rank if torch.cuda.device_count() > 1 else 0


def choose_single_device() -> torch.device:
    """Returns the device of a command that runs in one process and has no setting for it: the first GPU, else the CPU.

    Raises:
        ConfigError: the process has GPUs and torch sees none.
    """
    if sees_gpus():
        return torch.device("cuda")
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "":  # empty: hidden on purpose, as the refusal proposes
        require_no_gpus(os.environ, key="")
    return torch.device("cpu")


def sees_gpus() -> bool:
    """Whether torch can use a GPU here."""
    with warnings.catch_warnings():
        # An old driver is a warning of several lines; `why_unseen` has it as one sentence.
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def gpu_uuid(device: torch.device) -> str:
    """Returns the UUID of a GPU as the driver writes it, GPU-...; empty for another device, or where torch does not say."""
    found = getattr(torch.cuda.get_device_properties(device), "uuid", None) if device.type == "cuda" else None
    text = "" if found is None else str(found)
    return text if not text or text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


def describe_device(device: torch.device) -> str:
    """Returns kind and name of a device and how many there are on this host, such as "cuda (NVIDIA H100 80GB HBM3, 8 on this host)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)}, {torch.cuda.device_count()} on this host)"
    return f"cpu ({cpu_name()}, {len(os.sched_getaffinity(0))} cores for this job, {torch.get_num_threads()} threads a rank)"


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the name of the processor; the architecture where the kernel gives no name."""
    try:
        found = re.search(r"(?m)^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
