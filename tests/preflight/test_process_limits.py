"""The preflight says what a process may not use enough of, before the training fails of it."""

import resource

import pytest

from jadeberta.preflight.process_limits import limit_findings
from jadeberta.utils.resources import OPEN_FILES_WANTED, open_files_limit, open_files_possible, raise_open_files_limit

MIB = 1 << 20
ROOMY = (8192 * MIB, 8000 * MIB)


def test_usual_limits_are_no_finding() -> None:
    assert limit_findings(1024, ROOMY, 128, True) == ([], [])
    assert limit_findings(1024, (64 * MIB, 64 * MIB), 8, False) == ([], [])


def test_too_few_open_files_are_a_fault_with_both_numbers() -> None:
    ((fault,), warnings) = limit_findings(256, ROOMY, 8, True)
    assert (fault.kind, warnings) == ("open files", [])
    assert fault.sentence.startswith("a process may open 256 files and needs about 272; raise the hard limit ('ulimit -Hn';")


@pytest.mark.parametrize(
    ("shared", "what"), [(None, "/dev/shm is missing"), ((64 * MIB, 0), r"/dev/shm is full \(0 of 67,108,864 bytes are free\)")]
)
def test_missing_or_full_shared_memory_is_a_fault(shared, what) -> None:
    ((fault,), _) = limit_findings(65536, shared, 8, False)
    assert fault.kind == "/dev/shm" and fault.sentence.startswith(what.replace("\\", ""))


def test_the_shared_memory_of_a_container_is_a_warning_where_gpus_need_more() -> None:
    faults, (warning,) = limit_findings(65536, (64 * MIB, 60 * MIB), 8, True)
    assert faults == [] and warning.startswith("/dev/shm has 64 MiB; NCCL may fail") and "--shm-size=1g" in warning


def test_a_process_raises_its_soft_limit_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        possible = open_files_possible()
        assert raise_open_files_limit() == open_files_limit() == possible > 512
        assert possible == (OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED))
        assert raise_open_files_limit() == possible
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
