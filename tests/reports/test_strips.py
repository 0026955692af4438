"""Strips of what words looked at: what is drawn, in which letters, and how it is written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import WordAttention
from captioning.reports.strips import (
    MARGIN_PIXELS,
    TILES_IN_A_ROW,
    draw_strip,
    fitted,
    lacks_letters,
    load_font,
    tile_size,
    write_strip,
)
from captioning.sources.records import WordHeat
from captioning.system.errors import UserError
from captioning.vision.preprocessing import Region

GRID = 4


def looked_at(text: str, row: int, column: int, size: tuple[int, int]) -> WordHeat:
    grid = np.zeros((GRID, GRID), np.float32)
    grid[row, column] = 1
    word = WordAttention(text, grid, Region(0, 0, *size), size)
    return WordHeat(text, word.heat(tile_size(size)))


@pytest.mark.parametrize("size", [(90, 300), (300, 90), (64, 64), (3000, 20)])
def test_long_words_of_a_strip_stay_in_their_columns(size: tuple[int, int]) -> None:
    texts = ["a", "extraordinarily", "long-winded", "w" * 80, "собака"]
    words = [looked_at(text, 0, 0, size) for text in texts]
    strip = draw_strip(Image.new("RGB", size, "teal"), words)
    columns = min(len(words) + 1, TILES_IN_A_ROW)
    step = (strip.width - MARGIN_PIXELS) // columns
    pixels = np.asarray(strip)
    for column in range(columns + 1):
        between = pixels[:, column * step : column * step + MARGIN_PIXELS]
        assert (between == 255).all()
    assert (pixels != 255).any()


def test_a_long_word_widens_the_columns_of_a_narrow_picture() -> None:
    tall = Image.new("RGB", (50, 200), "teal")
    short, long = (
        draw_strip(tall, [looked_at(text, 0, 0, tall.size)]).width
        for text in ("a", "extraordinarily")
    )
    assert long > short + load_font().getlength("extraordinarily") // 2


def test_a_strip_is_warm_where_a_word_looked_and_dark_elsewhere() -> None:
    grey = Image.new("RGB", (224, 224), (120, 120, 120))
    strip = np.asarray(draw_strip(grey, [looked_at("dog", 0, 3, (224, 224))])).astype(int)
    tile = strip[-224 - MARGIN_PIXELS : -MARGIN_PIXELS, -224 - MARGIN_PIXELS : -MARGIN_PIXELS]
    hot, cold = tile[28, 196], tile[196, 28]
    assert hot[0] > hot[2] + 60
    assert hot.sum() > 2 * cold.sum()
    plain = strip[-224 - MARGIN_PIXELS : -MARGIN_PIXELS, MARGIN_PIXELS : MARGIN_PIXELS + 224]
    assert (plain == 120).all()


def test_a_strip_is_written_whole_or_refused(tmp_path: Path) -> None:
    strip = draw_strip(Image.new("RGB", (30, 20)), [looked_at("dog", 1, 1, (30, 20))])
    write_strip(strip, tmp_path / "new folder" / "words.png")
    with Image.open(tmp_path / "new folder" / "words.png") as written:
        assert written.format == "PNG"
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["words.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"exists|directory"):
        write_strip(strip, tmp_path / "file" / "words.png")


def test_letters_that_a_font_lacks_are_noticed(tmp_path: Path) -> None:
    font = load_font()
    for text in ("a dog", "café Größe", "собака", "σκύλος", "كلب", "כלב"):
        assert not lacks_letters(text, font), text
    assert lacks_letters("犬が走る", font)
    (tmp_path / "no.ttf").write_text("no font")
    with pytest.raises(UserError, match="no font"):
        load_font(str(tmp_path / "no.ttf"))


def test_a_text_is_cut_to_what_fits() -> None:
    font = load_font()
    assert fitted("dog", font, 1000) == "dog"
    cut = fitted("w" * 50, font, 100)
    assert cut.startswith("w")
    assert cut.endswith("…")
    assert font.getlength(cut) <= 100


@pytest.mark.parametrize("text", ["a\u2029b", "\x1d", "x\x85", "a\nb\rc"])
def test_what_ends_a_line_does_not_end_the_drawing(text: str) -> None:
    size = (64, 64)
    plain = draw_strip(Image.new("RGB", size, "teal"), [looked_at("a b", 0, 0, size)])
    assert (
        draw_strip(Image.new("RGB", size, "teal"), [looked_at(text, 0, 0, size)]).size[1]
        == (plain.size[1])
    )
