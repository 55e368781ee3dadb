"""The verdict of a preflight, and the faults that lead to it."""

from dataclasses import dataclass, field


@dataclass
class Verdict:
    """The decision about an allocation."""

    unfit: dict[str, list[str]] = field(default_factory=dict)
    """By unfit host, a sentence for each reason."""
    common: list[str] = field(default_factory=list)
    """Faults of no single host; excluding hosts would not help."""
    warnings: list[str] = field(default_factory=list)
    marks: dict[str, set[str]] = field(default_factory=dict)
    """By host, the kinds of its faults and warnings, which the table marks."""

    def warn(self, kind: str, host: str, sentence: str) -> None:
        """Adds a warning about a host."""
        self.warnings.append(f"{host}: {sentence}")
        self.marks.setdefault(host, set()).add(kind)

    @property
    def fit(self) -> bool:
        """Whether the allocation can train."""
        return not self.unfit and not self.common


class HostFaults:
    """Faults by kind and host, before `judge` decides whether hosts are to blame for them."""

    def __init__(self) -> None:
        self.by_kind: dict[str, dict[str, str]] = {}

    def add(self, kind: str, host: str, sentence: str) -> None:
        """Adds a fault; of several of one kind and host the first one stays."""
        self.by_kind.setdefault(kind, {}).setdefault(host, sentence)


def gib(size: float) -> str:
    """Formats bytes as GiB."""
    return f"{size / 2**30:,.2f} GiB"
