"""Layers and tokens are those of the tower's own output, in every family."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor

from captioner import Captioner, roll_out
from captioning.system.errors import UserError
from captioning.vision.tower_features import FeatureChoice, _as_patches, grid_of
from encoder import VisionEncoder
from evaluate import main as evaluate
from tests.helpers.small_runs import run, write_data, write_encoder
from tests.helpers.tiny_encoders import FAMILIES, saved, some_pixels

NO_CLASS_TOKEN = {
    "siglip",
    "aimv2",
    "hiera",
    "pvt-v2",
    "regnet",
    "convnextv2",
    "swin",
    "swinv2",
    "convnext",
    "efficientnet",
    "mobilenet-v2",
    "resnet",
    "resnet-classifier",
}


def states_of(encoder: VisionEncoder, pixels: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """The tower's own layers as (B, P, F), and its pooled vector."""
    with torch.no_grad():
        values = pixels * encoder.scale + encoder.shift
        output = encoder.tower(pixel_values=values, output_hidden_states=True)
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    rows = [
        torch.stack([one.reshape(one.shape[0], -1).T for one in state])
        if state.ndim == 4
        else state
        for state in states
    ]
    return rows, getattr(output, "pooler_output", None)


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_and_tokens_of_every_family(name: str, tmp_path: Path) -> None:
    folder, family = saved(tmp_path, name), FAMILIES[name]
    pixels = some_pixels(family.side)

    def read(layers: str, tokens: str = "all") -> tuple[VisionEncoder, Tensor]:
        encoder = VisionEncoder.from_pretrained(folder, choice=FeatureChoice(layers, tokens))
        features = encoder(pixels)
        assert (encoder.num_tokens, encoder.feature_dim) == features.shape[1:]
        assert encoder.shape.prefix + np.prod(encoder.shape.grid) == encoder.num_tokens
        return encoder, features

    encoder, last = read("last")
    states, pooled = states_of(encoder, pixels)
    assert torch.equal(last, states[-1])
    assert torch.equal(read("-2")[1], states[-2])
    if states[-2].shape == states[-1].shape:
        assert torch.equal(read("-1,-2")[1], torch.cat([states[-1], states[-2]], -1))
    elif states[-2].shape[1] != states[-1].shape[1]:
        with pytest.raises(UserError, match="only layers of equally many"):
            read("-1,-2")
    patches, features = read("last", "patches")
    assert torch.equal(features, last[:, family.prefix :])
    assert (patches.shape.grid, patches.shape.prefix) == (family.grid, 0)
    assert (family.prefix == 0) == (name in NO_CLASS_TOKEN)
    if family.prefix == 0 and pooled is None:
        with pytest.raises(UserError, match="has no class token, and no pooled vector"):
            read("last", "cls")
        return
    alone, features = read("last", "cls")
    expected = last[:, :1] if family.prefix else pooled.flatten(1)[:, None]
    assert torch.equal(features, expected)
    assert (alone.shape.grid, alone.shape.prefix) == ((1, 1), 0)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    folder = saved(tmp_path, "clip")
    with pytest.raises(UserError, match=r"ENCODER_LAYERS is '-5'; .* gives 4 layers"):
        VisionEncoder.from_pretrained(folder, choice=FeatureChoice("-5"))
    folder = saved(tmp_path, "resnet")
    with pytest.raises(UserError, match="has no class token in an earlier layer"):
        VisionEncoder.from_pretrained(folder, choice=FeatureChoice("-2", "cls"))


def test_each_choice_has_its_own_fingerprint_and_the_usual_one_keeps_its(tmp_path: Path) -> None:
    folder = saved(tmp_path, "clip")
    choices = [None, FeatureChoice("-2"), FeatureChoice("-1,-2"), FeatureChoice(tokens="cls")]
    found = [VisionEncoder.from_pretrained(folder, choice=one).fingerprint() for one in choices]
    assert len(set(found)) == 4
    same = VisionEncoder.from_pretrained(folder, choice=FeatureChoice("last", "all"))
    assert same.fingerprint() == found[0]


