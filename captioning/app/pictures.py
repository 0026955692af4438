"""Small copies of pictures, as JPEG: nothing else of a file is ever given out.

A browser keeps them by an address that changes with the file, and so do we, as many as fit.
"""

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from captioning.sources.images import load_image

SIDES = {"small": 360, "large": 1400}
"""Longer sides in pixels."""
QUALITY = {"small": 80, "large": 88}
MOST_BYTES = 2**26
"""Of copies that are kept."""


class SmallCopies:
    """Copies of files, made when they are asked for."""

    def __init__(self) -> None:
        """None at first."""
        self._kept: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def jpeg(self, path: Path, size: str) -> bytes:
        """A picture `small` or `large`. Raises `UserError` for what cannot be read."""
        key = (str(path), size, changed_at(path))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        picture = load_image(path, name=path.name, side=SIDES[size])
        picture.thumbnail((SIDES[size], SIDES[size]), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=QUALITY[size])
        content = buffer.getvalue()
        with self._lock:
            self._bytes += len(content) - len(self._kept.pop(key, b""))
            self._kept[key] = content
            while self._bytes > MOST_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return content


def changed_at(path: Path) -> int:
    """When a file was changed last, in nanoseconds; 0 where it is gone."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
