"""What of an encoder is trained changes; what is frozen never does, by a bit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from captioning.system.errors import UserError
from captioning.vision import FeatureChoice
from config import Config
from encoder import VisionEncoder
from tests.helpers.tiny_encoders import FAMILIES, saved, some_pixels


def test_settings_say_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        VisionEncoder, "from_pretrained", lambda name, **rest: asked.append({"name": name, **rest})
    )
    config = Config(
        ENCODER_MODEL_NAME="a/b@c0ffee",
        IMAGE_PROCESSOR_NAME="a/c",
        ENCODER_IMAGE_SIZE=336,
        ENCODER_LAYERS="-2",
        ENCODER_TOKENS="patches",
        ENCODER_TRAINED_BLOCKS=3,
        RANDOM_SEED=7,
    )
    VisionEncoder.from_settings(config)
    VisionEncoder.from_settings(config, name="d/e", trust_remote_code=True)
    VisionEncoder.from_settings(config, name="d/e", revision="f00d")
    expected = {
        "name": "a/b",
        "revision": "c0ffee",
        "processor_name": "a/c",
        "image_size": 336,
        "choice": FeatureChoice("-2", "patches"),
        "trained_blocks": 3,
        "seed": 7,
        "trust_remote_code": False,
    }
    assert asked[0] == expected
    assert asked[1] == {**expected, "name": "d/e", "revision": "", "trust_remote_code": True}
    assert asked[2] == {**expected, "name": "d/e", "revision": "f00d"}


def one_step(encoder: VisionEncoder, side: int) -> None:
    head = nn.Module()
    head.encoder = encoder
    head.train()
    optimizer = torch.optim.AdamW(encoder.trained_parameters() or [nn.Parameter(torch.zeros(1))])
    features = encoder(some_pixels(side))
    if features.requires_grad:
        features.square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("family", ["resnet", "clip", "swin", "dinov3-convnext"])
@pytest.mark.parametrize("trained_blocks", [0, 1, 2, -1])
def test_only_the_trained_blocks_change(family: str, trained_blocks: int, tmp_path: Path) -> None:
    shape = FAMILIES[family]
    folder = saved(tmp_path, family)
    encoder = VisionEncoder.from_pretrained(folder, trained_blocks=trained_blocks)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    one_step(encoder, shape.side)
    changed = {
        key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])
    }
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    blocks = next(found for found in lists if len(found) == shape.blocks)
    allowed = {
        f"{prefix}.{key}"
        for prefix, module in encoder.named_modules()
        if any(module is block for block in blocks[len(blocks) - trained_blocks :])
        for key in module.state_dict()
    }
    if trained_blocks == -1:
        assert len(changed) > 0.7 * len(before)
    elif trained_blocks == 0:
        assert not changed
        assert encoder.trained_parameters() == []
    else:
        assert changed <= allowed
        assert len(changed) > 0.7 * len(allowed)


def test_every_trained_parameter_gets_a_gradient(tmp_path: Path) -> None:
    for name, family in FAMILIES.items():
        encoder = VisionEncoder.from_pretrained(saved(tmp_path, name), trained_blocks=-1)
        encoder.train()
        encoder(some_pixels(family.side)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in encoder.trained_parameters()), name


def test_frozen_part_stays_in_evaluation_mode(tmp_path: Path) -> None:
    folder = saved(tmp_path, "resnet")
    frozen, partly = (
        VisionEncoder.from_pretrained(folder, trained_blocks=blocks) for blocks in (0, 1)
    )
    records: list[bool] = []
    frozen.tower.register_forward_hook(lambda *_: records.append(torch.is_grad_enabled()))
    parent = nn.ModuleList([frozen, partly]).train()
    assert parent.training
    assert not any(module.training for module in frozen.tower.modules())
    assert not frozen(some_pixels(32)).requires_grad
    assert records == [False]
    assert partly(some_pixels(32)).requires_grad
    stages = partly.tower.encoder.stages
    assert all(module.training for module in stages[1].modules())
    assert not any(module.training for module in stages[0].modules())
    assert not any(module.training for module in partly.tower.embedder.modules())
    parent.eval()
    assert not any(module.training for module in partly.modules())


def test_too_many_blocks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ENCODER_TRAINED_BLOCKS is 4; .* has 3 blocks"):
        VisionEncoder.from_pretrained(saved(tmp_path, "vit"), trained_blocks=4)


def test_import_does_not_load_transformers() -> None:
    code = "import encoder, sys; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
