"""A captioner as a folder that transformers opens: `AutoModel.from_pretrained(FOLDER,
trust_remote_code=True)`, with `generate()`.

    config.json               sizes, and which class of modeling_captioner.py is which
    modeling_captioner.py     the model, the one file of code; a copy of the file beside this one
    model.safetensors         encoder, projection and decoder, by the names that checkpoints give
    generation_config.json    search as in training: beams, length penalty, greatest length
    tokenizer.json, tokenizer_config.json, preprocessor_config.json, processor_config.json

The weights hold all that those of a checkpoint do, so that in a repository they stand in for them.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from captioning.export import modeling_captioner
from captioning.export.checking import Said, Speaker
from captioning.system.errors import UserError
from captioning.system.files import write_json, write_text
from captioning.system.tensors import save_tensors
from captioning.system.terminal import words_of
from captioning.vision.loading import silenced
from captioning.vision.tower import VisionTower
from captioning.vision.tower_features import input_maker

CODE = Path(modeling_captioner.__file__)
MODEL_CLASS = modeling_captioner.CaptionerForConditionalGeneration.__name__
PAD, START, END, UNK = range(4)
"""Ids of the special tokens."""


def write_transformers(
    folder: Path,
    model: Any,
    encoder: VisionTower,
    encoder_state: dict[str, Tensor],
    tokenizer_json: str,
    *,
    max_length: int,
    beam_size: int,
    length_penalty: float,
) -> None:
    """Write the folder of a caption model and its encoder; `max_length` counts <START> and <END>.

    Raises `UserError` where the encoder is no model of the library itself.
    """
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    weights |= {f"encoder.{name}": tensor for name, tensor in encoder_state.items()}
    write_json(folder / "config.json", model_config(model, encoder, max_length))
    save_tensors(weights, folder / "model.safetensors")
    search = {"num_beams": beam_size, "length_penalty": length_penalty, "early_stopping": False}
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": START,
            "decoder_start_token_id": START,
            "eos_token_id": END,
            "pad_token_id": PAD,
            "suppress_tokens": [PAD, START, UNK],
            "max_length": max_length,
            **(search if beam_size > 1 else {}),
        },
    )
    write_text(folder / "tokenizer.json", tokenizer_json)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<START>",
            "eos_token": "<END>",
            "pad_token": "<PAD>",
            "unk_token": "<UNK>",
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_length,
        },
    )
    write_json(folder / "preprocessor_config.json", encoder.preprocessor.settings())
    # GIT's processor is an image processor beside a tokenizer, and nothing else.
    write_json(folder / "processor_config.json", {"processor_class": "GitProcessor"})
    shutil.copyfile(CODE, folder / CODE.name)


def model_config(model: Any, encoder: VisionTower, max_length: int) -> dict[str, Any]:
    """`config.json`: the sizes of a caption model (`model.CaptionModel`) and its encoder."""
    tower, decoder, projection = encoder.tower, model.decoder, model.projection
    if not type(tower).__module__.startswith("transformers."):
        raise UserError(
            f"{encoder.name} runs code of its own repository, which a folder for transformers does "
            "not bring along. Train on an encoder that transformers knows itself."
        )
    size = encoder.preprocessor.size
    inputs = input_maker(tower, size)(torch.zeros(1, 3, *size))
    block, memory = decoder.blocks[0], [*model.memory_layers][:-1]
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
        "memory_size": projection.positions.shape[1],
        "memory_layers": len(memory),
        "memory_heads": memory[0].heads if memory else block.self_attention.heads,
        "memory_intermediate_size": (memory[0] if memory else block).feed_forward[0].out_features,
        "vocab_size": decoder.embedding.num_embeddings,
        "hidden_size": decoder.embedding.embedding_dim,
        "num_hidden_layers": len(decoder.blocks),
        "num_attention_heads": block.self_attention.heads,
        "intermediate_size": block.feed_forward[0].out_features,
        "max_position_embeddings": max_length,
        "is_encoder_decoder": True,
    }


def transformers_speaker(folder: Path, length_penalty: float) -> Speaker:
    """The folder itself, opened as its users open it."""
    options: dict[str, Any] = {"trust_remote_code": True, "local_files_only": True}
    with silenced():
        model = transformers.AutoModel.from_pretrained(folder, **options)
        processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil", **options)

    @torch.inference_mode()
    def say(pictures: Sequence[Image.Image], beams: int) -> list[Said]:
        penalty = {"length_penalty": length_penalty} if beams > 1 else {}
        found = []
        for picture in pictures:
            pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
            ids = model.generate(pixel_values=pixels, num_beams=beams, **penalty)
            text = processor.decode(ids[0], skip_special_tokens=True)
            logits = model(pixel_values=pixels, decoder_input_ids=ids[:, :-1]).logits
            chances = logits.log_softmax(-1).gather(2, ids[:, 1:, None])
            found.append(Said(words_of(text), float(chances.sum())))
        return found

    return say
