"""A frozen vision tower of the Hub as "pixels -> patch features".

    tower = VisionTower.from_pretrained("openai/clip-vit-base-patch32")
    pixels = torch.stack([tower.preprocess(picture) for picture in pictures])
    features = tower(pixels)        # uint8 (B, 3, H, W) -> float (B, P, F)

The features are the `last_hidden_state` of the family's own vision model: with its final norm where
that model applies it to patches (ViT, DINOv2, SigLIP, BLIP, Swin), without where it keeps the norm
for the pooled vector (CLIP, ConvNeXt). Every token of it is a feature: first the prefix tokens
(class token, registers, pooled vector), then the patches of the grid, row by row. A `FeatureChoice`
takes other layers or fewer tokens.

Reads a Hub repository or a folder; `name` may be "random:FOLDER" for the architecture in FOLDER's
config.json with random weights.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn

from captioning.system.errors import UserError
from captioning.system.tensors import Shapes
from captioning.vision.limits import check_tokens
from captioning.vision.loading import (
    build_tower,
    commit_of,
    find_class,
    load_config,
    load_tower,
)
from captioning.vision.preprocessing import ImagePreprocessor
from captioning.vision.tower_features import FeatureChoice, FeatureReader, FeatureShape

RANDOM_PREFIX = "random:"
VOLATILE_KEYS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Entries of a config that say where it comes from, not what it builds."""


