"""Tiny random models of each family, saved whole as the Hub has them, with their processors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers.models.blip_2.modeling_blip_2 import Blip2ForConditionalGeneration
from transformers.models.git.modeling_git import GitForCausalLM

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1], "image_size": 64}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}
PVT = {
    "image_size": 64,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
}
HIERA = {
    "image_size": [64, 64],
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "query_stride": [2, 2],
    "masked_unit_size": [4, 4],
    "num_query_pool": 1,
    "patch_stride": [4, 4],
}
SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [2, 6],
    "num_heads": [2, 2],
    "window_size": 4,
}
EFFICIENTNET = {
    "image_size": 32,
    "width_coefficient": 0.05,
    "depth_coefficient": 0.25,
    "depth_divisor": 4,
    "hidden_dim": 64,
    "in_channels": [32, 16, 24],
    "out_channels": [16, 24, 40],
    "kernel_sizes": [3, 3, 5],
    "strides": [1, 2, 2],
    "num_block_repeats": [1, 2, 2],
    "expand_ratios": [1, 6, 6],
    "depthwise_padding": [],
}
MOBILENET = {
    "image_size": 64,
    "depth_multiplier": 0.1,
    "depth_divisible_by": 4,
    "min_depth": 4,
    "finegrained_output": False,
}


@dataclass(frozen=True)
class Family:
    """How to make a tiny model of a family, and what its features must look like."""

    make: Callable[[], Any]
    """The whole model, text tower and heads included."""
    tower: str
    """Where in it the vision tower is ("" = it is all vision)."""
    grid: tuple[int, int]
    prefix: int
    width: int
    blocks: int
    side: int = 32

    def whole(self) -> Any:
        torch.manual_seed(1)
        model = self.make().eval()
        for value in model.state_dict().values():
            # Fresh models have zero biases, unit norms and zero tokens: nothing that a mix-up
            # would change.
            if value.is_floating_point():
                value.add_(torch.randn_like(value).abs() * 0.1)
        return model

    def tower_of(self, whole: Any) -> nn.Module:
        part: nn.Module = whole.get_submodule(self.tower)
        return part

    def save(self, folder: Path) -> Any:
        """Save the whole model and a processor; gives the model."""
        whole = self.whole()
        whole.save_pretrained(folder)
        square_processor(self.side).save_pretrained(folder)
        return whole


def square_processor(side: int) -> Any:
    """CLIP's way: shortest edge to `side`, middle square of `side`."""
    return hf.CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def make_blip() -> Any:
    text = {**TEXT, "encoder_hidden_size": 16, "sep_token_id": 3}
    return hf.BlipForConditionalGeneration(hf.BlipConfig(text_config=text, vision_config=VIT))


def make_blip2() -> Any:
    language = {**TEXT, "model_type": "opt", "ffn_dim": 24, "word_embed_proj_dim": 16}
    query = {**TEXT, "encoder_hidden_size": 16}
    return Blip2ForConditionalGeneration(
        hf.Blip2Config(
            vision_config=VIT, qformer_config=query, text_config=language, image_token_index=49
        )
    )


def make_clip() -> Any:
    return hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=VIT, projection_dim=8))


def make_metaclip2() -> Any:
    config = hf.MetaClip2Config(text_config=TEXT, vision_config=VIT, projection_dim=8)
    return hf.MetaClip2Model(config)


def make_chinese_clip() -> Any:
    config = hf.ChineseCLIPConfig(text_config=TEXT, vision_config=VIT, projection_dim=8)
    return hf.ChineseCLIPModel(config)


def make_aimv2() -> Any:
    return hf.Aimv2Model(hf.Aimv2Config(text_config=TEXT, vision_config=VIT, projection_dim=8))


def make_siglip2() -> Any:
    vision = {**VIT, "num_patches": 16}
    del vision["image_size"]
    return hf.Siglip2Model(hf.Siglip2Config(text_config=TEXT, vision_config=vision))


def make_encoder_decoder() -> Any:
    text = hf.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    return hf.VisionEncoderDecoderModel(
        encoder=hf.ViTModel(hf.ViTConfig(**VIT)), decoder=hf.BertLMHeadModel(text)
    )


def make_registers() -> Any:
    config = hf.Dinov2WithRegistersConfig(num_register_tokens=4, **VIT)
    return hf.Dinov2WithRegistersModel(config)


