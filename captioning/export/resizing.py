"""What an image processor does to pictures, said so that Pillow alone, or a page, can do it.

It is measured, not read: of the few ways in which processors of the families resize and crop, the
one is taken that gives the same pixels as the processor for pictures of many shapes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioning.system.errors import UserError
from captioning.vision.preprocessing import ImagePreprocessor

Pixels = Callable[[Image.Image, dict[str, Any]], NDArray[Any]]
SHAPES = ((320, 200), (150, 260), (31, 20), (17, 33), (224, 224), (101, 67), (9, 640), (2000, 3))
"""Width and height of the pictures that are tried; the last is longer than processors are shown."""
RESIZED_THEN_CUT = (224 / 256,)
"""Part of the resized edge that some families keep without their settings saying so."""


def how_resized(preprocessor: ImagePreprocessor, pixels_of: Pixels) -> dict[str, Any]:
    """What `pixels_of` is to be told, so that it gives the preprocessor's pixels, bit for bit.

    Raises `UserError` where none of the known ways does.
    """
    random = np.random.default_rng(1)
    pictures = [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SHAPES
    ]
    expected = [preprocessor(picture).numpy() for picture in pictures]
    for how in _ways(preprocessor):
        if all(
            np.array_equal(pixels_of(picture, how), pixels)
            for picture, pixels in zip(pictures, expected, strict=True)
        ):
            return how
    settings = preprocessor.settings()
    kind = settings.get("image_processor_type", "the image processor")
    raise UserError(
        f"{kind} resizes pictures in a way of its own ({settings.get('size')}), which an export "
        "cannot do without transformers. Train with another --IMAGE_PROCESSOR_NAME."
    )


def _ways(preprocessor: ImagePreprocessor) -> Iterator[dict[str, Any]]:
    """Ways to make pictures of the preprocessor's size, the likeliest first."""
    settings = preprocessor.settings()
    size, (height, width) = settings.get("size") or {}, preprocessor.size
    number = settings.get("resample")
    resample = Image.Resampling(Image.Resampling.BILINEAR if number is None else number)
    way = {
        "height": height,
        "width": width,
        "shortest_edge": None,
        "resized_height": height,
        "resized_width": width,
        "resample": resample.name.lower(),
    }
    edge = size.get("shortest_edge")
    if size.get("height") and size.get("width"):
        yield {**way, "resized_height": size["height"], "resized_width": size["width"]}
    if edge:
        whole = {**way, "resized_height": None, "resized_width": None}
        kept = [settings.get("crop_pct") or 1, *RESIZED_THEN_CUT]
        for one in dict.fromkeys((edge, *(int(edge / share) for share in kept))):
            yield {**whole, "shortest_edge": one}
        yield {**way, "resized_height": edge, "resized_width": edge}
