"""Memory that one row's attention takes beside its inputs, by row length: `python bench/row_memory.py`.

Counted on tensors without content, forward and backward in bf16 with dropout and documents, heads of 64: no GPU and no time is needed.
"""

import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.steps.live_bytes import peak_bytes
from jadeberta.model.attention import blocks
from jadeberta.model.attention.inputs import AttentionInputs
from jadeberta.utils.text_table import format_table

LENGTHS = (1024, 2048, 4096, 8192)


def bytes_at_once(length: int, heads: int, size: int = 64) -> int:
    """Most bytes that both passes of one row hold at once if `heads` heads are computed together, as all are on a GPU and one on a CPU."""
    with FakeTensorMode():
        qkv, table, grad_out = (
            torch.empty(shape, dtype=torch.bfloat16)
            for shape in ((1, length, 3, heads, size), (512, heads, size), (1, length, heads, size))
        )
        ids, documents = (torch.empty(shape, dtype=torch.int64) for shape in ((2 * length - 1,), (1, length)))
        seed = torch.empty((), dtype=torch.int64)
        inputs = AttentionInputs(qkv, table, table, ids, documents, seed, 0.1, 0.07)
        together = mock.patch.object(blocks, "groups", lambda inputs: iter([(0, slice(0, heads))]))
        with together, peak_bytes() as peak:
            blocks.forward(inputs)
            blocks.backward(inputs, grad_out)
    return peak.bytes


def main() -> None:
    """Prints the table."""
    rows = []
    for length in LENGTHS:
        alone, together = (bytes_at_once(length, heads) / 2**20 for heads in (1, 16))
        rows.append((length, f"{alone:.0f}", f"{together:.0f}", f"{16 * 2 * length**2 / 2**20:,.0f}"))
    print(format_table(("tokens", "one head, MiB", "16 heads, MiB", "one bias of 16 heads, MiB"), rows))


if __name__ == "__main__":
    main()
