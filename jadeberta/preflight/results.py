"""The results of a preflight as plain data: the local results of one rank, and the measurements of all ranks. Sent between ranks as
JSON."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """A reason why a host must not train."""

    kind: str
    """A fault of one kind on most hosts is not blamed on a host."""
    sentence: str
    """What is wrong and where, without the host's name."""


@dataclass
class DiskSpace:
    """A directory that checkpoints are written to, as one host sees it."""

    path: str
    free_bytes: int
    free_inodes: int | None
    """None if the file system does not count inodes."""


@dataclass
class LocalResults:
    """Results of the local checks of one rank."""

    rank: int
    local_rank: int
    host: str
    """Name of the host, from `cluster.environment.host_name`."""
    pid: int
    versions: dict[str, str] = field(default_factory=dict)
    """Versions by name; must be equal on all ranks."""
    information: dict[str, str] = field(default_factory=dict)
    """Further facts by name; may differ between ranks."""
    device: str = ""
    """cpu or cuda; empty if this rank has no device that works."""
    device_name: str = ""
    device_free_bytes: int = 0
    device_total_bytes: int = 0
    memory_free_bytes: int = 0
    """Memory of the host that processes can still allocate."""
    index_sha256: str = ""
    """sha256 of the shards' index.json."""
    disks: dict[str, DiskSpace] = field(default_factory=dict)
    """Disk space by recipe key: run.dir, checkpoint.staging."""
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    at: str = "local checks"
    """What the rank was doing when this was written."""

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "LocalResults":
        """Restores the output of `dataclasses.asdict` after JSON."""
        disks = {key: DiskSpace(**disk) for key, disk in plain["disks"].items()}
        return cls(**{**plain, "disks": disks, "faults": [Fault(**fault) for fault in plain["faults"]]})


@dataclass
class ClockOffset:
    """Offset of a host's clock from the clock of rank 0's host, seconds."""

    offset_s: float
    uncertainty_s: float


@dataclass
class HostPair:
    """The link between two hosts, measured with one rank on each."""

    a: str
    b: str
    latency_s: float = 0.0
    bandwidth_bytes_per_s: float = 0.0
    error: str = ""
    """Why the ranks could not connect; empty if they could."""


@dataclass
class CollectiveFit:
    """Timings of a collective, and the latency and bandwidth fitted to them (see `fit_latency_bandwidth`)."""

    ranks: int
    points: list[tuple[int, float]]
    """Bytes of a message and seconds."""
    latency_s: float
    bandwidth_bytes_per_s: float


@dataclass
class Measurements:
    """Measurements of all ranks; whatever could not be measured is left out."""

    absent: dict[int, str] = field(default_factory=dict)
    """By rank, what is known about a rank that did not reach the rendezvous."""
    absent_hosts: dict[int, str] = field(default_factory=dict)
    """By rank, the host of such a rank, if it is known."""
    lost: dict[int, str] = field(default_factory=dict)
    """By rank, the measurement during which it stopped answering."""
    blind_hosts: list[str] = field(default_factory=list)
    """Hosts that do not see a file of rank 0 in the run directory."""
    clocks: dict[str, ClockOffset] = field(default_factory=dict)
    writes: dict[str, dict[str, float]] = field(default_factory=dict)
    """By host and recipe key, bytes/s with fsync."""
    write_errors: dict[str, dict[str, str]] = field(default_factory=dict)
    gemm_best: dict[int, float] = field(default_factory=dict)
    """By rank, FLOP/s of its best window; a passing disturbance does not count."""
    gemm_typical: dict[int, float] = field(default_factory=dict)
    """By rank, FLOP/s of its median window."""
    gemm_errors: dict[int, str] = field(default_factory=dict)
    inside: dict[str, float] = field(default_factory=dict)
    """By host, bandwidth of an all-reduce among its own ranks, bytes/s."""
    inside_errors: dict[str, str] = field(default_factory=dict)
    pairs: list[HostPair] = field(default_factory=list)
    rounds: tuple[int, int] = (0, 0)
    """Rounds of the round robin that were measured, and that there are."""
    all_reduce: CollectiveFit | None = None
    all_gather: CollectiveFit | None = None
    overall_error: str = ""
