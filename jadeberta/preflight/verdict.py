"""The verdict of a preflight, and the complaints that it is made of."""

from dataclasses import dataclass, field


@dataclass
class Verdict:
    """What was decided."""

    unfit: dict[str, list[str]] = field(default_factory=dict)
    """By host, a sentence for each reason."""
    common: list[str] = field(default_factory=list)
    """Faults that are no host's own: to leave hosts out would not mend them."""
    warnings: list[str] = field(default_factory=list)
    marks: dict[str, set[str]] = field(default_factory=dict)
    """By host, kinds of its faults and warnings, for the table."""

    def warn(self, kind: str, host: str, sentence: str) -> None:
        self.warnings.append(f"{host}: {sentence}")
        self.marks.setdefault(host, set()).add(kind)

    @property
    def fit(self) -> bool:
        return not self.unfit and not self.common


class Complaints:
    """Faults by kind and host, before it is decided whose they are."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, str]] = {}

    def add(self, kind: str, host: str, sentence: str) -> None:
        self.of.setdefault(kind, {}).setdefault(host, sentence)


def gib(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB"
