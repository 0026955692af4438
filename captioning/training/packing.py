"""Captions of different lengths side by side, without padding.

A batch of captions is kept as one list of its N true tokens, so that every linear layer computes
true tokens only. Attention needs rows: `Packing` tells where in rows the tokens stand. By its grid
of R captions of at most T tokens, one caption a row, in groups of equal size, one group a picture,
of which a picture with fewer captions leaves rows empty; or closer, as `pack_captions` lays them
out: for self-attention captions of like length together, for cross-attention, to which it is all
one, a picture's captions in one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
BLOCKS = 5
"""Of captions of like length: more of them are more calls, fewer more padding."""


@dataclass(frozen=True)
class Layout:
    """Blocks of rows, one after the other, in which N tokens stand."""

    blocks: tuple[tuple[int, int], ...]
    """Rows of each block, and places of a row."""
    slots: Tensor | None
    """(N,) each token's place, without repeats; None: they fill all places in order."""

    def spread(self, x: Tensor) -> list[Tensor]:
        """(N, D) tokens -> (rows, places, D) of each block, zero where there is no token."""
        sizes = [rows * places for rows, places in self.blocks]
        if self.slots is not None:
            x = _Spread.apply(x, self.slots, sum(sizes))  # type: ignore[no-untyped-call]
        parts = torch.split(x, sizes) if len(sizes) > 1 else (x,)
        return [
            part.view(*shape, x.shape[-1]) for part, shape in zip(parts, self.blocks, strict=True)
        ]

    def take(self, blocks: Sequence[Tensor]) -> Tensor:
        """(rows, places, D) of each block -> (N, D) tokens."""
        parts = [block.reshape(-1, block.shape[-1]) for block in blocks]
        x = torch.cat(parts) if len(parts) > 1 else parts[0]
        if self.slots is not None:
            x = _Take.apply(x, self.slots)  # type: ignore[no-untyped-call]
        return x

    def to(self, device: torch.device) -> "Layout":
        """The same with its slots on `device`."""
        slots = None if self.slots is None else self.slots.to(device, non_blocking=True)
        return Layout(self.blocks, slots)


@dataclass(frozen=True)
class Packing:
    """Where N tokens stand in a grid of R captions (rows) of at most T tokens."""

    rows: int
    """R, a multiple of the number of pictures."""
    length: int
    """T, the tokens of the longest caption."""
    slots: Tensor | None = None
    """(N,) each token's `row * T + position`, without repeats; None: all R * T slots, in order."""
    by_length: Layout | None = None
    """A caption a row, those of like length in a block (default: the grid)."""
    by_picture: Layout | None = None
    """A picture a row, in one block (default: the grid)."""

    @property
    def captions(self) -> Layout:
        """Each caption in a row."""
        return self.by_length or Layout(((self.rows, self.length),), self.slots)

    def pictures(self, count: int) -> Layout:
        """All captions of each of `count` pictures in a row."""
        shape = count, self.rows // count * self.length
        return self.by_picture or Layout((shape,), self.slots)

    def to(self, device: torch.device) -> "Packing":
        """The same packing with its slots on `device`."""
        slots = None if self.slots is None else self.slots.to(device, non_blocking=True)
        # A GPU is through with the grid before a processor has started several blocks.
        closer = self.by_length if device.type == "cpu" else None
        pictures = self.by_picture and self.by_picture.to(device)
        return Packing(self.rows, self.length, slots, closer, pictures)


def pack_captions(sizes: Ints, lengths: Ints) -> Packing:
    """The packing of captions that follow one another: `sizes` captions of each picture, `lengths`
    tokens of each caption."""
    most, longest = int(sizes.max()), int(lengths.max())
    rows = ranges(np.arange(len(sizes)) * most, sizes)
    by_length, starts, end = [], np.empty_like(lengths), 0
    for block in np.array_split(np.argsort(lengths, kind="stable"), min(BLOCKS, len(lengths))):
        places = int(lengths[block[-1]])
        by_length.append((len(block), places))
        starts[block] = end + np.arange(len(block)) * places
        end += len(block) * places
    tokens = np.add.reduceat(lengths, np.cumsum(sizes) - sizes)
    row = int(tokens.max())

    grid = ranges(rows * longest, lengths)
    of_pictures = ranges(np.arange(len(sizes)) * row, tokens)
    return Packing(
        len(sizes) * most,
        longest,
        torch.from_numpy(grid),
        Layout(tuple(by_length), torch.from_numpy(ranges(starts, lengths))),
        Layout(((len(sizes), row),), torch.from_numpy(of_pictures)),
    )


def ranges(starts: Ints, sizes: Ints) -> Ints:
    """starts[0], starts[0] + 1, ..., `sizes[0]` of them, then those from starts[1], ..."""
    ends = np.cumsum(sizes)
    return np.arange(sizes.sum()) + np.repeat(starts - ends + sizes, sizes)


# Each of the two is the other's gradient, because no slot repeats. autograd does not know that and
# would add up gradients with index_add, which took several times as long.


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(slots)
        return x.new_zeros(size, x.shape[-1]).index_copy_(0, slots, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return gradient.index_select(0, slots), None, None


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.size = x.shape[0]
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        spread = gradient.new_zeros(ctx.size, gradient.shape[-1])
        return spread.index_copy_(0, slots, gradient), None
