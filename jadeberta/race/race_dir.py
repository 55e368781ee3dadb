"""The directory of a race: `race.json` has the race, `runs/SIZE/CONTESTANT/...` are the run directories."""

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from jadeberta.config import Recipe, dump
from jadeberta.errors import ConfigError, InputError
from jadeberta.race.race_file import Race
from jadeberta.race.race_runs import Run, final_runs, recipe_of, target_flops, tune_runs
from jadeberta.race.scores import read_scores, split_heldout
from jadeberta.shards import open as open_shards
from jadeberta.utils.files import write_atomically
from jadeberta.utils.json_lines import JsonRow, finite, read_jsonl

SETTINGS, RECIPE, LOG = "race.json", "race-recipe.yaml", "race.log"
STAGES = ("tune", "final")


@dataclass(frozen=True)
class Data:
    """What a race trains and is judged on."""

    shards: str
    row_length: int
    """Tokens of a held-out row."""
    tune_rows: int
    """Held-out rows of each corpus that settings are chosen on; the others are the test."""
    fingerprint: str
    """Of the shards."""


class RaceDir:
    """Reads and writes the directory of a race."""

    def __init__(self, directory: Path) -> None:
        """Reads nothing yet."""
        self.directory = directory.absolute()
        self._goals: dict[str, float] = {}  # FLOPs of the target by size

    def write(self, race: Race, data: Data, overrides: tuple[str, ...]) -> None:
        """Writes the race. One that was begun may get more sizes, contestants, seeds, budgets and finalists.

        Raises:
            ConfigError: the directory holds a race of another base, target, grid or other shards.
        """
        document = {"race": asdict(race), "data": asdict(data), "overrides": list(overrides)}
        if (self.directory / SETTINGS).exists():
            before = orjson.loads((self.directory / SETTINGS).read_bytes())
            for part, key in (
                ("race", "base"),
                ("race", "target"),
                ("race", "tune"),
                ("race", "tune_budget"),
                ("data", "fingerprint"),
            ):
                if before[part][key] != document[part][key]:  # type: ignore[index]
                    raise ConfigError(f"{self.directory} was begun with another {key} ({before[part][key]}). Name another --out.")
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / SETTINGS, orjson.dumps(document, option=orjson.OPT_INDENT_2))

    def read(self) -> tuple[Race, Data, tuple[str, ...]]:
        """Reads the race.

        Raises:
            InputError: the directory is not that of a race.
        """
        try:
            found = orjson.loads((self.directory / SETTINGS).read_bytes())
            return Race(**found["race"]), Data(**found["data"]), tuple(found["overrides"])
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise InputError(
                f"{self.directory}: no {SETTINGS} of a race ({type(e).__name__}). Name the --out of 'jadeberta race plan'."
            ) from e

    def path(self, run: Run) -> Path:
        """The run directory of a run."""
        return self.directory / run.name

    def recipe(self, run: Run) -> Recipe:
        """Returns the recipe of a run.

        Raises:
            ConfigError: the race's changes contradict each other.
        """
        race, data, overrides = self.read()
        if run.size not in self._goals:
            self._goals[run.size] = target_flops(race, run.size, overrides, data.row_length)
        return recipe_of(race, run, self._goals[run.size], overrides, str(self.path(run)), data.row_length, data.tune_rows)

    def prepare(self, run: Run) -> Path:
        """Writes the recipe of a run into its directory, and returns the file.

        Raises:
            ConfigError: the run was begun with another recipe.
        """
        path, text = self.path(run) / RECIPE, dump(self.recipe(run))
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise ConfigError(f"{path} is not what the race makes of this run now. Remove its folder, or name another --out.")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
        return path

    def runs(self, stage: str) -> list[Run]:
        """Returns the runs of a stage.

        Raises:
            InputError: stage is final and the grid is not done.
        """
        race, _, _ = self.read()
        if stage == "tune":
            return tune_runs(race)
        chosen: dict[tuple[str, str], Run] = {}
        accuracies: dict[tuple[str, str], float] = {}
        for run in tune_runs(race):
            accuracy, key = self.tune_accuracy(run), (run.size, run.contestant)
            if accuracy is None:
                raise InputError(
                    f"{self.path(run)}: is not done; the settings are chosen when the whole grid is. Run the stage tune."
                )
            if key not in chosen or accuracy > accuracies[key]:
                chosen[key], accuracies[key] = run, accuracy
        return final_runs(race, chosen, accuracies)

    def tune_accuracy(self, run: Run) -> float | None:
        """Returns the masked accuracy on the tuning rows at the end of a run; None where it is not done, 0 where it went astray."""
        if (self.path(run) / "FAILED").exists():
            return 0.0
        return evaluations(self.path(run))[-1][1] if self.is_trained(run) else None

    def is_trained(self, run: Run) -> bool:
        """Whether a run has reached its last step."""
        return (self.path(run) / "DONE").exists()

    def is_done(self, run: Run) -> bool:
        """Whether a run is trained and, of the stage final, tested; or has failed for good."""
        if (self.path(run) / "FAILED").exists():
            return True
        return self.is_trained(run) and (run.stage == "tune" or read_scores(self.path(run)) is not None)


def evaluations(run_dir: Path) -> list[tuple[int, float]]:
    """Returns (step, masked accuracy over all corpora) of the whole evaluations of a run, each step once, in their order."""
    found: dict[int, float] = {}
    for event in read_jsonl(run_dir / "ledger.jsonl"):
        if event.get("event") == "evaluation" and event.get("whole") and (step := finite(event, "step")) is not None:
            found[int(step)] = _accuracy(list(event["corpora"].values()))
    return sorted(found.items())


def _accuracy(corpora: list[JsonRow]) -> float:
    masked = sum(each["masked_tokens"] for each in corpora)
    return float(sum(each["accuracy"] * each["masked_tokens"] for each in corpora) / masked)


def data_of(shards: str) -> Data:
    """Looks at the held-out rows of a shard directory.

    Raises:
        ShardError: it is missing or damaged.
        ConfigError: it holds out too few rows.
    """
    path = str(Path(shards).absolute())
    reader = open_shards(Path(path), "valid")
    return Data(path, reader.sequence_length, split_heldout(reader.corpora)[0], reader.index.fingerprint)
