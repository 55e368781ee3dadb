"""The directory of a scaling test: `scaling.json` has its settings, `points/NAME` is the run directory of a point."""

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
    """The settings of a scaling test."""

    recipe: str
    """File name of the recipe, for people."""
    steps: int
    warm_up: int
    """Steps at the beginning of each point that are not measured."""
    save_every_steps: int
    """Steps between two saves in the recipe, over which the stall of a save is shared out."""
    series: list[Series]


class PointsDir:
    """Reads and writes a scaling test's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    def point(self, point: Point) -> Path:
        """The run directory of a point."""
        return self.directory / "points" / point.name

    def write_settings(self, settings: Settings) -> None:
        """Writes the settings. A continued test may add series and sizes. Raises ConfigError if other settings differ."""
        if (self.directory / SETTINGS).is_file():
            before = self.read_settings()
            for name in ("steps", "warm_up"):
                if (had := getattr(before, name)) != (wanted := getattr(settings, name)):
                    raise ConfigError(f"{self.directory} was begun with {name} {had}, not {wanted}. Name another --out.")
            settings = replace(settings, series=merge(before.series, settings.series))
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / SETTINGS, orjson.dumps(asdict(settings), option=orjson.OPT_INDENT_2))

    def read_settings(self) -> Settings:
        """Reads the settings. Raises InputError if the directory is not that of a scaling test."""
        try:
            read: dict[str, Any] = orjson.loads((self.directory / SETTINGS).read_bytes())
            series = [Series(**{**s, "points": tuple(Point(**p) for p in s["points"])}) for s in read.pop("series")]
            return Settings(**read, series=series)
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise InputError(
                f"{self.directory}: no {SETTINGS} of a scaling test ({type(e).__name__}). Name the --out of 'jadeberta scaling run'."
            ) from e

    def check(self, point: Point, recipe: Recipe) -> None:
        """Raises ConfigError if the point was started with another recipe."""
        path = self.point(point) / RECIPE
        if path.is_file() and path.read_text(encoding="utf-8") != dump(recipe):
            raise ConfigError(
                f"{path} is not what this recipe makes of the point. Name another --out, or remove the point's folder."
            )

    def prepare(self, point: Point, recipe: Recipe) -> None:
        """Makes an empty run directory with the point's recipe; removes the files of a failed attempt."""
        shutil.rmtree(self.point(point), ignore_errors=True)
        self.point(point).mkdir(parents=True)
        write_atomically(self.point(point) / RECIPE, dump(recipe).encode())

    def read_recipe(self, point: Point) -> Recipe:
        """Reads the recipe of a point."""
        return load_recipe(self.point(point) / RECIPE)

    def write_job(self, point: Point, job: str) -> None:
        """Records the job that runs a point, for a later call."""
        write_atomically(self.point(point) / JOB, orjson.dumps({"job": job}))

    def read_job(self, point: Point) -> str | None:
        """Reads the job that was submitted for a point; None if there is none."""
        try:
            return str(orjson.loads((self.point(point) / JOB).read_bytes())["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_done(self, point: Point) -> bool:
        """Whether a point is done."""
        # The directory is listed: a network file system may cache for a minute that a name does not exist.
        directory = self.point(point)
        return directory.is_dir() and any(entry.name == "DONE" for entry in directory.iterdir())

    def remove_checkpoints(self, point: Point) -> None:
        """Removes the checkpoints of a finished point, which nothing reads."""
        shutil.rmtree(self.point(point) / "checkpoints", ignore_errors=True)

    def last_log_line(self, point: Point) -> str:
        """Returns the last error in a point's log, or its last line."""
        try:
            lines = (self.point(point) / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return f"no {LOG}"
        messages = [line.strip() for line in lines if line.strip() and not line.startswith("srun: ")]
        errors = [line for line in messages if "Error: " in line]
        return (errors or messages or [f"nothing in {LOG}"])[-1]

    def read_preflight(self, point: Point) -> dict[str, Any]:
        """Reads the preflight report of a point; empty if there is none."""
        try:
            found = orjson.loads((self.point(point) / PREFLIGHT).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