def make_dinov3() -> Any:
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(num_register_tokens=4, **VIT))


def make_siglip() -> Any:
    return hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=VIT))


FAMILIES: dict[str, Family] = {
    "clip": Family(make_clip, "vision_model", (4, 4), 1, 16, 3),
    "siglip": Family(make_siglip, "vision_model", (4, 4), 0, 16, 3),
    "aimv2": Family(make_aimv2, "vision_model", (4, 4), 0, 16, 3),
    "chinese-clip": Family(make_chinese_clip, "vision_model", (4, 4), 1, 16, 3),
    "metaclip-2": Family(make_metaclip2, "vision_model", (4, 4), 1, 16, 3),
    "blip": Family(make_blip, "vision_model", (4, 4), 1, 16, 3),
    "blip-2": Family(make_blip2, "vision_model", (4, 4), 1, 16, 3),
    "vit": Family(lambda: hf.ViTModel(hf.ViTConfig(**VIT)), "", (4, 4), 1, 16, 3),
    "vit-classifier": Family(
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**VIT)), "vit", (4, 4), 1, 16, 3
    ),
    "encoder-decoder": Family(make_encoder_decoder, "encoder", (4, 4), 1, 16, 3),
    "git": Family(
        lambda: GitForCausalLM(hf.GitConfig(vision_config=VIT, **TEXT)),
        "git.image_encoder",
        (4, 4),
        1,
        16,
        3,
    ),
    "deit": Family(lambda: hf.DeiTModel(hf.DeiTConfig(**VIT)), "", (4, 4), 2, 16, 3),
    "beit": Family(lambda: hf.BeitModel(hf.BeitConfig(**VIT)), "", (4, 4), 1, 16, 3),
    "dinov2": Family(lambda: hf.Dinov2Model(hf.Dinov2Config(**VIT)), "", (4, 4), 1, 16, 3),
    "dinov2-registers": Family(make_registers, "", (4, 4), 5, 16, 3),
    "dinov3": Family(make_dinov3, "", (4, 4), 5, 16, 3),
    "dinov3-convnext": Family(
        lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(**STAGES)), "", (2, 2), 1, 20, 4, 64
    ),
    "swin": Family(lambda: hf.SwinModel(hf.SwinConfig(**SWIN)), "", (4, 4), 0, 16, 2),
    "swinv2": Family(lambda: hf.Swinv2Model(hf.Swinv2Config(**SWIN)), "", (4, 4), 0, 16, 2),
    "hiera": Family(lambda: hf.HieraModel(hf.HieraConfig(**HIERA)), "", (8, 8), 0, 16, 2, 64),
    "pvt-v2": Family(lambda: hf.PvtV2Model(hf.PvtV2Config(**PVT)), "", (2, 2), 0, 16, 4, 64),
    "convnextv2": Family(
        lambda: hf.ConvNextV2Model(hf.ConvNextV2Config(**STAGES)), "", (2, 2), 0, 20, 4, 64
    ),
    "convnext": Family(
        lambda: hf.ConvNextModel(hf.ConvNextConfig(**STAGES)), "", (2, 2), 0, 20, 4, 64
    ),
    "resnet": Family(lambda: hf.ResNetModel(hf.ResNetConfig(**RESNET)), "", (4, 4), 0, 16, 2),
    "resnet-classifier": Family(
        lambda: hf.ResNetForImageClassification(hf.ResNetConfig(**RESNET)),
        "resnet",
        (4, 4),
        0,
        16,
        2,
    ),
    "efficientnet": Family(
        lambda: hf.EfficientNetForImageClassification(hf.EfficientNetConfig(**EFFICIENTNET)),
        "efficientnet",
        (4, 4),
        0,
        64,
        3,
    ),
    "mobilenet-v2": Family(
        lambda: hf.MobileNetV2Model(hf.MobileNetV2Config(**MOBILENET)), "", (2, 2), 0, 128, 16, 64
    ),
}


def saved(folder: Path, family: str) -> str:
    """A folder with the tiny model of a family."""
    FAMILIES[family].save(folder / family)
    return str(folder / family)


def some_pixels(side: int, pictures: int = 2) -> Tensor:
    """Noise (B, 3, side, side), always the same."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (pictures, 3, side, side), generator=generator, dtype=torch.uint8)
