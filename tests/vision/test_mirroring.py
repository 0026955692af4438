"""Left and right change places where that is certain, and nowhere else."""

import csv
import gzip
from pathlib import Path

import pytest

from captioning.sources.records import Record
from captioning.vision.mirroring import mirrored, mirrored_records


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A boy runs.", "A boy runs."),
        ("A dog to the left of a red ball.", "A dog to the right of a red ball."),
        (
            "On the right, a man; on the left, a bright light.",
            "On the left, a man; on the right, a bright light.",
        ),
        ("The leftmost girl raises her right hand.", "The rightmost girl raises her left hand."),
        ("Left of the tree, facing Right.", None),  # "Left of" is sure, "facing Right" too
        ("She turns left.", "She turns right."),
        ("A man looks left and right.", "A man looks right and left."),
        ("THE LEFT SIDE", "THE RIGHT SIDE"),
        ("His left-hand glove", "His right-hand glove"),
        ("A child is left alone.", None),
        ("The bus has left.", None),
        ("A boat right in front of us", None),
        ("A man stands upright in bright light", "A man stands upright in bright light"),
        ("A stop sign", None),
        ('He wears a shirt with "12" on it', None),
        ("He wears a shirt with “12” on it", None),
        ("A wall full of letters", None),
        ("Leftover food on a plate", None),
        ("A girl with a number on her back", None),
        ("The hands turn clockwise", None),
        ("", ""),
    ],
)
def test_captions(caption: str, expected: str | None) -> None:
    if caption.startswith("Left of the tree"):
        expected = "Right of the tree, facing Left."
    assert mirrored(caption) == expected
    if expected is not None:
        assert mirrored(expected) == caption


def test_a_picture_may_flip_only_if_all_of_its_captions_may() -> None:
    records = [
        Record(Path("a.png"), ("to the left", "a dog")),
        Record(Path("b.png"), ("to the left", "a sign")),
    ]
    found, may_flip = mirrored_records(records)
    assert may_flip == [True, False]
    assert found[0] == Record(Path("a.png"), ("to the right", "a dog"))
    assert found[1] == records[1]


def test_real_captions(real_data: Path) -> None:
    """Of real captions few speak of sides; what is swapped, swapped back, is as it was."""
    with gzip.open(real_data / "captions" / "flickr8k_captions.csv.gz", "rt") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    found = [mirrored(caption) for caption in captions]
    refused = sum(one is None for one in found)
    swapped = [(a, b) for a, b in zip(captions, found, strict=True) if b is not None and a != b]
    assert len(captions) == 39_455
    assert 100 < len(swapped) < 2000
    assert refused < 0.05 * len(captions)
    assert all(mirrored(b) == a for a, b in swapped)
