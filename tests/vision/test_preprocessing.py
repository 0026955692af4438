"""Pixels equal what the image processor gives, and the region tells where they come from."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor

from captioning.sources.images import load_image
from captioning.system.errors import UserError
from captioning.vision.preprocessing import ImagePreprocessor, Region

SQUARE = {"height": 48, "width": 48}
PROCESSORS: dict[str, Any] = {
    "clip": lambda: hf.CLIPImageProcessorPil(),
    "siglip": lambda: hf.SiglipImageProcessorPil(),
    "blip": lambda: hf.BlipImageProcessorPil(),
    "vit": lambda: hf.ViTImageProcessorPil(size={"height": 224, "width": 160}),
    "deit": lambda: hf.DeiTImageProcessorPil(),
    "beit": lambda: hf.BeitImageProcessorPil(),
    "bit (DINOv2)": lambda: hf.BitImageProcessorPil(size={"shortest_edge": 256}),
    "convnext cropped": lambda: hf.ConvNextImageProcessorPil(size={"shortest_edge": 224}),
    "convnext whole": lambda: hf.ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "levit": lambda: hf.LevitImageProcessorPil(),
    "mobilevit (blue first)": lambda: hf.MobileViTImageProcessorPil(),
    "pvt": lambda: hf.PvtImageProcessorPil(),
    "segformer": lambda: hf.SegformerImageProcessorPil(),
    "chinese clip": lambda: hf.ChineseCLIPImageProcessorPil(),
    "crop with padding": lambda: hf.CLIPImageProcessorPil(do_resize=False),
    "no normalising": lambda: hf.ViTImageProcessorPil(do_normalize=False),
}


def preprocessor(processor: Any) -> ImagePreprocessor:
    return ImagePreprocessor(processor.to_dict())


def noise(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width * height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def normalised(prepared: ImagePreprocessor, pixels: Tensor) -> Tensor:
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, *prepared.size)
    return pixels * prepared.scale + prepared.shift


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("size", [(500, 375), (224, 224), (97, 401), (30, 20), (1, 1), (2000, 40)])
def test_equals_the_processor(kind: str, size: tuple[int, int]) -> None:
    processor = PROCESSORS[kind]()
    prepared, picture = preprocessor(processor), noise(*size)
    expected = processor(picture, return_tensors="pt")["pixel_values"][0]
    ours = normalised(prepared, prepared(picture))
    torch.testing.assert_close(ours, expected.float(), rtol=2e-6, atol=1e-6)


def test_equals_the_processor_on_photographs(real_data: Path) -> None:
    processor = hf.CLIPImageProcessorPil()
    prepared = preprocessor(processor)
    for path in sorted((real_data / "flickr8k_sample" / "images").glob("*.jpg"))[::80]:
        picture = load_image(path)
        expected = processor(picture, return_tensors="pt")["pixel_values"][0]
        ours = normalised(prepared, prepared(picture))
        torch.testing.assert_close(ours, expected, rtol=2e-6, atol=1e-6)


def test_dinov3_resizes_to_the_nearest_level() -> None:
    """Its own processor rescales, then resizes in float: at most a level from the 8-bit way."""
    means, deviations = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    settings = {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "size": SQUARE,
        "resample": 2,
        "image_mean": means,
        "image_std": deviations,
    }
    prepared, picture = ImagePreprocessor(settings), noise(200, 130)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float(),
        size=(48, 48),
        mode="bilinear",
        antialias=True,
    )[0]
    assert (prepared(picture) - exact).abs().max() <= 1
    mean, std = torch.tensor(means).view(3, 1, 1), torch.tensor(deviations).view(3, 1, 1)
    torch.testing.assert_close(
        normalised(prepared, prepared(picture)), (prepared(picture) / 255 - mean) / std
    )


def test_siglip2_of_any_shape_becomes_a_square_of_as_many_patches() -> None:
    prepared = preprocessor(hf.Siglip2ImageProcessorPil(max_num_patches=144, patch_size=14))
    assert prepared.size == (12 * 14, 12 * 14)
    assert preprocessor_again(prepared).size == prepared.size


def preprocessor_again(prepared: ImagePreprocessor) -> ImagePreprocessor:
    return ImagePreprocessor(prepared.settings())


@pytest.mark.parametrize("kind", PROCESSORS)
def test_settings_and_worker_copies_do_the_same(kind: str, tmp_path: Path) -> None:
    processor = PROCESSORS[kind]()
    processor.save_pretrained(tmp_path)
    prepared = ImagePreprocessor.from_pretrained(str(tmp_path))
    in_worker = ForkingPickler.loads(ForkingPickler.dumps(prepared))
    picture = noise(120, 90)
    for copy in (preprocessor(processor), preprocessor_again(prepared), in_worker):
        assert copy.behaviour() == prepared.behaviour()
        assert torch.equal(copy(picture), prepared(picture))
        assert torch.equal(copy.scale, prepared.scale)


def test_old_settings_are_understood(tmp_path: Path) -> None:
    old = {"size": 48, "crop_size": 48, "do_center_crop": True}
    named = ImagePreprocessor({**old, "feature_extractor_type": "CLIPFeatureExtractor"})
    assert named.size == (48, 48)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 48}', encoding="utf-8")
    by_model = ImagePreprocessor.from_pretrained(str(tmp_path), model_type="vit")
    assert by_model.size == (48, 48)
    assert type(by_model._processor).__name__ == "ViTImageProcessorPil"


def test_behaviour_tells_processors_apart() -> None:
    usual = preprocessor(hf.ViTImageProcessorPil(size=SQUARE))
    others = [
        hf.ViTImageProcessorPil(size=SQUARE, resample=3),
        hf.ViTImageProcessorPil(size=SQUARE, image_std=[0.4, 0.5, 0.5]),
        hf.ViTImageProcessorPil(size={"height": 48, "width": 49}),
    ]
    assert all(preprocessor(other).behaviour() != usual.behaviour() for other in others)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (hf.DetrImageProcessorPil, "an encoder needs"),
        (hf.GLPNImageProcessorPil, "an encoder needs"),
        (hf.Idefics3ImageProcessorPil, "an encoder needs"),
        (hf.SamImageProcessorPil, "does more to pixels"),
        (hf.SuperGlueImageProcessorPil, "cannot prepare a picture"),
    ],
)
def test_unfit_processors_are_refused(processor: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        preprocessor(processor())
    assert "--IMAGE_PROCESSOR_NAME" in str(caught.value)


def test_a_rectangle_makes_no_square() -> None:
    prepared = preprocessor(hf.ViTImageProcessorPil(size={"height": 224, "width": 160}))
    with pytest.raises(UserError, match="would make pictures of 80 x 112 pixels"):
        prepared.at_size(112)


def test_missing_and_unknown_processors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be loaded"):
        ImagePreprocessor.from_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="DINOv3ViTImageProcessor"):
        ImagePreprocessor({"image_processor_type": "DINOv3ViTImageProcessor", "size": SQUARE})
    with pytest.raises(UserError, match="WonderImageProcessor"):
        ImagePreprocessor({"image_processor_type": "WonderImageProcessor"})
    with pytest.raises(UserError, match="no known image processor"):
        ImagePreprocessor({"size": 48})


def middle_square(width: int, height: int, share: float = 1.0) -> Region:
    half = min(width, height) * share / 2
    return Region(width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)


@pytest.mark.parametrize(
    "size",
    [(500, 375), (375, 500), (64, 64), (640, 200), (2, 3), (1, 50), (2500, 1667), (40, 4000)],
)
def test_region(size: tuple[int, int]) -> None:
    width, height = size
    whole = Region(0, 0, width, height)
    crop_256 = hf.BitImageProcessorPil(size={"shortest_edge": 256})
    no_resize = hf.CLIPImageProcessorPil(do_resize=False, crop_size={"height": 60, "width": 80})
    truth = {
        "plain resize": (hf.ViTImageProcessorPil(), whole),
        "shortest edge, centre crop": (hf.CLIPImageProcessorPil(), middle_square(*size)),
        "shortest edge 256, crop 224": (crop_256, middle_square(*size, share=224 / 256)),
        "blue first": (hf.MobileViTImageProcessorPil(), middle_square(*size, share=256 / 224)),
        "crop or pad": (
            no_resize,
            Region(width / 2 - 40, height / 2 - 30, width / 2 + 40, height / 2 + 30),
        ),
    }
    for kind, (processor, expected) in truth.items():
        found = preprocessor(processor).region(size)
        # A crop starts at a whole pixel of the resized picture: a pixel of 224 may be off.
        tolerance = 0.6 + max(width, height) / 224
        for side in ("left", "top", "right", "bottom"):
            off = abs(getattr(found, side) - getattr(expected, side))
            assert off <= tolerance, (kind, side, found, expected)


def test_endless_strips_are_cut_to_their_middle() -> None:
    strip = noise(1, 30_000)
    whole = preprocessor(hf.ViTImageProcessorPil())
    assert torch.equal(whole(strip), whole(strip.crop((0, 14_950, 1, 15_050))))
    region = preprocessor(hf.CLIPImageProcessorPil()).region((1, 30_000))
    assert abs((region.top + region.bottom) / 2 - 15_000) < 1
    assert 0.9 < region.bottom - region.top < 1.2
