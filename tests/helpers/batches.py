"""Captions of made-up words, batches and steps of them, and a model for their vocabulary."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captioning.sources.records import Record
from dataset import Batch, CaptionDataset, Step, StepDataset
from model import CaptionModel
from tests.helpers.models import FEATURES, PATCHES, make_model
from tokenizer import train_tokenizer

TEXT = "a dog cat runs sits on the red green grass sand near big small house"
WORDS = TEXT.split()
TOKENIZER = train_tokenizer([TEXT] * 3, 500)


class PictureNumbers:
    """Each picture's content is its own number."""

    def rows(self, indices: Tensor) -> Tensor:
        """(B,) -> (B, 1, 1)."""
        return indices.float().view(-1, 1, 1)


def make_captions(counts: Sequence[int], seed: int = 0) -> tuple[list[Record], CaptionDataset]:
    """Pictures with `counts[i]` captions of one to eight words, and the data set of them."""
    generator = np.random.default_rng(seed)
    records = [
        Record(
            Path(f"{picture}.jpg"),
            tuple(
                " ".join(generator.choice(WORDS, generator.integers(1, 9))) for _ in range(count)
            ),
        )
        for picture, count in enumerate(counts)
    ]
    return records, CaptionDataset(records, TOKENIZER, 12)


class NoiseFeatures:
    """Features of up to 50 pictures, always the same noise."""

    def rows(self, indices: Tensor) -> Tensor:
        """(B,) -> (B, PATCHES, FEATURES)."""
        table = torch.randn(50, PATCHES, FEATURES, generator=torch.Generator().manual_seed(3))
        return table[indices]


def captions_of(batch: Batch) -> list[tuple[int, list[int], list[int]]]:
    """(picture, inputs, targets) of each caption, read back from the grid."""
    per_picture = batch.packing.rows // len(batch.picture_rows)
    slots = batch.packing.slots
    assert slots is not None
    found: dict[int, tuple[list[int], list[int]]] = {}
    for slot, position, token, target in zip(
        slots.tolist(),
        batch.positions.tolist(),
        batch.inputs.tolist(),
        batch.targets.tolist(),
        strict=True,
    ):
        row, place = divmod(slot, batch.packing.length)
        inputs, targets = found.setdefault(row, ([], []))
        assert place == position == len(inputs)
        inputs.append(token)
        targets.append(target)
    return [(int(batch.picture_rows[row // per_picture]), *found[row]) for row in sorted(found)]


def make_step(micro_batch_size: int = 0) -> Step:
    """A step of all 20 captions of six pictures."""
    _, captions = make_captions([5, 3, 1, 4, 5, 2])
    plan = captions.plan(20, seed=1)
    step = StepDataset(captions, plan, NoiseFeatures(), micro_batch_size)[0]
    assert isinstance(step, Step)
    return step


def vocabulary_model() -> CaptionModel:
    """A model for TOKENIZER's words and for NoiseFeatures."""
    return make_model(vocabulary=len(TOKENIZER), heads=2)
