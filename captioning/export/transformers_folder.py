"""A captioner as a folder that transformers opens: `AutoModel.from_pretrained(FOLDER,
trust_remote_code=True)`, with `generate()`.

    config.json               sizes, and which class of modeling_captioner.py is which
    modeling_captioner.py     the model, the one file of code; a copy of the file beside this one
    model.safetensors         encoder, projection and decoder, by the names that checkpoints give
    generation_config.json    search as in training: beams, length penalty, greatest length
    tokenizer.json, tokenizer_config.json, preprocessor_config.json, processor_config.json

The weights hold all that those of a checkpoint do, so that in a repository they stand in for them.
A ViT-GPT2 is a model of transformers' own (`vit_gpt2_folder`) and needs no code; its weights have
the names that they have there.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from captioning.decoding import TokenRules, Usual
from captioning.export import modeling_captioner
from captioning.export.checking import Said, Speaker
from captioning.export.vit_gpt2_folder import is_native, native_config, native_weights
from captioning.system.errors import UserError
from captioning.system.files import write_json, write_text
from captioning.system.tensors import save_tensors
from captioning.system.terminal import words_of
from captioning.vision.loading import silenced
from captioning.vision.tower import VisionTower
from captioning.vision.tower_features import input_maker

CODE = Path(modeling_captioner.__file__)
MODEL_CLASS = modeling_captioner.CaptionerForConditionalGeneration.__name__
EXACT_GELU = "gelu_pytorch_tanh"
ACTIVATIONS = {"gelu_new": EXACT_GELU}
"""GPT-2's activation, as torch itself computes it."""
EARLY_STOPPING = {"heuristic": False, "exact": "never", "first": True}
"""transformers' names of what ends a search."""


def write_transformers(
    folder: Path,
    model: Any,
    encoder: VisionTower,
    encoder_state: dict[str, Tensor],
    tokenizer: Any,
    generation: dict[str, Any],
) -> None:
    """Write the folder of a caption model, its encoder and its tokenizer; `generation` is as
    `generation_config` gives it.

    Raises `UserError` where the encoder is no model of the library itself.
    """
    if not type(encoder.tower).__module__.startswith("transformers."):
        raise UserError(
            f"{encoder.name} runs code of its own repository, which a folder for transformers does "
            "not bring along. Train on an encoder that transformers knows itself."
        )
    if is_native(model, encoder):
        config = native_config(model, encoder)
        weights = native_weights(model, encoder_state)
    else:
        config = model_config(model, encoder)
        weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        weights |= {f"encoder.{name}": tensor for name, tensor in encoder_state.items()}
        shutil.copyfile(CODE, folder / CODE.name)
    write_json(folder / "config.json", config)
    save_tensors(weights, folder / "model.safetensors")
    write_json(folder / "generation_config.json", generation)
    write_text(folder / "tokenizer.json", tokenizer.to_json())
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer, generation))
    write_json(folder / "preprocessor_config.json", encoder.preprocessor.settings())
    # GIT's processor is an image processor beside a tokenizer, and nothing else.
    write_json(folder / "processor_config.json", {"processor_class": "GitProcessor"})


def generation_config(
    tokenizer: Any, rules: TokenRules, usual: Usual, *, beam_size: int, length_penalty: float
) -> dict[str, Any]:
    """`generation_config.json`: the search of the checkpoint. transformers counts the start token
    in lengths, we do not."""
    found = {
        "decoder_start_token_id": rules.start_id,
        "bos_token_id": rules.start_id,
        "eos_token_id": rules.end_id,
        "pad_token_id": tokenizer.pad_id,
        "max_length": rules.max_length + 1,
    }
    if rules.forbidden_ids:
        found["suppress_tokens"] = list(rules.forbidden_ids)
    if rules.min_length:
        found["min_length"] = rules.min_length + 1
    if rules.no_repeat_ngram:
        found["no_repeat_ngram_size"] = rules.no_repeat_ngram
    if beam_size > 1:
        found["early_stopping"] = EARLY_STOPPING[usual.early_stop]
        found |= {"num_beams": beam_size, "length_penalty": length_penalty}
    return found


