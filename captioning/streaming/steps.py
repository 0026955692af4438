"""Training on a stream: steps of pictures that pass, with a position that resumes exactly.

A stream has no end. Each source is passed over again and again; which source the next picture
comes from is drawn by weight; the captions of a picture share a step, and a step is full when the
next picture's do not fit. Every process fills its own part of a step, from shards of its own.
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from captioning.sources.records import Record
from captioning.streaming.cache import StreamFeatures
from captioning.streaming.lanes import Position, lane_count, lanes_of, read_blocks
from captioning.streaming.reader import Preprocess, StreamPicture, StreamReader
from captioning.streaming.shards import StreamSource
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from captioning.system.terminal import one_line

Step = TypeVar("Step")
StepMaker = Callable[[Sequence[Record], Tensor, int, int, int], Step]
"""Makes a step of pictures with their captions, of their contents (B, ...), of the captions that
this process has of a step at most, and of the captions of a micro-batch at most (0 = all)."""
FEWEST_JUDGED = 1000
"""As many pictures are taken to have passed at least when the share of bad ones is judged."""
DRAWS = 1024
"""Sources drawn at a time."""
REMEMBERED_STEPS = 200
MOST_COUNT = 2**62
NOTED = frozenset(10**power for power in range(9))
"""Counts of bad pictures at which something is said."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """What decides the steps of a stream, besides its shards."""

    batch_size: int
    """Captions a step, over all processes."""
    steps_per_epoch: int
    seed: int
    captions_per_step: int
    """Captions of a picture that are trained on in one pass (0 = all)."""
    max_bad_fraction: float
    num_workers: int
    augmentation: frozenset[str] = frozenset()
    """Kinds by which pictures are altered."""


@dataclass(frozen=True)
class _Standing:
    """Where one process stands, besides its lanes."""

    drawn: int = 0
    """Pictures taken from all sources."""
    bad: int = 0
    turns: tuple[int, ...] = ()
    """Pictures taken of each source."""


@dataclass(frozen=True)
class _Saved:
    """What `position` gave."""

    lanes: list[list[Position]]
    """Of each source."""
    standings: list[_Standing]
    """Of each process."""


def _parsed(position: str, sources: int) -> _Saved:
    """What `position` gave. Raises `UserError` for what it cannot have given."""
    try:
        values = json.loads(position)
        saved = _Saved(
            [[Position(*one) for one in lanes] for lanes in values["lanes"]],
            [_Standing(**one | {"turns": tuple(one["turns"])}) for one in values["standings"]],
        )
        counts = [count for lanes in saved.lanes for lane in lanes for count in astuple(lane)]
        for standing in saved.standings:
            counts += [standing.drawn, standing.bad, *standing.turns]
        turns = [len(standing.turns) for standing in saved.standings]
        if not all(type(count) is int and 0 <= count < MOST_COUNT for count in counts):
            raise ValueError("a count is none")
        if {len(saved.lanes), *turns} != {sources} or not turns or not all(saved.lanes):
            raise ValueError("it is of other sources")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"the checkpoint is damaged: its data_position is none ({str(error)[:80]}). Go on from "
            "another one."
        ) from None
    return saved


class StreamSteps(Generic[Step]):
    """The steps of a stream, from a position on."""

    def __init__(
        self,
        sources: Sequence[StreamSource],
        preprocess: Preprocess,
        make_step: StepMaker[Step],
        runtime: Runtime,
        settings: StreamSettings,
        *,
        held_out: frozenset[bytes] = frozenset(),
        features: StreamFeatures | None = None,
        position: str = "",
    ) -> None:
        """`features` keeps those of what passes, if they are kept; `position` is what `position()`
        once gave, of as many processes or of others."""
        self._features = features
        self._make_step, self._runtime, self._settings = make_step, runtime, settings
        self._samples = 0
        weights = np.array([source.weight for source in sources])
        self._bounds = np.cumsum(weights / weights.sum())
        saved = _parsed(position, len(sources)) if position else None
        self._standing = self._own_standing(saved, len(sources))
        self._readers = [
            self._reader(number, source, saved, preprocess, held_out)
            for number, source in enumerate(sources)
        ]
        self._last: tuple[int, list[StreamPicture]] = (-1, [])
        self._names: deque[tuple[int, list[str]]] = deque(maxlen=REMEMBERED_STEPS)

    def sampling(self, samples: int) -> Self:
        """From now on so many captions of each picture are to be sampled."""
        self._samples = samples
        return self

    def length(self, epoch: int) -> int:
        """Steps of an epoch, which is a stretch of the stream between two validations."""
        return self._settings.steps_per_epoch

    def iterate(self, epoch: int, first: int = 0, *, micro_batch_size: int = 0) -> Iterator[Step]:
        """The steps of an epoch from `first` on, which must be the next, or the last given."""
        for step in range(first, self._settings.steps_per_epoch):
            yield self.step(epoch * self._settings.steps_per_epoch + step, micro_batch_size)

    def names(self, epoch: int, step: int) -> list[str]:
        """The pictures of one of the last steps of this process, as shard and key."""
        number = epoch * self._settings.steps_per_epoch + step
        return next((names for given, names in self._names if given == number), [])

    def position(self) -> str:
        """Where every process stands after the step given last."""
        lanes = [
            self._runtime.gather([list(astuple(one)) for one in reader.positions])
            for reader in self._readers
        ]
        turns = tuple(reader.turns for reader in self._readers)
        standings = self._runtime.gather([asdict(replace(self._standing, turns=turns))])
        return json.dumps({"lanes": lanes, "standings": standings})

    def step(self, number: int, micro_batch_size: int) -> Step:
        """Step `number` of the run: the one given last once more, or the next."""
        given, pictures = self._last
        if number != given:
            pictures = self._fill()
            self._last = (number, pictures)
            self._names.append((number, [picture.name for picture in pictures]))
        return self._step_of(pictures, micro_batch_size)

    @property
    def _share(self) -> int:
        """Captions of a step that this process takes."""
        rank, processes = self._runtime.rank, self._runtime.world_size
        total = self._settings.batch_size
        return total * (rank + 1) // processes - total * rank // processes

    def _own_standing(self, saved: "_Saved | None", sources: int) -> _Standing:
        """This process's standing of those that were saved, by as many processes or by others."""
        fresh = _Standing(turns=(0,) * sources)
        if self._settings.batch_size < self._runtime.world_size:
            raise UserError(
                f"BATCH_SIZE is {self._settings.batch_size}; {self._runtime.world_size} processes "
                "need a caption each."
            )
        if saved is None:
            return fresh
        found = saved.standings
        if len(found) == self._runtime.world_size:
            return found[self._runtime.rank]
        if not self._runtime.is_main:
            return fresh
        return replace(fresh, drawn=sum(s.drawn for s in found), bad=sum(s.bad for s in found))

    def _reader(
        self,
        number: int,
        source: StreamSource,
        saved: "_Saved | None",
        preprocess: Preprocess,
        held_out: frozenset[bytes],
    ) -> StreamReader:
        """The lanes of a source that are this process's. Lanes that were saved stay as they are."""
        count = lane_count(source, self._runtime.world_size)
        positions = [Position()] * count
        if saved is not None:
            positions = saved.lanes[number]
            count = len(positions)
        if count < self._runtime.world_size:
            raise UserError(
                f"STREAM: this run reads {source.text} in {count} lanes, too few for "
                f"{self._runtime.world_size} processes. Go on with {count} at most."
            )
        seed = (self._settings.seed, number)
        read = self._features.kept.read if self._features else read_blocks
        lanes = lanes_of(source, count=count, seed=seed, held_out=held_out, read=read)
        return StreamReader(
            self._runtime.shared(lanes),
            self._runtime.shared(positions),
            preprocess,
            turns=self._standing.turns[number],
            num_workers=-(-self._settings.num_workers // len(self._bounds)),
            augmentation=self._settings.augmentation,
            features=self._features,
        )

    def _fill(self) -> list[StreamPicture]:
        """The pictures of the next step: good ones, while their captions fit."""
        pictures: list[StreamPicture] = []
        left = self._share
        while True:
            reader = self._drawn_reader()
            picture = reader.next()
            if picture.problem:
                self._count_bad(reader.take())
                continue
            captions = self._captions_of(picture)
            if len(captions) > left:
                return pictures
            reader.take()
            left -= len(captions)
            self._standing = replace(self._standing, drawn=self._standing.drawn + 1)
            pictures.append(replace(picture, captions=captions))

    def _drawn_reader(self) -> StreamReader:
        """The source of the next picture, a function of seed, process and pictures so far."""
        if len(self._readers) == 1:
            return self._readers[0]
        part, place = divmod(self._standing.drawn, DRAWS)
        seed = [self._settings.seed, len(self._bounds), self._runtime.rank, part]
        draw = np.random.default_rng(seed).random(DRAWS)[place]
        return self._readers[int(np.searchsorted(self._bounds, draw, side="right"))]

    def _captions_of(self, picture: StreamPicture) -> tuple[str, ...]:
        """The captions of a picture that this pass trains on; others are for the next passes."""
        count = min(self._settings.captions_per_step or self._share, self._share)
        total = len(picture.captions)
        if total <= count:
            return picture.captions
        return tuple(picture.captions[(picture.passes * count + i) % total] for i in range(count))

    def _count_bad(self, picture: StreamPicture) -> None:
        bad = self._standing.bad + 1
        self._standing = replace(self._standing, bad=bad)
        if bad in NOTED:
            many = "picture" if bad == 1 else "pictures"
            print(
                f"STREAM: {bad:,} {many} could not be used so far; the last is "
                f"{one_line(f'{picture.name}: {picture.problem}')}",
                file=sys.stderr,
            )
        passed = self._standing.drawn + bad
        if bad > self._settings.max_bad_fraction * max(passed, FEWEST_JUDGED):
            raise UserError(
                f"STREAM: {bad:,} of the {passed:,} pictures that have passed cannot be used, more "
                f"than MAX_BAD_FRACTION {self._settings.max_bad_fraction:g} allows; the last is "
                f"{picture.name}: {picture.problem.rstrip('.')}. Mend the shards, or raise it."
            )

    def _step_of(self, pictures: list[StreamPicture], micro_batch_size: int) -> Step:
        records = [Record(Path(picture.name), picture.captions) for picture in pictures]
        contents = [picture.content for picture in pictures if picture.content is not None]
        content = torch.stack(contents)
        return self._make_step(records, content, self._share, micro_batch_size, self._samples)


def stream_fingerprint(sources: Sequence[StreamSource]) -> str:
    """Hash of what a position refers to: the sources and the names of their shards."""
    names = [
        [source.text, *(PurePath(shard).name for shard in source.shards)] for source in sources
    ]
    return sha256(json.dumps(names).encode()).hexdigest()
