"""The data of a run: corpora, epochs, excluded rows, and whether steps that were taken again saw the same samples. Pure functions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from jadeberta.errors import JadebertaError
from jadeberta.report.run_facts import RunFacts
from jadeberta.shards.index import find_index
from jadeberta.utils.json_lines import finite

MOST_ROWS = 200


@dataclass
class Proof:
    """What the hashes of the batches say about the order of the data."""

    hashed: int = 0
    """Steps that stayed and have a hash."""
    again: int = 0
    """Steps that were lost and taken again, where no roll-back lies in between."""
    same: int = 0
    """Of these, those that saw the same samples."""
    after_rollback: int = 0
    """Steps taken again after a roll-back, which skips data: they are not compared."""


def prove(facts: RunFacts) -> Proof:
    """Compares the batch hash of each step that was lost with that of the same step that stayed."""
    standing = facts.standing
    found = Proof(hashed=int((standing.batch_hash != 0).sum()))
    targets = [s for e in facts.events if e.get("event") == "rollback" and (s := finite(e, "step")) is not None]
    border = min(targets, default=np.inf)
    for history in facts.histories:
        lost = history.steps[history.steps.lost & (history.steps.batch_hash != 0)]
        place = np.searchsorted(standing.number, lost.number)
        there = place < len(standing)
        lost, place = lost[there], place[there]
        match = (standing.number[place] == lost.number) & (standing.batch_hash[place] != 0)
        comparable = match & (lost.number <= border)
        found.again += int(comparable.sum())
        found.same += int((standing.batch_hash[place] == lost.batch_hash)[comparable].sum())
        found.after_rollback += int((match & ~comparable).sum())
    return found


def data(facts: RunFacts) -> dict[str, Any]:
    """Returns `corpora` (rows and repeats, where the shards are there), `excluded`, `proof` and a `note`."""
    corpora, note = _corpora(facts)
    excluded = [
        {
            "time": event["time"],
            "step": finite(event, "step"),
            "file": str(event.get("file", "")),
            "rows": finite(event, "sequences"),
            "reason": str(event.get("reason", ""))[:300],
        }
        for event in facts.events
        if event.get("event") == "set_aside"
    ]
    return {"corpora": corpora, "excluded": excluded[-MOST_ROWS:], "proof": vars(prove(facts)), "note": note}


def _corpora(facts: RunFacts) -> tuple[list[dict[str, Any]], str]:
    """Rows and repeats of each corpus by the shards' index, and the epochs of the run."""
    keys, training = facts.section("data"), facts.section("training")
    shards = keys.get("shards")
    if not isinstance(shards, str) or not shards:
        return [], "The recipe names no shards."
    try:
        index = orjson.loads(find_index(shards).read_bytes())
        entries = {
            str(name): (sum(int(shard["sequences"]) for shard in entry["train"]), float(entry["repeats"]))
            for name, entry in index["corpora"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, JadebertaError):
        return [], "The index of the shards is not where the recipe says, so that the rows of the corpora are not known."
    own = keys.get("repeats")
    repeats = {name: (finite(own, name) if isinstance(own, dict) else None) or default for name, (_, default) in entries.items()}
    epoch = sum(rows * repeats[name] for name, (rows, _) in entries.items())
    batch = finite(training, "global_batch_size")
    # With phases, a warm-up of the batch size or weights a step is no fixed number of rows of an epoch.
    plain = not facts.recipe.get("phases") and not training.get("batch_size_warmup") and not keys.get("weights")
    seen = facts.goodput.step * batch if batch and plain else None
    note = "" if seen is None or not epoch else f"{seen:,.0f} rows were read: {seen / epoch:.2f} epochs of {epoch:,.0f} rows."
    return [{"corpus": name, "rows": rows, "repeats": repeats[name]} for name, (rows, _) in entries.items()], note
