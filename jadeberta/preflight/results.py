"""What a preflight finds out, as plain data: of one rank alone, and of all together. Travels between ranks as JSON."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """Something that keeps a host from training, or would spoil the training."""

    kind: str
    """Faults of one kind on most hosts are no host's own."""
    sentence: str
    """What and where, without the host's name."""


@dataclass
class Disk:
    """A directory that checkpoints are written to, as one host sees it."""

    path: str
    free_bytes: int
    free_inodes: int | None
    """None where the file system does not count them."""


@dataclass
class Findings:
    """Of one rank alone."""

    rank: int
    local_rank: int
    host: str
    """Slurm's name for it where there is one."""
    pid: int
    versions: dict[str, str] = field(default_factory=dict)
    """By name; must be equal on all ranks."""
    information: dict[str, str] = field(default_factory=dict)
    """By name; may differ."""
    device: str = ""
    """cpu or cuda; empty where there is none for this rank."""
    device_name: str = ""
    device_free_bytes: int = 0
    device_total_bytes: int = 0
    memory_free_bytes: int = 0
    """Of the host, that processes may still take."""
    index_sha256: str = ""
    """Of the shards' index.json."""
    disks: dict[str, Disk] = field(default_factory=dict)
    """By the recipe's key."""
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    at: str = "looks at its own machine"
    """What the rank did when this was written."""

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Findings":
        """From what `dataclasses.asdict` made, through JSON."""
        disks = {key: Disk(**disk) for key, disk in plain["disks"].items()}
        return cls(**{**plain, "disks": disks, "faults": [Fault(**fault) for fault in plain["faults"]]})


@dataclass
class Clock:
    """A host's clock against that of rank 0's host, seconds."""

    offset_s: float
    uncertainty_s: float


@dataclass
class Pair:
    """The link between two hosts, one rank on each."""

    a: str
    b: str
    latency_s: float = 0.0
    bandwidth_bytes_per_s: float = 0.0
    error: str = ""
    """Why they could not talk; empty where they could."""


@dataclass
class Line:
    """A collective over some ranks: what was timed, and the two constants of its line (see `fit`)."""

    ranks: int
    points: list[tuple[int, float]]
    """Bytes, seconds."""
    latency_s: float
    bandwidth_bytes_per_s: float


@dataclass
class Measurements:
    """Of all ranks together; what could not be measured is left out."""

    absent: dict[int, str] = field(default_factory=dict)
    """By rank, what is known of one that did not meet the others."""
    absent_hosts: dict[int, str] = field(default_factory=dict)
    """Its host, where that is known."""
    lost: dict[int, str] = field(default_factory=dict)
    """By rank, what was being measured when it fell silent."""
    blind_hosts: list[str] = field(default_factory=list)
    """Hosts that do not see a file of rank 0 in the run directory."""
    clocks: dict[str, Clock] = field(default_factory=dict)
    writes: dict[str, dict[str, float]] = field(default_factory=dict)
    """By host and the recipe's key: bytes/s with fsync."""
    write_errors: dict[str, dict[str, str]] = field(default_factory=dict)
    gemm_best: dict[int, float] = field(default_factory=dict)
    """By rank, FLOP/s of its best window; a disturbance that passes does not count."""
    gemm_typical: dict[int, float] = field(default_factory=dict)
    """By rank, FLOP/s of its median window."""
    gemm_errors: dict[int, str] = field(default_factory=dict)
    inside: dict[str, float] = field(default_factory=dict)
    """By host, bandwidth of an all-reduce among its own ranks, bytes/s."""
    inside_errors: dict[str, str] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    rounds: tuple[int, int] = (0, 0)
    """Rounds of the tournament that were played, and that there are."""
    all_reduce: Line | None = None
    all_gather: Line | None = None
    overall_error: str = ""
