"""Which pictures a report shows, and how they are embedded: small WebP and heat as bytes.

Reads picture files; writes nothing. Everything comes back as text that fits into an HTML attribute.
"""

import base64
import io
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from captioning.sources.images import load_image
from captioning.sources.records import CaptionedPicture, WordHeat

GROUPS = ("best", "worst", "random")
PICTURES_PER_GROUP = 24
"""Pictures of each group; one that is in two groups is embedded once."""
RANKED_BY = "CIDEr"
LONG_SIDE_PIXELS = 480
"""Longer side of an embedded picture: sharp on a phone and in a slide's third."""
WEBP_QUALITY = 74
HEAT_SIDE = 48
"""Rows and columns of an embedded heat map at most; attention has 7 to 32."""
SEED = 0


def gallery_indexes(
    items: Sequence[CaptionedPicture], *, per_group: int = PICTURES_PER_GROUP
) -> Mapping[str, tuple[int, ...]]:
    """The places in `items` of each group's pictures; the same for the same scores.

    Best and worst (by CIDEr, at most a third of the pictures each, never the same one) come from
    the pictures that have a score, best and worst first; random ones come from all.
    """
    scored = [(finite(item.scores.get(RANKED_BY)), index) for index, item in enumerate(items)]
    ranked = [i for _, i in sorted((-score, i) for score, i in scored if score is not None)]
    extreme = min(per_group, max(1, len(ranked) // 3))
    drawn = random.Random(SEED).sample(range(len(items)), min(per_group, len(items)))
    worst = ranked[::-1][:extreme] if len(ranked) > 1 else []
    groups = {"best": ranked[:extreme], "worst": worst, "random": drawn}
    return MappingProxyType({name: tuple(groups[name]) for name in GROUPS})


def embedded_picture(path: Path) -> tuple[str, int, int]:
    """A picture as a `data:` address, shrunk, with its width and height in pixels."""
    picture = load_image(path)
    picture.thumbnail((LONG_SIDE_PIXELS, LONG_SIDE_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{content}", picture.width, picture.height


def embedded_heat(word: WordHeat) -> str:
    """A word's heat as `columns:base64`, a byte a cell, row by row, its peak 255."""
    heat = np.nan_to_num(np.asarray(word.heat, dtype=np.float32), posinf=0.0, neginf=0.0)
    if heat.ndim != 2 or heat.size == 0:
        raise ValueError(f"heat of {word.text!r} has shape {heat.shape}; it must be 2-D")
    if max(heat.shape) > HEAT_SIDE:
        size = (min(heat.shape[1], HEAT_SIDE), min(heat.shape[0], HEAT_SIDE))
        heat = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BOX))
    heat = np.maximum(heat, 0)
    peak = float(heat.max()) or 1.0
    cells = np.round(heat / peak * 255).astype(np.uint8)
    return f"{heat.shape[1]}:{base64.b64encode(cells.tobytes()).decode('ascii')}"


def finite(value: object) -> float | None:
    """`value` as a float; None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return float(value) if math.isfinite(value) else None


def finite_values(values: Sequence[float | None]) -> list[float]:
    """The finite numbers among `values`, in their order."""
    return [number for value in values if (number := finite(value)) is not None]