def test_a_choice_holds_however_the_encoder_is_built(tmp_path: Path) -> None:
    folder, choice = saved(tmp_path, "clip"), FeatureChoice("-1,-2", "patches")
    encoder = VisionEncoder.from_pretrained(folder, choice=choice, trained_blocks=1)
    rebuilt = VisionEncoder.from_config(
        encoder.config_dict(), encoder.preprocessor.settings(), choice=choice, trained_blocks=1
    )
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt(some_pixels(32)), encoder(some_pixels(32)))
    random = VisionEncoder.from_pretrained(f"random:{folder}", choice=choice, trained_blocks=1)
    for one in (rebuilt, random):
        assert one(some_pixels(32)).shape == (2, 16, 32)
        assert len(one.trained_parameters()) == len(encoder.trained_parameters()) > 0


def test_blocks_after_the_chosen_layer_do_not_count(tmp_path: Path) -> None:
    folder = saved(tmp_path, "clip")
    choice = FeatureChoice("-2")
    encoder = VisionEncoder.from_pretrained(folder, choice=choice, trained_blocks=1)
    names = {name for name, p in encoder.tower.named_parameters() if p.requires_grad}
    assert names
    assert all(".layers.1." in name for name in names)
    with pytest.raises(UserError, match="has 2 blocks"):
        VisionEncoder.from_pretrained(folder, choice=choice, trained_blocks=3)


def test_rollout_of_a_class_token_is_laid_over_the_tower_s_patches(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit")
    whole, alone, early = (
        VisionEncoder.from_pretrained(folder, choice=choice)
        for choice in (None, FeatureChoice(tokens="cls"), FeatureChoice("-2", "patches"))
    )
    through = roll_out(whole, some_pixels(32))
    assert through.shape == (2, 17, 17)
    np.testing.assert_array_equal(roll_out(alone, some_pixels(32)), through[:, :1])
    found = roll_out(early, some_pixels(32))
    assert found.shape == (2, 16, 17)
    assert not np.allclose(found, through[:, 1:])
    folder = saved(tmp_path, "siglip")
    pooled = VisionEncoder.from_pretrained(folder, choice=FeatureChoice(tokens="cls"))
    assert roll_out(pooled, some_pixels(32)) is None


def test_squares_of_patches_become_their_mean(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit")
    whole, fewer, patches = (
        VisionEncoder.from_pretrained(folder, choice=choice)
        for choice in (None, FeatureChoice(pooling=2), FeatureChoice("last", "patches", 2))
    )
    pixels = some_pixels(32)
    features = whole(pixels)
    cut = features[:, 1:].unflatten(1, (2, 2, 2, 2))  # rows, in them, columns, in them
    means = cut.mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(fewer(pixels), torch.cat([features[:, :1], means], 1))
    torch.testing.assert_close(patches(pixels), means)
    assert (fewer.num_tokens, fewer.shape.grid, patches.shape.prefix) == (5, (2, 2), 0)
    assert len({one.fingerprint() for one in (whole, fewer, patches)}) == 3
    through, all_of_it = roll_out(fewer, pixels), roll_out(whole, pixels)
    assert through is not None
    assert all_of_it is not None
    squares = all_of_it[:, 1:].reshape(-1, 2, 2, 2, 2, 17).mean((2, 4)).reshape(-1, 4, 17)
    np.testing.assert_allclose(through[:, 1:], squares, rtol=1e-5)
    with pytest.raises(UserError, match=r"must divide the 4 x 4 patches of .*take 2 or 4"):
        VisionEncoder.from_pretrained(folder, choice=FeatureChoice(pooling=3))


def test_a_choice_without_pooling_is_named_as_before_there_was_any() -> None:
    assert FeatureChoice("-2").description == {"layers": "-2", "tokens": "all"}
    assert FeatureChoice(pooling=2).description["pooling"] == 2


@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        pytest.param({"ENCODER_POOLING": 2}, (2, 2), marks=pytest.mark.slow),
        ({"ENCODER_TOKENS": "cls"}, (1, 1)),
        pytest.param(
            {"ENCODER_LAYERS": "-1,-3", "ENCODER_TOKENS": "patches"},
            (4, 4),
            marks=pytest.mark.slow,
        ),
        pytest.param({"ENCODER_IMAGE_SIZE": 48}, (6, 6), marks=pytest.mark.slow),
    ],
)
def test_a_run_on_other_features_captions_and_shows_what_it_looked_at(
    changes: dict[str, object], grid: tuple[int, int], tmp_path: Path
) -> None:
    write_data(tmp_path)
    write_encoder(tmp_path)
    folder = run(tmp_path, NUM_EPOCHS=1, **changes)
    captioner = Captioner.from_pretrained(folder / "best")
    picture = Image.new("RGB", (40, 30), "red")
    caption = captioner(picture)
    words = captioner.attention(picture, caption)
    assert words
    assert all(word.grid.shape == grid for word in words)
    if "ENCODER_TOKENS" in changes:  # no prefix, so that all of the attention is on the picture
        assert all(abs(word.grid.sum() - 1) < 1e-5 for word in words)
    output = tmp_path / "evaluation"
    command = ["--checkpoint", str(folder / "best"), "--output", str(output), "--no-java"]
    assert evaluate(command) == 0
    assert (output / "report.html").stat().st_size > 10_000
    wide = captioner.attention(picture, caption, rollout=True)
    assert wide[0].grid.shape == captioner.pipeline.encoder.tower_shape.grid


