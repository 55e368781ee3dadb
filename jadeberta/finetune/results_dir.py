"""The results directory of an experiment: a file for each finished trial, and `results.json` with all of them.

The file of a trial is written atomically when the trial is complete, so a kill loses only the trials that are being trained.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError, InputError
from jadeberta.finetune.grid import Result, Trial
from jadeberta.shards import DirectoryLock
from jadeberta.utils.files import atomic_file
from preprocess.document_files import write_json

RESULTS = "results.json"


class ResultsDir:
    """Trials and results of one task and one model."""

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        """
        Args:
            directory: --out.
            identity: what all trials must share: task, model, data, segmenter and config, plain JSON.
        """
        self.directory = directory
        self._identity = identity

    def path(self, trial: Trial) -> Path:
        return self.directory / "points" / f"{trial.name}.json"

    def model(self, trial: Trial) -> Path:
        return self.directory / "models" / trial.name

    def finished(self) -> list[Result]:
        """Reads all finished trials, in the order of their values.

        Raises:
            ConfigError: a trial belongs to another experiment.
            InputError: a file cannot be read.
        """
        results = []
        for path in sorted((self.directory / "points").glob("*.json")):
            try:
                row = orjson.loads(path.read_bytes())
                result = Result(Trial(**row["point"]), row["scores"], row["seconds"], row["notes"])
                identity = row["identity"]
                identity["conduct"].setdefault("attention", "eager")
            except (OSError, ValueError, KeyError, TypeError) as e:
                raise InputError(
                    f"{path}: not readable as a point ({type(e).__name__}: {e}). Remove it; it is trained again."
                ) from e
            if differ := different(identity, self._identity):
                name, (then, now) = differ
                remedy = (
                    f"Give --attention {then}, or name another --out." if name == "conduct.attention" else "Name another --out."
                )
                raise ConfigError(f"{path} was made with {name} {then}, this is {now}. {remedy}")
            results.append(result)
        return sorted(results, key=lambda result: result.trial)

    def trivial(self) -> dict[str, Any] | None:
        """The baselines that results.json holds for the same data, so that they are not computed again; None if it holds none."""
        try:
            found = orjson.loads((self.directory / RESULTS).read_bytes())
            same = all(found[key] == self._identity[key] for key in ("task", "data", "conduct"))
            trivial = found["trivial"] if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return trivial if isinstance(trivial, dict) else None

    def keep(self, result: Result, predictions: dict[str, list[dict[str, Any]]]) -> None:
        """Writes the predictions of a trial, a file for each split, and then its result, which marks it as finished."""
        for split, rows in predictions.items():
            with atomic_file(self.directory / "predictions" / f"{result.trial.name}-{split}.jsonl") as f:
                f.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        content = {"point": asdict(result.trial), "scores": result.scores, "seconds": result.seconds, "notes": result.notes}
        write_json(self.path(result.trial), content | {"identity": self._identity})

    def keep_model(self, trial: Trial, save: Callable[[Path], None]) -> None:
        """Writes a fine-tuned model atomically; `save` writes it into the directory that it is given."""
        final = self.model(trial)
        temporary = final.with_name(f".{final.name}.tmp")
        # A kill may have left an incomplete one.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save(temporary)
        # A rename does not replace a directory that holds files.
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)

    def write_results(self, results_json: Callable[[list[Result]], dict[str, Any]]) -> list[Result]:
        """Writes results.json with all finished trials, `results_json(results)`, and returns them.

        A lock lets one process at a time read and write, so the last process has seen every trial.
        """
        lock = DirectoryLock(self.directory / "points", "--out", patience=60)
        try:
            results = self.finished()
            write_json(self.directory / RESULTS, results_json(results))
        finally:
            lock.release()
        return results


def different(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> tuple[str, tuple[Any, Any]] | None:
    """Returns the first key, dotted, in which two nested dictionaries differ, with both values; None if they are equal."""
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            if found := different(a, b, f"{prefix}{key}."):
                return found
        elif a != b:
            return f"{prefix}{key}", (a, b)
    return None
