"""A contact sheet: pictures with their captions under them, as one PNG for a README or a chat.

    contact_sheet(items, Path("captions.png"), columns=4)

Pillow's own font is used, the same on every machine; it has Latin letters only.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from captioning.sources.images import load_image
from captioning.sources.records import CaptionedPicture
from captioning.system.files import atomic_write

PAPER, INK, MAT = "#ffffff", "#1b1d22", "#ecece7"
RIGHT_COLOUR, WRONG_COLOUR = "#1b7a4b", "#b3261e"
MARK_PIXELS = 5
"""Height of the bar under a picture whose caption is known to be right or wrong."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    items: Sequence[CaptionedPicture],
    path: str | os.PathLike[str],
    *,
    columns: int = 4,
    cell_width: int = 320,
    font_size: int = 18,
) -> None:
    """Draw `items` row by row, each picture whole in a 4:3 field; sizes are pixels.

    A caption known to be right or wrong has a green or red bar above it; a wrong one is red and
    ends with "(wrong)". Raises `UserError` for a picture that cannot be read, and `ValueError`
    where there is nothing to draw.
    """
    if not items:
        raise ValueError("a contact sheet needs at least one picture")
    font, gap = ImageFont.load_default(size=font_size), font_size
    columns = min(columns, len(items))
    cells = [_cell(item, cell_width, font, font_size) for item in items]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    size = (gap + columns * (cell_width + gap), gap + sum(heights) + gap * len(rows))
    sheet = Image.new("RGB", size, PAPER)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (gap + column * (cell_width + gap), top))
        top += height + gap
    _write_png(sheet, Path(path))


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """`text` in lines at most `width` pixels wide; words that are wider are broken."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".lstrip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = ""
        for character in word:
            if line and font.getlength(line + character) > width:
                lines.append(line)
                line = ""
            line += character
    return [*lines, line] if line else lines


def _cell(item: CaptionedPicture, width: int, font: Font, font_size: int) -> Image.Image:
    """One picture over its caption."""
    picture_height, line_height = width * 3 // 4, round(font_size * 1.35)
    text = item.caption + (" (wrong)" if item.correct is False else "")
    lines = wrapped(text, font, width)
    text_top = picture_height + MARK_PIXELS + font_size // 2
    cell = Image.new("RGB", (width, text_top + line_height * len(lines)), PAPER)
    if item.has_image:
        picture = load_image(item.image)
        cell.paste(ImageOps.pad(picture, (width, picture_height), color=MAT), (0, 0))
    pen = ImageDraw.Draw(cell)
    if item.correct is not None:
        colour = RIGHT_COLOUR if item.correct else WRONG_COLOUR
        pen.rectangle((0, picture_height, width - 1, picture_height + MARK_PIXELS - 1), colour)
    for number, line in enumerate(lines):
        ink = WRONG_COLOUR if item.correct is False else INK
        pen.text((0, text_top + number * line_height), line, fill=ink, font=font)
    return cell


def _write_png(sheet: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        sheet.save(file, "PNG", optimize=True)
