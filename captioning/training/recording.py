"""Passes whose kernels a GPU repeats without being told each of them again.

A step of the default model is eight hundred kernels of some microseconds each, and a processor
takes longer to start one than a GPU to compute it. A CUDA graph holds them and starts all at once.
It does what was recorded, at the same addresses: so a batch is copied to where the recorded one
lay, gradients are added at one place each, and weights must stay where they are.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

MOST_SHAPES = 32
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
"""Gives what repeats a call, and the tensor that then holds its result."""


class Recordable(Protocol):
    """What a pass is made of."""

    @property
    def shape(self) -> Hashable:
        """What decides which kernels compute it."""

    def to(self, device: torch.device) -> Self:
        """The same on a device."""

    def copy_(self, other: Self) -> None:
        """Take over the numbers of another of the same shape."""


Batch = TypeVar("Batch", bound=Recordable)


class Recording(NamedTuple):
    """A pass that can be repeated."""

    batch: Any
    factor: Tensor
    replay: Callable[[], object]
    value: Tensor


class RecordedPasses(Generic[Batch]):
    """A pass forward and backward that is recorded, for each shape, when that comes again."""

    def __init__(
        self,
        run: Callable[[Batch, Tensor], Tensor],
        parameters: Sequence[nn.Parameter],
        device: torch.device,
        record: Record | None = None,
    ) -> None:
        """`run` adds a batch's gradients times a factor to the parameters'; returns its loss."""
        self._run, self._parameters, self._device = run, parameters, device
        self._record = record or CudaGraphs()
        self._gradients: dict[nn.Parameter, Tensor] = {}
        self._seen: set[Hashable] = set()
        self.recordings: dict[Hashable, Recording] = {}
        """By shape."""
        self.is_recording = True
        """Whether new shapes are recorded."""

    def __call__(self, batch: Batch, factor: float) -> Tensor:
        """The loss of a batch, until the next call; its gradients times `factor` are added."""
        self._hold_gradients()
        shape = batch.shape
        is_new = shape not in self._seen
        self._seen.add(shape)
        known = self.recordings.get(shape)
        if known is None and not is_new and self.is_recording:
            known = self._recorded(batch)
        if known is None:
            batch = batch.to(self._device)
            return self._run(batch, torch.full((), factor, device=self._device))
        known.batch.copy_(batch)
        known.factor.fill_(factor)
        known.replay()
        return known.value

    def stop(self) -> None:
        """Forget all recordings, which hold memory, and make no more."""
        self.is_recording = False
        self.recordings.clear()

    def _hold_gradients(self) -> None:
        """Begin gradients that were dropped at 0, where the recorded passes add to them."""
        dropped = [parameter for parameter in self._parameters if parameter.grad is None]
        for parameter in dropped:
            if parameter not in self._gradients:
                self._gradients[parameter] = torch.empty_like(parameter)
            parameter.grad = self._gradients[parameter]
        if dropped:
            torch._foreach_zero_([self._gradients[parameter] for parameter in dropped])

    def _recorded(self, batch: Batch) -> Recording | None:
        """The recording of a shape; none where memory is not enough for it."""
        try:
            held = batch.to(self._device)
            factor = torch.ones((), device=self._device)
            recording = Recording(held, factor, *self._record(lambda: self._run(held, factor)))
        except RuntimeError as error:
            # A recording that ran out of memory may fail once more at its end.
            errors = error, error.__context__
            if not any(isinstance(one, torch.OutOfMemoryError) for one in errors):
                raise
            self.stop()
            torch.cuda.empty_cache()
            return None
        self.recordings[batch.shape] = recording
        self.is_recording = len(self.recordings) < MOST_SHAPES
        return recording


class CudaGraphs:
    """Records as CUDA graphs, all in one pool of memory: no two run at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """See `Record`. Nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            value = run()
        self._pool = graph.pool()
        return graph.replay, value
