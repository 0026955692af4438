"""What words looked at: a model that is rigged to look at known patches, and rollout."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from captioner import (
    Caption,
    Captioner,
    attend,
    roll_out,
    word_attention,
)
from captioning.system.runtime import Runtime
from captioning.training.packing import Packing
from captioning.vision.preprocessing import ImagePreprocessor
from config import Config
from encoder import VisionEncoder
from model import CaptionModel, Projection, TransformerDecoder
from pipeline import CaptionPipeline
from tests.helpers.tiny_encoders import FAMILIES, VIT
from tokenizer import CaptionTokenizer, train_tokenizer

GRID, PREFIX = 4, 1
SHARP = 40.0
"""Makes softmax one-hot."""
CROPPING = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SQUASHING = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
PADDING = {"size": {"shortest_edge": 16}, "crop_size": {"height": 32, "width": 32}}


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return train_tokenizer(["a red dog runs over grass"] * 4, 400)


@pytest.fixture(scope="module")
def tower() -> torch.nn.Module:
    torch.manual_seed(0)
    return FAMILIES["clip"].make().vision_model.eval()


def rigged(
    tower: torch.nn.Module,
    tokenizer: CaptionTokenizer,
    looks: dict[str, tuple[int, int]],
    *,
    processor: Mapping[str, object] = CROPPING,
    second_layer: tuple[int, int] | None = None,
) -> Captioner:
    """A captioner that looks at patch (row, column) `looks[word]` when it chooses the word's tokens
    in "a red dog"; a second layer always looks at one patch."""
    settings = hf.CLIPImageProcessorPil(**processor).to_dict()
    encoder = VisionEncoder(tower, ImagePreprocessor(settings))
    V, P = len(tokenizer), encoder.num_tokens
    projection = Projection(P, encoder.feature_dim, P)
    decoder = TransformerDecoder(
        vocab_size=V,
        dim=V,
        layers=1 if second_layer is None else 2,
        heads=1,
        ff_dim=4,
        memory_dim=P,
        max_length=20,
        dropout=0.0,
    )
    with torch.no_grad():
        for parameter in (*projection.mlp.parameters(), *decoder.parameters()):
            parameter.zero_()
        decoder.positions.zero_()
        projection.positions.copy_(torch.eye(P))  # each patch is its own direction
        decoder.embedding.weight.copy_(torch.eye(V))  # each token too
        for block in decoder.blocks:
            block.norm_cross.weight.fill_(1)
            block.cross_attention.key_value.weight[:P] = torch.eye(P)
        query = decoder.blocks[0].cross_attention.query.weight
        previous = [tokenizer.start_id, *tokenizer.encode("a red dog")[1:-1]]
        for token, (row, column) in zip(previous, looks.values(), strict=False):
            query[PREFIX + row * GRID + column, token] = SHARP
        if second_layer:
            row, column = second_layer
            decoder.blocks[1].cross_attention.query.weight[PREFIX + row * GRID + column] = 0
            decoder.blocks[1].norm_cross.bias.fill_(1)
            decoder.blocks[1].cross_attention.query.weight[PREFIX + row * GRID + column] = SHARP
    model = CaptionModel(projection, decoder).eval()
    pipeline = CaptionPipeline(encoder, model, tokenizer, Runtime(torch.device("cpu")), 20)
    return Captioner(pipeline, Config())


def caption_of(tokenizer: CaptionTokenizer, text: str = "a red dog") -> Caption:
    return Caption(text, -1.0, 0.5, (), tuple(tokenizer.encode(text)[1:-1]))


LOOKS = {"a": (0, 0), "red": (1, 3), "dog": (3, 2)}


@pytest.mark.parametrize(
    ("processor", "size", "region"),
    [
        (CROPPING, (64, 64), (0, 0, 64, 64)),
        (CROPPING, (96, 48), (24, 0, 72, 48)),
        (CROPPING, (60, 180), (0, 60, 60, 120)),
        (SQUASHING, (96, 48), (0, 0, 96, 48)),
        (PADDING, (64, 64), (-32, -32, 96, 96)),
    ],
    ids=["square", "wide", "tall", "squashed", "padded"],
)
def test_heat_lies_where_the_patch_lies_in_the_picture(
    tower: torch.nn.Module,
    tokenizer: CaptionTokenizer,
    processor: dict[str, object],
    size: tuple[int, int],
    region: tuple[int, int, int, int],
) -> None:
    looks = dict(LOOKS) if processor is not PADDING else {"a": (1, 1), "red": (1, 2), "dog": (2, 2)}
    captioner = rigged(tower, tokenizer, looks, processor=processor)
    image = Image.effect_noise(size, 80)
    words = captioner.attention(image, caption_of(tokenizer))
    left, top, right, bottom = region
    patch_width, patch_height = (right - left) / GRID, (bottom - top) / GRID
    assert [word.text for word in words] == ["a", "red", "dog"]
    for word, (row, column) in zip(words, looks.values(), strict=True):
        x, y = word.peak()
        assert word.peak_share() == ((x + 0.5) / size[0], (y + 0.5) / size[1])
        assert abs((x + 0.5) - (left + (column + 0.5) * patch_width)) < patch_width / 2
        assert abs((y + 0.5) - (top + (row + 0.5) * patch_height)) < patch_height / 2
        heat = word.heat()
        assert heat.shape == size[::-1]
        assert heat.max() == pytest.approx(1)
        unseen = np.ones_like(heat, bool)
        unseen[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
        assert not heat[unseen].any()
        # The middle of the heat is the middle of the patch, however small it is drawn.
        for drawn in (size, (30, 24)):
            small = word.heat(drawn)
            ys, xs = np.nonzero(small > 0.7)
            middle_x, middle_y = (xs.mean() + 0.5) / drawn[0], (ys.mean() + 0.5) / drawn[1]
            if 0 < row < GRID - 1 and 0 < column < GRID - 1:
                assert abs(middle_x - (left + (column + 0.5) * patch_width) / size[0]) < 0.04
                assert abs(middle_y - (top + (row + 0.5) * patch_height) / size[1]) < 0.04


def test_attention_is_that_with_which_a_token_was_chosen(
    tower: torch.nn.Module, tokenizer: CaptionTokenizer
) -> None:
    captioner = rigged(tower, tokenizer, LOOKS)
    features = torch.zeros(2, GRID * GRID + PREFIX, 16)
    ids = tokenizer.encode("a red dog")[1:-1]
    first, short = attend(captioner.pipeline, features, [ids, ids[:1]])
    assert first.argmax(1).tolist() == [
        PREFIX + row * GRID + column for row, column in LOOKS.values()
    ]
    assert first.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    assert short == pytest.approx(first[:1], abs=1e-6)
    assert attend(captioner.pipeline, features[:1], [[]])[0].shape == (0, GRID * GRID + PREFIX)


def test_layers_are_averaged(tower: torch.nn.Module, tokenizer: CaptionTokenizer) -> None:
    captioner = rigged(tower, tokenizer, LOOKS, second_layer=(2, 0))
    words = captioner.attention(Image.new("RGB", (64, 64)), caption_of(tokenizer))
    for word, (row, column) in zip(words, LOOKS.values(), strict=True):
        assert word.grid[row, column] == pytest.approx(0.5, abs=1e-3)
        assert word.grid[2, 0] == pytest.approx(0.5, abs=1e-3)


def test_heads_are_averaged_as_the_model_computes_them(
    tower: torch.nn.Module, tokenizer: CaptionTokenizer
) -> None:
    captioner = rigged(tower, tokenizer, LOOKS)
    torch.manual_seed(1)
    model = CaptionModel.from_config(
        Config(DECODER_EMBED_DIM=16, DECODER_HEADS=4, DECODER_FF_DIM=8, PROJECTION_DIM=12),
        patches=GRID * GRID + PREFIX,
        feature_dim=16,
        vocab_size=len(tokenizer),
    ).eval()
    pipeline = CaptionPipeline(
        captioner.pipeline.encoder, model, tokenizer, Runtime(torch.device("cpu")), 20
    )
    features = torch.randn(1, GRID * GRID + PREFIX, 16)
    ids = tokenizer.encode("a red dog runs")[1:-1]
    given: list[torch.Tensor] = []
    with torch.no_grad():
        read = torch.tensor([tokenizer.start_id, *ids[:-1]])
        packing = Packing(1, len(ids))
        model.decoder(
            read, torch.arange(len(ids)), packing, model.encode_memory(features), weights=given
        )
    expected = sum(layer[0].mean(0) for layer in given) / len(given)
    (found,) = attend(pipeline, features, [ids])
    assert found == pytest.approx(expected.numpy(), abs=1e-6)


def test_pieces_of_a_word_are_one_word(tower: torch.nn.Module, tokenizer: CaptionTokenizer) -> None:
    captioner = rigged(tower, tokenizer, LOOKS)
    ids = tokenizer.encode("a zebra")[1:-1]
    assert len(ids) > 2
    weights = np.zeros((len(ids), GRID * GRID + PREFIX), np.float32)
    weights[1:, PREFIX] = np.arange(1, len(ids))
    words = word_attention(captioner.pipeline, ids, weights, (64, 64))
    assert [word.text for word in words] == ["a", "zebra"]
    assert words[1].grid[0, 0] == pytest.approx(np.arange(1, len(ids)).mean())


def test_a_space_is_no_word(tower: torch.nn.Module, tokenizer: CaptionTokenizer) -> None:
    captioner = rigged(tower, tokenizer, LOOKS)
    ids = tokenizer.encode("a  red   dog ")[1:-1]
    weights = np.ones((len(ids), GRID * GRID + PREFIX), np.float32)
    words = word_attention(captioner.pipeline, ids, weights, (64, 64))
    assert [word.text for word in words] == ["a", "red", "dog"]


def test_a_class_token_has_no_place(tower: torch.nn.Module, tokenizer: CaptionTokenizer) -> None:
    captioner = rigged(tower, tokenizer, LOOKS)
    weights = np.full((1, GRID * GRID + PREFIX), 0.01, np.float32)
    weights[0, 0] = 0.84
    (word,) = word_attention(captioner.pipeline, tokenizer.encode("a")[1:-1], weights, (64, 64))
    assert word.grid.sum() == pytest.approx(0.16)


def load(family: str, folder: Path) -> VisionEncoder:
    FAMILIES[family].save(folder)
    return VisionEncoder.from_pretrained(str(folder))


@pytest.mark.parametrize("family", ["clip", "vit", "dinov2-registers", "siglip"])
def test_rollout_is_the_product_of_the_layers_attention(family: str, tmp_path: Path) -> None:
    encoder = load(family, tmp_path)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    before = encoder(pixels)
    found = roll_out(encoder, pixels)
    assert found is not None
    assert found.sum(-1) == pytest.approx(np.ones(found.shape[:2]), abs=1e-5)
    tower = encoder.tower
    assert tower.config._attn_implementation == "sdpa"
    assert encoder(pixels).equal(before)

    tower.set_attn_implementation("eager")
    with torch.no_grad():
        output = tower(pixels * encoder.scale + encoder.shift, output_attentions=True)
    assert len(output.attentions) == VIT["num_hidden_layers"]
    expected = np.eye(encoder.num_tokens)
    for layer in output.attentions:
        heads = layer[1].double().numpy()
        expected = (0.5 * heads.mean(0) + 0.5 * np.eye(len(expected))) @ expected
    assert found[1] == pytest.approx(expected, abs=1e-5)


def test_rollout_of_even_attention_is_known(
    tower: torch.nn.Module, tokenizer: CaptionTokenizer
) -> None:
    torch.manual_seed(0)
    even = FAMILIES["clip"].make().vision_model.eval()
    with torch.no_grad():
        for name, parameter in even.named_parameters():
            if "q_proj" in name:
                parameter.zero_()
    captioner = rigged(even, tokenizer, LOOKS)
    image = Image.new("RGB", (64, 64))
    plain = captioner.attention(image, caption_of(tokenizer))
    rolled = captioner.attention(image, caption_of(tokenizer), rollout=True)
    share = 0.5 ** VIT["num_hidden_layers"]
    for word, through, (row, column) in zip(plain, rolled, LOOKS.values(), strict=True):
        spread = (1 - share) / (GRID * GRID + PREFIX)
        assert through.grid[row, column] == pytest.approx(
            share * word.grid[row, column] + spread, abs=1e-4
        )
        others = np.delete(through.grid.flatten(), row * GRID + column)
        assert others == pytest.approx(np.full(GRID * GRID - 1, spread), abs=1e-3)


def test_rollout_follows_an_output_patch_back_to_input_patches(
    tower: torch.nn.Module, tokenizer: CaptionTokenizer
) -> None:
    captioner, image = rigged(tower, tokenizer, LOOKS), Image.effect_noise((64, 64), 80)
    encoder = captioner.pipeline.encoder
    through = roll_out(encoder, encoder.preprocess(image.convert("RGB"))[None])
    assert through is not None
    assert np.abs(through[0] - through[0].T).max() > 1e-3
    words = captioner.attention(image, caption_of(tokenizer), rollout=True)
    for word, (row, column) in zip(words, LOOKS.values(), strict=True):
        expected = through[0, PREFIX + row * GRID + column, PREFIX:]
        assert word.grid.flatten() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["resnet", "swin"])
def test_an_encoder_without_attention_over_all_patches_has_no_rollout(
    family: str, tmp_path: Path
) -> None:
    encoder = load(family, tmp_path)
    assert roll_out(encoder, torch.zeros(1, 3, 32, 32, dtype=torch.uint8)) is None


def test_a_missing_rollout_is_said(
    tokenizer: CaptionTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = load("resnet", tmp_path)
    patches = {"patches": encoder.num_tokens, "feature_dim": encoder.feature_dim}
    model = CaptionModel.from_config(
        Config(DECODER_EMBED_DIM=8, DECODER_HEADS=1, PROJECTION_DIM=8, DECODER_LAYERS=1),
        vocab_size=len(tokenizer),
        **patches,
    ).eval()
    pipeline = CaptionPipeline(encoder, model, tokenizer, Runtime(torch.device("cpu")), 20)
    captioner, image = Captioner(pipeline, Config()), Image.new("RGB", (64, 64))
    plain = captioner.attention(image, caption_of(tokenizer))
    assert "roll out" not in capsys.readouterr().err
    rolled = captioner.attention(image, caption_of(tokenizer), rollout=True)
    assert "no attention to roll out" in capsys.readouterr().err
    assert all((a.grid == b.grid).all() for a, b in zip(plain, rolled, strict=True))
