"""Pictures a little otherwise each time that they are read: cropped, mirrored, in other light.

    augmentation = Augmentation("crop,flip,colour", seed=42, may_flip=[True, True, False])
    draws = augmentation.draws(epoch)
    image = draws.alter(2, image)          # of picture 2; never mirrored

All is a function of (seed, epoch, picture): nothing depends on batches, processes or on how often a
run was stopped. Hue stays as it is, because captions name colours.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

KINDS = ("crop", "flip", "colour")
SMALLEST_CROP = 0.5
"""Least share of a picture's area that a crop keeps."""
MOST_STRETCH = 4 / 3
"""Most by which a crop is wider or narrower than the picture is."""
MOST_COLOUR = 0.25
"""Most by which brightness, contrast and saturation are raised or lowered."""
DRAWN_NUMBERS = 8
"""For a picture, all for every kind, so that a kind draws the same with others and without."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Draws:
    """What becomes of each of N pictures."""

    boxes: Floats
    """(N, 4) left, top, right and bottom of the crop, as shares of width and height."""
    flipped: Flags
    """(N,) whether it is mirrored."""
    colours: Floats
    """(N, 3) factors of brightness, contrast and saturation."""

    def alter(self, number: int, image: Image.Image) -> Image.Image:
        """Picture `number` as it is to be read; its size changes with its crop."""
        box = self.boxes[number] * np.array(image.size * 2)
        left, top, right, bottom = box.round().astype(int).tolist()
        if (left, top, right, bottom) != (0, 0, *image.size):
            image = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        if self.flipped[number]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        light, contrast, saturation = self.colours[number].tolist()
        if (light, contrast, saturation) != (1, 1, 1):
            image = ImageEnhance.Brightness(image).enhance(light)
            image = ImageEnhance.Contrast(image).enhance(contrast)
            image = ImageEnhance.Color(image).enhance(saturation)
        return image

    def to_bytes(self) -> bytes:
        """All that decides what becomes of the pictures."""
        return self.boxes.tobytes() + self.flipped.tobytes() + self.colours.tobytes()


class Augmentation:
    """Draws, for each epoch, what becomes of each picture of a split."""

    def __init__(self, kinds: str, *, seed: int, may_flip: Sequence[bool]) -> None:
        """`kinds` are some of "crop,flip,colour"; `may_flip` says which pictures a mirror leaves
        true to their captions."""
        self._kinds = frozenset(kinds.split(","))
        self._seed, self._may_flip = seed, np.array(may_flip, bool)

    def draws(self, epoch: int) -> Draws:
        """What becomes of the pictures in `epoch`."""
        count = len(self._may_flip)
        numbers = np.random.default_rng([self._seed, epoch]).random((count, DRAWN_NUMBERS))
        return draws_of(self._kinds, numbers, self._may_flip)


def draws_of(kinds: Collection[str], numbers: Floats, may_flip: Flags) -> Draws:
    """What becomes of N pictures, by DRAWN_NUMBERS random numbers of 0 to 1 for each."""
    boxes = np.tile(np.array([0.0, 0.0, 1.0, 1.0]), (len(numbers), 1))
    if "crop" in kinds:
        boxes = _boxes(numbers[:, :4])
    flipped = may_flip & ("flip" in kinds) & (numbers[:, 4] < 0.5)
    strength = MOST_COLOUR if "colour" in kinds else 0.0
    return Draws(boxes, flipped, 1 + strength * (2 * numbers[:, 5:] - 1))


def _boxes(numbers: Floats) -> Floats:
    """(N, 4) crops of four numbers from 0 to 1: area, stretch, place across, place down.

    A crop is about as wide to its height as its picture is, so that an image processor which
    makes a square of it, by cutting or by squeezing, does to it what it does to the picture.
    """
    area = SMALLEST_CROP + (1 - SMALLEST_CROP) * numbers[:, 0]
    stretch = MOST_STRETCH ** (2 * numbers[:, 1] - 1)
    width = np.minimum(np.sqrt(area * stretch), 1.0)
    height = np.minimum(np.sqrt(area / stretch), 1.0)
    left, top = (1 - width) * numbers[:, 2], (1 - height) * numbers[:, 3]
    return np.stack([left, top, left + width, top + height], axis=1)
