"""A picture as the 8-bit pixels that an encoder takes, by its Hugging Face image processor.

The processor resizes and crops, through Pillow, and stops there: its rescaling and normalising are
one multiplication and one addition a channel (`scale`, `shift`), left to the encoder, which does
them for a whole batch on the device. What a processor does is measured on little test pictures
when it is loaded, not read off its settings, so that each processor gives what it always gave.

Small and free of the encoder's weights: worker processes hold a copy.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioning.system.errors import UserError
from captioning.vision.limits import check_sides, in_words

Array = np.ndarray[Any, np.dtype[Any]]

LONGEST_TO_SHORTEST = 100
"""A picture longer than this many times its shorter side is cut to its middle: resizing the
shorter side of a 1 x 30,000 picture to 224 would take gigabytes."""

USUAL_SETTINGS = {"size", "resample", "image_mean", "image_std"}
"""What a processor's settings must say where its class, and so its defaults, cannot be had."""

DARK, LIGHT = 55, 255
"""Ends of the ramps that find a picture in its pixels; padding, which is black, is darker."""


@dataclass(frozen=True)
class Region:
    """Where all pixels that the encoder sees lie in the original picture, in its pixels.

    Reaches beyond the picture (`left` or `top` below 0) where the processor pads it.
    """

    left: float
    top: float
    right: float
    bottom: float


