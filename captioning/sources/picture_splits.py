"""Which picture goes into which split, so that no picture is in two.

Splits that a source has are kept. What it lacks is drawn from its training pictures by a hash of
the seed and the picture's bytes: identical pictures stay together, and adding pictures moves none
of those that were there.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

HELD_OUT = ("test", "validation")
"""The splits that training must not see, the more precious first."""


@dataclass(frozen=True)
class SplitRequest:
    """A picture that wants a split."""

    sha256: str
    """Of its bytes."""
    split: str | None
    """What the source says."""


def assign_splits(
    pictures: Sequence[SplitRequest], *, seed: int, held_out_fraction: float
) -> list[str]:
    """The split of each picture.

    The fraction is that of each held-out split which the source lacks; where it is above 0 and
    three different pictures can be divided, at least one falls to it.
    """
    present = {picture.split for picture in pictures}
    wanted = [split for split in HELD_OUT if split not in present]
    drawn = {
        picture.sha256: _draw(seed, picture.sha256)
        for picture in pictures
        if picture.split in (None, "train")
    }
    chosen: dict[str, str] = {}
    for sha256, number in drawn.items():
        for split in wanted:
            if number < held_out_fraction:
                chosen[sha256] = split
                break
            number -= held_out_fraction
    for split in wanted:
        rest = [sha256 for sha256 in drawn if sha256 not in chosen]
        if (
            held_out_fraction > 0
            and split not in chosen.values()
            and len(drawn) > 2
            and len(rest) > 1
        ):
            chosen[min(rest, key=drawn.__getitem__)] = split
    return [
        chosen.get(picture.sha256, "train") if picture.split in (None, "train") else picture.split
        for picture in pictures
    ]


def find_leaks(pictures: Sequence[SplitRequest], splits: Sequence[str]) -> dict[int, int]:
    """Pictures to leave out, by index, each with the index of its equal in a held-out split.

    Where a source has the same picture in two of its splits, test keeps it before validation, and
    validation before train.
    """
    kept: dict[str, int] = {}
    for split in (*HELD_OUT, "train"):
        for index, picture in enumerate(pictures):
            if splits[index] == split:
                kept.setdefault(picture.sha256, index)
    return {
        index: kept[picture.sha256]
        for index, picture in enumerate(pictures)
        if splits[kept[picture.sha256]] != splits[index]
    }


def _draw(seed: int, sha256: str) -> float:
    """A number from 0 up to 1 that only the seed and the picture decide."""
    digest = hashlib.sha256(f"{seed}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
