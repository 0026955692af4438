"""Families of encoders and what their features look like: writes `docs/encoders.json`.

    python docs/encoder_table.py      then `make readme`, which puts the table into docs/encoders.md

Each shape is computed: the example's architecture is built from its config, without memory for its
weights, and reads a picture of the size that its image processor makes.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
OUTPUT = ROOT / "docs" / "encoders.json"


@dataclass(frozen=True)
class Example:
    """A model of the Hub that stands for its family."""

    family: str
    name: str
    """On the Hub."""
    config: str
    """Class of its vision config."""
    side: int
    """Pixels of the square that its image processor makes."""
    test: str
    """The tiny model of the same family in `tests/helpers/tiny_encoders.py`."""
    is_multimodal: bool = False
    """Whether it was trained on pictures with their text."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Where its config differs from the class's defaults."""


EXAMPLES = (
    Example("CLIP", "openai/clip-vit-base-patch32", "CLIPVisionConfig", 224, "clip", True),
    Example(
        "MetaCLIP 2",
        "facebook/metaclip-2-worldwide-huge-quickgelu",
        "MetaClip2VisionConfig",
        224,
        "metaclip-2",
        True,
        {
            "hidden_size": 1280,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "intermediate_size": 5120,
            "patch_size": 14,
        },
    ),
    Example(
        "Chinese CLIP",
        "OFA-Sys/chinese-clip-vit-base-patch16",
        "ChineseCLIPVisionConfig",
        224,
        "chinese-clip",
        True,
        {"patch_size": 16},
    ),
    Example("SigLIP", "google/siglip-base-patch16-224", "SiglipVisionConfig", 224, "siglip", True),
    Example(
        "SigLIP 2", "google/siglip2-base-patch16-224", "SiglipVisionConfig", 224, "siglip", True
    ),
    Example(
        "SigLIP 2, any shape",
        "google/siglip2-base-patch16-naflex",
        "Siglip2VisionConfig",
        256,
        "siglip2",
        True,
    ),
    Example("BLIP", "Salesforce/blip-image-captioning-base", "BlipVisionConfig", 384, "blip", True),
    Example("BLIP-2", "Salesforce/blip2-opt-2.7b", "Blip2VisionConfig", 224, "blip-2", True),
    Example("GIT", "microsoft/git-base-coco", "GitVisionConfig", 224, "git", True),
    Example("AIMv2", "apple/aimv2-large-patch14-224", "Aimv2VisionConfig", 224, "aimv2", True),
    Example(
        "an encoder-decoder's",
        "nlpconnect/vit-gpt2-image-captioning",
        "ViTConfig",
        224,
        "encoder-decoder",
        True,
    ),
    Example("ViT", "google/vit-base-patch16-224-in21k", "ViTConfig", 224, "vit"),
    Example("DeiT", "facebook/deit-base-distilled-patch16-224", "DeiTConfig", 224, "deit"),
    Example("BEiT", "microsoft/beit-base-patch16-224-pt22k", "BeitConfig", 224, "beit"),
    Example(
        "DINOv2",
        "facebook/dinov2-base",
        "Dinov2Config",
        224,
        "dinov2",
        changes={"image_size": 518, "patch_size": 14},
    ),
    Example(
        "DINOv2, registers",
        "facebook/dinov2-with-registers-base",
        "Dinov2WithRegistersConfig",
        224,
        "dinov2-registers",
        changes={"image_size": 518, "patch_size": 14},
    ),
    Example(
        "DINOv3",
        "facebook/dinov3-vitb16-pretrain-lvd1689m",
        "DINOv3ViTConfig",
        224,
        "dinov3",
        changes={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_register_tokens": 4,
        },
    ),
    Example(
        "DINOv3, ConvNeXt",
        "facebook/dinov3-convnext-tiny-pretrain-lvd1689m",
        "DINOv3ConvNextConfig",
        224,
        "dinov3-convnext",
    ),
    Example(
        "Swin",
        "microsoft/swin-base-patch4-window7-224",
        "SwinConfig",
        224,
        "swin",
        changes={"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
    ),
    Example(
        "Swin V2",
        "microsoft/swinv2-tiny-patch4-window8-256",
        "Swinv2Config",
        256,
        "swinv2",
        changes={"image_size": 256, "window_size": 8},
    ),
    Example("Hiera", "facebook/hiera-tiny-224-hf", "HieraConfig", 224, "hiera"),
    Example("PVT v2", "OpenGVLab/pvt_v2_b0", "PvtV2Config", 224, "pvt-v2"),
    Example("ConvNeXt", "facebook/convnext-tiny-224", "ConvNextConfig", 224, "convnext"),
    Example(
        "ConvNeXt V2", "facebook/convnextv2-tiny-1k-224", "ConvNextV2Config", 224, "convnextv2"
    ),
    Example("ResNet", "microsoft/resnet-50", "ResNetConfig", 224, "resnet"),
    Example(
        "EfficientNet",
        "google/efficientnet-b0",
        "EfficientNetConfig",
        224,
        "efficientnet",
        changes={"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    ),
    Example("MobileNetV2", "google/mobilenet_v2_1.0_224", "MobileNetV2Config", 224, "mobilenet-v2"),
)


def row(example: Example) -> dict[str, Any]:
    """An example with the layout of its features: tokens, width, grid, tokens before it."""
    import torch
    import transformers

    from captioning.vision.loading import find_class
    from captioning.vision.tower_features import FeatureChoice, FeatureReader

    config = getattr(transformers, example.config)(**example.changes)
    # SigLIP 2 for any shape reads numbers off its input; it has to have some.
    with torch.device("cpu" if example.config == "Siglip2VisionConfig" else "meta"):
        tower = find_class(config, example.name)(config).eval()
        reader = FeatureReader(tower, (example.side, example.side), FeatureChoice(), example.name)
        with torch.no_grad():
            shape, _ = reader.measure(torch.zeros(1, 3, example.side, example.side))
    values = asdict(example) | {"tokens": shape.tokens, "width": shape.width}
    return values | {"grid": list(shape.grid), "prefix": shape.prefix}


def main() -> None:
    """Write the table's data."""
    rows = [row(example) for example in EXAMPLES]
    OUTPUT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for one in rows:
        print(f"{one['family']:22} {one['tokens']} x {one['width']}  {one['grid']} {one['prefix']}")


if __name__ == "__main__":
    main()
