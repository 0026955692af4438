"""The endless order of a stream: which sample comes next, as a function of seed and position.

A process reads each source in a few lanes at once. A lane has shards of its own, which no other
lane of any process has, and passes over them again and again, each time in another order. Within a
shard it reads a block of samples at a time and shuffles the block. A position is four numbers; a
lane that goes on from one reads its block anew and gives, bit for bit, what it would have given.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from captioning.streaming.shards import StreamedSample, StreamSource, read_samples
from captioning.system.errors import UserError
from captioning.vision.augmentation import DRAWN_NUMBERS

LANES = 24
"""Lanes of a source in a process, where there are as many shards."""
BLOCK_SAMPLES, BLOCK_BYTES = 256, 2**25
"""A block ends with either."""


@dataclass(frozen=True)
class Position:
    """What a lane has done."""

    passes: int = 0
    shards: int = 0
    """Of the running pass."""
    blocks_end: int = 0
    """Samples of the running shard, whole blocks."""
    taken: int = 0
    """Samples of the running block, in its shuffled order."""


@dataclass(frozen=True)
class Block:
    """Samples that lie one after another in a shard, and are shuffled together."""

    shard: str
    first: int
    """Number of the first of them in the shard."""
    samples: Sequence[StreamedSample] = field(repr=False)
    ends_shard: bool
    is_kept: bool = False
    """Whether features of its pictures are kept, so that it comes without the pictures."""


@dataclass(frozen=True)
class LaneSample:
    """A sample as a lane gives it."""

    sample: StreamedSample
    place: int
    """In its block, as it lies in the shard."""
    numbers: tuple[float, ...]
    """DRAWN_NUMBERS random ones of 0 to 1, for what is done to its picture in this pass."""
    passes: int
    """Passes that the lane had made before."""
    after: Position
    """Where the lane stands once it is taken."""


def read_blocks(shard: str, first: int = 0) -> Iterator[Block]:
    """The blocks of a shard from sample `first` on, with which one must begin."""
    samples: list[StreamedSample] = []
    size = 0
    for sample in read_samples(shard, first=first):
        if len(samples) == BLOCK_SAMPLES or size >= BLOCK_BYTES:
            yield Block(shard, first, samples, ends_shard=False)
            first += len(samples)
            samples, size = [], 0
        samples.append(sample)
        size += len(sample.data)
    if samples:
        yield Block(shard, first, samples, ends_shard=True)


ReadBlocks = Callable[[str, int], Iterator[Block]]


@dataclass(frozen=True)
class Lane:
    """Shards that are read one after another, for ever."""

    number: int
    """Among the lanes of all processes."""
    shards: tuple[str, ...]
    seed: tuple[int, ...]
    held_out: Collection[bytes] = frozenset()
    """SHA-256 of pictures that are not to be trained on."""
    read: ReadBlocks = read_blocks

    def samples(self, position: Position = Position()) -> Iterator[LaneSample]:
        """What comes after `position`, for ever. `UserError` where there is nothing to train on."""
        for _, samples in self.blocks(position):
            yield from samples

    def blocks(self, position: Position = Position()) -> Iterator[tuple[Block, list[LaneSample]]]:
        """The same, block by block: each with those of its samples that are given, shuffled."""
        while True:
            order = self._random(1, position.passes).permutation(len(self.shards))
            has_given = position != Position(position.passes)
            for number in order[position.shards :]:
                for block, samples in self._shard(int(number), position):
                    has_given |= bool(samples)
                    yield block, samples
                position = Position(position.passes, position.shards + 1)
            if not has_given:
                raise UserError(
                    f"STREAM: there is nothing to train on in {_listed(self.shards)}: every "
                    "picture is held out, or there is none. Give more shards."
                )
            position = Position(position.passes + 1)

    def _shard(self, number: int, position: Position) -> Iterator[tuple[Block, list[LaneSample]]]:
        passes, shards, taken = position.passes, position.shards, position.taken
        for block in self.read(self.shards[number], position.blocks_end):
            random = self._random(2, passes, number, block.first)
            order = random.permutation(len(block.samples)).tolist()
            numbers = random.random((len(order), DRAWN_NUMBERS)).tolist()
            given = [
                LaneSample(
                    block.samples[place],
                    place,
                    tuple(numbers[place]),
                    passes,
                    after=Position(passes, shards, block.first, turn),
                )
                for turn, place in enumerate(order[taken:], start=taken + 1)
                if block.samples[place].digest not in self.held_out
            ]
            yield block, given
            taken = 0

    def _random(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([*self.seed, self.number, *place])


def lanes_of(
    source: StreamSource,
    *,
    count: int,
    seed: Sequence[int],
    held_out: Collection[bytes],
    read: ReadBlocks = read_blocks,
) -> list[Lane]:
    """`count` lanes that share the shards of a source out, none twice and none left."""
    order = np.random.default_rng([*seed]).permutation(len(source.shards))
    shards = [source.shards[number] for number in order]
    return [
        Lane(number, tuple(shards[number::count]), tuple(seed), held_out, read)
        for number in range(count)
    ]


def lane_count(source: StreamSource, processes: int) -> int:
    """Lanes of a source over all processes. Raises `UserError` for fewer shards than processes."""
    shards = len(source.shards)
    if shards < processes:
        raise UserError(
            f"STREAM: {source.text} has {shards} shards for {processes} processes; each process "
            f"needs one of its own. Write it as more shards, or start {shards} processes."
        )
    return min(LANES, shards // processes) * processes


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other shards"
