"""The clean run as a run of MLflow: steps that are new are appended; where published steps were undone, a new run replaces the old one.

A tag of the run says up to where it was published, and before each batch that one is under way. A call that was ended within a batch leaves
that tag; nobody knows then what has arrived, and the run is published anew.
"""

import importlib.util
import os
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError, OutputError
from jadeberta.publish.clean_run import CleanRun, Point
from jadeberta.training.ledger import in_words

RUN_TAG, STATE_TAG = "jadeberta.run", "jadeberta.published"
BATCH = 1000
"""Most metrics, and 100 settings, that the service takes at once."""
LONGEST_ERROR = 200


def publish(run: CleanRun, out: Path | None, every: int, experiment: str) -> str:
    """Publishes a run; returns what was done.

    Args:
        run: what to publish.
        out: directory of a file store; None: the service that MLFLOW_TRACKING_URI names.
        every: of `CleanRun.points`.
        experiment: of MLflow; made where it is missing.

    Raises:
        ConfigError: the package is missing, or no service is named.
        OutputError: the service cannot be reached, or refuses.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("--to mlflow needs the package mlflow, which is not installed; pip install 'jadeberta[mlflow]'.")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        # MLflow 3 asks for a clear word before it writes plain files.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        where = out.resolve().as_uri()
    else:
        where = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        if not where:
            raise ConfigError("no service is named; set MLFLOW_TRACKING_URI, or write files with --out DIR.")
    # Its client would try for minutes; cron calls again.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        return _publish(MlflowClient(tracking_uri=where), run, every, experiment, str(out or where))
    except MlflowException as e:
        reason = " ".join(str(e).split())
        short = reason if len(reason) <= LONGEST_ERROR else f"{reason[:LONGEST_ERROR]} ..."
        if " 401" in reason or " 403" in reason or e.error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            raise ConfigError(
                f"{where}: refuses the user ({short}); set MLFLOW_TRACKING_TOKEN, or user name and password."
            ) from None
        raise OutputError(
            f"{where}: cannot be used ({short}); correct MLFLOW_TRACKING_URI or call again later, or write files with --out DIR."
        ) from None


def _publish(client: Any, run: CleanRun, every: int, experiment: str, where: str) -> str:
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    runs = client.search_runs([number], filter_string=f"tags.`{RUN_TAG}` = '{run.id}'")
    current, others = (runs[0], runs[1:]) if runs else (None, [])
    state = _state_of(current)
    if current is not None and not _fits(state, run, every):
        others, current = runs, None
    if current is not None and state.get("all") == run.digest(every):
        return f"{where}: nothing is new"
    is_new = current is None
    if current is None:
        tags = {RUN_TAG: run.id, STATE_TAG: orjson.dumps({"busy": True}).decode()}
        current = client.create_run(number, start_time=int(1000 * run.started), run_name=run.name, tags=tags)
        _log_settings(client, current.info.run_id, run)
        state = {}
    key = current.info.run_id
    count = _log_points(client, key, run, every, state)
    result = run.facts.result
    text = "\n".join(f"step {event.step}: {in_words(event.row)}" for event in run.events)
    client.log_text(key, text.encode(errors="replace").decode(), "events.txt")
    client.set_tag(key, "jadeberta.state", run.facts.state)
    client.set_tag(key, "jadeberta.goodput", f"{result.goodput:.4f}")
    status = {"done": "FINISHED", "running": "RUNNING", "starting up": "RUNNING", "queued": "SCHEDULED"}
    client.update_run(key, status=status.get(run.facts.state, "KILLED"))
    for old in others:
        client.delete_run(old.info.run_id)
    ended = {"every": every, "count": len(run.steps), "prefix": run.digest(every, len(run.steps)), "events": len(run.events)}
    _note(client, key, {**ended, "all": run.digest(every)})
    if is_new and others:
        return f"{where}: run {key} replaces the old one, as steps were undone or other settings given since"
    return f"{where}: run {key}, {count:,} new figures"


def _state_of(run: Any) -> dict[str, Any]:
    try:
        found = orjson.loads(run.data.tags.get(STATE_TAG, "")) if run is not None else {}
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _fits(state: dict[str, Any], run: CleanRun, every: int) -> bool:
    """Whether all that was published still holds."""
    count, events = state.get("count"), state.get("events")
    if state.get("busy") or not isinstance(count, int) or not isinstance(events, int) or state.get("every") != every:
        return False
    return count <= len(run.steps) and events <= len(run.events) and state.get("prefix") == run.digest(every, count)


def _log_settings(client: Any, key: str, run: CleanRun) -> None:
    from mlflow.entities import Param

    settings = iter(run.settings.items())
    while some := [Param(_name(name), str(value)[:LONGEST_ERROR]) for name, value in islice(settings, 100)]:
        client.log_batch(key, params=some)


def _log_points(client: Any, key: str, run: CleanRun, every: int, state: dict[str, Any]) -> int:
    """Logs the points that are not there yet, in batches; returns the number of figures."""
    from mlflow.entities import Metric

    last = int(run.steps[state["count"] - 1]) if state.get("count") else 0
    seen = state.get("events", 0)
    _note(client, key, {**state, "busy": True})
    batch = [metric for point in run.figures_of_events(seen) for metric in _metrics(Metric, point)]
    count = 0
    for point in run.points(every):
        if point.step > last:
            batch += _metrics(Metric, point)
        while len(batch) >= BATCH:
            client.log_batch(key, metrics=batch[:BATCH])
            count, batch = count + BATCH, batch[BATCH:]
    for begin in range(0, len(batch), BATCH):
        client.log_batch(key, metrics=batch[begin : begin + BATCH])
    return count + len(batch)


def _metrics(metric: Any, point: Point) -> list[Any]:
    return [metric(_name(name), value, int(1000 * point.time), point.step) for name, value in point.values.items()]


def _name(name: str) -> str:
    """A name with the characters that MLflow takes: a corpus may have others."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-./ ") else "_" for c in name)[:250]


def _note(client: Any, key: str, state: dict[str, Any]) -> None:
    client.set_tag(key, STATE_TAG, orjson.dumps(state).decode())
