"""What each word of a caption looked at: cross-attention, as heat over the picture.

The caption is fed back once. The heat of a token is the attention with which it was chosen, that is
of the position before it, averaged over heads and layers; a word's is the mean over its tokens.
Prefix tokens of the encoder (class token, registers) have no place in the picture and are left out,
and the rest is not scaled up again: `WordAttention.on_picture` tells how much of it is left.

A patch of the encoder's output knows of other patches, too. `roll_out` follows its attention back
to the patches of the input, where the encoder gives its attention.

Weights are computed here only; search never asks for them. `write_strip` draws the words of a
caption as a row of pictures.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from captioning.system.errors import UserError
from captioning.system.files import atomic_write
from captioning.training.packing import Packing
from captioning.vision.preprocessing import Region
from captioning.vision.tower_features import FeatureShape
from encoder import VisionEncoder
from pipeline import CaptionPipeline

Floats = NDArray[np.float32]

TILE_PIXELS, MARGIN_PIXELS, FONT_PIXELS = 224, 12, 18
"""Of a strip: longer side of its pictures, space between them, height of its letters."""
TILES_IN_A_ROW = 6
INK, PAPER, HEAT_COLOUR = "#1b1d22", "#ffffff", (255.0, 96.0, 0.0)


@dataclass(frozen=True)
class WordAttention:
    """Where the model looked when it chose a word."""

    text: str
    grid: Floats
    """(rows, columns) attention on each patch that the encoder saw."""
    region: Region
    """Where these patches lie in the picture."""
    image_size: tuple[int, int]
    """Width and height of the picture."""

    @property
    def on_picture(self) -> float:
        """Share of the attention that went to patches rather than to prefix tokens, 0 to 1."""
        return float(self.grid.sum())

    def heat(self, size: tuple[int, int] | None = None) -> Floats:
        """(height, width) over the whole picture, drawn at `size` (width, height; its own by
        default), largest value 1.

        Patches are blended into one another; what the encoder did not see (cropped away) is 0.
        """
        width, height = size or self.image_size
        rows, columns = self.grid.shape
        # Patches a pixel of the drawn picture, along each axis.
        right = columns * self.image_size[0] / width / (self.region.right - self.region.left)
        down = rows * self.image_size[1] / height / (self.region.bottom - self.region.top)
        start_x = -self.region.left * columns / (self.region.right - self.region.left)
        start_y = -self.region.top * rows / (self.region.bottom - self.region.top)
        spread = Image.fromarray(self.grid.astype(np.float32)).transform(
            (width, height),
            Image.Transform.AFFINE,
            (right, 0, start_x, 0, down, start_y),
            Image.Resampling.BILINEAR,
        )
        heat: Floats = np.asarray(spread, np.float32).clip(min=0)
        return heat / np.float32(max(heat.max(), 1e-12))

    def peak(self) -> tuple[int, int]:
        """(x, y) of the middle of the patch with most attention, in pixels of the picture.

        Not of the largest heat: blended patches of an edge are flat up to the picture's border.
        """
        rows, columns = self.grid.shape
        row, column = np.unravel_index(self.grid.argmax(), self.grid.shape)
        region = self.region
        x = region.left + (float(column) + 0.5) * (region.right - region.left) / columns
        y = region.top + (float(row) + 0.5) * (region.bottom - region.top) / rows
        width, height = self.image_size
        return int(np.clip(x, 0, width - 1)), int(np.clip(y, 0, height - 1))


@torch.inference_mode()
def attend(
    pipeline: CaptionPipeline, features: Tensor, ids: Sequence[Sequence[int]]
) -> list[Floats]:
    """Attention (tokens, P) on the features (B, P, F) of each picture with its caption's `ids`.

    `ids` are the caption's own, without <START> and <END>; averaged over layers and heads.
    """
    longest = max((len(one) for one in ids), default=0)
    if longest == 0:
        return [np.zeros((0, features.shape[1]), np.float32) for _ in ids]
    start, pad = pipeline.tokenizer.start_id, pipeline.tokenizer.pad_id
    # Position i reads token i - 1 and chooses token i.
    rows = [[start, *one[:-1]] if one else [start] for one in ids]
    inputs = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    positions = torch.arange(longest).repeat(len(rows))
    device = pipeline.runtime.device
    weights: list[Tensor] = []
    with pipeline.runtime.autocast():
        pipeline.model.decoder(
            inputs.flatten().to(device),
            positions.to(device),
            Packing(len(rows), longest),
            pipeline.model.read(features),
            weights=weights,
        )
    mean = torch.stack(weights).float().mean((0, 2)).cpu().numpy()  # (B, T, P)
    return [mean[number, : len(one)] for number, one in enumerate(ids)]


@torch.inference_mode()
def roll_out(encoder: VisionEncoder, pixels: Tensor) -> Floats | None:
    """(B, P, Q) how much of each of the tower's Q input tokens is in each of the P features, for
    pixels (B, 3, H, W).

    Attention rollout (Abnar and Zuidema, 2020, section 3): in each layer the mean over heads and
    the residual connection count half each; layers are multiplied. Features of several layers are
    the mean of theirs. None where the encoder has no attention over all its tokens (a
    convolutional network, or one of windows), or where the feature is none of its tokens.
    """
    with _told_attentions(encoder) as told:
        encoder(pixels)
    B, Q = len(pixels), encoder.tower_shape.tokens
    if not told or any(layer is None or layer.shape[::2] != (B, Q) for layer in told):
        return None
    rollout = torch.eye(Q, device=pixels.device).expand(B, Q, Q)
    after = [rollout]  # no layer, the first, ...
    for layer in told:  # (B, H, Q, Q)
        rollout = (layer.float().mean(1) + torch.eye(Q, device=pixels.device)) / 2 @ rollout
        after.append(rollout)
    if encoder.feature_tokens is None:
        return None
    mean = torch.stack([after[place] for place in encoder.choice.places]).mean(0)
    return mean[:, encoder.feature_tokens].cpu().numpy()


@contextmanager
def _told_attentions(encoder: VisionEncoder) -> Iterator[list[Any]]:
    """A list into which the tower's next call puts the attention of its layers, if it has any."""
    tower: Any = encoder.tower
    told: list[Any] = []

    def ask(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "output_attentions": True}

    def listen(module: Any, args: Any, output: Any) -> None:
        told.extend(getattr(output, "attentions", None) or ())

    usual = getattr(tower.config, "_attn_implementation", None)
    handles = [tower.register_forward_hook(listen)]
    try:
        if usual is not None:
            # The fused kernels never hold the weights.
            tower.set_attn_implementation("eager")
            handles.append(tower.register_forward_pre_hook(ask, with_kwargs=True))
        yield told
    finally:
        for handle in handles:
            handle.remove()
        if usual is not None:
            tower.set_attn_implementation(usual)


