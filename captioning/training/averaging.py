"""Gradients, and what BatchNorm has seen, averaged over the processes that compute a step together.

Each process adds up the gradients of its own batches before; then one pass of
`DistributedDataParallel` averages them. A part of a sharded encoder is none of ours: FSDP averages
it.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from captioning.system.runtime import Runtime
from captioning.training.sharding import is_part


class ZeroLoss(nn.Module):
    """A loss of 0 in which parameters have part, so that a backward pass visits each gradient."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self._visited = nn.ParameterList(parameters)

    def forward(self) -> Tensor:
        """0, with a graph."""
        return torch.stack([parameter.sum() for parameter in self._visited]).sum() * 0


class ProcessAverage:
    """The average over all processes."""

    def __init__(self, modules: Sequence[nn.Module], runtime: Runtime) -> None:
        """For what the modules train at present; processes make it together."""
        self._runtime = runtime
        self.parameters = [
            parameter
            for module in modules
            for parameter in module.parameters()
            if parameter.requires_grad and not is_part(parameter)
        ]
        """Those whose gradients are averaged."""
        self.statistics = [tensor for module in modules for tensor in _statistics(module)]
        """Means and variances that the BatchNorm of a trained encoder keeps."""
        self._zero = runtime.replica(ZeroLoss(self.parameters))
        # DDP takes the order of its buckets from its first pass: here always the same, so that
        # sums are rounded alike in a run that was resumed and in one that was not.
        self.take()

    def take(self) -> None:
        """Put averages in the place of what this process has; all do it together."""
        if self._runtime.is_alone:
            return
        resting = [parameter for parameter in self.parameters if parameter.grad is None]
        torch.autograd.backward(self._zero())
        for parameter in resting:  # an encoder that is not trained yet
            parameter.grad = None
        self._runtime.average(self.statistics)


def _statistics(module: nn.Module) -> Iterator[Tensor]:
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    for part in module.modules():
        if isinstance(part, norms) and part.weight is not None and part.weight.requires_grad:
            for statistic in (part.running_mean, part.running_var):
                if statistic is not None:
                    yield statistic
