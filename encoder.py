"""A pretrained vision encoder as "pixels -> patch features".

    encoder = VisionEncoder.from_pretrained("openai/clip-vit-base-patch32")
    pixels = torch.stack([encoder.preprocess(load_image(path)) for path in paths])
    features = encoder(pixels)      # uint8 (B, 3, H, W) -> float (B, P, F)

The features are the `last_hidden_state` of the family's own vision model: with its final norm where
that model applies it to patches (ViT, DINOv2, SigLIP, BLIP, Swin), without where it keeps the norm
for the pooled vector (CLIP, ConvNeXt). Every token of it is a feature: first the prefix tokens
(class token, registers, pooled vector), then the patches of the grid, row by row. Frozen unless
asked otherwise; what is frozen never changes by a bit and stays in evaluation mode.

Reads a Hub repository or a folder; `name` may be "random:FOLDER" for the architecture in FOLDER's
config.json with random weights.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from errors import UserError
from preprocessing import ImagePreprocessor, Region
from towers import build_tower, last_blocks, load_config, load_tower, parameters_behind

RANDOM_PREFIX = "random:"
VOLATILE_KEYS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Entries of a config that say where it comes from, not what it builds."""
MOST_PREFIX_TOKENS = 16
"""More tokens than these before the patches are something else, such as a detector's queries."""


@dataclass(frozen=True)
class FeatureShape:
    """How an encoder's features of one picture are laid out."""

    tokens: int
    """Prefix tokens and patches."""
    width: int
    """Numbers a token."""
    grid: tuple[int, int]
    """Rows and columns of patches; the last rows * columns tokens."""


class VisionEncoder(nn.Module):
    """A vision tower and its image processor. Pixels are uint8; B, P, F in shapes are pictures,
    tokens and feature width."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        tower: nn.Module,
        preprocessor: ImagePreprocessor,
        *,
        trained_blocks: int = 0,
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
        self._inputs = _input_maker(tower, preprocessor.size)
        self.tower.eval().requires_grad_(True)
        self.shape, used = self._try_out()
        self._unused = {key for key, _ in tower.named_parameters()} - used
        lost = sorted(set(missing) - self._unused)
        if lost:
            raise UserError(
                f"{name} lacks {len(lost)} of the {len(tower.state_dict())} weights of its vision "
                f"tower, such as {lost[0]}; training on random ones would go unnoticed. Check that "
                "the download is whole and that the repository holds a vision model."
            )
        self._trained = last_blocks(tower, trained_blocks, name)
        self._freeze()

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        revision: str = "",
        processor_name: str = "",
        trained_blocks: int = 0,
        seed: int = 0,
        trust_remote_code: bool = False,
    ) -> "VisionEncoder":
        """The encoder of a Hub model or folder, or "random:FOLDER" with weights made from `seed`.

        `processor_name` names another image processor than the model's own. `trust_remote_code`
        runs a model's code from its repository. Raises `UserError` for what cannot be found, is no
        vision model, or lacks weights.
        """
        folder = name.removeprefix(RANDOM_PREFIX)
        config = load_config(folder, revision=revision, trust_remote_code=trust_remote_code)
        preprocessor = ImagePreprocessor.from_pretrained(
            processor_name or folder,
            revision="" if processor_name else getattr(config, "_commit_hash", None) or revision,
            model_type=config.model_type,
        )
        if folder != name:
            tower = build_tower(config.to_dict(), seed=seed)
            return cls(tower, preprocessor, trained_blocks=trained_blocks, name=name)
        loaded = load_tower(name, config, revision=revision, trust_remote_code=trust_remote_code)
        return cls(
            loaded.model,
            preprocessor,
            trained_blocks=trained_blocks,
            missing=loaded.missing,
            name=name,
            revision=loaded.revision,
        )

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        processor: dict[str, Any],
        *,
        trained_blocks: int = 0,
        seed: int = 0,
        name: str = "the encoder",
    ) -> "VisionEncoder":
        """The encoder that `config_dict` and `processor_dict` describe, with random weights, for
        `load_state_dict` to fill."""
        tower = build_tower(config, seed=seed)
        preprocessor = ImagePreprocessor(processor, name=name)
        return cls(tower, preprocessor, trained_blocks=trained_blocks, name=name)

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB picture as uint8 pixels (3, H, W). `self.preprocessor` does the same without the
        weights, for worker processes."""
        return self.preprocessor(image)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (B, P, F) of uint8 pixels (B, 3, H, W); without a graph where all is frozen."""
        with nullcontext() if self._trained else torch.no_grad():
            return self._encode(pixels)

    def train(self, mode: bool = True) -> "VisionEncoder":
        """Training mode for the trained blocks alone: dropout and BatchNorm of the frozen part
        stay in evaluation mode."""
        super().train(False)
        self.training = mode
        for block in self._trained:
            block.train(mode)
        return self

    @property
    def num_tokens(self) -> int:
        """P: prefix tokens and patches of a picture."""
        return self.shape.tokens

    @property
    def feature_dim(self) -> int:
        """F: width of a token."""
        return self.shape.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches, which are the last rows * columns tokens."""
        return self.shape.grid

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class token, registers, pooled vector."""
        return self.shape.tokens - self.shape.grid[0] * self.shape.grid[1]

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters that training changes: those of the trained blocks that features need."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def picture_region(self, image_size: tuple[int, int]) -> Region:
        """Where the grid of patches lies in a picture of `image_size` (width, height)."""
        return self.preprocessor.region(image_size)

    def config_dict(self) -> dict[str, Any]:
        """The tower's config, for `from_config`; JSON values only."""
        return self._config(whole=True)

    def processor_dict(self) -> dict[str, Any]:
        """The image processor's settings, for `from_config` and `preprocessor_config.json`."""
        return self.preprocessor.settings()

    def fingerprint(self) -> str:
        """SHA-256 of what decides features: weights, config, what the processor does to pictures.

        Equal for two encoders of any name that give the same features; weights that features do
        not depend on (a pooler) do not count.
        """
        digest = hashlib.sha256(self.preprocessor.behaviour())
        digest.update(json.dumps(self._config(whole=False), sort_keys=True).encode())
        for key, value in sorted(self.tower.state_dict().items()):
            if key not in self._unused:
                digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
                flat = value.detach().cpu().contiguous().flatten()
                digest.update(flat.view(torch.uint8).numpy())
        return digest.hexdigest()

    def _config(self, *, whole: bool) -> dict[str, Any]:
        config: Any = self.tower.config
        # The shorter form lacks defaults, so that a new setting in a later transformers, at its
        # default, leaves the fingerprint as it is.
        values = config.to_dict() if whole else config.to_diff_dict()
        kept = {key: value for key, value in values.items() if key not in VOLATILE_KEYS}
        as_json: dict[str, Any] = json.loads(json.dumps(kept, default=str))
        return as_json

    def _encode(self, pixels: Tensor) -> Tensor:
        normalised = pixels * self.scale + self.shift  # (B, 3, H, W)
        return _tokens(self.tower(**self._inputs(normalised)))

    def _try_out(self) -> tuple[FeatureShape, set[str]]:
        """The layout of features, and the parameters that they depend on, from one picture read
        twice."""
        height, width = self.preprocessor.size
        noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        pixels = (noise * 255).to(torch.uint8).expand(2, -1, -1, -1)
        try:
            with torch.enable_grad():
                features = self._encode(pixels)
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.name} cannot read pictures of {width} x {height} pixels, as its image "
                f"processor makes them: {reason}. Name a processor that fits it with "
                "--IMAGE_PROCESSOR_NAME, or another encoder."
            ) from None
        if not torch.allclose(features[0], features[1], atol=1e-3, rtol=1e-3):
            raise UserError(
                f"{self.name} gives other features each time it reads a picture (it masks patches "
                "at random); choose another encoder."
            )
        grid = _grid(features.shape[1], (height, width), self.tower.config, self.name)
        return FeatureShape(features.shape[1], features.shape[2], grid), parameters_behind(
            features, self.tower
        )

    def _freeze(self) -> None:
        self.requires_grad_(False)
        unused = {id(self.tower.get_parameter(key)) for key in self._unused}
        for block in self._trained:
            for parameter in block.parameters():
                parameter.requires_grad_(id(parameter) not in unused)
        self.train(False)


