"""A language model as decoder: at first it goes on with its texts, then it learns to look."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioner import Captioner
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from captioning.training.packing import Packing
from captioning.vision.loading import silenced
from config import Config
from dataset import CaptionDataset
from model import DecoderState
from optimization import caption_loss
from pipeline import CaptionPipeline
from tests.helpers.small_runs import arguments, differences, run
from tests.helpers.tiny_gpt2 import noise_pictures, save_gpt2
from train import main

SIZES = "EMBED_DIM LAYERS HEADS FF_DIM".split()
UNSET: dict[str, object] = {
    **dict.fromkeys(f"DECODER_{name}" for name in SIZES),
    "VOCAB_SIZE": None,
}
"""What a language model brings."""


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gpt2(tmp_path_factory.mktemp("language"))


def pipeline_of(place: Path, language: Path, **changes: Any) -> CaptionPipeline:
    config = Config(
        ENCODER_MODEL_NAME=str(place / "tiny-clip"),
        DECODER_MODEL_NAME=str(language),
        DECODER_DROPOUT=0.0,
        MAX_SEQ_LEN=40,
        PROJECTION_DIM=12,
        **changes,
    )
    return CaptionPipeline.from_settings(config, Runtime(torch.device("cpu")), [])


def theirs_of(language: Path, ids: Tensor) -> Tensor:
    with silenced(), torch.inference_mode():
        logits: Tensor = hf.GPT2LMHeadModel.from_pretrained(language).eval()(ids).logits
    return logits


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_at_first_it_is_the_language_model(
    place: Path, language: Path, tmp_path: Path, prefix: str
) -> None:
    if not prefix:  # as gpt2 itself is saved
        language = Path(shutil.copytree(language, tmp_path / "bare"))
        weights = load_file(language / "model.safetensors")
        bare = {name.removeprefix("transformer."): one for name, one in weights.items()}
        save_file(bare, language / "model.safetensors", metadata={"format": "pt"})
    pipeline = pipeline_of(place, language)
    ids = torch.randint(0, 280, (3, 9), generator=torch.Generator().manual_seed(0))
    features = torch.randn(3, pipeline.encoder.num_tokens, pipeline.encoder.feature_dim)
    theirs = theirs_of(language, ids)
    with torch.inference_mode():
        memory = pipeline.model.encode_memory(features)
        logits = pipeline.model(
            features, ids.flatten(), torch.arange(9).repeat(3), Packing(3, 9)
        ).view(3, 9, -1)
        state = DecoderState(pipeline.model.decoder, memory)
        steps = torch.stack([state.step(ids[:, place, None])[:, 0] for place in range(9)], 1)
    torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(steps, theirs, atol=1e-4, rtol=1e-4)


def test_captions_are_cut_and_framed_as_its_tokenizer_does(place: Path, language: Path) -> None:
    tokenizer = pipeline_of(place, language).tokenizer
    theirs = hf.AutoTokenizer.from_pretrained(language)
    end = theirs.eos_token_id
    for text in ("A red dog runs.", "  two Boats!", "né 犬 <|endoftext|>"):
        cut = tokenizer.encode(text)
        assert (cut[0], cut[-1]) == (end, end)
        assert tokenizer.decode(cut) == text  # which is five letters, no token
        if "<" not in text:
            assert cut[1:-1] == theirs(text).input_ids
    assert tokenizer.piece(end) == "<|endoftext|>"


def test_each_entry_of_its_vocabulary_counts_in_the_loss(place: Path, language: Path) -> None:
    """GPT-2's first entry is a letter, where ours is padding."""
    pipeline = pipeline_of(place, language)
    records: Any = [type("Record", (), {"captions": ("!!", "! a")})]
    tokens = CaptionDataset(records, pipeline.tokenizer, 40)
    assert tokens.num_cut == 0
    first = pipeline.tokenizer.encode("!")[1]
    assert first == 0
    features = torch.randn(1, pipeline.encoder.num_tokens, pipeline.encoder.feature_dim)
    start = pipeline.tokenizer.start_id
    batch: Any = type(
        "Batch",
        (),
        {
            "inputs": torch.tensor([start, 0]),
            "targets": torch.tensor([0, 0]),
            "positions": torch.tensor([0, 1]),
            "packing": Packing(1, 2, torch.tensor([0, 1])),
        },
    )
    logits = pipeline.model(features, batch.inputs, batch.positions, batch.packing)
    expected = -logits.log_softmax(-1)[:, 0].sum()
    torch.testing.assert_close(caption_loss(pipeline.model, features, batch, 0.0), expected)


