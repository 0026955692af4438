"""What each word of a caption looked at, drawn: the picture under its heat, word by word.

    write_strip(draw_strip(image, words), "words.png")

`words` are plain: a text, and its heat at the `tile_size` of the picture. The letters are
DejaVu's: European, Arabic and Hebrew ones, the same on every machine.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from captioning.sources.records import WordHeat
from captioning.system.errors import UserError
from captioning.system.files import atomic_write

TILE_PIXELS, MARGIN_PIXELS, FONT_PIXELS = 224, 12, 18
"""Longer side of the pictures, space between them, height of the letters."""
TILES_IN_A_ROW = 6
INK, PAPER, HEAT_COLOUR = "#1b1d22", "#ffffff", (255.0, 96.0, 0.0)


def tile_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height with which a picture stands in its strip, and its words' heat too."""
    scale = TILE_PIXELS / max(image_size)
    width, height = (max(round(side * scale), 1) for side in image_size)
    return width, height


def draw_strip(
    image: Image.Image, words: Sequence[WordHeat], *, font_file: str = ""
) -> Image.Image:
    """The picture, then the picture under each word's heat, the word above it.

    The heat, from 0 to 1, has the picture's `tile_size`. `font_file` names another font than
    DejaVu, for Chinese, say.
    """
    font = load_font(font_file)
    width, height = tile_size(image.size)
    small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    # What ends a line (such as U+2029 or U+001D, which an untrained model may write) has no width.
    titles = [" ".join(word.text.split()) for word in words]
    # A long word makes the columns wider, up to a tile's usual width, and is then cut.
    widest = max(map(font.getlength, titles), default=0.0)
    cell_width = max(width, min(round(widest) + 1, TILE_PIXELS))
    title_height = round(FONT_PIXELS * 1.6)
    tiles = [("", small)]
    tiles += [
        (fitted(title, font, cell_width), overlay(small, word.heat))
        for title, word in zip(titles, words, strict=True)
    ]
    columns = min(len(tiles), TILES_IN_A_ROW)
    rows = -(-len(tiles) // columns)
    step_x, step_y = cell_width + MARGIN_PIXELS, title_height + height + MARGIN_PIXELS
    size = (columns * step_x + MARGIN_PIXELS, rows * step_y + MARGIN_PIXELS)
    strip = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(strip)
    for number, (text, picture) in enumerate(tiles):
        row, column = divmod(number, columns)
        middle, top = MARGIN_PIXELS + column * step_x + cell_width // 2, row * step_y
        pen.text((middle, top + MARGIN_PIXELS + title_height // 2), text, INK, font, anchor="mm")
        strip.paste(picture, (middle - width // 2, top + MARGIN_PIXELS + title_height))
    return strip


def write_strip(strip: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a strip as a PNG, whole or not at all; raises `OSError` where the disk refuses it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        strip.save(file, "PNG")


def overlay(image: Image.Image, heat: NDArray[np.floating[Any]]) -> Image.Image:
    """The picture, dark where nothing was looked at and warm where much was.

    `heat` (height, width), from 0 to 1, has the picture's size.
    """
    strength = heat.clip(0, 1)[..., None]
    pixels = np.asarray(image, np.float32) * (0.35 + 0.65 * strength)
    mixed = pixels * (1 - 0.35 * strength) + np.array(HEAT_COLOUR, np.float32) * 0.35 * strength
    return Image.fromarray(mixed.round().astype(np.uint8))


def load_font(font_file: str = "") -> ImageFont.FreeTypeFont:
    """The font of a file (TrueType, OpenType), by default the DejaVu Sans that matplotlib brings.

    Raises `UserError` for a file that holds none.
    """
    if not font_file:
        import matplotlib

        font_file = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    try:
        return ImageFont.truetype(font_file, FONT_PIXELS)
    except OSError:
        raise UserError(
            f"{font_file} is no font that can be read; name a .ttf or .otf file."
        ) from None


def lacks_letters(text: str, font: ImageFont.FreeTypeFont) -> bool:
    """Whether some character of `text` would be drawn as an empty box."""
    missing = bytes(font.getmask("\U0010ffff"))
    return any(bytes(font.getmask(character)) == missing for character in text if character > " ")


def fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, or as much of it as `width` pixels hold, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
