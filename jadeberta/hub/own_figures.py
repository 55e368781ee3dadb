"""Whether figures that are published beside a release are of its weights: by their hash, as the figures in its card are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jadeberta.errors import CheckpointError
from jadeberta.provenance.statement import Statement

WEIGHTS = ("model.safetensors", "generator/model.safetensors")
ENCODER = "deberta."


def require_own_figures(paths: Sequence[Path], release: Path, statement: Statement) -> None:
    """Reads the files of `publish --evaluation`.

    Args:
        paths: written by `jadeberta evaluate mlm` or `finetune`.
        release: whose figures they must be; followed by its hashes.
        statement: of the release.

    Raises:
        CheckpointError: one is something else, or of other weights.
    """
    if not paths:
        return
    whole, encoders = _hashes(release, statement)
    for path in paths:
        if _has_scores(path):
            from jadeberta.release.card_tables import read_jglue

            is_own = read_jglue([path])[0]["model"]["sha256"] in encoders
        else:
            from jadeberta.release.export import read_evaluation

            evaluation = read_evaluation(path)
            is_own = str(evaluation.get("weights_sha256")) in whole or _is_of_its_step(evaluation, statement)
        if not is_own:
            raise CheckpointError(
                f"{path}: its figures are of other weights than those of {release}. Evaluate or fine-tune that, or leave this file out."
            )


def _hashes(release: Path, statement: Statement) -> tuple[set[str], set[str]]:
    """Hashes of the fp32 values of all weights, and of the encoder's: `evaluate` names the former, `finetune` the latter."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from jadeberta.model.published import weights_sha256

    whole, encoders = set(), set()
    for name in WEIGHTS:
        if name not in statement.subjects:
            continue
        try:
            weights = {key: tensor.float().contiguous() for key, tensor in load_file(release / name).items()}
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as e:
            raise CheckpointError(f"{release / name}: cannot be read as weights ({e}); export the checkpoint again.") from e
        whole.add(weights_sha256(weights))
        if encoder := {key: tensor for key, tensor in weights.items() if key.startswith(ENCODER)}:
            encoders.add(weights_sha256(encoder))
    return whole, encoders


def _has_scores(path: Path) -> bool:
    """Whether a file is one of `jadeberta finetune`, by the key that only those have."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False  # reading it as an evaluation gives the error
    return isinstance(content, dict) and "chosen" in content


def _is_of_its_step(evaluation: dict[str, Any], statement: Statement) -> bool:
    """Whether an evaluation is of the checkpoint that was released in a smaller type, or as a pair: its hash is of other numbers then."""
    made = statement.made
    if made.get("dtype") == "float32" and made.get("objective") == "mlm":
        return False
    step, fingerprints = evaluation.get("step"), evaluation.get("fingerprints")
    shards = {one.digest for one in statement.of_kind("shards")}
    return (
        isinstance(step, int)
        and step == made.get("step")
        and evaluation.get("weights", "trained") == made.get("weights")
        and isinstance(fingerprints, dict)
        and not shards.isdisjoint(map(str, fingerprints.values()))
    )
