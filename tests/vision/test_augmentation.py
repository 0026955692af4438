"""What becomes of a picture is a function of (seed, epoch, picture), and is what it says."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from captioning.sources.images import load_image
from captioning.sources.records import Record
from captioning.store.building import RowMaker, build_features
from captioning.store.rows import FeatureStore, LivePictures
from captioning.store.views import EpochPictures, TrainingPictures
from captioning.system.runtime import Runtime
from captioning.vision.augmentation import (
    MOST_COLOUR,
    MOST_STRETCH,
    SMALLEST_CROP,
    Augmentation,
    Draws,
)
from config import Config
from dataset import CaptionDataset, PreparedSteps
from features import open_stores, training_pictures
from tests.helpers.small_encoder import SmallEncoder, write_pictures
from tokenizer import train_tokenizer

COUNT = 12
CPU = Runtime(torch.device("cpu"))
ALL = torch.arange(COUNT)
KINDS = "crop,flip,colour"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_pictures(tmp_path / "pictures", COUNT)


def store_of(images: list[Path], folder: Path, contents: str = "features") -> FeatureStore:
    maker = RowMaker(SmallEncoder(), CPU, contents=contents, dtype=torch.float32)
    return build_features(images, maker, folder, label="train", num_workers=0, batch_size=5)


def test_draws_follow_seed_and_epoch_alone() -> None:
    def key(seed: int, epoch: int) -> bytes:
        return Augmentation(KINDS, seed=seed, may_flip=[True] * 50).draws(epoch).to_bytes()

    assert key(1, 2) == key(1, 2)
    assert len({key(1, 2), key(1, 3), key(2, 2)}) == 3


def test_pictures_that_may_no_longer_flip_are_other_draws() -> None:
    for kind in ("flip", "colour"):
        found = [
            Augmentation(kind, seed=seed, may_flip=[may] * 50).draws(1).to_bytes()
            for seed, may in ((1, True), (1, False), (2, True))
        ]
        assert len(set(found)) == (3 if kind == "flip" else 2)


def test_a_kind_draws_the_same_alone_and_with_others() -> None:
    together = Augmentation(KINDS, seed=3, may_flip=[True] * 50).draws(1)
    crop, flip, colour = (
        Augmentation(kind, seed=3, may_flip=[True] * 50).draws(1) for kind in KINDS.split(",")
    )
    np.testing.assert_array_equal(together.boxes, crop.boxes)
    np.testing.assert_array_equal(together.flipped, flip.flipped)
    np.testing.assert_array_equal(together.colours, colour.colours)
    assert not crop.flipped.any()
    assert (flip.boxes == [0, 0, 1, 1]).all()
    assert (flip.colours == 1).all()


def test_crops_lie_in_the_picture_and_are_as_large_as_they_say() -> None:
    boxes = Augmentation("crop", seed=0, may_flip=[True] * 5000).draws(0).boxes
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-12
    for start, size in ((boxes[:, 0], width), (boxes[:, 1], height)):
        places = (start / (1 - size).clip(1e-9))[size < 0.99]  # from one edge to the other
        assert np.quantile(places, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.05)
    area, stretch = width * height, width / height
    assert area.min() > SMALLEST_CROP * 0.85  # where a stretched crop is cut to the picture
    assert 0.65 < area.mean() < 0.85
    assert stretch.min() > 1 / MOST_STRETCH - 1e-9
    assert stretch.max() < MOST_STRETCH + 1e-9


def test_half_of_those_that_may_are_mirrored() -> None:
    may_flip = np.arange(4000) % 2 == 0
    flipped = Augmentation("flip", seed=0, may_flip=may_flip).draws(7).flipped
    assert not flipped[~may_flip].any()
    assert 0.45 < flipped[may_flip].mean() < 0.55


def test_what_is_drawn_is_done() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    draws = Augmentation("flip", seed=0, may_flip=[True] * 8).draws(0)
    for number, flipped in enumerate(draws.flipped):
        expected = np.asarray(image)[:, ::-1] if flipped else np.asarray(image)
        np.testing.assert_array_equal(np.asarray(draws.alter(number, image)), expected)
    draws = Augmentation("crop", seed=0, may_flip=[True] * 8).draws(0)
    left, top, right, bottom = (draws.boxes[3] * [80, 60, 80, 60]).round().astype(int)
    np.testing.assert_array_equal(
        np.asarray(draws.alter(3, image)), np.asarray(image)[top:bottom, left:right]
    )
    draws = Augmentation("colour", seed=0, may_flip=[True] * 8).draws(0)
    red = np.asarray(draws.alter(2, Image.new("RGB", (4, 4), (200, 40, 40))))[0, 0].astype(int)
    assert red[0] > red[1] == red[2]  # lighter or paler, but red
    assert draws.alter(0, Image.new("RGB", (1, 1))).size == (1, 1)


def test_colours_are_as_often_raised_as_lowered() -> None:
    colours = Augmentation("colour", seed=0, may_flip=[True] * 2000).draws(0).colours
    low, middle, high = np.quantile(colours, [0, 0.5, 1], axis=0)
    assert low == pytest.approx(np.full(3, 1 - MOST_COLOUR), abs=0.01)
    assert middle == pytest.approx(np.ones(3), abs=0.02)
    assert high == pytest.approx(np.full(3, 1 + MOST_COLOUR), abs=0.01)


def test_factors_are_of_brightness_contrast_and_saturation() -> None:
    colours = np.array([[0.5, 1, 1], [1, 0, 1], [1, 1, 0]])
    draws = Draws(np.array([[0, 0, 1, 1]] * 3), np.zeros(3, bool), colours)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    dark, flat, grey = (np.asarray(draws.alter(n, Image.fromarray(pixels))) for n in range(3))
    np.testing.assert_array_equal(dark, pixels // 2)
    assert len(np.unique(flat)) == 1
    assert (grey == grey[..., :1]).all()
    assert len(np.unique(grey)) > 1


def test_live_pictures_are_altered_before_they_are_prepared(images: list[Path]) -> None:
    preprocess = SmallEncoder().preprocessor
    augmentation = Augmentation(KINDS, seed=5, may_flip=[True] * COUNT)
    pictures = TrainingPictures(LivePictures(images, preprocess), augmentation=augmentation)
    seen = pictures.in_epoch(2)
    draws = augmentation.draws(2)
    expected = torch.stack(
        [preprocess(draws.alter(number, load_image(path))) for number, path in enumerate(images)]
    )
    order = torch.tensor([7, 0, 7, 3])
    assert torch.equal(seen.rows.rows(order), expected[order])
    assert np.array_equal(seen.flipped, draws.flipped)
    assert seen.takes_time
    assert not torch.equal(pictures.in_epoch(3).rows.rows(ALL), expected)


def test_stored_pixels_are_altered_as_they_are_read(images: list[Path], tmp_path: Path) -> None:
    store = store_of(images, tmp_path, "pixels")
    pixels = store.rows(ALL)
    draws = Augmentation("flip", seed=5, may_flip=[True] * COUNT)
    seen = TrainingPictures(store, augmentation=draws).in_epoch(1)
    assert seen.flipped is not None
    assert seen.flipped.any()
    expected = torch.where(
        torch.from_numpy(seen.flipped)[:, None, None, None], pixels.flip(3), pixels
    )
    assert torch.equal(seen.rows.rows(ALL), expected)
    cropped = TrainingPictures(
        store, augmentation=Augmentation("crop", seed=5, may_flip=[True] * COUNT)
    ).in_epoch(1)
    rows = cropped.rows.rows(ALL)
    assert rows.shape == pixels.shape
    assert rows.dtype is torch.uint8
    assert not torch.equal(rows, pixels)
    assert torch.equal(cropped.rows.rows(ALL[3:5]), rows[3:5])


def test_a_view_is_the_encoding_of_the_altered_picture(images: list[Path], tmp_path: Path) -> None:
    encoder = SmallEncoder()
    augmentation = Augmentation(KINDS, seed=0, may_flip=[True] * COUNT)
    draws = tuple(augmentation.draws(view) for view in (1, 2))
    plain = store_of(images, tmp_path)
    maker = RowMaker(encoder, CPU, dtype=torch.float32)
    views = tuple(
        build_features(
            images, maker, tmp_path, label=f"view-{n}", num_workers=0, batch_size=5, draws=one
        )
        for n, one in enumerate(draws)
    )
    live = LivePictures(images, encoder.preprocessor).altered(draws[1].alter)
    with torch.no_grad():
        expected = encoder(live.rows(ALL))
    torch.testing.assert_close(views[1].rows(ALL), expected)

    pictures = TrainingPictures(plain, seed=9, views=views, view_draws=draws)
    assert pictures.stores == [plain, *views]
    read, epochs = set(), set()
    for epoch in range(6):
        seen = pictures.in_epoch(epoch)
        rows = seen.rows.rows(ALL)
        every = torch.stack([store.rows(ALL) for store in (plain, *views)])
        chosen = (rows == every).flatten(2).all(2).int().argmax(0)
        assert torch.equal(rows, every[chosen, ALL])
        read |= set(chosen.tolist())
        epochs.add(tuple(chosen.tolist()))
        flips = np.stack([np.zeros(COUNT, bool), *(one.flipped for one in draws)])
        assert np.array_equal(seen.flipped, flips[chosen.numpy(), np.arange(COUNT)])
        order = torch.tensor([5, 5, 0, 11])
        assert torch.equal(seen.rows.rows(order), rows[order])
        assert torch.equal(pictures.in_epoch(epoch).rows.rows(ALL), rows)
        assert not seen.takes_time
    assert read == {0, 1, 2}
    assert len(epochs) == 6
    another = replace(pictures, seed=10).in_epoch(0).rows
    assert not torch.equal(another.rows(ALL), pictures.in_epoch(0).rows.rows(ALL))


def test_other_draws_make_another_store(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 0, 1):
        draws = Augmentation("crop", seed=seed, may_flip=[True] * COUNT).draws(1)
        encoder = SmallEncoder()
        maker = RowMaker(encoder, CPU)
        build_features(images, maker, tmp_path, label="v", num_workers=0, batch_size=5, draws=draws)
        said = capsys.readouterr().err
    assert "pictures altered in another way" in said
    assert encoder.encoded == COUNT


def test_before_it_is_trained_the_encoder_is_read_from_its_features(
    images: list[Path], tmp_path: Path
) -> None:
    features, pixels = store_of(images, tmp_path / "f"), store_of(images, tmp_path / "p", "pixels")
    pictures = TrainingPictures(pixels, early=features, start_epoch=2)
    assert pictures.in_epoch(1).rows is features
    assert pictures.in_epoch(2).rows is pixels


def pictures_of(
    images: list[Path], folder: Path, encoder: SmallEncoder, *, epoch: int = 0, **settings: object
) -> TrainingPictures:
    """What a run with these settings reads; every other picture may be mirrored."""
    config = Config(DATA_DIR=str(folder), DATASET="mine", NUM_WORKERS=0, **settings)
    records = [
        Record(image, ("A dog runs." if number % 2 else "A sign.",))
        for number, image in enumerate(images)
    ]
    plain = open_stores(config, encoder, CPU, {"train": records})["train"]
    return training_pictures(config, encoder, CPU, records, plain, epoch=epoch)


def test_runs_of_all_seeds_share_their_views(images: list[Path], tmp_path: Path) -> None:
    settings = {"FEATURE_VIEWS": 3, "AUGMENTATION": "crop,flip"}
    encoder = SmallEncoder()
    first = pictures_of(images, tmp_path, encoder, RANDOM_SEED=1, **settings)
    assert encoder.encoded == 3 * COUNT
    second = pictures_of(images, tmp_path, encoder, RANDOM_SEED=2, **settings)
    assert encoder.encoded == 3 * COUNT
    assert len({draws.to_bytes() for draws in (*first.view_draws, *second.view_draws)}) == 2
    for view, draws in zip(first.views, first.view_draws, strict=True):
        live = LivePictures(images, encoder.preprocessor).altered(draws.alter)
        with torch.no_grad():
            expected = encoder(live.rows(ALL))
        torch.testing.assert_close(view.rows(ALL).float(), expected, rtol=1e-2, atol=1e-2)
        assert draws.flipped[1::2].any()
        assert not draws.flipped[::2].any()
    one, other = first.in_epoch(0).rows.rows(ALL), second.in_epoch(0).rows.rows(ALL)
    assert not torch.equal(one, other)  # which view is read is the seed's
    cropped = pictures_of(images, tmp_path, encoder, FEATURE_VIEWS=3, AUGMENTATION="crop")
    assert len({view.path for view in (*first.views, *cropped.views)}) == 4


def test_pictures_read_anew_are_altered_by_the_run_s_seed(
    images: list[Path], tmp_path: Path
) -> None:
    pictures = pictures_of(
        images,
        tmp_path,
        SmallEncoder(),
        RANDOM_SEED=5,
        AUGMENTATION="flip,colour",
        FEATURE_CACHE="off",
    )
    may_flip = [number % 2 == 1 for number in range(COUNT)]
    expected = Augmentation("flip,colour", seed=5, may_flip=may_flip).draws(3)
    assert pictures.augmentation is not None
    assert pictures.augmentation.draws(3).to_bytes() == expected.to_bytes()


def test_features_are_made_only_for_epochs_before_the_encoder_is_trained(
    images: list[Path], tmp_path: Path
) -> None:
    settings = {"ENCODER_TRAINED_BLOCKS": 1, "ENCODER_START_EPOCH": 2, "NUM_EPOCHS": 4}
    encoder = SmallEncoder()
    late = pictures_of(images, tmp_path, encoder, epoch=2, **settings)
    assert (late.early, encoder.encoded) == (None, 0)
    pictures = pictures_of(images, tmp_path, encoder, epoch=1, **settings)
    assert encoder.encoded == COUNT
    assert pictures.in_epoch(1).rows.rows(ALL).shape == (COUNT, 4, 6)
    assert pictures.in_epoch(2).rows is pictures.plain
    assert pictures.plain.rows(ALL).shape == (COUNT, 3, 8, 8)


def test_flipped_pictures_have_their_mirrored_captions() -> None:
    records = [Record(Path(f"{n}.png"), (f"{n} to the left", f"{n} runs")) for n in range(4)]
    other = [Record(Path(f"{n}.png"), (f"{n} to the right", f"{n} runs")) for n in range(4)]
    tokenizer = train_tokenizer([text for one in (*records, *other) for text in one.captions], 400)
    captions = CaptionDataset(records, tokenizer, 30, mirrored=other)
    assert captions.num_captions == 8
    flipped = np.array([False, True, False, True])
    plan = captions.plan(100, seed=1, epoch=2)
    mirrored = captions.mirror(plan, flipped)

    class Rows:
        def rows(self, indices: torch.Tensor) -> torch.Tensor:
            return indices[:, None]

    def texts(plan: object) -> list[str]:
        batch = captions.collate_fn(plan, slice(0, 4), Rows())
        ends = [n + 1 for n, one in enumerate(batch.targets.tolist()) if one == tokenizer.end_id]
        starts = [0, *ends[:-1]]
        return [
            tokenizer.decode(batch.inputs[a + 1 : b].tolist())
            for a, b in zip(starts, ends, strict=True)
        ]

    before, after = texts(plan), texts(mirrored)
    assert sorted(before) == sorted(text for one in records for text in one.captions)
    for one, another in zip(before, after, strict=True):
        is_flipped = flipped[int(one[0])]
        assert another == (one.replace("left", "right") if is_flipped else one)
    pictures: Any = SimpleNamespace(in_epoch=lambda number: EpochPictures(Rows(), flipped))
    steps = PreparedSteps(records, captions, pictures, CPU, batch_size=100, seed=1)
    (step,) = steps.iterate(2)
    (batch,) = step.batches
    assert batch.targets.equal(captions.collate_fn(mirrored, mirrored.groups(0), Rows()).targets)
