"""What happens to a line or page that cannot be read: it ends the stage, or it is excluded and recorded (`preprocess.bad_input`).

A file that is damaged as a whole (cut short, not decompressible) ends the stage under either setting.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from jadeberta.shards import InputError
from preprocess.compressed import BadRecord
from preprocess.config import BadInput
from preprocess.readers.wiki.incomplete_sentences import Losses

MAX_NAMED = 100
"""Most excluded records that a split, and a corpus in the report, names one by one; all of them are counted."""
MAX_LOGGED = 10
"""Most excluded records of a split that are logged."""
FOREIGN_RECORDS = 1000
"""From so many excluded records in a split on, more than half of it must be good: else the file is of another format."""
REASON = "bad input: "
"""Begins the names under which excluded records are counted as dropped."""

log = logging.getLogger(__name__)


@dataclass
class BadRecords:
    """The excluded records of one input split."""

    policy: BadInput = "stop"
    dropped: Counter[str] = field(default_factory=Counter)
    """Counts of everything that is dropped from the split, excluded records among them."""
    documents: int = 0
    """Number of documents read from the split."""
    count: int = 0
    """Number of excluded records."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """The first of them: {"file", "place", "reason"}."""
    file: str = ""
    """Name for the file that is read; empty: its own. Members of archives are named with their archive."""
    losses: Losses = field(default_factory=Losses)
    """Sentences left out of documents that stay, as words are missing in them."""

    def add(self, error: BadRecord) -> None:
        """Excludes a record.

        Raises:
            InputError: records are not excluded (`policy` is stop), or most of the split is bad.
        """
        if self.policy == "stop":
            raise InputError(str(error)) from error
        self.count += 1
        self.dropped[f"{REASON}{error.kind}"] += 1
        if len(self.records) < MAX_NAMED:
            self.records.append({"file": self.file or error.path.name, "place": error.place, "reason": error.reason})
        if self.count <= MAX_LOGGED:
            log.warning("excluded: %s: %s: %s", error.path, error.place, error.reason)
        good = self.documents + sum(self.dropped.values()) - self.count
        if self.count >= FOREIGN_RECORDS and self.count > good:
            raise InputError(
                f"{error.path}: {error.place}: {error.reason}, like {self.count - 1:,} records before it and more than half of what "
                "was read, so the file is not of this format; correct the corpus's format or path in the recipe."
            )
