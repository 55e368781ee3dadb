"""Every row of the table of tiles compiles for its GPU, without one: no spills, and shared memory within the chip. bf16, dropout on."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from bench.kernels.limits import CHIPS
from bench.kernels.offline import disassemble
from bench.kernels.problems import compiled
from bench.kernels.sass import by_kind, loops, read
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.tiles import KERNELS, TileEntry

ROWS = [r for r in tiles.load()[1] if r.bits == 16]
PARTS = sorted({(r.chip, r.head_size) for r in ROWS})


def test_the_table_has_a_row_for_every_kernel_on_every_chip_and_head_size() -> None:
    every = {(form, kernel) for (form, _), kernels in KERNELS.items() for kernel in kernels}
    for bits in (16, 32):
        for chip in CHIPS:
            for head_size in (32, 64, 128):
                there = {(r.form, r.kernel) for r in tiles.load()[1] if (r.chip, r.bits, r.head_size) == (chip, bits, head_size)}
                assert every <= there, (chip, bits, head_size)


@pytest.mark.parametrize(("chip", "head_size"), PARTS, ids=lambda x: str(x))
def test_rows_compile_for_their_chip_without_spills_and_within_its_shared_memory(chip, head_size) -> None:
    wrong = []
    for row in (r for r in ROWS if (r.chip, r.head_size) == (chip, head_size)):
        wrong += [f"{row.form}.{row.kernel}: {fault}" for fault in faults(row)]
    assert wrong == []


def faults(row: TileEntry) -> list[str]:
    found = []
    for kernel in compiled(row.form, row.kernel, CHIPS[row.chip].capability, torch.bfloat16, row.head_size):
        # The tile is the table's, no matter what else the process tried before.
        assert kernel.warps == row.tile.warps and kernel.cubin.startswith(b"\x7fELF")
        if kernel.shared_bytes > CHIPS[row.chip].shared_bytes:
            found.append(f"{kernel.shared_bytes} bytes of shared memory")
        if kernel.stack_bytes and (spills := by_kind(read(disassemble(kernel.cubin))[0])["spill"]):
            found.append(f"{spills} spills")
    return found


def test_the_forward_loop_multiplies_as_much_as_its_tile_says() -> None:
    """What is counted is counted right: q k and the context, and two products with the identity, of a tile, in one trip."""
    from bench.kernels.limits import H100, limit

    row = next(r for r in ROWS if (r.chip, r.form, r.kernel, r.head_size) == ("sm_90", "tables", "forward", 64))
    (kernel,) = compiled("tables", "forward", H100.capability, torch.bfloat16, 64)
    (body,) = loops(disassemble(kernel.cubin))
    m, n = row.tile.block_m, row.tile.block_n
    floor = limit(body, kernel.warps, kernel.registers, kernel.shared_bytes, kernel.programs, H100).matmul_floor
    assert floor * H100.multiply_adds == 2 * m * n * 64 + 2 * m * n * n
