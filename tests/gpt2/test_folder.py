"""What a folder of a stranger may hold: one sentence for each fault, and nothing is built of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from captioning.gpt2.architecture import GPT2Architecture
from captioning.gpt2.folder import open_captioner, open_language_model
from captioning.gpt2.generation import read_generation
from captioning.gpt2.names import gpt2_names, gpt2_shapes, turned
from captioning.gpt2.vocabulary import read_vocabulary
from captioning.system.errors import UserError
from model import DecoderStyle, TransformerDecoder
from tests.helpers.tiny_gpt2 import change_json, save_gpt2, save_vit_gpt2
from tokenizer import CaptionTokenizer

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit_gpt2(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gpt2(tmp_path_factory.mktemp("language"))


def decoder_with(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change_json(folder / "config.json", decoder=config["decoder"] | changes)

    return change


def weights_with(change_weights: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        weights = load_file(path)
        change_weights(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return change


def tokenizer_with(change_content: Callable[[dict[str, Any]], object]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        change_content(content)
        path.write_text(json.dumps(content))

    return change


def generation_with(**changes: Any) -> Change:
    return lambda folder: change_json(folder / "generation_config.json", **changes)


def pickled_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lead_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"decoder.transformer.wte.weight": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


INNER = "decoder.transformer.h.0.ln_1.weight"
FAULTS: dict[str, tuple[Change, str]] = {
    "another decoder": (decoder_with(model_type="bert"), "decoder of type 'bert'. Decoders of the"),
    "no text": (decoder_with(model_type=None), "decoder of type None"),
    "not a captioner": (
        lambda folder: change_json(folder / "config.json", model_type="blip"),
        "model of type 'blip'.*evaluate.py --model",
    ),
    "a language model": (
        lambda folder: change_json(folder / "config.json", model_type="gpt2"),
        "reads no pictures. Train it to.*--DECODER_MODEL_NAME",
    ),
    "a billion layers": (decoder_with(n_layer=10**9), "config has n_layer|the layers"),
    "wide": (decoder_with(n_embd=10**6, n_inner=8), "the dim 1000000; it must be a whole number"),
    "other sizes": (decoder_with(n_embd=32), r"weights that do not fit its config: .* makes it"),
    "no heads": (decoder_with(n_head=0), "the heads 0; it must be a whole number"),
    "odd heads": (decoder_with(n_head=7), "n_head 7; it must divide n_embd, 24"),
    "text for a number": (decoder_with(n_inner="many"), "the ff_dim 'many'"),
    "an activation": (decoder_with(activation_function="mish"), "activation_function 'mish'"),
    "no eps": (decoder_with(layer_norm_epsilon=None), "layer_norm_epsilon None"),
    "scaled by layer": (
        decoder_with(scale_attn_by_inverse_layer_idx=True),
        "scale_attn_by_inverse_layer_idx True; only False is read",
    ),
    "pickled alone": (
        pickled_alone,
        "no weights in safetensors format, and pickled",
    ),
    "an index that leads out": (lead_elsewhere, "it must be a file beside it"),
    "a weight missing": (weights_with(lambda w: w.pop(INNER)), f"it lacks {INNER}"),
    "a weight too many": (
        weights_with(lambda w: w.update({"decoder.transformer.h.0.lora.a": torch.ones(2)})),
        "which no GPT-2 of its config has",
    ),
    "another output": (
        weights_with(lambda w: w.update({"decoder.lm_head.weight": torch.zeros(291, 24)})),
        "chooses words by another matrix",
    ),
    "no vocabulary": (lambda folder: (folder / "tokenizer.json").unlink(), "has no vocabulary"),
    "word pieces": (
        tokenizer_with(lambda content: content["model"].update(type="WordPiece")),
        "has a model that is not BPE",
    ),
    "a normalizer": (
        tokenizer_with(lambda content: content.update(normalizer={"type": "NFC"})),
        "has a normalizer",
    ),
    "entries missing": (
        tokenizer_with(lambda content: content["model"]["vocab"].pop("a")),
        "lacks entries of single bytes",
    ),
    "a merge": (
        tokenizer_with(lambda content: content["model"]["merges"].append(["a", "z!"])),
        "has the merge",
    ),
    "larger than its embedding": (
        tokenizer_with(
            lambda content: content["added_tokens"].append(
                {"id": 291, "content": "<more>", "special": True}
            )
        ),
        "a vocabulary of 292 entries, and its decoder embeds 291",
    ),
    "no end": (generation_with(eos_token_id=None), "no eos_token_id"),
    "an end that is none": (generation_with(eos_token_id=999), "has no entry 999"),
    "an end in words": (generation_with(eos_token_id="end"), "the eos_token_id 'end'"),
    "beams": (generation_with(num_beams=10**9), "the num_beams 1000000000; it must be from 1"),
    "a length": (generation_with(max_length=1.5), "the max_length 1.5"),
    "a penalty": (generation_with(length_penalty="much"), "the length_penalty 'much'"),
    "an early stop": (generation_with(early_stopping=["x"]), "the early_stopping"),
    "no settings": (
        lambda folder: (folder / "generation_config.json").write_text("[]"),
        "must hold a JSON object",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence(vit: Path, tmp_path: Path, fault: str) -> None:
    change, sentence = FAULTS[fault]
    folder = Path(shutil.copytree(vit, tmp_path / "changed"))
    change(folder)
    with pytest.raises(UserError, match=sentence) as found:
        open_captioner(folder, "you/captioner")
    assert len(found.value.problems) == 1


def test_a_whole_captioner_is_no_language_model(vit: Path, language: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"whole captioner.*--INIT_CHECKPOINT_PATH"):
        open_language_model(vit, str(vit))
    with pytest.raises(UserError, match=r"no config.json; DECODER_MODEL_NAME takes"):
        open_language_model(tmp_path, "empty")
    without_end = Path(shutil.copytree(language, tmp_path / "endless"))
    change_json(without_end / "config.json", eos_token_id=9_999)
    with pytest.raises(UserError, match="the eos_token_id 9999; it must be the entry that ends"):
        open_language_model(without_end, "endless")


def test_the_table_of_names_goes_both_ways() -> None:
    sizes = GPT2Architecture(vocab_size=50, dim=16, layers=2, heads=2, ff_dim=20, max_length=9)
    decoder = TransformerDecoder(
        **sizes.sizes, memory_dim=16, style=DecoderStyle.of_gpt2(sizes)
    ).state_dict()
    names = gpt2_names(2)
    assert names.keys() == decoder.keys()
    assert len({*names.values()}) == len(names)
    shapes = gpt2_shapes(sizes, has_cross_attention=True)
    for ours, theirs in names.items():
        there = turned(ours, decoder[ours])
        assert tuple(there.shape) == shapes[theirs]
        assert turned(theirs, there).equal(decoder[ours])


def test_an_architecture_comes_back_as_it_was_written() -> None:
    sizes = GPT2Architecture(
        vocab_size=50,
        dim=16,
        layers=2,
        heads=2,
        ff_dim=20,
        max_length=9,
        activation="relu",
        norm_eps=1e-6,
        is_plainly_projected=True,
    )
    assert GPT2Architecture.from_values(sizes.to_values(), "x") == sizes


def test_its_vocabulary_is_kept_with_its_frame(vit: Path, tmp_path: Path) -> None:
    found = read_vocabulary(vit, "x", start_id=97, end_id=290)
    tokenizer = CaptionTokenizer(found)
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.never_written) == (97, 290, ())
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = CaptionTokenizer.load(tmp_path)
    assert (loaded.start_id, loaded.end_id, len(loaded)) == (97, 290, 291)
    assert loaded.to_json() == tokenizer.to_json()
    assert loaded.encode("a red dog") == tokenizer.encode("a red dog")
    assert loaded.decode([97, 290, *tokenizer.encode("é")[1:-1]]) == "é"


def test_lengths_are_counted_as_transformers_counts_them(vit: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vit, tmp_path / "lengths"))
    (folder / "config.json").write_text("{}")

    def read(**values: Any) -> Any:
        ids = {"decoder_start_token_id": 0, "eos_token_id": [1]}
        (folder / "generation_config.json").write_text(json.dumps(ids | values))
        return read_generation(folder, "x", positions=48)

    assert read().max_length == 21
    assert read(max_length=16).max_length == 16
    assert read(max_length=16, max_new_tokens=30).max_length == 31
    assert read(min_length=5).usual.min_length == 4
    assert read(min_length=5, min_new_tokens=7).usual.min_length == 7
    assert read(early_stopping="never").usual.early_stop == "exact"
    assert read(num_beams=1, early_stopping=False).not_followed == ()
    assert read(bos_token_id=3).start_id == 0
    assert read(decoder_start_token_id=None, bos_token_id=3).start_id == 3
