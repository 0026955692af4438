"""Products of a search in 8-bit integers, for a CPU that is made for them.

Touches no files. Each row of weights has a scale, and so has each row that is multiplied with them,
so that what comes of a row does not depend on the others. Sums of integers are exact; what is lost
is the rounding of both factors to 8 bits.
"""

import torch
from torch import Tensor, nn

from captioning.system.errors import UserError

LEVELS = 127
"""The largest integer of a row; the smallest is its negative."""


class IntegerMatrix:
    """Weights that multiply as 8-bit integers. What comes of them has no gradient."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` (O, I), `bias` (O). Raises `UserError` where the processor cannot."""
        check_processor()
        weight = weight.detach()
        scales = _scales(weight)
        self._integers = (weight / scales).round().to(torch.int8)
        self._scales = scales[:, 0]
        self._bias = bias

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), float32."""
        rows = x.flatten(end_dim=-2)
        scales = _scales(rows)
        product = torch._int_mm((rows / scales).round_().to(torch.int8), self._integers.t())
        found = product.float().mul_(self._scales).mul_(scales)
        if self._bias is not None:
            found += self._bias
        return found.view(*x.shape[:-1], len(self._scales))


class IntegerLinear(nn.Module):
    """A linear map by an `IntegerMatrix`. Its own weights stay, for who saves or counts them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._product = IntegerMatrix(linear.weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), float32."""
        return self._product(x)


def replace_linear(module: nn.Module) -> None:
    """Put an `IntegerLinear` in the place of each linear map inside a module."""
    for name, part in module.named_children():
        if isinstance(part, nn.Linear):
            setattr(module, name, IntegerLinear(part))
        else:
            replace_linear(part)


def check_processor() -> None:
    """Raise `UserError` where sums are not exact: x86 processors without VNNI or AMX add products
    two by two in 16 bits, with one factor moved to 0 ... 255, which two large ones overflow."""
    largest = torch.full((32, 64), LEVELS, dtype=torch.int8)
    for rows in (largest, -largest):
        if (torch._int_mm(rows, largest.t()) != 64 * int(rows[0, 0]) * LEVELS).any():
            raise UserError(
                "this processor does not sum products of 8-bit integers exactly (x86 needs VNNI or "
                "AMX for it); leave --precision int8 out."
            )


def _scales(rows: Tensor) -> Tensor:
    """(R, I) -> (R, 1): what a row is divided by so that its largest number becomes `LEVELS`."""
    return rows.abs().amax(-1, keepdim=True).clamp_(min=1e-30).div_(LEVELS)
