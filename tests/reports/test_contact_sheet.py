"""The contact sheet: its size, its marks, and captions that stay in their column."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor, ImageFont

from captioning.reports.contact_sheet import (
    MARK_PIXELS,
    PAPER,
    RIGHT_COLOUR,
    WRONG_COLOUR,
    contact_sheet,
    wrapped,
)
from captioning.sources.records import CaptionedPicture
from captioning.system.errors import UserError

FONT = ImageFont.load_default(size=14)


def picture(path: Path, colour: str = "gold", size: tuple[int, int] = (80, 60)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def rgb(colour: str) -> tuple[int, ...]:
    return ImageColor.getrgb(colour)


def test_rows_and_columns(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    items = [CaptionedPicture(image=image, caption="a dog")] * 5
    contact_sheet(items, tmp_path / "new" / "sheet.png", columns=3, cell_width=100, font_size=10)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width == 10 + 3 * 110
        # The sixth field is empty, the fourth and fifth hold the picture.
        middle_of_second_row = sheet.height // 2 + 45
        shown = [sheet.getpixel((60 + 110 * i, middle_of_second_row)) for i in range(3)]
    assert shown == [(255, 215, 0), (255, 215, 0), (255, 255, 255)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_wrong_captions_are_marked(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    bars, inks = {}, {}
    for correct in (True, False, None):
        item = CaptionedPicture(image=image, caption="a dog", correct=correct)
        contact_sheet([item], tmp_path / "sheet.png", cell_width=400, font_size=20)
        with Image.open(tmp_path / "sheet.png") as sheet:
            bars[correct] = sheet.getpixel((220, 20 + 300 + MARK_PIXELS // 2))
            text = sheet.crop((0, 320 + MARK_PIXELS, sheet.width, sheet.height))
            inks[correct] = {colour for _, colour in text.getcolors(9999)}
    assert bars == {True: rgb(RIGHT_COLOUR), False: rgb(WRONG_COLOUR), None: rgb(PAPER)}
    assert {rgb(WRONG_COLOUR) in inks[correct] for correct in (True, None)} == {False}
    assert rgb(WRONG_COLOUR) in inks[False]


def test_a_tall_picture_is_shown_whole(tmp_path: Path) -> None:
    tall = Image.new("RGB", (100, 400), "white")
    tall.paste("red", (0, 0, 100, 40))
    tall.paste("blue", (0, 360, 100, 400))
    tall.save(tmp_path / "tall.png")
    item = CaptionedPicture(image=tmp_path / "tall.png", caption="")
    contact_sheet([item], tmp_path / "sheet.png", cell_width=400, font_size=10)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((210, 15)) == (255, 0, 0)
        assert sheet.getpixel((210, 305)) == (0, 0, 255)


@given(st.text(max_size=80), st.integers(20, 200))
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    lines = wrapped(text, FONT, width)
    assert all(FONT.getlength(line) <= width or len(line) == 1 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png is missing"):
        contact_sheet(
            [CaptionedPicture(image=tmp_path / "gone.png", caption="")], tmp_path / "s.png"
        )
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], tmp_path / "s.png")
    assert not list(tmp_path.iterdir())