class ImagePreprocessor:
    """Resizes and crops pictures as an image processor's settings say; raises `UserError` for
    processors that give no pixels of one size, or do more than rescale and normalise them."""

    def __init__(self, settings: dict[str, Any], *, name: str = "") -> None:
        called = name or "the image processor"
        with in_words(called):
            check_sides(settings, called)
            self._processor = _build(settings, called)
            self._name = name or type(self._processor).__name__
            self._measure(self._name)

    @classmethod
    def from_pretrained(
        cls, name: str, *, revision: str = "", model_type: str = ""
    ) -> "ImagePreprocessor":
        """The processor of a Hub repository or folder; `model_type` (of the encoder's config)
        tells its kind where old settings do not."""
        from transformers import ImageProcessingMixin
        from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

        try:
            settings, _ = ImageProcessingMixin.get_image_processor_dict(
                name, revision=revision or None
            )
        except OSError as error:
            raise UserError(
                f"The image processor of {name} could not be loaded: "
                f"{str(error).splitlines()[0].rstrip('.')}. Name another with "
                "--IMAGE_PROCESSOR_NAME (a Hub name or a folder with preprocessor_config.json)."
            ) from None
        if not {"image_processor_type", "feature_extractor_type"} & settings.keys():
            usual = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {})
            settings["image_processor_type"] = usual.get("pil", "").removesuffix("Pil")
        return cls(settings, name=name)

    def __call__(self, image: Image.Image) -> Tensor:
        """The pixels of an RGB picture: uint8 (3, height, width)."""
        return torch.from_numpy(self._pixels(_cut_to_middle(image)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        return self._size

    @property
    def scale(self) -> Tensor:
        """What the encoder multiplies pixels by: float32 (3, 1, 1)."""
        return torch.from_numpy(self._scale).view(3, 1, 1)

    @property
    def shift(self) -> Tensor:
        """What the encoder then adds: float32 (3, 1, 1)."""
        return torch.from_numpy(self._shift).view(3, 1, 1)

    def at_size(self, side: int) -> "ImagePreprocessor":
        """The same processor for squares of `side` pixels: what it resizes and crops to, in
        proportion. Raises `UserError` where its settings cannot say that."""
        settings = self.settings()
        ratio = side / self._size[0]
        for key in ("size", "crop_size"):
            if isinstance(settings.get(key), dict):
                settings[key] = {
                    name: round(length * ratio) if length else length
                    for name, length in settings[key].items()
                }
        found = ImagePreprocessor(settings, name=self._name)
        if found.size != (side, side):
            raise UserError(
                f"ENCODER_IMAGE_SIZE is {side}; {self._name} would make pictures of "
                f"{found.size[1]} x {found.size[0]} pixels. Leave it out, or name another image "
                "processor with --IMAGE_PROCESSOR_NAME."
            )
        return found

    def settings(self) -> dict[str, Any]:
        """The processor's settings, as `preprocessor_config.json` holds them."""
        settings: dict[str, Any] = json.loads(self._processor.to_json_string())
        return settings

    def behaviour(self) -> bytes:
        """What it does to two test pictures: equal for processors that do the same."""
        measured: list[Array] = [self._pixels(picture) for picture in _test_pictures()]
        measured += [self._scale, self._shift]
        return b"".join(array.tobytes() for array in measured)

    def region(self, image_size: tuple[int, int]) -> Region:
        """Where in a picture of `image_size` (width, height) the encoder's pixels lie.

        Found by sending ramps through the processor, to within a pixel or so; exact enough to lay
        a heat map over the picture.
        """
        left, top, width, height = _middle(*image_size)
        x_low, x_high = self._extent(width, (width, height), axis=1)
        y_low, y_high = self._extent(height, (width, height), axis=0)
        return Region(left + x_low, top + y_low, left + x_high, top + y_high)

    def _pixels(self, image: Image.Image) -> Array:
        # Named steps only: a processor that normalises in other ways shows itself in `_measure`.
        result = self._processor(image, do_rescale=False, do_normalize=False)
        return np.ascontiguousarray(np.asarray(result["pixel_values"])[0])

    def _normalised(self, image: Image.Image) -> Array:
        return np.asarray(self._processor(image)["pixel_values"], dtype=np.float64)[0]

    def _measure(self, name: str) -> None:
        """Find size, scale and shift; check that they say all that the processor does."""
        advice = "Name another image processor with --IMAGE_PROCESSOR_NAME."
        try:
            pixels = [self._pixels(picture) for picture in _test_pictures()]
            black, white = (
                self._normalised(Image.new("RGB", (320, 320), color))
                for color in ("black", "white")
            )
            whole = [self._normalised(picture) for picture in _test_pictures()]
        except (KeyError, ValueError, TypeError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{name} cannot prepare a picture: {reason}. {advice}") from None
        shapes = [array.shape for array in pixels]
        if shapes[0] != shapes[1] or len(shapes[0]) != 3 or shapes[0][0] != 3:
            raise UserError(
                f"{name} makes {shapes[0]} of a wide picture and {shapes[1]} of a tall one; "
                f"an encoder needs (3, height, width), always the same. {advice}"
            )
        self._size = (shapes[0][1], shapes[0][2])
        middle = (slice(None), self._size[0] // 2, self._size[1] // 2)
        self._scale = ((white[middle] - black[middle]) / 255).astype(np.float32)
        self._shift = black[middle].astype(np.float32)
        for array, expected in zip(pixels, whole, strict=True):
            ours = array * self._scale[:, None, None] + self._shift[:, None, None]
            if array.dtype != np.uint8 or np.abs(ours - expected).max() > 1e-4:
                raise UserError(
                    f"{name} does more to pixels than rescale and normalise them, such as padding "
                    f"afterwards, so that they cannot be kept in 8 bits. {advice}"
                )

    def _extent(self, length: int, image_size: tuple[int, int], axis: int) -> tuple[float, float]:
        """Ends of the pixels along an axis (0 = down, 1 = right), in pixels of the picture."""
        low, high = 0.0, float(length)
        # 256 levels of grey are few for a large picture or a small crop of it: each ramp but the
        # first spans only what the one before has found, and two levels more.
        for _ in range(2):
            seen = self._ramp_seen(low, high, length, image_size, axis)
            ends = np.array([seen[seen >= DARK].min() - 2, seen.max() + 2])
            low, high = np.clip(_place(ends, low, high), 0, length)
        seen = self._ramp_seen(low, high, length, image_size, axis)
        on_ramp = (seen > DARK + 4) & (seen < LIGHT - 4)
        if len(np.unique(seen[on_ramp])) < 2:  # of 1 or 2 pixels, too few to be cropped
            inside = np.flatnonzero(seen >= DARK)
            per_pixel = length / (inside[-1] + 1 - inside[0])
            return float(-inside[0] * per_pixel), float((len(seen) - inside[0]) * per_pixel)
        slope, start = np.polyfit(np.flatnonzero(on_ramp) + 0.5, seen[on_ramp], 1)
        found = _place(np.array([start, start + slope * len(seen)]), low, high)
        return float(found[0]), float(found[1])

    def _ramp_seen(
        self, low: float, high: float, length: int, image_size: tuple[int, int], axis: int
    ) -> Array:
        """What becomes of a ramp of grey from `low` to `high`: its levels along the axis."""
        ramp = np.clip((np.arange(length) + 0.5 - low) / (high - low), 0, 1)
        levels = (DARK + ramp * (LIGHT - DARK)).round().astype(np.uint8)
        width, height = image_size
        picture = np.empty((height, width), dtype=np.uint8)
        picture[:] = levels[:, None] if axis == 0 else levels
        pixels = self._pixels(Image.fromarray(picture).convert("RGB"))
        seen: Array = pixels.max(axis=(0, 2 - axis)).astype(np.float64)
        return seen


def _place(levels: Array, low: float, high: float) -> Array:
    """Where on a ramp from `low` to `high` its levels lie."""
    return low + (levels - DARK) / (LIGHT - DARK) * (high - low)


def _build(settings: dict[str, Any], name: str) -> Any:
    """The processor that the settings name, in the flavour that needs Pillow alone."""
    import transformers

    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type") or ""
    if not isinstance(kind, str):
        raise UserError(f"{name} has the image_processor_type {kind!r}; it must be a name.")
    kind = kind.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    # DINOv3's processor needs torchvision. What it does can be said in the settings of ViT's,
    # which rounds to 8 bits after resizing instead of not at all; its defaults are out of reach.
    has_pillow_flavour = hasattr(transformers, f"{kind}Pil")
    if not has_pillow_flavour and not (kind and settings.keys() >= USUAL_SETTINGS):
        raise UserError(
            f"{name} has settings for {kind or 'no known image processor'}, which transformers "
            f"{transformers.__version__} cannot run with Pillow. Name another image processor with "
            "--IMAGE_PROCESSOR_NAME."
        )
    settings = dict(settings)
    if "max_num_patches" in settings:
        # SigLIP 2 in its form of any shape of picture takes a list of patches; a square of as many
        # is what its siblings of one shape take.
        side = int(settings.pop("max_num_patches") ** 0.5) * settings.pop("patch_size")
        settings["size"] = {"height": side, "width": side}
        check_sides(settings, name)
        kind = "SiglipImageProcessor"
    flavour = f"{kind}Pil" if has_pillow_flavour else "ViTImageProcessorPil"
    settings["image_processor_type"] = kind
    return getattr(transformers, flavour).from_dict(settings)


def _test_pictures() -> list[Image.Image]:
    """A wide and a tall picture of noise, always the same."""
    random = np.random.default_rng(0)
    shapes = ((200, 320, 3), (260, 150, 3))
    return [Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of what `LONGEST_TO_SHORTEST` leaves of a picture."""
    kept_width = min(width, height * LONGEST_TO_SHORTEST)
    kept_height = min(height, width * LONGEST_TO_SHORTEST)
    return (width - kept_width) // 2, (height - kept_height) // 2, kept_width, kept_height


def _cut_to_middle(image: Image.Image) -> Image.Image:
    left, top, width, height = _middle(*image.size)
    if (width, height) == image.size:
        return image
    return image.crop((left, top, left + width, top + height))
