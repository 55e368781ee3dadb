"""One part of `bench/gpu.sh` in this process: `python -m bench.gpu_run.one_part MODULE --output FILE [--way WAY] [--rehearse]`."""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu_run.stand_in import Machine
from jadeberta.utils.paths import path_option


class PartRows:
    """What a part found, written to its file at each row: a part that is ended leaves what it has."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.document: dict[str, Any] = {}

    def put(self, key: str, value: Any) -> None:
        """Sets a figure of the part."""
        self.document[key] = value
        self._write()

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row, or puts it in the place of the one with the same `way`."""
        rows = self.document.setdefault("rows", [])
        places = [place for place, other in enumerate(rows) if other["way"] == row["way"]]
        if places:
            rows[places[0]] = row
        else:
            rows.append(row)
        print("  ".join(f"{key} {_told(value)}" for key, value in row.items()), flush=True)
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(self.document, default=str), encoding="utf-8")
            new.replace(self.path)


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("--way", default="")
    parser.add_argument("--output", type=path_option)
    parser.add_argument("--lock", type=path_option)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args(arguments)
    try:
        module = importlib.import_module(f"bench.gpu_run.{options.module}")
    except ModuleNotFoundError as e:
        if e.name is not None and e.name.startswith(("bench", "jadeberta")):
            raise
        print(f"{options.module} needs {e.name}, which is missing here; bring it with bench/gpu_wheels.py", flush=True)
        return 3
    machine = Machine(options.rehearse, options.lock, options.seconds)
    return int(module.measure(machine, PartRows(options.output), options.way) or 0)


if __name__ == "__main__":
    sys.exit(main())
