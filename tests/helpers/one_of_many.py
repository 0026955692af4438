"""A process of several that are asked one after another, so that nothing has to be started."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captioning.system.runtime import Runtime


class OneOfMany(Runtime):
    """What it gathers, sums, averages and compares with the others' is its own alone."""

    def sum_over_processes(self, value: Tensor) -> Tensor:
        return value

    def gather(self, items: list[Any]) -> list[Any]:
        return items

    def max_over_processes(self, value: int) -> int:
        return value

    def average(self, tensors: Sequence[Tensor]) -> None:
        pass

    def replica(self, module: nn.Module) -> nn.Module:
        return module


def one_of(processes: int, rank: int = 0, kind: type[OneOfMany] = OneOfMany) -> OneOfMany:
    """A process on the CPU."""
    return kind(torch.device("cpu"), rank=rank, world_size=processes)