def test_what_trains_is_told(place: Path, language: Path) -> None:
    whole = pipeline_of(place, language).model
    assert all(parameter.requires_grad for parameter in whole.parameters())
    part = pipeline_of(place, language, DECODER_TRAINED="cross-attention", MEMORY_LAYERS=1).model
    frozen = {name for name, one in part.decoder.named_parameters() if not one.requires_grad}
    assert {"embedding.weight", "positions", "norm.bias", "blocks.1.feed_forward.0.bias"} <= frozen
    assert not any("cross" in name for name in frozen)
    others = [*part.projection.parameters(), *part.memory_layers.parameters()]
    assert others
    assert all(one.requires_grad for one in others)


def test_it_trains_resumes_bit_for_bit_and_needs_no_language_model_any_more(
    place: Path, tmp_path: Path
) -> None:
    """With averages, micro-batches and self-critical training; cross-attention alone learns."""
    language = save_gpt2(tmp_path)
    before = load_file(language / "model.safetensors")
    settings = {
        **UNSET,
        "RUN_NAME": "language",
        "DECODER_MODEL_NAME": language,
        "DECODER_TRAINED": "cross-attention",
        "MICRO_BATCH_SIZE": 30,
        "BATCH_SIZE": 80,
        "MAX_SEQ_LEN": 10,
        "VALIDATION_IMAGES": 1,
        "EMA_DECAY": 0.9,
        "NUM_EPOCHS": 1,
        "SCST_EPOCHS": 1,
        "SCST_SAMPLES": 2,
        "KEEP_CHECKPOINTS": 9,
    }
    folder = run(place, **settings)
    shutil.rmtree(language)
    earlier = min(folder.glob("step-*"), key=lambda path: int(path.name[5:]))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    resumed = {**settings, "RUN_NAME": None, "OUTPUT_DIR": None}
    words = arguments(place, **resumed)
    assert main([*words, "--RESUME_CHECKPOINT_PATH", str(other / earlier.name)]) == 0
    assert differences(folder / "last", other / "last") == []
    after = load_file(folder / "last" / "model.safetensors")
    for ours, theirs in {
        "embedding.weight": "wte.weight",
        "blocks.1.self_attention.query_key_value.weight": "h.1.attn.c_attn.weight",
    }.items():
        found, known = after[f"model.decoder.{ours}"], before[f"transformer.{theirs}"]
        assert found.equal(known.T if "attn" in theirs else known)
    assert after["model.decoder.blocks.0.cross_attention.output.weight"].abs().max() > 0
    captioner = Captioner.from_pretrained(folder / "best", device="cpu")
    picture = noise_pictures(1)[0]
    assert captioner.attention(picture) or not captioner(picture).ids
    assert captioner.description["parameters_trained"] < captioner.description["parameters_frozen"]
    card = (folder / "best" / "README.md").read_text()
    assert "DECODER_MODEL_NAME" in card
    assert "DECODER_LAYERS" not in card


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"VOCAB_SIZE": 300}, "VOCAB_SIZE is 300, and DECODER_MODEL_NAME .* of its own"),
        ({"DECODER_LAYERS": 3}, "DECODER_LAYERS is 3, and DECODER_MODEL_NAME .* of its own"),
        ({"MAX_SEQ_LEN": 60}, "MAX_SEQ_LEN is 60; the decoder has positions for 48 tokens"),
        ({"MEMORY_LAYERS": 1, "PROJECTION_DIM": 13}, "decoder's 2 heads.* --PROJECTION_DIM 16"),
        ({"DECODER_MODEL_NAME": ""}, "DECODER_TRAINED is cross-attention, and the rest"),
        ({"DECODER_MODEL_NAME": "./no/such"}, "neither a folder nor the name of a language model"),
    ],
)
def test_settings_that_contradict_it_are_told(
    place: Path, language: Path, changes: dict[str, Any], sentence: str
) -> None:
    settings = {
        "ENCODER_MODEL_NAME": str(place / "tiny-clip"),
        "DECODER_MODEL_NAME": str(language),
        "DECODER_TRAINED": "cross-attention",
        "MAX_SEQ_LEN": 40,
    }
    with pytest.raises(UserError, match=sentence):
        CaptionPipeline.from_settings(
            Config(**{**settings, **changes}), Runtime(torch.device("cpu")), ["a dog"]
        )


OTHERS: dict[str, Any] = {
    "opt": lambda: hf.OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2
    ),
    "bert": hf.BertConfig,
    "t5": hf.T5Config,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_families_are_told_which_are_read(place: Path, tmp_path: Path, kind: str) -> None:
    OTHERS[kind]().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"type '{kind}'.*of the GPT-2 family are read") as found:
        pipeline_of(place, tmp_path)
    assert len(found.value.problems) == 1
