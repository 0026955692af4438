"""`caption.py` of an export by itself: pictures as pixels, and search, are those of the project."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from captioning.decoding import SearchOptions, TokenRules, search
from captioning.sources.images import load_image
from captioning.vision.preprocessing import ImagePreprocessor

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
from captioning.export.folder import PROGRAM, TEMPLATES, program
from captioning.export.resizing import how_resized
from captioning.system.errors import UserError

VOCABULARY = 9


@pytest.fixture(scope="module")
def caption() -> ModuleType:
    return program(TEMPLATES / PROGRAM)


class Table:
    """Log-probabilities that depend on all that a row holds, for both kinds of search."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rows = seed, [[()]]

    def table(self, tokens: list[list[int]]) -> NDArray[np.float32]:
        self.rows = [
            [(*row, token) for row, token in zip(rows, newest, strict=True)]
            for rows, newest in zip(self.rows, tokens, strict=True)
        ]
        logits = [
            [
                np.random.default_rng([self.seed, *row]).normal(scale=2, size=VOCABULARY)
                for row in rows
            ]
            for rows in self.rows
        ]
        return np.array(logits, np.float32)


class Ours(Table):
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.table(tokens.tolist()))

    def reorder(self, pictures: torch.Tensor, rows: torch.Tensor) -> None:
        self.rows = [
            [self.rows[picture][row] for row in places]
            for picture, places in zip(pictures.tolist(), rows.tolist(), strict=True)
        ]


class Theirs(Table):
    def step(self, tokens: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
        self.rows = [[self.rows[0][row] for row in rows]]
        logits = torch.from_numpy(self.table([tokens.tolist()])[0])
        return logits.log_softmax(-1).numpy()


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 1.7])
@pytest.mark.parametrize(
    ("early_stop", "min_length", "no_repeat_ngram"),
    [("heuristic", 0, 0), ("exact", 0, 1), ("first", 3, 2)],
)
def test_its_search_is_the_projects(
    caption: ModuleType,
    beams: int,
    penalty: float,
    early_stop: str,
    min_length: int,
    no_repeat_ngram: int,
) -> None:
    lengths = {"max_length": 7, "min_length": min_length, "no_repeat_ngram": no_repeat_ngram}
    rules = TokenRules(start_id=1, end_id=2, forbidden_ids=(0, 1, 3), **lengths)
    settings = {
        "start_id": 1,
        "end_id": 2,
        "forbidden_ids": [0, 1, 3],
        "length_penalty": penalty,
        "early_stop": early_stop,
        **lengths,
    }
    wanted = max(1, beams - 1)
    options = SearchOptions(
        method="beam" if beams > 1 else "greedy",
        beam_size=beams,
        num_captions=wanted,
        length_penalty=penalty,
        early_stop=early_stop,
    )
    for seed in range(12):
        (found,) = search(Ours(seed), batch_size=1, rules=rules, options=options)
        if beams == 1:
            rows = caption.greedy(Theirs(seed), settings)
        else:
            rows = caption.beam_search(Theirs(seed), settings, beams, wanted)[:wanted]
        assert [tuple(one for one in row.tokens if one != 2) for row in rows] == [
            one.ids for one in found
        ]
        for row, one in zip(rows, found, strict=True):
            assert row.log_probabilities == pytest.approx(one.token_log_probabilities, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "CLIPImageProcessor"},
        {"image_processor_type": "ViTImageProcessor"},
        {"image_processor_type": "SiglipImageProcessor"},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
        {"image_processor_type": "BitImageProcessor"},
        {"image_processor_type": "BlipImageProcessor"},
        {"image_processor_type": "DeiTImageProcessor"},
        {"image_processor_type": "MobileNetV2ImageProcessor"},
        {"image_processor_type": "PvtImageProcessor"},
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 36},
            "crop_size": {"height": 41, "width": 41},
        },
    ],
    ids=lambda settings: f"{settings['image_processor_type']} {settings.get('size', '')}",
)
def test_its_pixels_are_the_processors(caption: ModuleType, settings: dict[str, Any]) -> None:
    preprocessor = ImagePreprocessor(settings)
    how = how_resized(preprocessor, caption.pixels_of)
    assert (how["height"], how["width"]) == preprocessor.size
    noise = np.random.default_rng(3).integers(0, 256, (77, 130, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    assert np.array_equal(caption.pixels_of(picture, how), preprocessor(picture).numpy())


def test_a_processor_that_resizes_in_a_way_of_its_own_is_refused(caption: ModuleType) -> None:
    preprocessor = ImagePreprocessor({"image_processor_type": "ViTImageProcessor"})
    with pytest.raises(UserError, match=r"ViTImageProcessor.* resizes .* of its own"):
        how_resized(preprocessor, lambda picture, how: 255 - caption.pixels_of(picture, how))


def test_it_opens_pictures_as_the_project_does(caption: ModuleType, tmp_path: Path) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    pictures = {
        "alpha.png": Image.fromarray(noise, "RGBA"),
        "grey.png": Image.fromarray(noise[..., 0]),
        "palette.gif": Image.fromarray(noise[..., :3]).quantize(16),
        "deep.png": Image.fromarray(noise[..., 0].astype(np.uint16) * 200),
        "float.tiff": Image.fromarray(noise[..., 0].astype(np.float32) / 255),
        "cmyk.jpg": Image.fromarray(noise, "CMYK"),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    for orientation in (3, 5, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pictures[f"{orientation}.jpg"] = Image.fromarray(noise[..., :3])
        pictures[f"{orientation}.jpg"].save(tmp_path / f"{orientation}.jpg", exif=exif)
    for name in pictures:
        ours, theirs = load_image(tmp_path / name), caption.load(tmp_path / name)
        assert np.array_equal(np.asarray(ours), np.asarray(theirs)), name
