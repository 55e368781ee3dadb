"""NCCL's part of a run, without a GPU: what is set for it, what its messages mean, and how long its first connection may take."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from jadeberta.cluster.process_group import from_root, is_lost_peer, nccl_settings
from jadeberta.errors import ConfigError, HangError
from jadeberta.jobs.requeue_policy import Ending, Limits, decide
from jadeberta.preflight.context import CONNECT_S, FIRST_CONNECT_S, Context, answer_s
from jadeberta.preflight.timeouts import Deadline, process_age
from jadeberta.utils.hardware import peak_flops

VERSION = "[rank3]: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, "


def test_nccl_waits_longer_than_the_watchdog_and_its_last_collectives_are_kept_beside_the_stacks(tmp_path: Path) -> None:
    found = nccl_settings({}, tmp_path, 600.0)
    assert int(found["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"]) > 600 + 60
    assert found["TORCH_FR_DUMP_TEMP_FILE"] == f"{tmp_path}/logs/nccl-rank-" and found["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    assert int(found["TORCH_FR_BUFFER_SIZE"]) > 0


def test_what_the_user_set_for_nccl_stays_under_its_older_name_too(tmp_path: Path) -> None:
    own = {"TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "5", "TORCH_NCCL_TRACE_BUFFER_SIZE": "0", "TORCH_FR_DUMP_TEMP_FILE": "/tmp/x"}
    assert nccl_settings(own, tmp_path, 600.0) == {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        (VERSION + "remote process exited or there was a network error, NCCL version 2.27.5", True),
        (VERSION + "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5", True),
        ("NCCL communicator was aborted on rank 1. Original reason for failure was: watchdog timeout", True),
        (VERSION + "invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.27.5", False),
        (VERSION + "ncclInvalidUsage\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000", False),
    ],
)
def test_messages_of_nccl_tell_a_lost_peer_from_a_fault_of_the_rank_itself(message: str, lost: bool) -> None:
    assert is_lost_peer(dist.DistBackendError(message)) is lost


@pytest.mark.parametrize(
    ("message", "error", "told"),
    [
        (VERSION + "unhandled system error, NCCL version 2.27.5", HangError, "the ranks met but do not reach each other"),
        (
            VERSION + "invalid usage\nLast error:\nDuplicate GPU detected : rank 1 and rank 0",
            ConfigError,
            "(Duplicate GPU detected",
        ),
        ("something else", RuntimeError, "something else"),
    ],
)
def test_the_first_words_between_ranks_fail_in_a_sentence(message: str, error: type, told: str, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise (RuntimeError if error is RuntimeError else dist.DistBackendError)(message)

    monkeypatch.setattr(dist, "broadcast_object_list", refuse)
    with pytest.raises(error) as found:
        from_root(1)
    assert type(found.value) is error and told in str(found.value)
    assert error is not HangError or "NCCL_SOCKET_IFNAME" in str(found.value)
    assert error is not ConfigError or "start one rank a GPU" in str(found.value)


def test_a_rank_that_nccl_aborted_is_started_again_with_words_of_its_own() -> None:
    decision = decide(Ending(134, False), [], Limits(3, 2, 24.0), "requeue")
    assert (decision.action, decision.status) == ("requeue", 134)
    assert "status 134 (SIGABRT): another rank is silent or gone, or a GPU failed" in decision.reason
    assert decide(Ending(134, False, 12, "another rank is gone."), [], Limits(3, 2, 24.0), "requeue").reason.startswith(
        "status 134: another rank is gone."
    )


def test_one_connection_of_gpus_may_take_longer_the_first_that_there_is() -> None:
    found = {}
    for kind in ("cuda", "cpu"):
        rendezvous = SimpleNamespace(process=SimpleNamespace(rank=0, is_root=True), lost=[])
        results = {0: SimpleNamespace(host="a", device=kind)}
        context = Context(None, rendezvous, Path(), torch.device(kind), results, 0.5, 0.5)  # type: ignore[arg-type]
        found[kind] = [context.next_connect_s(groups) for groups in ([], [[0, 1]], [[0, 1]])]
    assert found == {"cuda": [CONNECT_S, FIRST_CONNECT_S, CONNECT_S], "cpu": [CONNECT_S] * 3} and FIRST_CONNECT_S == 30
    # Else the partner of a rank that does not connect would count as lost itself.
    assert answer_s(CONNECT_S) > CONNECT_S and answer_s(FIRST_CONNECT_S) > FIRST_CONNECT_S


def test_a_deadline_that_was_extended_does_not_end_the_process_before() -> None:
    deadline = Deadline(process_age() + 0.2, lambda _: None)
    deadline.extend(3600)
    time.sleep(0.4)
    assert deadline.remaining > 3000
    deadline.cancel()


def test_cards_for_pcie_have_the_peaks_of_their_own_data_sheets() -> None:
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200", "NVIDIA H200 NVL")
    assert [peak_flops(name) for name in names] == [989e12, 756e12, 835.5e12, 989e12, 835.5e12]
