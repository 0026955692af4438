"""The samples of a source for one process: read and decoded ahead of time, in the lanes' order.

Worker processes (DataLoader's) read lanes and decode pictures a piece at a time; here the lanes
take turns, a picture each. How many workers there are, and where pieces end, changes nothing.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from errors import UserError
from images import load_image
from stream_lanes import Lane, LaneSample, Position

Preprocess = Callable[[Image.Image], Tensor]
PIECE_SAMPLES = 16
"""Pictures that a worker hands over at a time: a few MB of shared memory."""


@dataclass(frozen=True)
class StreamPicture:
    """A sample whose picture was decoded, or could not be."""

    name: str
    captions: tuple[str, ...]
    passes: int
    """Passes that its lane had made before."""
    after: Position
    """Where its lane stands once it is taken."""
    pixels: Tensor | None
    """uint8 (3, H, W)."""
    problem: str = ""


@dataclass(frozen=True)
class _Piece:
    """What a worker hands over: samples, and the pixels of those that have some, stacked."""

    samples: list[tuple[str, tuple[str, ...], int, Position, str]]
    pixels: Tensor

    def pictures(self) -> Iterator[StreamPicture]:
        rows = iter(self.pixels)
        for name, captions, passes, after, problem in self.samples:
            pixels = None if problem else next(rows)
            yield StreamPicture(name, captions, passes, after, pixels, problem)


class _Pieces(IterableDataset[_Piece | UserError]):
    """Pieces of lanes in turn, for ever; of every n-th lane in one of n workers.

    Where shards end the stream, the last piece is the error; raised by a worker it would arrive
    wrapped in that worker's traceback.
    """

    def __init__(
        self, lanes: Sequence[Lane], positions: Sequence[Position], preprocess: Preprocess
    ) -> None:
        self._lanes, self._positions, self._preprocess = lanes, positions, preprocess

    def __iter__(self) -> Iterator[_Piece | UserError]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        lanes = list(zip(self._lanes, self._positions, strict=True))[first::step]
        flows = [lane.samples(position) for lane, position in lanes]
        try:
            for flow in itertools.cycle(flows):
                yield self._decoded(itertools.islice(flow, PIECE_SAMPLES))
        except UserError as error:
            yield error

    def _decoded(self, given: Iterator[LaneSample]) -> _Piece:
        samples, pixels = [], []
        for one in given:
            sample, problem = one.sample, one.sample.problem
            if not problem:
                try:
                    pixels.append(self._preprocess(load_image(sample.data, name="its picture")))
                except UserError as error:
                    problem = str(error)
            samples.append((sample.name, sample.captions, one.passes, one.after, problem))
        return _Piece(samples, torch.stack(pixels) if pixels else torch.empty(0))


class StreamReader:
    """A process's lanes of one source, from given positions on."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        positions: Sequence[Position],
        preprocess: Preprocess,
        *,
        turns: int = 0,
        num_workers: int = 0,
    ) -> None:
        """`turns` is how many samples were taken so far; the next is of lane `turns` modulo n."""
        self.positions, self.turns = list(positions), turns
        self._waiting: list[deque[StreamPicture]] = [deque() for _ in lanes]
        self._lane_of_piece = itertools.cycle(range(len(lanes)))
        # Workers hand over in turn; so do lanes if each worker has as many of them.
        workers = max((n for n in range(1, num_workers + 1) if len(lanes) % n == 0), default=0)
        self._pieces = DataLoader(
            _Pieces(lanes, positions, preprocess),
            batch_size=None,
            num_workers=workers,
            generator=torch.Generator(),  # the loader's own draw leaves the global state alone
        )
        self._arriving: Iterator[_Piece | UserError] | None = None

    def next(self) -> StreamPicture:
        """The next sample, not taken yet; bad ones come too. Raises `UserError` for bad shards."""
        waiting = self._waiting[self.turns % len(self._waiting)]
        while not waiting:
            self._receive()
        return waiting[0]

    def take(self) -> StreamPicture:
        """Take the next sample. After a bad one it is the same lane's turn again."""
        picture = self.next()
        lane = self.turns % len(self._waiting)
        self._waiting[lane].popleft()
        self.positions[lane] = picture.after
        self.turns += not picture.problem
        return picture

    def _receive(self) -> None:
        if self._arriving is None:  # workers start with the first sample that is asked for
            self._arriving = iter(self._pieces)
        piece = next(self._arriving)
        if isinstance(piece, UserError):
            raise piece
        self._waiting[next(self._lane_of_piece)].extend(piece.pictures())
