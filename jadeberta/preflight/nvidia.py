"""What nvidia-smi prints, read: pure functions."""

from dataclasses import dataclass

QUERY_DEVICES = ("--query-gpu=index,uuid,driver_version,ecc.errors.uncorrected.volatile.total", "--format=csv,noheader,nounits")
QUERY_PROCESSES = ("--query-compute-apps=gpu_uuid,pid,used_memory,process_name", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Device:
    """A GPU of the host, whether this job sees it or not."""

    index: int
    uuid: str
    driver: str
    uncorrected_errors: int
    """Of its memory since boot; 0 where it does not count them."""


def read_devices(output: str) -> list[Device]:
    """From the output of `nvidia-smi` with QUERY_DEVICES."""
    found = []
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[0].isdigit():
            errors = int(fields[3]) if fields[3].isdigit() else 0  # "[N/A]" where ECC is off
            found.append(Device(int(fields[0]), fields[1], fields[2], errors))
    return found


def read_processes(output: str, uuid: str) -> list[tuple[int, str, str]]:
    """Process id, name and MiB of memory ("[N/A]" where the driver does not tell) of what computes on one GPU.

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