def word_attention(
    pipeline: CaptionPipeline,
    ids: Sequence[int],
    weights: Floats,
    image_size: tuple[int, int],
    shape: FeatureShape | None = None,
) -> list[WordAttention]:
    """The words of a caption with their heat, from its `attend` weights (tokens, P).

    `shape` is the layout of what is attended to (the encoder's features by default). A token that
    is a space alone is no word.
    """
    shape = shape or pipeline.encoder.shape
    region = pipeline.encoder.picture_region(image_size)
    patches = weights[:, shape.prefix :].reshape(-1, *shape.grid)
    return [
        WordAttention(word.text, patches[word.start : word.stop].mean(0), region, image_size)
        for word in pipeline.tokenizer.words(ids)
        if word.text
    ]


def write_strip(
    image: Image.Image,
    words: Sequence[WordAttention],
    path: str | os.PathLike[str],
    *,
    font_file: str = "",
) -> None:
    """Write `draw_strip` as a PNG, whole or not at all."""
    strip = draw_strip(image, words, font_file=font_file)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            strip.save(file, "PNG")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None


def draw_strip(
    image: Image.Image, words: Sequence[WordAttention], *, font_file: str = ""
) -> Image.Image:
    """The picture, then the picture under each word's heat, the word above it.

    The letters are DejaVu's: European, Arabic and Hebrew ones, the same on every machine.
    `font_file` names another font, for Chinese, say.
    """
    font = load_font(font_file)
    scale = TILE_PIXELS / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    # What ends a line (such as U+2029 or U+001D, which an untrained model may write) has no width.
    titles = [" ".join(word.text.split()) for word in words]
    # A long word makes the columns wider, up to a tile's usual width, and is then cut.
    widest = max(map(font.getlength, titles), default=0.0)
    cell_width = max(width, min(round(widest) + 1, TILE_PIXELS))
    title_height = round(FONT_PIXELS * 1.6)
    tiles = [("", small)]
    tiles += [
        (fitted(title, font, cell_width), overlay(small, word.heat((width, height))))
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


def overlay(image: Image.Image, heat: Floats) -> Image.Image:
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
