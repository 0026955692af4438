"""Where a run's steps come from: the trainer asks for an epoch, and knows no more of the data.

`PreparedSteps` deals a prepared split out by a plan an epoch. What else has the members of
`TrainingSteps` can stand in its place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from captioning.sources.records import Record
from captioning.store.views import EpochPictures, TrainingPictures
from captioning.system.runtime import Runtime
from dataset import CaptionDataset, Plan, Step, StepDataset, iterate_steps


class Epoch(Protocol):
    """The steps of one epoch."""

    def __len__(self) -> int:
        """How many there are."""

    def steps(self, first: int = 0, *, micro_batch_size: int = 0) -> Iterator[Step]:
        """Steps `first`, `first + 1`, ..., or this process's share of them.

        `micro_batch_size` is the captions of a batch at most (0 = all of a step in one).
        """

    def names(self, step: int) -> list[str]:
        """The pictures of a step, for a message."""


class TrainingSteps(Protocol):
    """The steps of a run."""

    def epoch(self, number: int) -> Epoch:
        """Epoch 0, 1, ..."""

    def position(self) -> str:
        """What a checkpoint keeps, besides epoch and step, to go on after the step given last.

        Every process asks at the same step.
        """


@dataclass(frozen=True)
class PreparedSteps:
    """A prepared split: each caption once an epoch, in an order of (seed, epoch)."""

    records: Sequence[Record]
    captions: CaptionDataset
    pictures: TrainingPictures
    runtime: Runtime
    batch_size: int
    seed: int
    captions_per_step: int = 0
    num_workers: int = 0
    """Processes that read pictures ahead of time, where that takes time."""

    def epoch(self, number: int) -> "PreparedEpoch":
        """The epoch as it is planned."""
        plan = self.captions.plan(
            self.batch_size,
            captions_per_step=self.captions_per_step,
            seed=self.seed,
            epoch=number,
        )
        seen = self.pictures.in_epoch(number)
        if seen.flipped is not None and seen.flipped.any():
            plan = self.captions.mirror(plan, seen.flipped)
        return PreparedEpoch(self, plan, seen)

    def position(self) -> str:
        """Nothing: a plan is a function of seed and epoch."""
        return ""


@dataclass(frozen=True)
class PreparedEpoch:
    """The steps of a plan."""

    whole: PreparedSteps
    plan: Plan
    seen: EpochPictures

    def __len__(self) -> int:
        return len(self.plan)

    def steps(self, first: int = 0, *, micro_batch_size: int = 0) -> Iterator[Step]:
        """The steps from `first` on, made ahead of time. `UserError` for an unreadable picture."""
        whole = self.whole
        steps = StepDataset(
            whole.captions,
            self.plan,
            self.seen.rows,
            micro_batch_size,
            whole.runtime.fair_share,
        )
        workers = whole.num_workers if self.seen.takes_time else 0
        return iterate_steps(steps, first=first, num_workers=workers)

    def names(self, step: int) -> list[str]:
        """File names of a step's pictures."""
        pictures = self.plan.pictures[self.plan.groups(step)]
        return [self.whole.records[picture].image.name for picture in pictures]