def _tokens(output: Any) -> Tensor:
    """Features (B, P, F) of a tower's output: a sequence as it is, a map (B, F, rows, columns) row
    by row, a pooled vector (B, F) as one token."""
    features: Tensor | None = getattr(output, "last_hidden_state", None)
    if features is None:
        features = output.pooler_output
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2)
    return features.unsqueeze(1) if features.ndim == 2 else features


def _input_maker(tower: nn.Module, size: tuple[int, int]) -> Callable[[Tensor], dict[str, Any]]:
    """What turns normalised pixels (B, 3, H, W) into the arguments of a tower's `forward`."""
    config: Any = tower.config
    accepted = inspect.signature(tower.forward).parameters
    if "spatial_shapes" in accepted:
        return lambda pixels: _as_patches(pixels, config.patch_size)
    trained_size = getattr(config, "image_size", None)
    square = [trained_size] * 2 if isinstance(trained_size, int) else trained_size
    if "interpolate_pos_encoding" in accepted and square and list(square) != list(size):
        return lambda pixels: {"pixel_values": pixels, "interpolate_pos_encoding": True}
    return lambda pixels: {"pixel_values": pixels}


def _as_patches(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """Pixels (B, 3, H, W) as SigLIP 2 takes pictures of any shape: a list of patches, a mask of
    those that are there, rows and columns."""
    B, C, H, W = pixels.shape
    rows, columns = H // patch, W // patch
    cut = pixels.view(B, C, rows, patch, columns, patch)
    patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(B, rows * columns, patch * patch * C)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": patches.new_ones(B, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * B, device=pixels.device),
    }


def _grid(tokens: int, size: tuple[int, int], config: Any, name: str) -> tuple[int, int]:
    """Rows and columns of the patches among `tokens`, from the picture's size (height, width).

    A patch is the config's patch size wide or, in towers that merge patches stage by stage, that
    times a power of two. The finest grid that the tokens can hold is the one; what is left over
    are prefix tokens.
    """
    patch = getattr(config, "patch_size", None) or 1
    patch_height, patch_width = patch if isinstance(patch, list | tuple) else (patch, patch)
    height, width = size
    grids = [
        grid
        for doubled in (2**power for power in range(12))
        for grid in (
            (height // (patch_height * doubled), width // (patch_width * doubled)),
            (-(-height // (patch_height * doubled)), -(-width // (patch_width * doubled))),
        )
        if 0 < grid[0] * grid[1] <= tokens
    ]
    grid = max(grids, key=lambda grid: grid[0] * grid[1])
    prefix = tokens - grid[0] * grid[1]
    if prefix > MOST_PREFIX_TOKENS:
        raise UserError(
            f"{name} gives {tokens} tokens for a picture of {width} x {height} pixels, which are "
            "no grid of patches; choose another encoder."
        )
    return grid
