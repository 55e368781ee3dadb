"""Memory of one GPU in a training step, by row length: weights and optimizer, what backward keeps, and what one attention takes for itself.

Pure functions. The factors come from counts on tensors without content (`bench/step.py --parts account`, `bench/row_memory.py`) for the
compiled model.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jadeberta.config import ModelConfig, Recipe, TrainingConfig
from jadeberta.config.phases import Phase

CHEAP = 0.67
"""Share that `training.recompute: cheap` keeps: 295 of 441 MiB a sequence of the large model."""
EAGER_SCORES = 5.5
"""Tensors [heads, S, S] that Hugging Face's module keeps for backward in each layer: 1,494 MiB a sequence of 512 against 441."""
BLOCK_BYTES, TOKEN_BYTES = 15 * 2**20, 5000
"""Of one head in blocks of queries, bf16: bytes of a block's scores, and of each token of the row at a head size of 64."""
BUCKET_SIZE = 500_000_000
"""Elements of a bucket where DeepSpeed's file does not say it."""
LONG_ROW = 1024
"""Tokens beyond which `sdpa` goes in blocks of queries; `blocks.LONG_ROW` in the model, which imports torch."""
BUSY_ROWS = 132 * 64
"""Queries that keep an H100 busy; `fused` holds scratch for as many heads of a long row at once."""
FUSED_SCRATCH = 36 * 2**20
"""Scratch of `fused` on an H100, bytes (`tiles.json`); of a row whose heads do not fit it takes more."""


def state_parts(parameters: int, training: TrainingConfig, stage: int, ranks: int, saved: int = 0) -> dict[str, int]:
    """Returns the bytes of weights, gradients and optimizer on one rank.

    Args:
        parameters: of the model.
        training: precision and running average.
        stage: of ZeRO; from 1 on the ranks share the optimizer, from 2 on gradients, from 3 on weights.
        ranks: of the job.
        saved: bytes that the optimizer keeps less than AdamW, of all ranks together.
    """
    working = 2 if training.precision == "bf16" else 4
    # DeepSpeed copies the weights into fp32 masters, in fp32 too.
    optimizer = 4 + 8 + 4 * bool(training.ema_decay)
    # The first stage keeps the fp32 sums beside the gradients of a backward pass; the others move these into a share of the sums at once.
    gradients = 4 + (2 if training.precision == "bf16" and stage < 2 else 0)
    parts = {"weights": (working, 3), "gradients": (gradients, 2), "optimizer": (optimizer, 1)}
    found = {name: parameters * size // (ranks if stage >= first else 1) for name, (size, first) in parts.items()}
    return found | {"optimizer": found["optimizer"] - saved // (ranks if stage else 1)}


def bucket_bytes(training: TrainingConfig, stage: int, zero: Mapping[str, Any]) -> int:
    """Returns the bytes of the buckets in which DeepSpeed 0.19.8 collects gradients during a backward pass.

    Args:
        training: precision.
        stage: of ZeRO.
        zero: section `zero_optimization` of DeepSpeed's file.
    """
    if not zero.get("contiguous_gradients", True) or (stage == 1 and training.precision == "bf16"):
        return 0
    size = zero.get("reduce_bucket_size", BUCKET_SIZE)
    size = int(size) if isinstance(size, int | float) else BUCKET_SIZE
    buffers = 2 if stage < 3 and zero.get("overlap_comm") else 1
    return size * (2 if training.precision == "bf16" else 4) * buffers


def activation_bytes(model: ModelConfig, training: TrainingConfig, length: int, rows: int, attention: str, masked: float) -> int:
    """What the forward pass of a micro-batch keeps for backward.

    Args:
        model: the sizes.
        training: precision and recomputation.
        length: tokens of a row.
        rows: of the micro-batch.
        attention: eager, sdpa or fused.
        masked: share of the tokens that go through the head.
    """
    size = 2 if training.precision == "bf16" else 4
    layer: float = size * length * (10 * model.hidden_size + 2 * model.intermediate_size)
    if attention == "eager":
        layer += EAGER_SCORES * size * model.num_attention_heads * length**2
    layers = layer * model.num_hidden_layers
    if training.recompute == "cheap":
        layers *= CHEAP
    elif training.recompute == "layers":
        layers = layer + size * length * model.hidden_size * model.num_hidden_layers
    return round(rows * (layers + masked * length * model.vocab_size * (size + 4)))


def attention_bytes(model: ModelConfig, training: TrainingConfig, length: int, rows: int, attention: str) -> int:
    """What the attention of one layer takes while it runs, of which no part stays; arguments as for `activation_bytes`."""
    size = 2 if training.precision == "bf16" else 4
    heads = model.num_attention_heads
    if attention == "fused":
        one = 2 * size * length**2  # scratch of a head
        fit = FUSED_SCRATCH // one
        at_once = min(rows, max(1, fit // heads))
        return one * (at_once * heads if at_once > 1 else min(heads, max(1, fit, -(-BUSY_ROWS // length))))
    if attention == "sdpa" and length > LONG_ROW:
        return heads * (BLOCK_BYTES + TOKEN_BYTES * length * model.attention_head_size // 64) * size // 2
    return 3 * size * rows * heads * length**2  # the bias, its gradient, and one of its two terms


def activation_parts(recipe: Recipe, phase: Phase, rows: int) -> dict[str, int]:
    """Returns the bytes that a micro-batch takes on a GPU beside the state: kept by the layers, by a generator's, by the head, and for the
    attention of one layer while it runs.

    Args:
        recipe: of the run.
        phase: with its row length.
        rows: of the micro-batch.
    """
    model, training, length = recipe.model, recipe.training, phase.sequence_length
    assert length is not None
    masked = sum(phase.mask_bounds) / 2
    kept = activation_bytes(model, training, length, rows, phase.attention, masked)
    layers = activation_bytes(model, training, length, rows, phase.attention, 0.0)
    parts = {"layers": layers, "head": kept - layers}
    if training.objective == "rtd":
        # Backward begins when both have run: what both keep is there at once.
        generator = replace(model, num_hidden_layers=recipe.rtd.layers_of_generator(model.num_hidden_layers))
        parts["generator"] = activation_bytes(generator, training, length, rows, phase.attention, 0.0)
    return parts | {"attention": attention_bytes(model, training, length, rows, phase.attention)}
