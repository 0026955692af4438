"""Weight averaging: beside the weights that are trained, their slow average, which is steadier.

    average <- decay * average + (1 - decay) * weights        after each update

An exponential moving average of the path that training takes (Polyak & Juditsky, 1992). A young
average forgets faster, so that it does not hang on to the random weights of the start: after update
n = 1, 2, ... the decay is (1 + n) / (10 + n) at most, the rule of TensorFlow's
`ExponentialMovingAverage(num_updates)`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of all that training moves: trained parameters, and statistics of BatchNorm."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        """Begin at the weights as they are; `modules` by the name that their tensors get."""
        self.decay = decay
        self._weights = {
            f"{part}.{name}": tensor
            for part, module in modules.items()
            for name, tensor in _moving_tensors(module).items()
        }
        self.tensors = {name: tensor.clone() for name, tensor in self._weights.items()}
        """The averages, by name."""

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take in the weights after update `number`, from 1."""
        decay = min(self.decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(
            list(self.tensors.values()), list(self._weights.values()), weight=1 - decay
        )

    def adopt(self) -> None:
        """The averages become the weights."""
        self._fill_modules(self.tensors)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The modules hold the averages; afterwards their own weights again, bit for bit."""
        trained = {name: tensor.clone() for name, tensor in self._weights.items()}
        self._fill_modules(self.tensors)
        try:
            yield
        finally:
            self._fill_modules(trained)

    @torch.no_grad()
    def _fill_modules(self, tensors: Mapping[str, Tensor]) -> None:
        for name, weights in self._weights.items():
            weights.copy_(tensors[name])


def _moving_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes, none for a frozen module; they share its memory."""
    trained = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        return {}
    saved = module.state_dict().keys()  # other buffers are constants
    return trained | {
        name: buffer
        for name, buffer in module.named_buffers()
        if name in saved and buffer.is_floating_point()
    }
