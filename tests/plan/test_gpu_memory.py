"""The memory that `jadeberta plan` computes is what is counted of the model, and grows with the row as the attention does."""

import pytest
import torch

from jadeberta.config import ModelConfig, TrainingConfig
from jadeberta.model.attention import blocks
from jadeberta.plan import gpu_memory as memory

LARGE, BF16 = ModelConfig(), TrainingConfig()
BASE = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "pooler_hidden_size": 768,
}
MIB = 2**20


@pytest.mark.parametrize(("model", "length", "attention", "recompute", "counted"), [
    (LARGE, 512, "sdpa", "none", 441), (LARGE, 512, "sdpa", "cheap", 295), (LARGE, 512, "fused", "none", 438),
    (LARGE, 512, "eager", "none", 1494), (LARGE, 2048, "fused", "none", 1845), (ModelConfig(**BASE), 1024, "fused", "none", 377),
])  # fmt: skip
def test_activations_are_those_that_bench_counts_within_a_tenth(model, length, attention, recompute, counted) -> None:
    """Counted by bench/steps/counted_costs.py, MiB a sequence in bf16."""
    training = TrainingConfig(recompute=recompute)
    assert memory.activation_bytes(model, training, length, 1, attention, 0.15) / MIB == pytest.approx(counted, rel=0.1)


def test_attention_in_blocks_takes_what_is_counted_and_eager_grows_with_the_square() -> None:
    assert memory.LONG_ROW == blocks.LONG_ROW
    for length, counted in ((2048, 413), (4096, 545), (8192, 855)):
        assert memory.attention_bytes(LARGE, BF16, length, 1, "sdpa") / MIB == pytest.approx(counted, rel=0.15)
    long, longest = (memory.activation_bytes(LARGE, BF16, length, 1, "eager", 0.15) for length in (4096, 8192))
    assert longest > 3.5 * long
    assert memory.activation_bytes(LARGE, BF16, 8192, 1, "sdpa", 0.15) == pytest.approx(
        16 * memory.activation_bytes(LARGE, BF16, 512, 1, "sdpa", 0.15)
    )


def test_the_scratch_of_the_kernels_is_what_they_would_take_on_an_h100() -> None:
    from jadeberta.model.attention.triton import tiles

    assert tiles.scratch_bytes(torch.bfloat16, 64, (9, 0)) == memory.FUSED_SCRATCH
    for length, rows, mib in ((512, 18, 32), (512, 1, 16), (1024, 8, 36), (2048, 1, 80), (8192, 2, 512)):
        assert memory.attention_bytes(LARGE, BF16, length, rows, "fused") / MIB == mib


def test_zero_divides_the_state_over_the_ranks() -> None:
    def state_bytes(stage: int) -> int:
        return sum(memory.state_parts(1000, BF16, stage, 8).values())

    assert state_bytes(0) == 1000 * (2 + 6 + 12)
    assert state_bytes(1) == 1000 * 8 + 1500
    # From the second stage on the sums alone are kept, in fp32.
    assert state_bytes(2) == 1000 * 2 + (4 + 12) * 1000 // 8
    assert state_bytes(3) == (2 + 4 + 12) * 1000 // 8
