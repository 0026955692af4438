"""What turns row numbers of pictures into what the model reads: features, or pixels.

`FeatureStore` takes rows from a file that `building.py` has written, `LivePictures` decodes
picture files when asked. Both have `rows`; neither holds more of a data set in memory the larger it
is, unless a store is told to hold its rows on the device.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioning.sources.images import load_image
from captioning.store.files import StoreContent

HELD_SHARE = 0.5
"""Share of the device's free memory that held rows may take, if nothing else is said."""
COPIED_ROWS = 256
"""Rows copied to the device at a time."""

Alter = Callable[[int, Image.Image], Image.Image]
"""What is done to picture 0, 1, ... before it is prepared."""


class PictureRows(Protocol):
    """What turns row numbers of pictures into what the model reads."""

    def rows(self, indices: Tensor) -> Tensor:
        """(B,) -> (B, P, F) features, or (B, 3, H, W) uint8 pixels."""


class FeatureStore:
    """The rows of a finished store, memory-mapped or held on the device."""

    def __init__(self, path: Path, content: StoreContent, device: torch.device) -> None:
        self.path, self._content = path, content
        self.dtype: torch.dtype = getattr(torch, content.dtype)
        self.shape = (content.rows, *content.row_shape)
        self.device = device
        # Raw bytes: numpy has no bfloat16. An empty file cannot be mapped.
        raw = (content.rows, content.row_bytes)
        self._map = np.memmap(path, np.uint8, "r", shape=raw) if all(raw) else np.empty(raw, "u1")
        self._held: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the file anew; it is not sent the rows.
        return FeatureStore, (self.path, self._content, self.device)

    def __len__(self) -> int:
        return self.shape[0]

    def on_cpu(self) -> "FeatureStore":
        """The same rows, given on the CPU."""
        return FeatureStore(self.path, self._content, torch.device("cpu"))

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self._map.nbytes

    def rows(self, indices: Tensor) -> Tensor:
        """(B,) int64 -> (B, P, F) features or (B, 3, H, W) uint8 pixels, on the device.

        Indices may be on the CPU or, when rows are held, on the device. Nothing waits for it.
        """
        if indices.device.type == "cpu" and indices.numel():
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= len(self):
                raise IndexError(f"rows {low} to {high} of a store of {len(self)} rows")
        if self._held is not None:
            return self._held.index_select(0, indices.to(self.device, non_blocking=True))
        return self._read(indices).to(self.device, non_blocking=True)

    def hold_on_device(self, limit_bytes: int | None = None) -> bool:
        """Move all rows to the device if they fit into `limit_bytes`; gives whether they did.

        The limit is by default half of the device's free memory; on a CPU it is 0, because the page
        cache holds the file's rows already and gives them back when memory is short.
        """
        if self._held is not None:
            return True
        if limit_bytes is None:
            limit_bytes = int(_free_bytes(self.device) * HELD_SHARE)
        if self.nbytes > limit_bytes:
            return False
        held = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for start in range(0, len(self), COPIED_ROWS):
            part = torch.arange(start, min(start + COPIED_ROWS, len(self)))
            held[start : start + len(part)].copy_(self._read(part), non_blocking=True)
        self._held = held
        return True

    def _read(self, indices: Tensor) -> Tensor:
        """Rows from the map, in memory from which a GPU copies by itself."""
        is_pinned = self.device.type == "cuda"
        raw = torch.empty(len(indices), self._map.shape[1], dtype=torch.uint8, pin_memory=is_pinned)
        # mode: numpy checks bounds by a buffer of its own, which would be a second copy.
        np.take(self._map, indices.cpu().numpy(), axis=0, out=raw.numpy(), mode="clip")
        return raw.view(self.dtype).view(-1, *self.shape[1:])


class LivePictures:
    """Pictures that are decoded when asked for, in worker processes too (it can be pickled)."""

    def __init__(
        self,
        images: Sequence[Path],
        preprocess: Callable[[Image.Image], Tensor],
        alter: Alter | None = None,
    ) -> None:
        """`preprocess` makes uint8 pixels (3, H, W) of an RGB picture, after `alter`."""
        self._images = [str(image) for image in images]
        self._preprocess, self._alter = preprocess, alter

    def __len__(self) -> int:
        return len(self._images)

    def rows(self, indices: Tensor) -> Tensor:
        """(B,) int64 -> (B, 3, H, W) uint8 pixels, on the CPU; `UserError` names a bad picture."""
        return torch.stack([self._preprocess(self._image(index)) for index in indices.tolist()])

    def altered(self, alter: Alter) -> "LivePictures":
        """The same pictures, altered when they are read."""
        return LivePictures([Path(image) for image in self._images], self._preprocess, alter)

    def _image(self, index: int) -> Image.Image:
        image = load_image(self._images[index])
        return self._alter(index, image) if self._alter else image


def _free_bytes(device: torch.device) -> int:
    """Memory that a device other than the CPU still has for us."""
    if device.type == "cpu":
        return 0
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
