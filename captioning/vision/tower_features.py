"""Features read from what a vision tower gives: which layers, which tokens, where on the picture.

Told by the shape of the output, not by the tower's name: a sequence (B, P, F) is tokens, a map
(B, F, rows, columns) is tokens row by row, a pooled vector (B, F) is one token. Tokens that are too
many for the grid of patches stand before it: class token, registers, pooled vector.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning.system.errors import UserError

if TYPE_CHECKING:
    from config import Config

MOST_PREFIX_TOKENS = 16
"""More tokens than these before the patches are something else, such as a detector's queries."""


@dataclass(frozen=True)
class FeatureChoice:
    """Which of a tower's outputs are features."""

    layers: str = "last"
    """`last`, or layers counted from the end, side by side: "-2", "-1,-4,-8"; -1 is the last."""
    tokens: str = "all"
    """`all`, `patches` alone, or `cls`: the class token or, without one, the pooled vector."""
    pooling: int = 1
    """Side of the squares of patches that are averaged to one token."""

    @classmethod
    def from_settings(cls, config: "Config") -> "FeatureChoice":
        """What the settings choose."""
        return cls(config.ENCODER_LAYERS, config.ENCODER_TOKENS, config.ENCODER_POOLING)

    @property
    def description(self) -> dict[str, Any]:
        """What fingerprints count: pooling only where there is any, as before it was there."""
        values = asdict(self)
        if self.pooling == 1:
            del values["pooling"]
        return values

    @property
    def places(self) -> tuple[int, ...]:
        """The layers as numbers; the last is -1."""
        return tuple(-1 if one == "last" else int(one) for one in self.layers.split(","))


