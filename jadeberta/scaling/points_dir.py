"""The directory of a scaling test: `scaling.json` says what it is, `points/NAME` is the run directory of a point."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from jadeberta.config import Recipe, dump, load_recipe
from jadeberta.errors import ConfigError, InputError
from jadeberta.scaling.points import Point, Series, merge
from jadeberta.utils.files import write_atomically

SETTINGS, RECIPE, JOB, LOG, PREFLIGHT = "scaling.json", "point.yaml", "job.json", "job.log", "preflight.json"


@dataclass(frozen=True)
class Settings:
    """What a scaling test was asked for."""

    recipe: str
    """Name of the file, for people."""
    steps: int
    warm_up: int
    """Steps at the beginning of each point that are not measured."""
    save_every_steps: int
    """Of the recipe: so often the stall of a save comes in a real run."""
    series: list[Series]


class Store:
    """Reads and writes a scaling test's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    def point(self, point: Point) -> Path:
        """Its run directory."""
        return self.directory / "points" / point.name

    def write_settings(self, settings: Settings) -> None:
        """A test that goes on may add series and sizes; those there stay, and the rest must be as it was. Raises ConfigError."""
        if (self.directory / SETTINGS).is_file():
            before = self.read_settings()
            for name in ("steps", "warm_up"):
                if (had := getattr(before, name)) != (wanted := getattr(settings, name)):
                    raise ConfigError(f"{self.directory} was begun with {name} {had}, not {wanted}. Name another --out.")
            settings = replace(settings, series=merge(before.series, settings.series))
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / SETTINGS, orjson.dumps(asdict(settings), option=orjson.OPT_INDENT_2))

    def read_settings(self) -> Settings:
        """Raises InputError where the directory is none of a scaling test."""
        try:
            read: dict[str, Any] = orjson.loads((self.directory / SETTINGS).read_bytes())
            series = [Series(**{**s, "points": tuple(Point(**p) for p in s["points"])}) for s in read.pop("series")]
            return Settings(**read, series=series)
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise InputError(
                f"{self.directory}: no {SETTINGS} of a scaling test ({type(e).__name__}). Name the --out of 'jadeberta scaling run'."
            ) from e

    def check(self, point: Point, recipe: Recipe) -> None:
        """Raises ConfigError where the point was begun with another recipe."""
        path = self.point(point) / RECIPE
        if path.is_file() and path.read_text(encoding="utf-8") != dump(recipe):
            raise ConfigError(
                f"{path} is not what this recipe makes of the point. Name another --out, or remove the point's folder."
            )

    def begin(self, point: Point, recipe: Recipe) -> None:
        """An empty run directory with the point's recipe; what a failed try left there is removed."""
        shutil.rmtree(self.point(point), ignore_errors=True)
        self.point(point).mkdir(parents=True)
        write_atomically(self.point(point) / RECIPE, dump(recipe).encode())

    def read_recipe(self, point: Point) -> Recipe:
        return load_recipe(self.point(point) / RECIPE)

    def write_job(self, point: Point, job: str) -> None:
        write_atomically(self.point(point) / JOB, orjson.dumps({"job": job}))

    def read_job(self, point: Point) -> str | None:
        """The job that was submitted for a point; None where there is none."""
        try:
            return str(orjson.loads((self.point(point) / JOB).read_bytes())["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_done(self, point: Point) -> bool:
        # Listed, not asked for by name: a network file system may go on saying for a minute that a name is not there.
        directory = self.point(point)
        return directory.is_dir() and any(entry.name == "DONE" for entry in directory.iterdir())

    def forget_weights(self, point: Point) -> None:
        """Of a finished point nobody wants the checkpoint."""
        shutil.rmtree(self.point(point) / "checkpoints", ignore_errors=True)

    def last_words(self, point: Point) -> str:
        """The last line of a point's log that says something."""
        try:
            lines = (self.point(point) / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return f"no {LOG}"
        told = [line.strip() for line in lines if line.strip() and not line.startswith("srun: ")]
        errors = [line for line in told if "Error: " in line]
        return (errors or told or [f"nothing in {LOG}"])[-1]

    def read_preflight(self, point: Point) -> dict[str, Any]:
        """What preflight found in the point's allocation; empty where it wrote nothing."""
        try:
            found = orjson.loads((self.point(point) / PREFLIGHT).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