class VisionTower(nn.Module):
    """A vision tower and its image processor. Pixels are uint8; B, P, F in shapes are pictures,
    tokens and feature width. Frozen, and always in evaluation mode."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        tower: nn.Module,
        preprocessor: ImagePreprocessor,
        *,
        choice: FeatureChoice | None = None,
        missing: Iterable[str] = (),
        name: str = "the encoder",
        revision: str = "",
    ) -> None:
        """`missing` names weights of the tower that are random although they should not be; a
        `UserError` if features depend on them, as for a tower whose features cannot be read."""
        super().__init__()
        self.name, self.revision = name, revision
        self.preprocessor = preprocessor
        self.tower = tower
        self.register_buffer("scale", preprocessor.scale, persistent=False)
        self.register_buffer("shift", preprocessor.shift, persistent=False)
        self.choice = choice or FeatureChoice()
        check_tokens(tower.config, preprocessor.size, name)
        self._read = FeatureReader(tower, preprocessor.size, self.choice, name)
        super().train(False).requires_grad_(True)
        self.shape, self.tower_shape, used = self._try_out()
        self.unused = {key for key, _ in tower.named_parameters()} - used
        """Names of the tower's weights that features do not depend on, such as a pooler's."""
        lost = sorted(set(missing) - self.unused)
        if lost:
            raise UserError(
                f"{name} lacks {len(lost)} of the {len(tower.state_dict())} weights of its vision "
                f"tower, such as {lost[0]}; training on random ones would go unnoticed. Check that "
                "the download is whole and that the repository holds a vision model."
            )
        self.requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        revision: str = "",
        processor_name: str = "",
        image_size: int = 0,
        choice: FeatureChoice | None = None,
        seed: int = 0,
        trust_remote_code: bool = False,
        **training: Any,
    ) -> Self:
        """The tower of a Hub model or folder, or "random:FOLDER" with weights made from `seed`.

        `processor_name` names another image processor than the model's own, `image_size` the side
        of the square that it makes of pictures (0 = its own). `trust_remote_code` runs a model's
        code from its repository; `training` is for the constructor. Raises `UserError` for what
        cannot be found, is no vision model, or lacks weights.
        """
        folder = name.removeprefix(RANDOM_PREFIX)
        revision = commit_of(folder, revision)
        config = load_config(folder, revision=revision, trust_remote_code=trust_remote_code)
        # What reads no pictures has no image processor either; that it is none is to be told first.
        find_class(config, folder, trust_remote_code=trust_remote_code)
        preprocessor = ImagePreprocessor.from_pretrained(
            processor_name or folder,
            revision="" if processor_name else revision,
            model_type=config.model_type,
        )
        if image_size:
            preprocessor = preprocessor.at_size(image_size)
        if folder != name:
            tower = build_tower(config.to_dict(), seed=seed)
            return cls(tower, preprocessor, choice=choice, name=name, **training)
        loaded = load_tower(name, config, revision=revision, trust_remote_code=trust_remote_code)
        return cls(
            loaded.model,
            preprocessor,
            choice=choice,
            missing=loaded.missing,
            name=name,
            revision=loaded.revision,
            **training,
        )

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        processor: dict[str, Any],
        *,
        choice: FeatureChoice | None = None,
        seed: int = 0,
        name: str = "the encoder",
        weights: Shapes | None = None,
        **training: Any,
    ) -> Self:
        """The tower that `config_dict` and `preprocessor.settings` give, with random weights, for
        `load_state_dict` to fill with some of the shapes of `weights`."""
        tower = build_tower(config, seed=seed, weights=weights)
        preprocessor = ImagePreprocessor(processor, name=name)
        return cls(tower, preprocessor, choice=choice, name=name, **training)

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB picture as uint8 pixels (3, H, W). `self.preprocessor` does the same without the
        weights, for worker processes."""
        return self.preprocessor(image)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (B, P, F) of uint8 pixels (B, 3, H, W), without a graph."""
        with torch.no_grad():
            return self._encode(pixels)

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, whatever is asked."""
        return super().train(False)

    @property
    def num_tokens(self) -> int:
        """P: prefix tokens and patches of a picture."""
        return self.shape.tokens

    @property
    def feature_dim(self) -> int:
        """F: width of a token."""
        return self.shape.width

    @property
    def feature_tokens(self) -> slice | None:
        """Which of the tower's tokens features are made of; None for a pooled vector, which is of
        none."""
        is_pooled = self.choice.tokens == "cls" and not self.tower_shape.prefix
        return None if is_pooled else self._read.chosen(self.tower_shape.tokens)

    def averaged(self, tokens: Tensor) -> Tensor:
        """Of something (B, P, X) about each of `feature_tokens`, what is about each feature."""
        return self._read.averaged(tokens, self.tower_shape.grid)

    def config_dict(self) -> dict[str, Any]:
        """The tower's config, for `from_config`; JSON values only."""
        return self._config(whole=True)

    def fingerprint(self) -> str:
        """SHA-256 of what decides features: weights, config, what the processor does to pictures.

        Equal for two encoders of any name that give the same features; weights that features do
        not depend on (a pooler) do not count.
        """
        digest = hashlib.sha256(self.preprocessor.behaviour())
        digest.update(json.dumps(self._config(whole=False), sort_keys=True).encode())
        if self.choice != FeatureChoice():
            digest.update(json.dumps(self.choice.description).encode())
        for key, value in sorted(self._weights().items()):
            if key not in self.unused:
                digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
                flat = value.detach().cpu().contiguous().flatten()
                digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _config(self, *, whole: bool) -> dict[str, Any]:
        config: Any = self.tower.config
        # The shorter form lacks defaults, so that a new setting in a later transformers, at its
        # default, leaves the fingerprint as it is.
        values = config.to_dict() if whole else config.to_diff_dict()
        kept = {key: value for key, value in values.items() if key not in VOLATILE_KEYS}
        as_json: dict[str, Any] = json.loads(json.dumps(kept, default=str))
        return as_json

    def _weights(self) -> Mapping[str, Tensor]:
        return self.tower.state_dict()

    def _encode(self, pixels: Tensor) -> Tensor:
        return self._read(pixels * self.scale + self.shift)

    def _try_out(self) -> tuple[FeatureShape, FeatureShape, set[str]]:
        """The layout of features and of the tower's own tokens, and the parameters that features
        depend on, from one picture read twice."""
        height, width = self.preprocessor.size
        noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        pixels = (noise * 255).to(torch.uint8).expand(2, -1, -1, -1)
        try:
            with torch.no_grad():
                shapes = self._read.measure(pixels[:1] * self.scale + self.shift)
            with torch.enable_grad():
                features = self._encode(pixels)
        except UserError:
            raise
        except Exception as error:  # whatever a model stumbles over in its config
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.name} cannot read pictures of {width} x {height} pixels, as its image "
                f"processor makes them: {reason}. Leave out --ENCODER_IMAGE_SIZE, name a processor "
                "that fits it with --IMAGE_PROCESSOR_NAME, or another encoder."
            ) from None
        if not features.isfinite().all():
            broken = [key for key, w in self.tower.state_dict().items() if not w.isfinite().all()]
            because = f", because its weights hold such ones ({broken[0]})" if broken else ""
            raise UserError(
                f"{self.name} gives features that are no numbers (NaN or infinity){because}. Check "
                "that its files are whole, or take another encoder."
            )
        if not torch.allclose(features[0], features[1], atol=1e-3, rtol=1e-3):
            raise UserError(
                f"{self.name} gives other features each time it reads a picture (it masks patches "
                "at random); choose another encoder."
            )
        return *shapes, _parameters_behind(features, self.tower)


def _parameters_behind(features: Tensor, tower: nn.Module) -> set[str]:
    """Names of the parameters that features depend on, found by walking back their graph."""
    seen: set[Any] = set()
    waiting = [features.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    found = {id(node.variable) for node in seen if hasattr(node, "variable")}
    return {key for key, parameter in tower.named_parameters() if id(parameter) in found}