@dataclass(frozen=True)
class FeatureShape:
    """How features of one picture are laid out."""

    tokens: int
    """Prefix tokens and patches."""
    width: int
    """Numbers a token."""
    grid: tuple[int, int]
    """Rows and columns of patches; the last rows * columns tokens."""

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token, registers, pooled vector."""
        return self.tokens - math.prod(self.grid)


class FeatureReader:
    """Runs a tower and takes from its output what a `FeatureChoice` names.

    B, P, F in shapes are pictures, tokens and feature width.
    """

    def __init__(
        self, tower: nn.Module, size: tuple[int, int], choice: FeatureChoice, name: str
    ) -> None:
        """`size` is the height and width of the pixels, `name` the encoder's, for messages."""
        self.choice = choice
        self._tower, self._size, self._name = tower, size, name
        self._inputs = input_maker(tower, size)

    def __call__(self, normalised: Tensor) -> Tensor:
        """Features (B, P, F) of normalised pixels (B, 3, H, W)."""
        output = self._run(normalised)
        tokens = self._all_tokens(output)
        if not self._has_own(tokens):
            return _pool(output)
        return self.averaged(tokens[:, self.chosen(tokens.shape[1])], self._grid(tokens.shape[1]))

    def averaged(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, P, F) with each square of the patches of `grid`, which stand last, as its mean."""
        side = self.choice.pooling
        if side == 1:
            return tokens
        prefix, patches = tokens.tensor_split([tokens.shape[1] - math.prod(grid)], dim=1)
        on_grid = patches.transpose(1, 2).reshape(len(patches), -1, *grid)  # (B, F, rows, columns)
        pooled = F.avg_pool2d(on_grid, side).flatten(2).transpose(1, 2)
        return torch.cat([prefix, pooled], dim=1)

    def measure(self, normalised: Tensor) -> tuple[FeatureShape, FeatureShape]:
        """The layout of features, and that of all tokens of the layers that they come from."""
        output = self._run(normalised)
        tokens = self._all_tokens(output)
        whole = FeatureShape(tokens.shape[1], tokens.shape[2], self._grid(tokens.shape[1]))
        if self.choice.tokens != "cls":
            grid = self._averaged_grid(whole.grid)
            prefix = whole.prefix if self.choice.tokens == "all" else 0
            return FeatureShape(prefix + math.prod(grid), whole.width, grid), whole
        if self._has_own(tokens):
            return FeatureShape(1, whole.width, (1, 1)), whole
        if self.choice.places != (-1,) or getattr(output, "pooler_output", None) is None:
            raise UserError(
                f"ENCODER_TOKENS is 'cls'; {self._name} has no class token"
                f"{'' if self.choice.places == (-1,) else ' in an earlier layer'}, and no pooled "
                "vector there. Use --ENCODER_TOKENS all."
            )
        return FeatureShape(1, _pool(output).shape[2], (1, 1)), whole

    def chosen(self, tokens: int) -> slice:
        """Which of a layer's tokens are features."""
        if self.choice.tokens == "cls":
            return slice(0, 1)
        is_whole = self.choice.tokens == "all"
        return slice(0 if is_whole else tokens - math.prod(self._grid(tokens)), tokens)

    def _averaged_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        side = self.choice.pooling
        if grid[0] % side or grid[1] % side:
            fits = [n for n in range(2, min(grid) + 1) if not grid[0] % n and not grid[1] % n]
            raise UserError(
                f"ENCODER_POOLING is {side}; it must divide the {grid[0]} x {grid[1]} patches of "
                f"{self._name}. Leave it out, or take {' or '.join(map(str, fits)) or 'none'}."
            )
        return grid[0] // side, grid[1] // side

    def _has_own(self, tokens: Tensor) -> bool:
        """Whether the chosen tokens are among the layer's; a pooled vector is not."""
        count = tokens.shape[1]
        return self.choice.tokens != "cls" or count > math.prod(self._grid(count))

    def _run(self, normalised: Tensor) -> Any:
        inputs = self._inputs(normalised)
        if self.choice.places != (-1,):
            inputs["output_hidden_states"] = True
        return self._tower(**inputs)

    def _all_tokens(self, output: Any) -> Tensor:
        """The tokens (B, P, F) of the chosen layers, side by side."""
        layers = [self._layer(output, place) for place in self.choice.places]
        counts = [layer.shape[1] for layer in layers]
        if len(set(counts)) > 1:
            raise UserError(
                f"ENCODER_LAYERS is {self.choice.layers!r:.80}, which are layers of "
                f"{', '.join(map(str, counts))} tokens in {self._name}; only layers of equally "
                "many can be put side by side."
            )
        return torch.cat(layers, dim=-1) if len(layers) > 1 else layers[0]

    def _layer(self, output: Any, place: int) -> Tensor:
        if place == -1:
            last: Tensor | None = getattr(output, "last_hidden_state", None)
            return _sequence(output.pooler_output if last is None else last)
        states = getattr(output, "hidden_states", None) or ()
        if -place > len(states):
            raise UserError(
                f"ENCODER_LAYERS is {self.choice.layers!r:.80}; {self._name} gives {len(states)} "
                "layers, its embeddings counted."
            )
        return _sequence(states[place])

    def _grid(self, tokens: int) -> tuple[int, int]:
        return grid_of(tokens, self._size, getattr(self._tower, "config", None), self._name)


def grid_of(tokens: int, size: tuple[int, int], config: Any, name: str) -> tuple[int, int]:
    """Rows and columns of the patches among `tokens`, from the picture's size (height, width).

    A patch is the config's patch size wide or, in towers that merge patches stage by stage, that
    times a power of two. The finest grid that the tokens can hold is the one; what is left over
    are prefix tokens.
    """
    patch = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None) or 1
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


def _sequence(output: Tensor) -> Tensor:
    """(B, P, F): a sequence as it is, a map (B, F, rows, columns) row by row, a vector (B, F) as
    one token."""
    if output.ndim == 4:
        return output.flatten(2).transpose(1, 2)
    return output.unsqueeze(1) if output.ndim == 2 else output


def _pool(output: Any) -> Tensor:
    """The pooled vector of a picture, also where it is (B, F, 1, 1), as one token (B, 1, F)."""
    pooled: Tensor = output.pooler_output
    return pooled.flatten(1).unsqueeze(1)


def input_maker(tower: nn.Module, size: tuple[int, int]) -> Callable[[Tensor], dict[str, Any]]:
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


def _as_patches(pixels: Tensor, patch: int) -> dict[str, Any]:
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
