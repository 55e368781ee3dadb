"""Whole parameters out of ZeRO's flat partitions: which rank holds which part of a parameter, and how the parts come together.

ZeRO 1 and 2 put the parameters of a group behind each other and cut the result into one part for each rank, so that a border may lie
inside a matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Piece:
    """One parameter of a group, as this rank sees it."""

    number: int
    """Of the parameter in the model."""
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    """First element of this rank's part in the flattened parameter."""
    offset: int
    """First element of this rank's part in its flat tensor."""
    length: int
    """Elements of this rank's part; 0: it holds none."""
    holders: int
    """Ranks that hold a part."""

    @property
    def numel(self) -> int:
        """Elements of the whole parameter."""
        return torch.Size(self.shape).numel()

    def part_of(self, flat: torch.Tensor) -> torch.Tensor:
        """This rank's part in a tensor that lies as its flat partition does; a view of [length]."""
        return flat.narrow(0, self.offset, self.length)


class Partitions:
    """The pieces of an engine's flat partitions; all ranks list the same parameters of a group in the same order."""

    def __init__(self, engine: Any, flats: list[torch.Tensor]) -> None:
        """Finds out how ZeRO has cut the parameters; every rank calls it.

        Args:
            engine: DeepSpeed's, of ZeRO 1 or 2.
            flats: this rank's flat fp32 tensor of each group.
        """
        mine: dict[int, tuple[int, int, int, int]] = {}
        shapes = []
        for number, parameter in enumerate(engine.module.parameters()):
            shapes.append(tuple(parameter.shape))
            if (mapping := parameter._hp_mapping) is not None:
                held = mapping.hp_fragment_address
                mine[number] = (mapping.param_group_index, mapping.lp_fragment_address.start, held.start, held.numel)
        of_ranks: list[Any] = [None] * dist.get_world_size()
        # Asked for rather than computed: how ZeRO orders and pads a group is its own affair.
        dist.all_gather_object(of_ranks, mine)
        groups: dict[int, int] = {number: held[0] for held_by in of_ranks for number, held in held_by.items()}
        self._pieces: dict[torch.Tensor, list[Piece]] = {flat: [] for flat in flats}
        for number, group in sorted(groups.items()):
            _, start, offset, length = mine.get(number, (group, 0, 0, 0))
            holders = sum(number in held_by for held_by in of_ranks)
            self._pieces[flats[group]].append(Piece(number, shapes[number], start, offset, length, holders))

    def pieces(self, flat: torch.Tensor) -> list[Piece]:
        """The parameters of a group, given its flat tensor, in the order of the model."""
        return self._pieces[flat]

    def whole(self, flat: torch.Tensor, values: torch.Tensor) -> Iterator[tuple[Piece, torch.Tensor]]:
        """Gives each parameter of which this rank holds a part, whole; every rank iterates to the end.

        Args:
            flat: a group's flat tensor.
            values: lies as it does.

        Yields:
            The piece, and the values of the whole parameter in its shape.
        """
        for piece in self.pieces(flat):
            if piece.holders == 1:
                if piece.length:
                    yield piece, piece.part_of(values).view(piece.shape)
                continue
            # One after another: no rank holds more than one whole matrix. Zeros elsewhere leave each element of the sum as it is.
            whole = torch.zeros(piece.numel, dtype=values.dtype, device=values.device)
            if piece.length:
                whole[piece.start : piece.start + piece.length] = piece.part_of(values)
            dist.all_reduce(whole)
            if piece.length:
                yield piece, whole.view(piece.shape)
