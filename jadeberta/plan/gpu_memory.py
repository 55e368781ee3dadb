"""Memory of one GPU in a training step, by row length: weights and optimizer, what backward keeps, and what one attention takes for itself.

Pure functions. The factors come from counts on tensors without content (`bench/step.py --parts account`, `bench/row_memory.py`) for the
compiled model.
"""

from jadeberta.config import ModelConfig, TrainingConfig

CHEAP = 0.67
"""Share that `training.recompute: cheap` keeps: 295 of 441 MiB a sequence of the large model."""
EAGER_SCORES = 5.5
"""Tensors [heads, S, S] that Hugging Face's module keeps for backward in each layer: 1,494 MiB a sequence of 512 against 441."""
BLOCK_BYTES, TOKEN_BYTES = 15 * 2**20, 5000
"""Of one head in blocks of queries, bf16: bytes of a block's scores, and of each token of the row at a head size of 64."""
LONG_ROW = 1024
"""Tokens beyond which `sdpa` goes in blocks of queries; `blocks.LONG_ROW` in the model, which imports torch."""
BUSY_ROWS = 132 * 64
"""Queries that keep an H100 busy; `fused` holds scratch for as many heads of a long row at once."""
FUSED_SCRATCH = 36 * 2**20
"""Scratch of `fused` on an H100, bytes (`tiles.json`); of a row whose heads do not fit it takes more."""


def state_bytes(parameters: int, training: TrainingConfig, stage: int, ranks: int) -> int:
    """Weights, gradients and optimizer of one rank.

    Args:
        parameters: of the model.
        training: precision and running average.
        stage: of ZeRO; from 1 on the ranks share the optimizer, from 2 on gradients, from 3 on weights.
        ranks: of the job.
    """
    working = 2 if training.precision == "bf16" else 4
    optimizer = 8 + (4 if training.precision == "bf16" else 0) + 4 * bool(training.ema_decay)
    gradients = working + 4 if training.precision == "bf16" else 4
    parts = (working, 3), (gradients, 2), (optimizer, 1)
    return sum(parameters * size // (ranks if stage >= first else 1) for size, first in parts)


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
