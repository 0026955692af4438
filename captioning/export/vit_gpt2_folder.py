"""A ViT-GPT2 as transformers has it: `VisionEncoderDecoderModel`, without any code of ours."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from captioning.gpt2.names import gpt2_names, turned
from captioning.vision.tower import VisionTower
from captioning.vision.tower_features import FeatureChoice, input_maker

ENCODER, PROJECTION, DECODER = "encoder", "enc_to_dec_proj", "decoder.transformer"
"""What stands before the names of its parts."""


def is_native(model: Any, encoder: VisionTower) -> bool:
    """Whether such a model is what transformers builds of two configs: a GPT-2 that reads the last
    layer of a tower, through a linear layer where their widths differ."""
    gpt2, tower = model.gpt2, encoder.tower
    size = encoder.preprocessor.size
    return bool(
        gpt2 is not None
        and gpt2.is_plainly_projected
        and not len(model.memory_layers)
        and encoder.choice == FeatureChoice()
        and transformers.MODEL_MAPPING.get(type(tower.config), None) is type(tower)
        and getattr(tower.config, "hidden_size", None) == encoder.feature_dim
        and set(input_maker(tower, size)(torch.zeros(1, 3, *size))) == {"pixel_values"}
    )


def native_config(model: Any, encoder: VisionTower) -> dict[str, Any]:
    """`config.json` of the two."""
    decoder = model.gpt2.to_values()
    del decoder["is_plainly_projected"]
    return {
        "architectures": ["VisionEncoderDecoderModel"],
        "model_type": "vision-encoder-decoder",
        "dtype": "float32",
        "encoder": encoder.config_dict(),
        "decoder": {**decoder, "is_decoder": True},
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
    }


def native_weights(model: Any, encoder_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights by transformers' names."""
    ours = dict(model.decoder.named_parameters())
    names = gpt2_names(len(model.decoder.blocks))
    weights = {
        f"{DECODER}.{theirs}": turned(name, ours[name].detach()) for name, theirs in names.items()
    }
    # Input and output are one table; which of the two names is read depends on the version.
    weights["decoder.lm_head.weight"] = ours["embedding.weight"].detach().clone()
    if isinstance(model.projection, nn.Linear):
        of_projection = model.projection.state_dict()
        weights |= {f"{PROJECTION}.{name}": weight for name, weight in of_projection.items()}
    prefix = "tower."
    weights |= {
        f"{ENCODER}.{name.removeprefix(prefix)}": weight for name, weight in encoder_state.items()
    }
    return weights
