"""The directory of a fine-tuning test: a file for each finished point, and `results.json` made of them.

A point's file appears by rename when all of it is known: a kill at any time costs the points that were being trained and no other.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError, InputError
from jadeberta.finetune.grid import Point, Result
from jadeberta.shards import DirectoryLock
from jadeberta.utils.files import atomic_file
from preprocess.document_files import write_json

RESULTS = "results.json"


class Store:
    """Points and results of one task and one model."""

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        """
        Args:
            directory: --out.
            identity: what all points must have in common: task, model, data, words and conduct, plain JSON.
        """
        self.directory = directory
        self._identity = identity

    def path(self, point: Point) -> Path:
        return self.directory / "points" / f"{point.name}.json"

    def model(self, point: Point) -> Path:
        return self.directory / "models" / point.name

    def finished(self) -> list[Result]:
        """All points that are done, in the order of their values. Raises ConfigError where one is of another test, InputError where
        one cannot be read."""
        results = []
        for path in sorted((self.directory / "points").glob("*.json")):
            try:
                row = orjson.loads(path.read_bytes())
                result = Result(Point(**row["point"]), row["scores"], row["seconds"], row["notes"])
                identity = row["identity"]
            except (OSError, ValueError, KeyError, TypeError) as e:
                raise InputError(
                    f"{path}: not readable as a point ({type(e).__name__}: {e}). Remove it; it is trained again."
                ) from e
            if differ := different(identity, self._identity):
                name, (then, now) = differ
                raise ConfigError(f"{path} was made with {name} {then}, this is {now}. Name another --out.")
            results.append(result)
        return sorted(results, key=lambda result: result.point)

    def keep(self, result: Result, predictions: dict[str, list[dict[str, Any]]]) -> None:
        """Writes what a point predicted, a file for each split, and then the point itself."""
        for split, rows in predictions.items():
            with atomic_file(self.directory / "predictions" / f"{result.point.name}-{split}.jsonl") as f:
                f.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        content = {"point": asdict(result.point), "scores": result.scores, "seconds": result.seconds, "notes": result.notes}
        write_json(self.path(result.point), content | {"identity": self._identity})

    def keep_model(self, point: Point, save: Callable[[Path], None]) -> None:
        """A fine-tuned model in its directory, whole or not there; `save` writes it into the directory that it is given."""
        final = self.model(point)
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)

    def write_results(self, document: Callable[[list[Result]], dict[str, Any]]) -> list[Result]:
        """Writes results.json of all points that are done, `document(results)`, and returns them.

        One process at a time reads and writes: whoever comes last has seen every point.
        """
        lock = DirectoryLock(self.directory / "points", "--out", patience=60)
        try:
            results = self.finished()
            write_json(self.directory / RESULTS, document(results))
        finally:
            lock.release()
        return results


def different(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> tuple[str, tuple[Any, Any]] | None:
    """The first key, dotted, in which two nested dictionaries differ, with both values; None where they are equal."""
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            if found := different(a, b, f"{prefix}{key}."):
                return found
        elif a != b:
            return f"{prefix}{key}", (a, b)
    return None
