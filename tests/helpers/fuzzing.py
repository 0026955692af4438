"""Damaged and hostile content, always the same, and what no reading of it may need."""

import copy
import math
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

CASES = [pytest.param(3, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)]
"""Cases of a kind, in the normal run and in the slow one."""
HANG_SECONDS = 60
HOSTILE: list[Any] = [
    *(None, True, -1, 0, 1, 2.5, 20_000, 10**6, 10**9, 2**71, 10**400, 1e308, math.nan),
    *("", "x", "a\0b", "\ud800", "last", "bert", "/dev/zero", "9" * 400 + "m"),
    *([], [1], [0] * 1000, {}, {"type": "Replace"}, {"height": 20_000, "width": 20_000}),
]


def damages(content: bytes, cases: int, name: str) -> Iterator[bytes]:
    """The content cut short, or with some bytes changed, in `cases` ways."""
    generator = random.Random(name)
    for case in range(cases):
        if case % 3 == 0:
            yield content[: generator.randrange(len(content))]
            continue
        damaged = bytearray(content)
        for place in generator.sample(range(len(content)), generator.choice((1, 1, 1, 4, 40))):
            # Small changes keep text text, so that they get far.
            damaged[place] ^= generator.choice((1, 2, 4, 8, generator.randrange(1, 256)))
        yield bytes(damaged)


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise where the block takes longer than any honest work."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


MOST_MEMORY = 2**30
"""Bytes that no refusal may need."""


@contextmanager
def little_memory() -> Iterator[None]:
    """The block needs no more than any honest work."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert after - before < MOST_MEMORY


def changed(values: dict[str, Any], cases: int, name: str) -> Iterator[dict[str, Any]]:
    """A JSON object with another value in one place, however deep, in `cases` ways."""
    generator = random.Random(f"changed {name}")
    for _ in range(cases):
        found = copy.deepcopy(values)
        part: Any = found
        while True:
            key = generator.choice(list(part) if isinstance(part, dict) else range(len(part)))
            if not isinstance(part[key], dict | list) or not part[key] or generator.random() < 0.4:
                break
            part = part[key]
        if generator.random() < 0.1:
            del part[key]
        else:
            part[key] = generator.choice(HOSTILE)
        yield found