def tokenizer_config(tokenizer: Any, generation: dict[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json`: what is special in the vocabulary."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.piece(tokenizer.start_id),
        "eos_token": tokenizer.piece(tokenizer.end_id),
        "pad_token": tokenizer.piece(tokenizer.pad_id),
        "unk_token": tokenizer.piece(tokenizer.unk_id),
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": generation["max_length"],
    }


def model_config(model: Any, encoder: VisionTower) -> dict[str, Any]:
    """`config.json` with code: the sizes of a caption model (`model.CaptionModel`) and encoder."""
    tower, decoder = encoder.tower, model.decoder
    size = encoder.preprocessor.size
    inputs = input_maker(tower, size)(torch.zeros(1, 3, *size))
    names = {"AutoModel": MODEL_CLASS, "AutoModelForImageTextToText": MODEL_CLASS}
    names["AutoConfig"] = modeling_captioner.CaptionerConfig.__name__
    tokens = encoder.feature_tokens
    return {
        "architectures": [MODEL_CLASS],
        "model_type": modeling_captioner.CaptionerConfig.model_type,
        "auto_map": {auto: f"{CODE.stem}.{name}" for auto, name in sorted(names.items())},
        "custom_pipelines": {
            "image-to-text": {
                "impl": f"{CODE.stem}.{modeling_captioner.CaptionPipeline.__name__}",
                "pt": ["AutoModel"],
            }
        },
        "dtype": "float32",
        "encoder": encoder.config_dict(),
        "encoder_class": type(tower).__name__,
        "encoder_inputs": (
            {"as_patches": True}
            if "spatial_shapes" in inputs
            else {name: value for name, value in inputs.items() if name != "pixel_values"}
        ),
        "encoder_layers": list(encoder.choice.places),
        "encoder_tokens": None if tokens is None else [tokens.start, tokens.stop],
        "encoder_pooling": encoder.choice.pooling,
        "encoder_grid": list(encoder.tower_shape.grid),
        "num_patches": encoder.num_tokens,
        "feature_size": encoder.feature_dim,
        **_decoder_sizes(model),
        "vocab_size": decoder.embedding.num_embeddings,
        "max_position_embeddings": decoder.max_length,
        "is_encoder_decoder": True,
    }


def _decoder_sizes(model: Any) -> dict[str, Any]:
    """Sizes and style of memory and decoder."""
    decoder, gpt2 = model.decoder, model.gpt2
    block, memory = decoder.blocks[0], [*model.memory_layers][:-1]
    of_memory = memory[0] if memory else block
    return {
        "memory_size": block.cross_attention.key_value.in_features,
        "memory_layers": len(memory),
        "memory_heads": memory[0].heads if memory else block.self_attention.heads,
        "memory_intermediate_size": of_memory.feed_forward[0].out_features,
        "hidden_size": decoder.embedding.embedding_dim,
        "num_hidden_layers": len(decoder.blocks),
        "num_attention_heads": block.self_attention.heads,
        "intermediate_size": block.feed_forward[0].out_features,
        "plain_projection": gpt2 is not None and gpt2.is_plainly_projected,
        "attention_bias": block.self_attention.query_key_value.bias is not None,
        "learned_positions": isinstance(decoder.positions, nn.Parameter),
        "scale_embedding": decoder.embedding_scale != 1.0,
        "activation": ACTIVATIONS.get(gpt2.activation, gpt2.activation) if gpt2 else EXACT_GELU,
        "layer_norm_eps": decoder.norm.eps,
    }


def transformers_speaker(folder: Path, length_penalty: float) -> Speaker:
    """The folder itself, opened as its users open it."""
    options: dict[str, Any] = {"trust_remote_code": True, "local_files_only": True}
    with silenced():
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder, **options)
        processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil", **options)

    @torch.inference_mode()
    def say(pictures: Sequence[Image.Image], beams: int) -> list[Said]:
        search = {"num_beams": beams} | ({"length_penalty": length_penalty} if beams > 1 else {})
        found = []
        for picture in pictures:
            pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
            with silenced():
                ids = model.generate(pixel_values=pixels, **search)
            text = processor.decode(ids[0], skip_special_tokens=True)
            logits = model(pixel_values=pixels, decoder_input_ids=ids[:, :-1]).logits
            chances = logits.log_softmax(-1).gather(2, ids[:, 1:, None])
            found.append(Said(words_of(text), float(chances.sum())))
        return found

    return say
