"""Something done before each step of a training, and a run that vanishes in the middle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import train
from dataset import Step
from tests.helpers.small_runs import arguments
from trainer import Trainer


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@contextmanager
def before_each_step(act: Callable[[Trainer, Step], object]) -> Iterator[None]:
    """Within the block `act` is called with the trainer and each step that is to be made."""
    original = Trainer._remaining

    def remaining(self: Trainer) -> Iterator[Step]:
        for step in original(self):
            act(self, step)
            yield step

    Trainer._remaining = remaining
    try:
        yield
    finally:
        Trainer._remaining = original


def run_killed(place: Path, after: int, **changes: object) -> None:
    """Train until just after the update of step `after`, and vanish."""

    def vanish(trainer: Trainer, step: Step) -> None:
        if trainer.state.step == after:
            raise Killed

    with before_each_step(vanish), pytest.raises(Killed):
        train.main(arguments(place, **changes))
