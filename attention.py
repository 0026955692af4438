"""What each word of a caption looked at: cross-attention, as heat over the picture.

The caption is fed back once. The heat of a token is the attention with which it was chosen, that is
of the position before it, averaged over heads and layers; a word's is the mean over its tokens.
Prefix tokens of the encoder (class token, registers) have no place in the picture and are left out,
and the rest is not scaled up again: `WordAttention.on_picture` tells how much of it is left.
Weights are computed here only; search never asks for them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from captioning import CaptionPipeline
from packing import Packing
from preprocessing import Region

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class WordAttention:
    """Where the model looked when it chose a word."""

    text: str
    grid: Floats
    """(rows, columns) attention on each patch that the encoder saw."""
    region: Region
    """Where these patches lie in the picture."""

    @property
    def on_picture(self) -> float:
        """Share of the attention that went to patches rather than to prefix tokens, 0 to 1."""
        return float(self.grid.sum())

    def heat(self, size: tuple[int, int]) -> Floats:
        """(height, width) over the whole picture of `size` (width, height), largest value 1.

        Patches are blended into one another; what the encoder did not see (cropped away) is 0.
        """
        width, height = size
        left, top = round(self.region.left), round(self.region.top)
        right, bottom = round(self.region.right), round(self.region.bottom)
        whole = np.zeros((height, width), np.float32)
        patches = Image.fromarray(self.grid.astype(np.float32))
        spread = np.asarray(
            patches.resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.BICUBIC)
        ).clip(min=0)
        rows = slice(max(top, 0), min(bottom, height))
        columns = slice(max(left, 0), min(right, width))
        whole[rows, columns] = spread[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        return whole / max(float(whole.max()), 1e-12)

    def peak(self, size: tuple[int, int]) -> tuple[int, int]:
        """(x, y) in a picture of `size` (width, height) of the largest heat."""
        heat = self.heat(size)
        return int(heat.argmax()) % size[0], int(heat.argmax()) // size[0]


@torch.inference_mode()
def attend(
    pipeline: CaptionPipeline, features: Tensor, ids: Sequence[Sequence[int]]
) -> list[Floats]:
    """Attention (tokens, P) on the features (B, P, F) of each picture with its caption's `ids`.

    `ids` are the caption's own, without <START> and <END>; averaged over layers and heads.
    """
    longest = max((len(one) for one in ids), default=0)
    if longest == 0:
        return [np.zeros((0, features.shape[1]), np.float32) for _ in ids]
    start, pad = pipeline.tokenizer.start_id, pipeline.tokenizer.pad_id
    # Position i reads token i - 1 and chooses token i.
    rows = [[start, *one[:-1]] if one else [start] for one in ids]
    inputs = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    positions = torch.arange(longest).repeat(len(rows))
    device = pipeline.runtime.device
    weights: list[Tensor] = []
    with pipeline.runtime.autocast():
        pipeline.model.decoder(
            inputs.flatten().to(device),
            positions.to(device),
            Packing(len(rows), longest),
            pipeline.model.read(features),
            weights=weights,
        )
    mean = torch.stack(weights).float().mean((0, 2)).cpu().numpy()  # (B, T, P)
    return [mean[number, : len(one)] for number, one in enumerate(ids)]


def word_attention(
    pipeline: CaptionPipeline, ids: Sequence[int], weights: Floats, image_size: tuple[int, int]
) -> list[WordAttention]:
    """The words of a caption with their heat, from its `attend` weights (tokens, P)."""
    encoder = pipeline.encoder
    region = encoder.picture_region(image_size)
    patches = weights[:, encoder.num_prefix_tokens :].reshape(-1, *encoder.grid)
    return [
        WordAttention(word.text, patches[word.start : word.stop].mean(0), region)
        for word in pipeline.tokenizer.words(ids)
    ]


def draw_strip(
    image: Image.Image, words: Sequence[WordAttention], path: str | os.PathLike[str]
) -> None:
    """A PNG: the picture, then the picture under each word's heat, the word above it."""
    tile, margin, title = 224, 10, 30
    scale = tile / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    small = image.resize(size, Image.Resampling.LANCZOS)
    tiles = [("", small)]
    tiles += [(word.text, overlay(small, word.heat(image.size))) for word in words]
    columns = min(len(tiles), 6)
    rows = -(-len(tiles) // columns)
    sheet = Image.new(
        "RGB",
        (
            columns * (size[0] + margin) + margin,
            rows * (size[1] + title + margin) + margin,
        ),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=17)
    for number, (text, picture) in enumerate(tiles):
        row, column = divmod(number, columns)
        x = margin + column * (size[0] + margin)
        y = margin + row * (size[1] + title + margin)
        draw.text((x + size[0] / 2, y + title / 2), text, "black", font, anchor="mm")
        sheet.paste(picture, (x, y + title))
    beside = Path(f"{os.fspath(path)}.tmp")
    sheet.save(beside, format="PNG")
    os.replace(beside, path)


def overlay(image: Image.Image, heat: Floats) -> Image.Image:
    """The picture, pale where nothing was looked at and warm where much was."""
    spread = Image.fromarray(heat).resize(image.size, Image.Resampling.BILINEAR)
    strength = np.asarray(spread).clip(0, 1)[..., None]
    pixels = np.asarray(image.convert("RGB"), np.float32)
    dimmed = pixels * (0.35 + 0.65 * strength)
    warm = np.array([255.0, 96.0, 0.0], np.float32)
    mixed = dimmed * (1 - 0.35 * strength) + warm * 0.35 * strength
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
