"""The vision encoder of a captioner: a Hub tower of which some may be trained.

    encoder = VisionEncoder.from_settings(config)
    pixels = torch.stack([encoder.preprocess(load_image(path)) for path in paths])
    features = encoder(pixels)      # uint8 (B, 3, H, W) -> float (B, P, F)

How a tower is found, and what features are, says `captioning.vision.tower`. Frozen unless asked
otherwise; what is frozen never changes by a bit and stays in evaluation mode.
"""

from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from captioning.vision.blocks import last_blocks, recompute_blocks
from captioning.vision.lora import adapter_state, add_lora, load_adapter_state, plain_state
from captioning.vision.preprocessing import ImagePreprocessor
from captioning.vision.tower import RANDOM_PREFIX, VisionTower
from captioning.vision.tower_features import FeatureChoice
from config import Config


class VisionEncoder(VisionTower):
    """A vision tower of which the last blocks, or adapters beside their layers, may be trained."""

    def __init__(
        self,
        tower: nn.Module,
        preprocessor: ImagePreprocessor,
        *,
        trained_blocks: int = 0,
        is_own: bool = False,
        **about: Any,
    ) -> None:
        """`trained_blocks` are the last so many, -1 the whole tower; `about` is as a `VisionTower`
        takes it."""
        super().__init__(tower, preprocessor, **about)
        self.is_own = is_own or bool(trained_blocks) or self.name.startswith(RANDOM_PREFIX)
        """Whether its weights can be had from nowhere else, so that checkpoints hold them: it is
        trained, or was before the run, or is random."""
        self._trained = last_blocks(tower, trained_blocks, self.name, unused=self.unused)
        self._is_unfrozen, self._has_adapters = True, False
        unused = {id(tower.get_parameter(key)) for key in self.unused}
        for block in self._trained:
            for parameter in block.parameters():
                parameter.requires_grad_(id(parameter) not in unused)

    @classmethod
    def from_settings(
        cls,
        config: Config,
        *,
        name: str = "",
        revision: str = "",
        trust_remote_code: bool = False,
    ) -> Self:
        """The encoder that a `Config` names, or that of another name, read as it says."""
        return cls.from_pretrained(
            name or config.encoder[0],
            revision=revision if name else config.encoder[1],
            processor_name=config.IMAGE_PROCESSOR_NAME,
            image_size=config.ENCODER_IMAGE_SIZE,
            choice=FeatureChoice.from_settings(config),
            trained_blocks=config.ENCODER_TRAINED_BLOCKS,
            seed=config.RANDOM_SEED,
            trust_remote_code=trust_remote_code,
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (B, P, F) of uint8 pixels (B, 3, H, W); without a graph where all is frozen."""
        with nullcontext() if self._trained and self._is_unfrozen else torch.no_grad():
            return self._encode(pixels)

    def train(self, mode: bool = True) -> Self:
        """Training mode for the trained blocks alone: dropout and BatchNorm of the frozen part
        stay in evaluation mode, as those of blocks beside whose layers adapters learn."""
        super().train(False)
        self.training = mode
        if self._is_unfrozen and not self._has_adapters:
            for block in self._trained:
                block.train(mode)
        return self

    def prepare_training(self, config: Config) -> None:
        """Add what training needs besides trained blocks: adapters, less memory."""
        if config.ENCODER_LORA_RANK:
            seed = config.RANDOM_SEED
            add_lora(self.tower, self._trained, rank=config.ENCODER_LORA_RANK, seed=seed)
            self._has_adapters = True
        if config.GRADIENT_CHECKPOINTING:
            recompute_blocks(self.tower, self.name)

    def unfreeze(self, is_unfrozen: bool = True) -> None:
        """Let what is to be trained be trained, or hold it frozen for the time being."""
        self._is_unfrozen = is_unfrozen
        self.train(self.training)

    def plain_state(self) -> dict[str, Tensor]:
        """`state_dict` of the encoder without adapters, what they have learnt added to it."""
        return {f"tower.{key}": value for key, value in plain_state(self.tower).items()}

    def adapter_state(self) -> dict[str, Tensor]:
        """What `load_adapter_state` takes to train adapters on; empty without any."""
        return adapter_state(self.tower)

    def load_adapter_state(self, tensors: dict[str, Tensor]) -> bool:
        """Go on with other adapters; false where they do not fit."""
        return load_adapter_state(self.tower, tensors)

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters that training changes: those of the trained blocks that features need."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _weights(self) -> dict[str, Tensor]:
        return plain_state(self.tower)


def encode(content: Tensor, encoder: VisionEncoder) -> Tensor:
    """(B, P, F) float32 features; uint8 content is pixels and goes through the encoder."""
    features: Tensor = encoder(content) if content.dtype is torch.uint8 else content
    return features.float()
