"""A ViT-GPT2 read natively captions as transformers does: logits, greedy, beams, its own ways."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

import evaluate
import generate
from beginning import initial_checkpoint, initial_config, initial_pipeline, parent_of
from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.sources.images import load_image
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from captioning.training.packing import Packing
from checkpoint import save_checkpoint
from config import parse_config
from tests.helpers.small_runs import write_data, write_encoder
from tests.helpers.tiny_gpt2 import (
    BEAMS,
    TheirCaptions,
    change_json,
    noise_pictures,
    save_vit_gpt2,
)

PICTURES = noise_pictures()
KINDS: dict[str, dict[str, Any]] = {
    "vit": {"generation": BEAMS},
    "deit": {"width": 16, "generation": {"num_beams": 3, "max_new_tokens": 9}},
    "swin": {"generation": {"num_beams": 3, "early_stopping": "never", "length_penalty": -0.5}},
    "beit": {"special": ("<pad>", "<s>"), "activation_function": "gelu", "n_inner": 20},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param)
    return save_vit_gpt2(place, encoder=request.param, **KINDS[request.param])


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit_gpt2(tmp_path_factory.mktemp("vit"), generation=BEAMS)


def ours_of(folder: Path) -> Captioner:
    return Captioner.from_pretrained(folder, device="cpu", precision="fp32")


def logits_of(captioner: Captioner, ids: Tensor) -> Tensor:
    """(B, T, V) of the pictures with (B, T) ids."""
    features = captioner.features(PICTURES)
    rows, length = ids.shape
    positions = torch.arange(length).repeat(rows)
    with torch.inference_mode():
        logits: Tensor = captioner.pipeline.model(
            features, ids.flatten(), positions, Packing(rows, length)
        )
    return logits.view(rows, length, -1)


def test_logits_and_captions_are_those_of_transformers(folder: Path) -> None:
    ours, theirs = ours_of(folder), TheirCaptions(folder)
    ids = torch.randint(0, 280, (len(PICTURES), 12), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        logits_of(ours, ids), theirs.logits(PICTURES, ids), atol=1e-4, rtol=1e-4
    )
    assert [caption.ids for caption in ours(PICTURES)] == theirs.ids(PICTURES)
    assert [caption.text for caption in ours(PICTURES)] == theirs.texts(PICTURES)


@pytest.mark.slow
def test_so_it_is_at_the_size_of_those_in_use(tmp_path: Path) -> None:
    """ViT-B/16 at 224 pixels and distilgpt2: the shape of Mozilla/distilvit."""
    folder = save_vit_gpt2(
        tmp_path,
        encoder=hf.ViTModel(hf.ViTConfig()),
        width=768,
        vocab_size=50_257,
        n_layer=6,
        n_head=12,
        n_positions=1_024,
        generation=BEAMS,
    )
    ours, theirs = ours_of(folder), TheirCaptions(folder)
    ids = torch.randint(0, 50_257, (len(PICTURES), 12))
    torch.testing.assert_close(
        logits_of(ours, ids), theirs.logits(PICTURES, ids), atol=1e-4, rtol=1e-4
    )
    assert [caption.ids for caption in ours(PICTURES)] == theirs.ids(PICTURES)


def test_searches_are_those_of_transformers(vit: Path) -> None:
    ours, theirs = ours_of(vit), TheirCaptions(vit)
    for beams in (1, 2, 5):
        found = ours.captions(PICTURES, SearchOptions.of_beams(beams, length_penalty=0.7))
        asked = {"num_beams": beams, "length_penalty": 0.7}
        assert [caption[0].ids for caption in found] == theirs.ids(PICTURES, **asked)


def test_a_cached_step_gives_what_the_whole_caption_gives(vit: Path) -> None:
    ours = ours_of(vit)
    caption = ours(PICTURES[0])
    start, tokenizer = ours.pipeline.tokenizer.start_id, ours.pipeline.tokenizer
    read = torch.tensor([[start, *caption.ids]]).repeat(len(PICTURES), 1)
    likely = logits_of(ours, read)[0].log_softmax(-1)
    written = [*caption.ids, tokenizer.end_id][: len(caption.token_probabilities)]
    told = [probability for _, probability in caption.token_probabilities]
    whole = [likely[place, token].exp().item() for place, token in enumerate(written)]
    assert told == pytest.approx(whole, rel=1e-3)


def test_words_show_what_they_looked_at(vit: Path) -> None:
    ours = ours_of(vit)
    words = ours.attention(PICTURES[0])
    assert " ".join(word.text for word in words) == ours(PICTURES[0]).text
    assert all(word.grid.shape == (4, 4) and 0 < word.grid.sum() <= 1 for word in words)


def test_older_files_are_read_alike(vit: Path, tmp_path: Path) -> None:
    """As before 2023: settings within config.json, vocab.json with merges.txt, shards, constant
    masks beside the weights, the output's matrix in the place of the input's."""
    old = Path(shutil.copytree(vit, tmp_path / "old"))
    content = json.loads((old / "tokenizer.json").read_text())
    (old / "tokenizer.json").unlink()
    entries, added = content["model"]["vocab"], content["added_tokens"]
    (old / "vocab.json").write_text(json.dumps(entries))
    merges = "\n".join(" ".join(pair) for pair in content["model"]["merges"])
    (old / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (old / "added_tokens.json").write_text(json.dumps({one["content"]: one["id"] for one in added}))
    settings = json.loads((old / "generation_config.json").read_text())
    (old / "generation_config.json").unlink()
    settings.pop("transformers_version")
    kept = {key: settings.pop(key) for key in ("num_beams", "max_length")}
    decoder = json.loads((old / "config.json").read_text())["decoder"]
    change_json(old / "config.json", decoder=decoder | kept | {"min_length": 2}, **settings)
    weights = load_file(old / "model.safetensors")
    (old / "model.safetensors").unlink()
    weights["decoder.lm_head.weight"] = weights.pop("decoder.transformer.wte.weight")
    mask = torch.ones(1, 1, 48, 48, dtype=torch.bool).tril()
    weights["decoder.transformer.h.0.attn.bias"] = mask
    weights["decoder.transformer.h.0.crossattention.masked_bias"] = torch.tensor(-1e4)
    parts: dict[str, dict[str, Tensor]]
    parts = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for number, (name, weight) in enumerate(weights.items()):
        [*parts.values()][number % 2][name] = weight
    for file, part in parts.items():
        save_file(part, old / file, metadata={"format": "pt"})
    places = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (old / "model.safetensors.index.json").write_text(json.dumps(index))
    assert ours_of(old)(PICTURES) == ours_of(vit)(PICTURES)


def test_commands_take_it_by_name(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path, count=20)
    picture = next(iter(sorted((data / "small" / "test").glob("*.jpg"))))
    assert generate.main(["--image", str(picture), "--checkpoint", str(vit)]) == 0
    (text,) = TheirCaptions(vit).texts([load_image(picture)])
    assert capsys.readouterr().out.strip() == text
    words = ["--checkpoint", str(vit), "--data-dir", str(data), "--no-java"]
    words += ["--output", str(tmp_path / "out"), "--limit", "2"]
    with pytest.raises(UserError, match="say which prepared data set it is to caption: --dataset"):
        evaluate.main(words)
    assert evaluate.main([*words, "--dataset", "small"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["protocol"]["decoding"] == "beam search, 4 beams, length penalty 2"


def test_its_own_ways_give_way_to_what_is_asked(vit: Path) -> None:
    ours, theirs = ours_of(vit), TheirCaptions(vit)
    options = generate.GenerateOptions(
        image=("x.jpg",), min_length=0, no_repeat_ngram=0, max_length=30, beam_size=2
    )
    found = ours.captions(
        PICTURES,
        generate.search_options(options, ours.config),
        rules=generate.token_rules(options, ours),
    )
    asked = {"min_length": 0, "no_repeat_ngram_size": 0, "max_length": 31, "num_beams": 2}
    assert [caption[0].ids for caption in found] == theirs.ids(PICTURES, **asked)
    with pytest.raises(UserError, match="47 tokens at most"):
        generate.token_rules(generate.GenerateOptions(image=("x",), max_length=48), ours)


def test_what_it_asks_for_and_is_not_followed_is_said(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(vit, tmp_path / "odd"))
    change_json(copy / "generation_config.json", do_sample=True, repetition_penalty=1.3)
    change_json(copy / "generation_config.json", max_length=9_000)
    ours_of(copy)
    said = capsys.readouterr().err
    assert "not followed here: do_sample True, repetition_penalty 1.3, max_length 9,000" in said
    ours_of(vit)
    assert not capsys.readouterr().err


def test_a_run_begins_with_it(vit: Path, tmp_path: Path) -> None:
    """What is saved of such a run captions alike, and is a checkpoint like others."""
    words = ["--INIT_CHECKPOINT_PATH", str(vit), "--MAX_SEQ_LEN", "30", "--BEAM_SIZE", "2"]
    config = initial_config(parse_config(words), words)
    checkpoint = initial_checkpoint(config)
    pipeline = initial_pipeline(checkpoint, config, Runtime(torch.device("cpu")))
    assert pipeline.parameters(trained=True) == sum(p.numel() for p in pipeline.model.parameters())
    save_checkpoint(tmp_path / "best", pipeline, config, metrics={}, card="# A captioner")
    found = Captioner.from_pretrained(tmp_path / "best", device="cpu", precision="fp32")
    assert found.is_ours
    asked = {
        "num_beams": 2,
        "max_length": 30,
        "length_penalty": 1.0,
        "min_length": 0,
        "no_repeat_ngram_size": 0,
        "early_stopping": False,
    }
    theirs = TheirCaptions(vit).ids(PICTURES, **asked)
    assert [caption.ids for caption in found(PICTURES)] == theirs
    assert len(parent_of(checkpoint, config)["sha256"]) == 64
    with pytest.raises(UserError, match=r"DECODER_LAYERS is 5, and .* has 2; leave it out"):
        initial_config(parse_config(words), [*words, "--DECODER_LAYERS", "5"])


def test_behind_another_encoder_its_projection_is_new(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_encoder(tmp_path)
    words = ["--INIT_CHECKPOINT_PATH", str(vit), "--ENCODER_MODEL_NAME", str(clip)]
    config = initial_config(parse_config(words), words)
    pipeline = initial_pipeline(initial_checkpoint(config), config, Runtime(torch.device("cpu")))
    assert "The projection behind it begins anew" in capsys.readouterr().out
    assert pipeline.model.projection.weight.shape == (24, pipeline.encoder.feature_dim)
