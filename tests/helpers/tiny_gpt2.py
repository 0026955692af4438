"""Tiny random GPT-2s and ViT-GPT2s, saved whole as people save them, and what they caption."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from captioning.system.terminal import words_of
from captioning.vision.loading import silenced
from tests.helpers.tiny_encoders import FAMILIES, VIT

TEXTS = ["a red dog runs", "A cat sits on the mat, and a dog sees it.", "two boats on the water"]
END = "<|endoftext|>"
WIDTH = VIT["hidden_size"]
DECODER = {"n_layer": 2, "n_head": 2, "n_positions": 48}
BEAMS = {
    "max_length": 14,
    "num_beams": 4,
    "length_penalty": 2.0,
    "no_repeat_ngram_size": 3,
    "early_stopping": True,
    "min_length": 6,
}
"""Generation settings as tutorials have them."""


def gpt2_tokenizer(
    *special: str, texts: Sequence[str] = tuple(TEXTS * 3), entries: int = 290
) -> Any:
    """GPT-2's kind, of few entries: bytes, some merges, and at the end what is special."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=entries, show_progress=False, initial_alphabet=alphabet, min_frequency=1
    )
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens([END, *special])
    return hf.GPT2TokenizerFast(tokenizer_object=core)


def lively(model: Any, seed: int = 0) -> Any:
    """The model with weights so far from zero that captions differ, and end."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        is_norm = weight.dim() == 1 and name.endswith(".weight")
        weight.data = 1 + 0.1 * noise if is_norm else 0.35 * noise
        if name.endswith("wte.weight"):
            weight.data[-1] *= 1.7  # the end
    return model.eval()


def save_vit_gpt2(
    folder: Path,
    *,
    encoder: Any = "vit",
    width: int = WIDTH + 8,
    special: Sequence[str] = (),
    generation: dict[str, Any] | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    **decoder: Any,
) -> Path:
    """A captioner under `folder`, of a family of encoders or of a whole one; returns its folder."""
    path = folder / (f"tiny-{encoder}-gpt2" if isinstance(encoder, str) else "vit-gpt2")
    tokenizer = tokenizer or gpt2_tokenizer(*special)
    tokenizer.pad_token = END
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    language = hf.GPT2Config(
        **{**DECODER, "vocab_size": len(tokenizer), "n_embd": width, **ids, **decoder},
        add_cross_attention=True,
        is_decoder=True,
    )
    with torch.random.fork_rng(devices=[]), silenced():
        torch.manual_seed(seed)
        tower = FAMILIES[encoder].make() if isinstance(encoder, str) else encoder
        model = hf.VisionEncoderDecoderModel(encoder=tower, decoder=hf.GPT2LMHeadModel(language))
        if width < 100:
            lively(model, seed)
        ids |= {"decoder_start_token_id": tokenizer.eos_token_id}
        ids |= {"pad_token_id": tokenizer.pad_token_id}
        for name, value in {**ids, **(generation or {})}.items():
            setattr(model.generation_config, name, value)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        side = tower.config.image_size
        hf.ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(path)
    return path


def save_gpt2(folder: Path, *, width: int = WIDTH, **decoder: Any) -> Path:
    """A language model under `folder`; returns its folder."""
    path = folder / "tiny-gpt2"
    tokenizer = gpt2_tokenizer()
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    sizes = {**DECODER, "vocab_size": len(tokenizer), "n_embd": width, **ids, **decoder}
    with torch.random.fork_rng(devices=[]), silenced():
        torch.manual_seed(0)
        lively(hf.GPT2LMHeadModel(hf.GPT2Config(**sizes))).save_pretrained(path)
        tokenizer.save_pretrained(path)
    return path


def noise_pictures(count: int = 6) -> list[Image.Image]:
    """Pictures of noise, always the same."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)) for _ in range(count)]


def change_json(path: Path, **changes: Any) -> None:
    """Entries of a JSON file, changed, or taken out where they are None."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: one for key, one in content.items() if one is not None}))


class TheirCaptions:
    """A captioner as transformers loads it."""

    def __init__(self, folder: Path) -> None:
        with silenced():
            self.model = hf.VisionEncoderDecoderModel.from_pretrained(folder).eval()
            self.processor = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
            self.tokenizer = hf.AutoTokenizer.from_pretrained(folder)

    def pixels(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """(B, 3, H, W)."""
        pixels: torch.Tensor = self.processor(list(pictures), return_tensors="pt")["pixel_values"]
        return pixels

    @torch.inference_mode()
    def ids(self, pictures: Sequence[Image.Image], **asked: Any) -> list[tuple[int, ...]]:
        """Each caption's tokens, without start, end and padding."""
        with silenced(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a length that nobody set
            rows = self.model.generate(self.pixels(pictures), **asked)[:, 1:].tolist()
        end = self.model.generation_config.eos_token_id
        return [tuple(row[: row.index(end)] if end in row else row) for row in rows]

    def texts(self, pictures: Sequence[Image.Image], **asked: Any) -> list[str]:
        """Each caption."""
        found = self.tokenizer.batch_decode(self.ids(pictures, **asked), skip_special_tokens=True)
        return [words_of(text) for text in found]  # in one line, without control characters

    @torch.inference_mode()
    def logits(self, pictures: Sequence[Image.Image], ids: torch.Tensor) -> torch.Tensor:
        """(B, T, V) after each of (B, T) ids."""
        logits: torch.Tensor = self.model(self.pixels(pictures), decoder_input_ids=ids).logits
        return logits
