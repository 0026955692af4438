"""A trained model as a function of pictures.

    captioner = Captioner.from_pretrained("checkpoints/flickr30k-clip-vit-base-patch32/best")
    print(captioner("photo.jpg"))
    captions = captioner(["a.jpg", "b.jpg"])
    three = captioner.captions(["a.jpg"], SearchOptions(method="beam", num_captions=3))
    captioner.strip("photo.jpg")             # a picture of what each word looked at

Pictures are paths, bytes or `PIL.Image`s. Nothing of training is imported.

What each word looked at is cross-attention, as heat over the picture. The caption is fed back once.
The heat of a token is the attention with which it was chosen, that is of the position before it,
averaged over heads and layers; a word's is the mean over its tokens. Prefix tokens of the encoder
(class token, registers) have no place in the picture and are left out, and the rest is not scaled
up again: the sum of a `WordAttention.grid` is what is left. A patch of the encoder's output
knows of other patches, too: `roll_out` follows its attention back to the patches of the input.
Weights are computed here only; search never asks for them.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captioning.decoding import SearchOptions, TokenRules
from captioning.reports.strips import draw_strip, tile_size
from captioning.sharing.repository import full_name, resolve_checkpoint
from captioning.sources.images import load_image
from captioning.sources.records import WordHeat
from captioning.system.ahead import ahead
from captioning.system.errors import UserError
from captioning.system.processes import worker_count
from captioning.system.runtime import Runtime
from captioning.training.packing import Packing
from captioning.vision.preprocessing import Region
from captioning.vision.tower_features import FeatureShape
from checkpoint import load_pipeline, read_checkpoint
from config import Config
from encoder import VisionEncoder
from pipeline import BatchSize, Caption, CaptionPipeline, each_batch

__all__ = ["Caption", "Captioner", "Picture"]

Floats = NDArray[np.float32]
Picture = str | os.PathLike[str] | bytes | Image.Image
Item = TypeVar("Item")
Batch = list[tuple[Item, Tensor | str]]
"""Things with the pixels of the picture that each means, or with what was said instead."""


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

    def peak_share(self) -> tuple[float, float]:
        """The middle of the pixel `peak`, as shares of the picture's width and height."""
        (x, y), (width, height) = self.peak(), self.image_size
        return (x + 0.5) / width, (y + 0.5) / height


