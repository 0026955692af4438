"""A trained model as a function of pictures.

    captioner = Captioner.from_pretrained("checkpoints/flickr30k-clip-vit-base-patch32/best")
    print(captioner("photo.jpg"))
    captions = captioner(["a.jpg", "b.jpg"])
    three = captioner.captions(["a.jpg"], SearchOptions(method="beam", num_captions=3))
    captioner.strip("photo.jpg")             # a picture of what each word looked at

Pictures are paths, bytes or `PIL.Image`s. Nothing of training is imported.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch
from PIL import Image
from torch import Tensor

from attention import WordAttention, attend, draw_strip, roll_out, word_attention
from captioning.decoding import SearchOptions, TokenRules
from captioning.sharing.repository import resolve_checkpoint
from captioning.sources.images import load_image
from captioning.system.runtime import Runtime
from checkpoint import load_pipeline, read_checkpoint
from config import Config
from pipeline import Caption, CaptionPipeline, in_batches

__all__ = ["Caption", "Captioner", "Picture"]

Picture = str | os.PathLike[str] | bytes | Image.Image


class Captioner:
    """A checkpoint, ready to caption."""

    def __init__(self, pipeline: CaptionPipeline, config: Config) -> None:
        """Wrap an evaluated `pipeline`; `config` holds the settings that it was trained with."""
        self.pipeline, self.config = pipeline, config

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
        """Load a checkpoint folder or a repository of the Hub (user/name, at `revision`)."""
        folder = resolve_checkpoint(os.fspath(name), revision=revision)
        checkpoint = read_checkpoint(Path(folder))
        runtime = Runtime.create(device, precision)
        pipeline = load_pipeline(checkpoint, runtime, trust_remote_code=trust_remote_code)
        return cls(pipeline, checkpoint.config)

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

        search = options or SearchOptions.of_beams(self.config.BEAM_SIZE)

        def caption(batch: range) -> list[list[Caption]]:
            features = self.features([pictures[number] for number in batch])
            return self.pipeline.captions(features, search, rules=rules, picture_numbers=batch)

        return in_batches(len(pictures), caption, batch_size=batch_size)

    def features(self, pictures: Sequence[Picture]) -> Tensor:
        """(B, P, F) float32 encoder features."""
        return self.pipeline.features(self._pixels(pictures))

    def attention(
        self, picture: Picture, caption: Caption | None = None, *, rollout: bool = False
    ) -> list[WordAttention]:
        """What each word of a picture's caption looked at (the best caption by default).

        `rollout` follows attention through the encoder as well; where the encoder has none (a
        convolutional network), it says so on standard error and cross-attention stands alone.
        """
        image = load_image(picture)
        caption = caption or self(image)
        pixels = self._pixels([image])
        (weights,) = attend(self.pipeline, self.pipeline.features(pixels), [caption.ids])
        shape = self.pipeline.encoder.shape
        if rollout:
            through = roll_out(self.pipeline.encoder, pixels.to(self.pipeline.runtime.device))
            if through is None:
                print(
                    f"{self.pipeline.encoder.name} has no attention to roll out; the heat is that "
                    "of cross-attention alone.",
                    file=sys.stderr,
                )
            else:
                weights, shape = weights @ through[0], self.pipeline.encoder.tower_shape
        return word_attention(self.pipeline, caption.ids, weights, image.size, shape)

    def strip(
        self, picture: Picture, caption: Caption | None = None, *, rollout: bool = False
    ) -> Image.Image:
        """The picture, and beside it what each word of its caption looked at."""
        image = load_image(picture)
        return draw_strip(image, self.attention(image, caption, rollout=rollout))

    def _pixels(self, pictures: Sequence[Picture]) -> Tensor:
        """(B, 3, H, W) uint8."""
        preprocess = self.pipeline.encoder.preprocess
        return torch.stack([preprocess(load_image(picture)) for picture in pictures])
