"""A rank says on which device it trains, and takes no CPU in silence where its job holds GPUs that torch cannot use."""

import os
from pathlib import Path

import pytest
import torch

from jadeberta.cluster import device as devices
from jadeberta.cluster.device import choose_device, choose_single_device, cpu_name, describe_device, gpus_held
from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError
from jadeberta.preflight.host_info import check_device
from jadeberta.preflight.results import LocalResults
from jadeberta.preflight.runner import _device as device_of
from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("env", "held"),
    [
        ({"SLURM_JOB_GPUS": "0"}, "SLURM_JOB_GPUS=0"),  # the index of one GPU
        ({"SLURM_STEP_GPUS": "2,3", "CUDA_VISIBLE_DEVICES": ""}, "SLURM_STEP_GPUS=2,3"),
        ({"SLURM_GPUS_ON_NODE": "8"}, "SLURM_GPUS_ON_NODE=8"),
        ({"SLURM_GPUS_PER_NODE": "a100:4"}, "SLURM_GPUS_PER_NODE=a100:4"),
        ({"SLURM_GPUS_ON_NODE": "0", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ""),
        ({"SLURM_GPUS_PER_TASK": "10"}, "SLURM_GPUS_PER_TASK=10"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES=0,1"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ""),
        ({"CUDA_VISIBLE_DEVICES": ""}, ""),
        ({"SLURM_JOB_ID": "7", "PATH": ""}, ""),
    ],
)
def test_a_job_with_gpus_is_known_by_its_variables(tmp_path: Path, env: dict[str, str], held: str) -> None:
    assert gpus_held(env, tmp_path) == held


def test_gpus_are_known_by_their_files_and_by_nvidia_smi_unless_they_are_hidden(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    assert gpus_held({"PATH": ""}, tmp_path) == ""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA A100 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert gpus_held(path, tmp_path) == "nvidia-smi lists 2"
    (tmp_path / "nvidia0").touch()
    assert gpus_held(path, tmp_path) == f"{tmp_path}/nvidia0"
    assert gpus_held(path | {"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ""
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    (tmp_path / "nvidia0").unlink()
    assert gpus_held(path, tmp_path) == ""


def test_auto_takes_no_cpu_in_a_job_that_holds_gpus(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        ConfigError, match=r"has GPUs \(SLURM_GPUS_ON_NODE=8\) but torch sees none: .* build for CPUs.* run\.device to cpu"
    ):
        choose_device("auto", 0, {"SLURM_GPUS_ON_NODE": "8"})
    assert choose_device("cpu", 0, {"SLURM_GPUS_ON_NODE": "8"}).type == "cpu"
    assert choose_device("auto", 0, {"CUDA_VISIBLE_DEVICES": ""}).type == "cpu"
    with pytest.raises(ConfigError, match=r"run\.device is cuda but torch sees no GPU .* build for CPUs"):
        choose_device("cuda", 0, {})
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES= if a CPU is meant"):
        choose_single_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_single_device().type == "cpu"


def test_an_old_driver_is_named(monkeypatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update\nyour GPU driver.")

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(
        ConfigError, match=r"says: The NVIDIA driver on your system is too old \(found version 11040\); look at the driver"
    ):
        choose_device("auto", 0, {"CUDA_VISIBLE_DEVICES": "0"})


def test_a_rank_beyond_the_gpus_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    assert choose_device("auto", 1, {}) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="local rank 2 has no GPU: 2 are visible"):
        choose_device("cuda", 2, {})


def test_a_device_is_described_by_kind_name_and_number(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu\n")
    assert cpu_name(tmp_path / "cpuinfo") == "AMD EPYC 7B13" and cpu_name(tmp_path / "none")
    text = describe_device(torch.device("cpu"))
    assert text.startswith("cpu (") and f"{len(os.sched_getaffinity(0))} cores" in text
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert describe_device(torch.device("cuda", 3)) == "cuda (NVIDIA A100-SXM4-40GB, 8 on this host)"


@pytest.mark.parametrize("name", ["large", "base", "char_wwm", "modern"])
def test_a_recipe_for_gpus_says_so_and_a_host_without_one_is_unfit_for_it(name: str) -> None:
    wanted = load_recipe(ROOT / f"recipes/{name}.yaml").run.device
    assert wanted == "cuda"
    results = LocalResults(0, 0, "host", 1)
    check_device(wanted, results)
    assert results.device == "" and "run.device is cuda but torch sees no GPU" in results.faults[0].sentence


def test_the_preflight_finds_gpus_that_torch_cannot_use(monkeypatch) -> None:
    monkeypatch.setattr(devices, "gpus_held", lambda env: "/dev/nvidia0")
    results = LocalResults(0, 0, "host", 1)
    check_device("auto", results)
    assert results.device == "" and "has GPUs (/dev/nvidia0) but torch sees none" in results.faults[0].sentence


def test_a_rank_that_sees_its_own_gpu_alone_takes_it_in_preflight_and_training(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for local_rank in (0, 3):
        results = LocalResults(local_rank, local_rank, "host", 1, device="cuda")
        assert choose_device("cuda", local_rank, {}) == device_of(results) == torch.device("cuda", 0)
    assert taken == [0, 0]
