"""Tiny random captioners of each kind, saved whole with their processors as people save them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from tests.helpers.tiny_encoders import VIT

WORDS = "<pad> <s> </s> <unk> <image> a dog cat runs sits red blue : user assistant what".split()
TEXT = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CHAT = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)
SQUARE = {"height": VIT["image_size"], "width": VIT["image_size"]}


def tokenizer(*, is_framed: bool = False) -> Any:
    """A word a token; `is_framed` puts <s> and </s> around, as BERT's does."""
    core = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##")
    if is_framed:
        core.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )


def _blip() -> tuple[Any, ...]:
    text = {**TEXT, "encoder_hidden_size": VIT["hidden_size"], "sep_token_id": 2}
    config = hf.BlipConfig(vision_config=dict(VIT), text_config=text)
    images = hf.BlipImageProcessor(size=SQUARE)
    return hf.BlipForConditionalGeneration(config), hf.BlipProcessor(
        images, tokenizer(is_framed=True)
    )


def _git() -> tuple[Any, ...]:
    config = hf.GitConfig(vision_config=dict(VIT), num_image_with_embedding=None, **TEXT)
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    return hf.GitForCausalLM(config), hf.GitProcessor(images, tokenizer(is_framed=True))


def _vit_gpt2() -> tuple[Any, ...]:
    decoder = hf.GPT2Config(
        vocab_size=len(WORDS),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
        add_cross_attention=True,
        is_decoder=True,
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        hf.ViTConfig(**VIT), decoder
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    return hf.VisionEncoderDecoderModel(config), hf.ViTImageProcessor(size=SQUARE), tokenizer()


def _chat() -> tuple[Any, ...]:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VIT),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_index=WORDS.index("<image>"),
        vision_feature_layer=-1,
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    processor = hf.LlavaProcessor(
        images,
        tokenizer(),
        patch_size=VIT["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    return hf.LlavaForConditionalGeneration(config), processor


KINDS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "blip": _blip,
    "git": _git,
    "vit-gpt2": _vit_gpt2,
    "chat": _chat,
}


def save_rival(folder: Path, kind: str) -> Path:
    """A model of a kind under `folder`, the same each time; returns its folder."""
    path = folder / f"tiny-{kind}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in KINDS[kind]():
            part.save_pretrained(path)
    return path