@pytest.mark.parametrize("name", FAMILIES)
def test_other_sizes_of_picture(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    side = family.side * 3 // 2
    if name == "aimv2":  # whose positions are not interpolated
        with pytest.raises(UserError, match="Leave out --ENCODER_IMAGE_SIZE"):
            VisionEncoder.from_pretrained(saved(tmp_path, name), image_size=side)
        return
    encoder = VisionEncoder.from_pretrained(saved(tmp_path, name), image_size=side)
    assert encoder.preprocessor.size == (side, side)
    assert encoder.shape.grid == tuple(-(-rows * 3 // 2) for rows in family.grid)
    assert encoder.shape.prefix == family.prefix
    picture = Image.fromarray(some_pixels(100, 1)[0].permute(1, 2, 0).numpy())
    assert encoder(encoder.preprocess(picture)[None]).isfinite().all()
    again = encoder.preprocessor.at_size(side)
    assert again.behaviour() == encoder.preprocessor.behaviour()


@pytest.mark.parametrize(
    ("tokens", "size", "patch", "grid"),
    [
        (15, (24, 40), 8, (3, 5)),
        (16, (24, 40), 8, (3, 5)),  # a class token before them
        (12, (24, 64), [8, 16], (3, 4)),
        (6, (32, 48), 8, (2, 3)),  # merged once
        (28, (24, 40), 6, (4, 7)),  # the last column is padded
    ],
)
def test_grids_of_rectangles(
    tokens: int, size: tuple[int, int], patch: object, grid: tuple[int, int]
) -> None:
    assert grid_of(tokens, size, SimpleNamespace(patch_size=patch), "x") == grid


def test_patches_of_a_rectangle_are_listed_row_by_row() -> None:
    pixels = torch.rand(2, 3, 16, 24)
    inputs = _as_patches(pixels, 8)
    assert inputs["spatial_shapes"].tolist() == [[2, 3]] * 2
    assert inputs["pixel_attention_mask"].shape == (2, 6)
    for number, (top, left) in enumerate([(0, 0), (0, 8), (0, 16), (8, 0), (8, 8), (8, 16)]):
        patch = pixels[:, :, top : top + 8, left : left + 8].permute(0, 2, 3, 1)
        assert torch.equal(inputs["pixel_values"][:, number], patch.flatten(1))


def test_a_rectangle_is_read_with_its_own_positions(tmp_path: Path) -> None:
    whole = FAMILIES["clip"].save(tmp_path)
    size = {"height": 24, "width": 40}
    hf.ViTImageProcessorPil(size=size).save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(str(tmp_path))
    assert (encoder.shape.grid, encoder.num_tokens) == ((3, 5), 16)
    pixels = some_pixels(40)[:, :, :24]
    with torch.no_grad():
        values = pixels * encoder.scale + encoder.shift
        expected = whole.vision_model(values, interpolate_pos_encoding=True).last_hidden_state
    assert torch.equal(encoder(pixels), expected)


def test_a_size_that_the_tower_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Leave out --ENCODER_IMAGE_SIZE"):
        VisionEncoder.from_pretrained(saved(tmp_path, "vit"), image_size=4)
