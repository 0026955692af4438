"""What training reads of each picture, epoch by epoch: as it is, altered, or one of several views.

    pictures = TrainingPictures(store, seed=42, augmentation=augmentation)
    seen = pictures.in_epoch(3)
    seen.rows.rows(torch.tensor([5, 0]))     # features or pixels of pictures 5 and 0
    seen.flipped                             # which are mirrored, so that their captions are too

A function of (seed, epoch, picture). Validation reads the plain rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captioning.store.rows import FeatureStore, LivePictures
from captioning.vision.augmentation import Augmentation, Draws

Rows = FeatureStore | LivePictures


class AlteredPixels:
    """Stored pixels, altered when they are read, on the CPU and in worker processes too."""

    def __init__(self, store: FeatureStore, draws: Draws) -> None:
        self._store, self._draws = store.on_cpu(), draws

    def rows(self, indices: Tensor) -> Tensor:
        """(B,) int64 -> (B, 3, H, W) uint8 pixels."""
        rows = self._store.rows(indices)
        return torch.stack(
            [self._altered(number, row) for number, row in zip(indices.tolist(), rows, strict=True)]
        )

    def _altered(self, number: int, pixels: Tensor) -> Tensor:
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        found = self._draws.alter(number, image)
        if found.size != image.size:
            found = found.resize(image.size, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(found)).permute(2, 0, 1)


class MixedViews:
    """Rows of several stores of the same pictures, each picture's from the store chosen for it."""

    def __init__(self, views: Sequence[FeatureStore], chosen: NDArray[np.int64]) -> None:
        self._views, self._chosen = views, torch.from_numpy(chosen)

    def rows(self, indices: Tensor) -> Tensor:
        """(B,) int64 -> (B, P, F) features, on the device."""
        chosen = self._chosen[indices]
        places = [torch.nonzero(chosen == number).flatten() for number in range(len(self._views))]
        parts = [
            view.rows(indices[place])
            for view, place in zip(self._views, places, strict=True)
            if len(place)
        ]
        rows = torch.cat(parts)
        back = torch.cat(places).argsort().to(rows.device)
        return rows.index_select(0, back)


@dataclass(frozen=True)
class EpochPictures:
    """What one epoch reads."""

    rows: FeatureStore | LivePictures | AlteredPixels | MixedViews
    flipped: NDArray[np.bool_] | None = None
    """(N,) which pictures are mirrored; None where none is."""

    @property
    def takes_time(self) -> bool:
        """Whether worker processes had better read the rows ahead of time."""
        return isinstance(self.rows, LivePictures | AlteredPixels)


@dataclass(frozen=True)
class TrainingPictures:
    """The pictures of a split that is trained on."""

    plain: Rows
    """As they are: features, pixels, or picture files."""
    seed: int = 0
    augmentation: Augmentation | None = None
    """What alters pixels and picture files."""
    views: tuple[FeatureStore, ...] = ()
    """Features of altered pictures, beside the plain ones."""
    view_draws: tuple[Draws, ...] = ()
    """What was done to the pictures of each view."""
    early: FeatureStore | None = None
    """Features of the encoder as it is before it is trained."""
    start_epoch: int = 0
    """From this epoch on it is trained."""

    @property
    def stores(self) -> list[Rows]:
        """What is read as it is stored, in the order in which it is read."""
        early = [self.early] if self.early is not None else []
        return early + ([] if self.augmentation else [self.plain, *self.views])

    def in_epoch(self, number: int) -> EpochPictures:
        """What epoch 0, 1, ... reads."""
        if self.early is not None and number < self.start_epoch:
            return EpochPictures(self.early)
        if self.views:
            return self._mixed(number)
        if self.augmentation is None:
            return EpochPictures(self.plain)
        draws = self.augmentation.draws(number)
        if isinstance(self.plain, LivePictures):
            return EpochPictures(self.plain.altered(draws.alter), draws.flipped)
        return EpochPictures(AlteredPixels(self.plain, draws), draws.flipped)

    def _mixed(self, epoch: int) -> EpochPictures:
        assert isinstance(self.plain, FeatureStore)
        generator = np.random.default_rng([self.seed, epoch])
        chosen = generator.integers(len(self.views) + 1, size=len(self.plain))
        flipped = np.zeros(len(chosen), bool)
        for number, draws in enumerate(self.view_draws, start=1):
            flipped |= draws.flipped & (chosen == number)
        return EpochPictures(MixedViews((self.plain, *self.views), chosen), flipped)
