"""The gallery: which pictures are shown, and what of them is embedded."""

import base64
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioning.reports.gallery import (
    HEAT_SIDE,
    LONG_SIDE_PIXELS,
    embedded_heat,
    embedded_picture,
    gallery_indexes,
)
from captioning.sources.records import CaptionedPicture, WordHeat


def scored(*scores: float | None) -> list[CaptionedPicture]:
    return [CaptionedPicture(scores={} if one is None else {"CIDEr": one}) for one in scores]


def cells(encoded: str) -> np.ndarray:
    columns, content = encoded.split(":")
    return np.frombuffer(base64.b64decode(content), np.uint8).reshape(-1, int(columns))


def test_best_and_worst_come_in_order_and_never_overlap() -> None:
    groups = gallery_indexes(scored(0.5, 2.0, 0.1, 1.0, 0.0, 1.5), per_group=10)
    assert groups["best"] == (1, 5)
    assert groups["worst"] == (4, 2)
    assert sorted(groups["random"]) == [0, 1, 2, 3, 4, 5]


def test_pictures_without_a_score_are_random_only() -> None:
    groups = gallery_indexes(scored(None, math.nan, 1.0, 0.0))
    assert (groups["best"], groups["worst"]) == ((2,), (3,))
    assert sorted(groups["random"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_pictures(count: int) -> None:
    groups = gallery_indexes(scored(*range(count)))
    assert [len(groups[name]) for name in ("best", "worst", "random")] == [
        min(count, 1),
        max(count - 1, 0),
        count,
    ]


def test_the_choice_depends_on_nothing_but_the_scores() -> None:
    items = scored(*(index % 7 for index in range(500)))
    assert gallery_indexes(items) == gallery_indexes(items)
    assert {len(indexes) for indexes in gallery_indexes(items).values()} == {24}
    assert gallery_indexes(items)["random"] != tuple(range(24))


def test_pictures_are_shrunk_upright_and_never_enlarged(tmp_path: Path) -> None:
    turned = Image.new("RGB", (1200, 900), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "small.png")
    address, width, height = embedded_picture(tmp_path / "turned.jpg")
    assert (width, height) == (LONG_SIDE_PIXELS * 3 // 4, LONG_SIDE_PIXELS)
    content = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (width, height))
    assert embedded_picture(tmp_path / "small.png")[1:] == (40, 30)


def test_heat_keeps_its_shape_and_its_peak_is_255() -> None:
    heat = np.array([[0.0, 0.1, 0.2], [0.05, math.nan, -1.0]])
    assert cells(embedded_heat(WordHeat("dog", heat))).tolist() == [[0, 128, 255], [64, 0, 0]]
    assert not cells(embedded_heat(WordHeat("dog", np.zeros((2, 2))))).any()


def test_large_heat_is_shrunk_with_its_peak_in_place() -> None:
    heat = np.zeros((480, 240))
    heat[:48, -24:] = 1.0
    small = cells(embedded_heat(WordHeat("dog", heat)))
    assert small.shape == (HEAT_SIDE, HEAT_SIDE)
    assert small[0, -1] == 255
    assert not small[HEAT_SIDE // 2 :].any()


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (0, 3)])
def test_heat_that_is_no_grid_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="'dog' has shape"):
        embedded_heat(WordHeat("dog", np.ones(shape)))
