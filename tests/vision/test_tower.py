"""Features equal, to the bit, those of the tower inside the whole model; what is wrong is said."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from captioning.system.errors import UserError
from captioning.vision import VisionTower
from tests.helpers.tiny_encoders import (
    FAMILIES,
    TEXT,
    VIT,
    Family,
    make_siglip2,
    saved,
    some_pixels,
    square_processor,
)


def weights(tower: nn.Module) -> set[str]:
    return {key for key, _ in tower.named_parameters() if not key.startswith("pooler.")}


def rewrite_weights(folder: str, change: Any) -> None:
    path = Path(folder, "model.safetensors")
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_features_are_those_of_the_tower_in_the_whole_model(family: Family, tmp_path: Path) -> None:
    whole = family.save(tmp_path)
    encoder = VisionTower.from_pretrained(str(tmp_path))
    pixels = some_pixels(family.side)
    with torch.no_grad():
        tower = family.tower_of(whole)
        expected = tower(pixel_values=pixels * encoder.scale + encoder.shift).last_hidden_state
    if expected.ndim == 4:  # (B, F, rows, columns)
        expected = torch.stack([picture.reshape(family.width, -1).T for picture in expected])
    features = encoder(pixels)
    assert torch.equal(features, expected)
    assert encoder.shape.grid == family.grid
    assert encoder.shape.prefix == family.prefix
    assert (encoder.num_tokens, encoder.feature_dim) == features.shape[1:]
    assert encoder.feature_dim == family.width
    assert weights(encoder.tower) == weights(tower)  # no text tower, no head


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_config_and_weights_rebuild_the_tower(family: Family, tmp_path: Path) -> None:
    family.save(tmp_path)
    encoder = VisionTower.from_pretrained(str(tmp_path))
    config = json.loads(json.dumps(encoder.config_dict()))
    processor = json.loads(json.dumps(encoder.preprocessor.settings()))
    rebuilt = VisionTower.from_config(config, processor)
    assert rebuilt.fingerprint() != encoder.fingerprint()
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt(some_pixels(family.side)), encoder(some_pixels(family.side)))
    assert rebuilt.fingerprint() == encoder.fingerprint()
    assert rebuilt.shape == encoder.shape


def test_siglip2_equals_its_own_processor_and_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = make_siglip2().eval()
    whole.save_pretrained(tmp_path)
    processor = hf.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    processor.save_pretrained(tmp_path)
    encoder = VisionTower.from_pretrained(str(tmp_path))
    picture = Image.fromarray(some_pixels(32, 1)[0].permute(1, 2, 0).numpy())
    inputs = processor(picture, return_tensors="pt")
    with torch.no_grad():
        expected = whole.vision_model(**inputs).last_hidden_state
    features = encoder(encoder.preprocess(picture).unsqueeze(0))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    assert (encoder.shape.grid, encoder.shape.prefix) == ((4, 4), 0)


def test_other_resolutions_by_interpolated_positions(tmp_path: Path) -> None:
    whole = FAMILIES["clip"].save(tmp_path)
    square_processor(48).save_pretrained(tmp_path / "larger")
    encoder = VisionTower.from_pretrained(str(tmp_path), processor_name=str(tmp_path / "larger"))
    assert encoder.shape.grid == (6, 6)
    with torch.no_grad():
        values = some_pixels(48) * encoder.scale + encoder.shift
        expected = whole.vision_model(values, interpolate_pos_encoding=True).last_hidden_state
    assert torch.equal(encoder(some_pixels(48)), expected)


def test_a_size_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit")
    square_processor(4).save_pretrained(tmp_path / "smaller")
    with pytest.raises(UserError, match="cannot read pictures of 4 x 4 pixels"):
        VisionTower.from_pretrained(folder, processor_name=str(tmp_path / "smaller"))


@pytest.mark.parametrize(
    ("family", "weight"),
    [
        ("clip", "vision_model.encoder.layers.1.mlp.fc1.weight"),
        ("blip", "vision_model.embeddings.class_embedding"),
        ("resnet", "embedder.embedder.normalization.running_mean"),
    ],
)
def test_missing_weights_stop(family: str, weight: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, family)
    rewrite_weights(folder, lambda weights: weights.pop(weight))
    with pytest.raises(UserError, match="lacks 1 of the") as caught:
        VisionTower.from_pretrained(folder)
    assert weight.removeprefix("vision_model.") in str(caught.value)


def test_a_text_checkpoint_under_a_vision_config_stops(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit")
    hf.BertModel(hf.BertConfig(**TEXT)).save_pretrained(tmp_path / "text")
    shutil.copy(tmp_path / "text" / "model.safetensors", folder)
    with pytest.raises(UserError, match="lacks 48 of the 56"):
        VisionTower.from_pretrained(folder)


def test_missing_pooler_does_no_harm(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit-classifier")
    first = VisionTower.from_pretrained(folder)
    torch.rand(1)  # the pooler is made at random, so that the second one is another
    second = VisionTower.from_pretrained(folder)
    assert not torch.equal(first.tower.pooler.dense.weight, second.tower.pooler.dense.weight)
    assert first.fingerprint() == second.fingerprint()


def test_fingerprint_knows_content_not_names(tmp_path: Path) -> None:
    folder = saved(tmp_path, "clip")
    original = VisionTower.from_pretrained(folder).fingerprint()
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert VisionTower.from_pretrained(str(moved)).fingerprint() == original
    tower_alone = hf.CLIPVisionModel.from_pretrained(folder)
    tower_alone.save_pretrained(tmp_path / "tower")
    square_processor(32).save_pretrained(tmp_path / "tower")
    assert VisionTower.from_pretrained(str(tmp_path / "tower")).fingerprint() == original

    def touch(weights: dict[str, Tensor]) -> None:
        weights["vision_model.encoder.layers.2.mlp.fc1.bias"][3] += 1e-3

    rewrite_weights(folder, touch)
    other_weights = VisionTower.from_pretrained(folder).fingerprint()
    config = json.loads(Path(moved, "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["hidden_act"] = "gelu"
    Path(moved, "config.json").write_text(json.dumps(config), encoding="utf-8")
    other_config = VisionTower.from_pretrained(str(moved)).fingerprint()
    hf.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "tower")
    other_pixels = VisionTower.from_pretrained(str(tmp_path / "tower")).fingerprint()
    assert len({original, other_weights, other_config, other_pixels}) == 4


def test_random_weights_follow_the_seed_and_disturb_nothing(tmp_path: Path) -> None:
    hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    ).save_pretrained(tmp_path)
    square_processor(32).save_pretrained(tmp_path)
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    same, again, other = (
        VisionTower.from_pretrained(f"random:{tmp_path}", seed=seed).fingerprint()
        for seed in (1, 1, 2)
    )
    assert same == again != other
    VisionTower.from_pretrained(saved(tmp_path, "vit-classifier"))
    torch.manual_seed(3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit-classifier")  # its pooler is missing and made at random
    state = torch.random.get_rng_state()
    VisionTower.from_pretrained(folder)
    VisionTower.from_pretrained(f"random:{folder}")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_vision_model_says_what_it_is(tmp_path: Path) -> None:
    hf.BertModel(hf.BertConfig(**TEXT)).save_pretrained(tmp_path)
    square_processor(32).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a model of type bert, which reads text"):
        VisionTower.from_pretrained(str(tmp_path))


def test_that_a_model_reads_text_is_told_before_its_lack_of_an_image_processor(
    tmp_path: Path,
) -> None:
    hf.CLIPTextModel(hf.CLIPTextConfig(**TEXT)).save_pretrained(tmp_path)
    for name in (str(tmp_path), f"random:{tmp_path}"):
        with pytest.raises(UserError, match="is a model of type clip_text_model, which reads text"):
            VisionTower.from_pretrained(name)


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit")
    model = hf.ViTModel.from_pretrained(folder)
    with torch.no_grad():
        model.layernorm.weight[3] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"no numbers .* weights hold such ones \(layernorm.weight"):
        VisionTower.from_pretrained(folder)


def test_features_that_change_or_are_no_patches_are_refused(tmp_path: Path) -> None:
    hf.ViTMAEModel(hf.ViTMAEConfig(**VIT)).save_pretrained(tmp_path / "mae")
    square_processor(32).save_pretrained(tmp_path / "mae")
    with pytest.raises(UserError, match="other features each time"):
        VisionTower.from_pretrained(str(tmp_path / "mae"))
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"]
    )
    detector = hf.DetrConfig(
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        use_timm_backbone=False,
    )
    hf.DetrModel(detector).save_pretrained(tmp_path / "detr")
    square_processor(64).save_pretrained(tmp_path / "detr")
    with pytest.raises(UserError, match=r"100 tokens .* no grid of patches"):
        VisionTower.from_pretrained(str(tmp_path / "detr"))


def test_a_tower_is_frozen_whatever_is_asked(tmp_path: Path) -> None:
    tower = VisionTower.from_pretrained(saved(tmp_path, "resnet"))
    tower.train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    assert not tower(some_pixels(32)).requires_grad
    for key, value in tower.state_dict().items():  # BatchNorm's counts, for one
        assert torch.equal(value, before[key])
