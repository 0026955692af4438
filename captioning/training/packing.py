"""Captions of different lengths side by side, without padding.

A batch of captions is kept as one list of its N true tokens, so that every linear layer computes
true tokens only. Attention needs rows: `Packing` lays the tokens out in an (R, T) grid, one caption
a row, and takes them up again. Rows come in groups of equal size, one group a picture; a picture
with fewer captions than the others has empty rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where N tokens stand in a grid of R captions (rows) of at most T tokens."""

    rows: int
    """R, a multiple of the number of pictures."""
    length: int
    """T, the tokens of the longest caption."""
    slots: Tensor | None = None
    """(N,) each token's `row * T + position`, without repeats; None: all R * T slots, in order."""

    def pad(self, x: Tensor) -> Tensor:
        """(N, D) tokens -> (R, T, D) rows, zero where there is no token."""
        if self.slots is not None:
            x = _Spread.apply(x, self.slots, self.rows * self.length)  # type: ignore[no-untyped-call]
        return x.view(self.rows, self.length, x.shape[-1])

    def pack(self, x: Tensor) -> Tensor:
        """(R, T, D) rows -> (N, D) tokens."""
        x = x.reshape(self.rows * self.length, x.shape[-1])
        if self.slots is not None:
            x = _Take.apply(x, self.slots)  # type: ignore[no-untyped-call]
        return x

    def to(self, device: torch.device) -> "Packing":
        """The same packing with its slots on `device`."""
        slots = None if self.slots is None else self.slots.to(device, non_blocking=True)
        return Packing(self.rows, self.length, slots)


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
