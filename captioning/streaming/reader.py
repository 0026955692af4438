"""The samples of a source for one process: read and decoded ahead of time, in the lanes' order.

Worker processes (DataLoader's) read lanes and decode pictures a piece at a time; here the lanes
take turns, a picture each. How many workers there are, and where pieces end, changes nothing.
Where features are kept (`cache.py`), the pictures of a block are encoded as they arrive, and
its samples are given when all have.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from captioning.sources.images import load_image
from captioning.store.rows import Alter
from captioning.streaming.cache import StreamFeatures
from captioning.streaming.lanes import BLOCK_SAMPLES, Block, Lane, LaneSample, Position
from captioning.streaming.shards import StreamedSample
from captioning.system.errors import UserError
from captioning.system.stopping import set_up_worker
from captioning.vision.augmentation import draws_of
from captioning.vision.mirroring import mirrored_captions

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
    content: Tensor | None
    """uint8 pixels (3, H, W), or features (P, F)."""
    problem: str = ""


class _Turn(NamedTuple):
    """When a sample is given."""

    number: int
    """Of the sample, among those of its piece or block."""
    passes: int
    after: Position


@dataclass(frozen=True)
class _Piece:
    """What a worker hands over: samples without their files, and the pixels of the good ones."""

    samples: Sequence[StreamedSample]
    pixels: Tensor
    turns: list[_Turn]
    """The order in which samples are given."""
    block: Block | None = None
    """Where features are kept: what the samples are a part of, itself without any. Its turns come
    with its last piece."""


class _Pieces(IterableDataset[_Piece | UserError]):
    """Pieces of lanes in turn, for ever; of every n-th lane in one of n workers.

    Where shards end the stream, the last piece is the error; raised by a worker it would arrive
    wrapped in that worker's traceback.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        positions: Sequence[Position],
        preprocess: Preprocess,
        augmentation: frozenset[str],
        in_blocks: bool,
    ) -> None:
        self._lanes, self._positions, self._preprocess = lanes, positions, preprocess
        self._augmentation, self._in_blocks = augmentation, in_blocks

    def __iter__(self) -> Iterator[_Piece | UserError]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        lanes = list(zip(self._lanes, self._positions, strict=True))[first::step]
        pieces_of = self._pieces_of_blocks if self._in_blocks else self._pieces_of_samples
        flows = [pieces_of(lane, position) for lane, position in lanes]
        try:
            for flow in itertools.cycle(flows):
                yield next(flow)
        except UserError as error:
            yield error

    def _pieces_of_samples(self, lane: Lane, position: Position) -> Iterator[_Piece]:
        flow = lane.samples(position)
        while given := list(itertools.islice(flow, PIECE_SAMPLES)):
            samples, pixels = self._decoded(*self._altered(given))
            turns = [_Turn(number, one.passes, one.after) for number, one in enumerate(given)]
            yield _Piece(samples, pixels, turns)

    def _pieces_of_blocks(self, lane: Lane, position: Position) -> Iterator[_Piece]:
        """As many pieces as the block gives samples for, kept or not, so that lanes keep pace."""
        for block, given in lane.blocks(position):
            count = -(-len(given) // PIECE_SAMPLES)
            for number in range(count):
                start, stop = (len(block.samples) * n // count for n in (number, number + 1))
                samples, pixels = block.samples[start:stop], torch.empty(0)
                if not block.is_kept:
                    samples, pixels = self._decoded(samples)
                turns = [_Turn(one.place, one.passes, one.after) for one in given]
                is_last = number == count - 1
                yield _Piece(samples, pixels, turns if is_last else [], replace(block, samples=()))

    def _decoded(
        self, samples: Sequence[StreamedSample], alter: Alter | None = None
    ) -> tuple[list[StreamedSample], Tensor]:
        """The samples without their files, and the pixels of the good ones."""
        found, pixels = [], []
        for number, sample in enumerate(samples):
            problem = sample.problem
            if not problem:
                try:
                    image = load_image(sample.data, name="its picture")
                    pixels.append(self._preprocess(alter(number, image) if alter else image))
                except UserError as error:
                    problem = str(error)
            found.append(replace(sample, data=b"", problem=problem))
        return found, torch.stack(pixels) if pixels else torch.empty(0)

    def _altered(self, given: Sequence[LaneSample]) -> tuple[list[StreamedSample], Alter | None]:
        """Samples with the captions of their altered pictures, and what alters those."""
        samples = [one.sample for one in given]
        if not self._augmentation:
            return samples, None
        mirrored = [mirrored_captions(sample.captions) for sample in samples]
        draws = draws_of(
            self._augmentation,
            np.array([one.numbers for one in given]),
            np.array([captions is not None for captions in mirrored]),
        )
        found = [
            replace(sample, captions=captions) if captions and is_flipped else sample
            for sample, captions, is_flipped in zip(samples, mirrored, draws.flipped, strict=True)
        ]
        return found, draws.alter


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
        augmentation: frozenset[str] = frozenset(),
        features: StreamFeatures | None = None,
    ) -> None:
        """`turns` is how many samples were taken so far; the next is of lane `turns` modulo n.

        `augmentation` are the kinds by which pictures are altered. With `features` samples come
        with those, of pictures as they are, and lanes must read blocks that are kept.
        """
        self.positions, self.turns = list(positions), turns
        self._features = features
        self._waiting: list[deque[StreamPicture]] = [deque() for _ in lanes]
        self._arriving: list[_ArrivingBlock | None] = [None for _ in lanes]
        self._lane_of_piece = itertools.cycle(range(len(lanes)))
        # Workers hand over in turn; so do lanes if each worker has as many of them.
        workers = max((n for n in range(1, num_workers + 1) if len(lanes) % n == 0), default=0)
        self._pieces = DataLoader(
            _Pieces(lanes, positions, preprocess, augmentation, in_blocks=features is not None),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=set_up_worker,
            generator=torch.Generator(),  # the loader's own draw leaves the global state alone
        )
        self._source: Iterator[_Piece | UserError] | None = None
        self._ahead = 0
        """Pieces received for samples that have not been taken yet, in samples."""

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
        self._ahead -= 1
        # While a block is taken the next arrives; else all would be waited for at once.
        while self._features and self._ahead < len(self._waiting) * BLOCK_SAMPLES:
            self._receive()
        return picture

    def _receive(self) -> None:
        if self._source is None:  # workers start with the first sample that is asked for
            self._source = iter(self._pieces)
        piece = next(self._source)
        if isinstance(piece, UserError):
            raise piece
        lane = next(self._lane_of_piece)
        self._ahead += PIECE_SAMPLES
        if piece.block is None:
            self._waiting[lane] += _pictures(piece.samples, piece.pixels, piece.turns)
            return
        assert self._features is not None
        block = self._arriving[lane] or _ArrivingBlock(piece.block, self._features)
        block.add(piece)
        self._arriving[lane] = None if piece.turns else block
        if piece.turns:
            self._waiting[lane] += _pictures(block.samples, block.features(), piece.turns)


class _ArrivingBlock:
    """A block of which the pictures arrive piece by piece, and are encoded."""

    def __init__(self, block: Block, features: StreamFeatures) -> None:
        self._block, self._features = block, features
        self._writer = None if block.is_kept else features.writer(block.shard, block.first)
        self.samples: list[StreamedSample] = []

    def add(self, piece: _Piece) -> None:
        """The next of its pieces."""
        self.samples += piece.samples
        if self._writer is not None:
            good = [sample.name for sample in piece.samples if not sample.problem]
            self._writer.add(piece.pixels, good)

    def features(self) -> Tensor:
        """(n, P, F) of its good pictures, once all have arrived."""
        block = replace(self._block, samples=self.samples)
        return self._writer.finish(block) if self._writer else self._features.open(block)


def _pictures(
    samples: Sequence[StreamedSample], contents: Tensor, turns: Sequence[_Turn]
) -> Iterator[StreamPicture]:
    """Samples in their turn; `contents` are of the good ones."""
    rows = iter(contents)
    contents_of = [None if sample.problem else next(rows) for sample in samples]
    for number, passes, after in turns:
        sample = samples[number]
        content = contents_of[number]
        yield StreamPicture(sample.name, sample.captions, passes, after, content, sample.problem)
