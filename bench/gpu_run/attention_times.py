"""Part: one layer's attention, ours at two sizes of scratch against torch's kernel and other packages; host time beside device time.

Where the host needs longer to queue a layer than the device to compute it, the host bounds the training, and a faster kernel gains nothing.
"""

from contextlib import AbstractContextManager

import torch

from bench.gpu_run.one_part import PartRows
from bench.gpu_run.stand_in import Machine, Times, median_of
from bench.kernels.implementations import ENTRIES, Implementation, ours, theirs
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.tune import LENGTH, SPAN, problem

SCRATCH_MIB = (36, 128)


def measure(machine: Machine, rows: PartRows, way: str) -> None:
    """Rows by implementation, after each round: forward, and forward with backward."""
    batch = 1 if machine.rehearse else 32
    args = problem(batch, 64, machine.dtype, machine.device)
    runs = list(_ways(machine, ours(args, SPAN, LENGTH)))
    for name in ENTRIES:
        try:
            runs.append((name, theirs(name, args), None))
        except Exception as e:  # whatever a package raises, the other rows are to be timed
            print(f"no row of {name}: {type(e).__name__}: {str(e).strip().partition(chr(10))[0]}", flush=True)
    found: dict[str, tuple[list[Times], list[Times]]] = {}
    for round_ in range(2 + machine.sizes.rounds):
        for name, implementation, scratch in list(runs):
            try:
                with machine.alone(), _context(implementation, scratch):
                    forward, both = _once(machine, implementation)
            except Exception as e:
                print(f"no row of {name}: {type(e).__name__}: {str(e).strip().partition(chr(10))[0]}", flush=True)
                runs.remove((name, implementation, scratch))
                continue
            if round_ < 2:  # the first compiles, the second warms up
                continue
            of_forward, of_both = found.setdefault(name, ([], []))
            of_forward.append(forward)
            of_both.append(both)
        if machine.left() < 3:
            break
    for name, (of_forward, of_both) in found.items():
        forward_ms = {f"forward_{key}": value for key, value in median_of(of_forward).items() if key not in ("measured", "load")}
        both_ms = {f"both_{key}": value for key, value in median_of(of_both).items()}
        rows.add({"way": name, "batch": batch} | forward_ms | both_ms)


def _ways(machine: Machine, made: list[Implementation]) -> list[tuple[str, Implementation, int | None]]:
    """Our kernels once a size of scratch; a rehearsal has no kernels."""
    found: list[tuple[str, Implementation, int | None]] = []
    for one in made:
        if one.form == "tables":
            found += [(f"{one.name}, {mib} MiB", one, mib) for mib in SCRATCH_MIB]
        elif not (machine.rehearse and one.name == "sdpa + compile"):  # Inductor's part of it takes a minute on a CPU
            found.append((one.name, one, None))
    return [way for way in found if way[1].form is None] if machine.rehearse else found


def _context(implementation: Implementation, scratch_mib: int | None) -> AbstractContextManager[None]:
    forms = (implementation.form, implementation.form) if implementation.form else None
    return tiles.override({}, forms=forms, scratch_mib=scratch_mib)


def _once(machine: Machine, implementation: Implementation) -> tuple[Times, Times]:
    """The forward pass, and forward and backward, all queued before the device begins."""
    outs: list[torch.Tensor] = []

    def both() -> None:
        out = implementation.run()
        out.backward(torch.ones_like(out))

    forward = machine.timed(lambda: outs.append(implementation.run()), ahead=True)
    outs.clear()
    found = forward, machine.timed(both, ahead=True)
    for leaf in implementation.leaves:
        leaf.grad = None  # the next backward pass would add to it, which takes time
    return found