class Captioner:
    """A checkpoint, ready to caption."""

    def __init__(self, pipeline: CaptionPipeline, config: Config, *, is_ours: bool = True) -> None:
        """Wrap an evaluated `pipeline`; `config` holds the settings that it was trained with, or
        where it was trained elsewhere (not `is_ours`) those by which it captions."""
        self.pipeline, self.config, self.is_ours = pipeline, config, is_ours

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str = "",
        device: str = "auto",
        precision: str = "auto",
        trust_remote_code: bool = False,
    ) -> "Captioner":
        """Load a checkpoint folder or a repository of the Hub (user/name, at `revision`); a
        ViT-GPT2 of transformers is one too."""
        folder = resolve_checkpoint(os.fspath(name), revision=revision)
        checkpoint = read_checkpoint(folder, full_name(os.fspath(name), revision))
        runtime = Runtime.create(device, precision)
        pipeline = load_pipeline(checkpoint, runtime, trust_remote_code=trust_remote_code)
        return cls(pipeline, checkpoint.config, is_ours=checkpoint.vit_gpt2 is None)

    def take_dataset(self, dataset: str, name: str) -> None:
        """Say which prepared data set a captioner `name` is to caption that was trained elsewhere.

        Raises `UserError` where none is named.
        """
        if not dataset:
            raise UserError(
                f"{name} was trained elsewhere, on nobody knows what; say which prepared data set "
                "it is to caption: --dataset NAME"
            )
        self.config = replace(self.config, DATASET=dataset)

    def ask_neighbours(self, dataset_dir: Path) -> None:
        """From now on, let the captions of similar training pictures choose among all beams.

        They are those of the prepared data set's train split, whose features are made where they
        are missing. Raises `UserError` where there is none.
        """
        from captioning.decoding.neighbours import Neighbours
        from captioning.sources.records import read_records
        from features import open_stores

        mend = f"python prepare_dataset.py --DATASET {dataset_dir.name}"
        records = read_records(dataset_dir / "train", mend=mend)
        config = replace(
            self.config,
            DATASET=dataset_dir.name,
            DATA_DIR=str(dataset_dir.parent),
            STREAM="",
            FEATURE_CACHE="on" if self.config.feature_cache_bytes else self.config.FEATURE_CACHE,
        )
        pipeline = self.pipeline
        stores = open_stores(config, pipeline.encoder, pipeline.runtime, {"train": records})
        parts = torch.split(torch.arange(len(records)), 256)
        neighbours = Neighbours(
            (pipeline.features(stores["train"].rows(part)) for part in parts),
            [record.captions for record in records],
            prefix=pipeline.encoder.shape.prefix,
        )
        self.pipeline = replace(pipeline, neighbours=neighbours)

    @overload
    def __call__(self, pictures: Picture) -> Caption: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Caption]: ...

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Caption | list[Caption]:
        """The best caption of a picture, or of each of several."""
        if isinstance(pictures, str | os.PathLike | bytes | Image.Image):
            return self.captions([pictures])[0][0]
        return [captions[0] for captions in self.captions(pictures)]

    def captions(
        self,
        pictures: Sequence[Picture],
        options: SearchOptions | None = None,
        *,
        rules: TokenRules | None = None,
        batch_size: int = 32,
    ) -> list[list[Caption]]:
        """Captions of each picture, best first; batches that do not fit into memory are halved.

        `options` default to beam search with the beams of training. A sample depends on the seed
        and on the picture's place among `pictures`, not on the batches.
        """

        search = options or SearchOptions.of_beams(
            self.config.BEAM_SIZE, length_penalty=self.config.LENGTH_PENALTY
        )

        def caption(batch: range) -> list[list[Caption]]:
            features = self.features([pictures[number] for number in batch])
            return self.pipeline.captions(features, search, rules=rules, picture_numbers=batch)

        batches = each_batch(len(pictures), caption, batch_size=batch_size)
        return [captions for batch in batches for captions in batch]

    def captions_ahead(
        self,
        items: Iterable[Item],
        load: Callable[[Item], Image.Image | str],
        options: SearchOptions,
        *,
        number: Callable[[Item], int],
        rules: TokenRules | None = None,
        batch_size: int = 32,
    ) -> Iterator[list[tuple[Item, list[Caption] | str]]]:
        """Captions of pictures that pass, batch by batch, each picture read by `load` once.

        While a batch is searched, the next one is encoded and the one after it decoded, in threads;
        no more is held, however many pictures there are. An item whose `load` gives text, such as
        what is wrong with it, keeps that. `number` counts pictures, as samples depend on it.
        """
        size = BatchSize(batch_size)

        def prepare(item: Item) -> tuple[Item, Tensor | str]:
            loaded = load(item)
            ready = loaded if isinstance(loaded, str) else self.pixels(loaded)
            return item, ready

        def encode(batch: Batch[Item]) -> tuple[Batch[Item], list[Tensor], Tensor | None]:
            pixels = [ready for _, ready in batch if not isinstance(ready, str)]
            try:
                return batch, pixels, self.features(pixels) if pixels else None
            except torch.OutOfMemoryError:
                return batch, pixels, None  # in smaller parts, when its turn comes

        prepared = ahead(items, prepare, threads=worker_count(-1), most=2 * batch_size)
        encoded = ahead(_cut(prepared, size), encode, threads=1, most=1)
        for batch, pixels, features in encoded:
            numbers = [number(item) for item, ready in batch if not isinstance(ready, str)]
            search = partial(self._search, pixels, features, options, rules, numbers)
            parts = size.parts(len(pixels), search)
            found = iter([captions for part in parts for captions in part])
            yield [
                (item, ready if isinstance(ready, str) else next(found)) for item, ready in batch
            ]

    def _search(
        self,
        pixels: Sequence[Tensor],
        features: Tensor | None,
        options: SearchOptions,
        rules: TokenRules | None,
        numbers: Sequence[int],
        part: range,
    ) -> list[list[Caption]]:
        """Captions of a part of a batch, of which the features may be known."""
        if features is None or len(part) < len(pixels):
            features = self.features(pixels[part.start : part.stop])
        numbers = numbers[part.start : part.stop]
        return self.pipeline.captions(features, options, rules=rules, picture_numbers=numbers)

    def features(self, pictures: Sequence[Picture | Tensor]) -> Tensor:
        """(B, P, F) float32 encoder features, of pictures or of what `pixels` gave of them."""
        ready = [one if isinstance(one, Tensor) else self.pixels(one) for one in pictures]
        return self.pipeline.features(torch.stack(ready))

    def pixels(self, picture: Picture) -> Tensor:
        """(3, H, W) uint8, as the encoder reads a picture."""
        return self.pipeline.encoder.preprocess(load_image(picture))

    def attention(
        self, picture: Picture, caption: Caption | None = None, *, rollout: bool = False
    ) -> list[WordAttention]:
        """What each word of a picture's caption looked at (the best caption by default).

        `rollout` follows attention through the encoder as well; where the encoder has none (a
        convolutional network), it says so on standard error and cross-attention stands alone.
        """
        image = load_image(picture)
        (words,) = self._attention([image], [(caption or self(image)).ids], rollout=rollout)
        return words

    def attentions(
        self, pictures: Sequence[Picture], captions: Sequence[Caption]
    ) -> list[list[WordAttention]]:
        """`attention` of each of several pictures with its caption, computed in batches."""

        def look(batch: range) -> list[list[WordAttention]]:
            images = [load_image(pictures[number]) for number in batch]
            return self._attention(images, [captions[number].ids for number in batch])

        return [words for batch in each_batch(len(pictures), look) for words in batch]

    def strip(
        self,
        picture: Picture,
        caption: Caption | None = None,
        *,
        rollout: bool = False,
        font_file: str = "",
    ) -> Image.Image:
        """The picture, and beside it what each word of its caption looked at.

        `font_file` has the letters of the words, where DejaVu lacks them.
        """
        image = load_image(picture)
        words = self.attention(image, caption, rollout=rollout)
        heats = [WordHeat(word.text, word.heat(tile_size(image.size))) for word in words]
        return draw_strip(image, heats, font_file=font_file)

    @property
    def description(self) -> dict[str, object]:
        """The encoder, its features of a picture (tokens x width), and parameters."""
        encoder, model = self.pipeline.encoder, self.pipeline.model
        learns = (one for one in model.parameters() if one.requires_grad)
        trained = sum(one.numel() for one in (*learns, *encoder.trained_parameters()))
        every = sum(one.numel() for part in (model, encoder) for one in part.parameters())
        return {
            "encoder": self.config.ENCODER_MODEL_NAME,
            "feature_tokens": encoder.num_tokens,
            "feature_width": encoder.feature_dim,
            "parameters_trained": trained,
            "parameters_frozen": every - trained,
        }

    def _attention(
        self, images: Sequence[Image.Image], ids: Sequence[Sequence[int]], *, rollout: bool = False
    ) -> list[list[WordAttention]]:
        pixels = torch.stack([self.pixels(image) for image in images])
        encoder = self.pipeline.encoder
        weights = attend(self.pipeline, self.pipeline.features(pixels), ids)
        shape = encoder.shape
        if rollout:
            through = roll_out(encoder, pixels.to(self.pipeline.runtime.device))
            if through is None:
                print(
                    f"{encoder.name} has no attention to roll out; the heat is that of "
                    "cross-attention alone.",
                    file=sys.stderr,
                )
            else:
                weights = [one @ way for one, way in zip(weights, through, strict=True)]
                shape = encoder.tower_shape
        return [
            word_attention(self.pipeline, one, heat, image.size, shape)
            for one, heat, image in zip(ids, weights, images, strict=True)
        ]


def _cut(items: Iterable[Item], size: BatchSize) -> Iterator[list[Item]]:
    """Batches of items, as large as they are to be when they begin."""
    items = iter(items)
    while batch := list(islice(items, size.pictures)):
        yield batch


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
            pipeline.model.encode_memory(features),
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
    return encoder.averaged(mean[:, encoder.feature_tokens]).cpu().numpy()


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
    region = pipeline.encoder.preprocessor.region(image_size)
    patches = weights[:, shape.prefix :].reshape(-1, *shape.grid)
    return [
        WordAttention(word.text, patches[word.start : word.stop].mean(0), region, image_size)
        for word in pipeline.tokenizer.words(ids)
        if word.text
    ]
