"""An encoder of a few weights that counts what it encodes, and pictures for it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIDE = 8


class SmallPreprocessor:
    """Resizes to a square; adds `brightness`, so that another one gives other pixels."""

    size = (SIDE, SIDE)

    def __init__(self, brightness: int = 0) -> None:
        self.brightness = brightness

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = np.asarray(image.resize((SIDE, SIDE))).astype(np.int64) + self.brightness
        return torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8)).permute(2, 0, 1)

    def behaviour(self) -> bytes:
        return bytes([self.brightness])


class SmallEncoder(nn.Module):
    """Four tokens of six numbers, each a sum over the pixels."""

    num_tokens, feature_dim = 4, 6
    name = "small"

    def __init__(self, seed: int = 0, *, brightness: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3 * SIDE * SIDE, 24, generator=generator))
        self.preprocessor = SmallPreprocessor(brightness)
        self.encoded = 0

    def fingerprint(self) -> str:
        return f"{self.weight.sum().item()} {self.preprocessor.brightness}"

    def forward(self, pixels: Tensor) -> Tensor:
        self.encoded += len(pixels)
        return (pixels.flatten(1).float() / 255 @ self.weight).view(-1, 4, 6)


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Pictures of noise in a few sizes, always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        shape = (10 + number % 3, 12, 3)
        path = folder / f"{number:04}.png"
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)
        paths.append(path)
    return paths
