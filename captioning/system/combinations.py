"""Settings that contradict one another."""

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from captioning.system.options import notes_of
from captioning.system.rules import OF_OWN_DECODER, OF_TRAINED_ENCODER, Role

if TYPE_CHECKING:
    from config import Config


def combinations(config: "Config") -> Iterator[str]:
    """What is wrong with settings together, each with what to type instead."""
    yield from _encoder_combinations(config)
    if config.NUM_EPOCHS == 0 and not (config.SCST_EPOCHS and config.INIT_CHECKPOINT_PATH):
        yield (
            "NUM_EPOCHS is 0, which leaves self-critical training alone, of a model that has "
            "learnt already; name it and its epochs with --INIT_CHECKPOINT_PATH FOLDER "
            "--SCST_EPOCHS 1, or train with --NUM_EPOCHS 1."
        )
    if config.DECODER_MODEL_NAME and not config.INIT_CHECKPOINT_PATH:
        for field in fields(config):
            value = getattr(config, field.name)
            if OF_OWN_DECODER in notes_of(field, Role) and value != field.default:
                yield (
                    f"{field.name} is {value}, and DECODER_MODEL_NAME {config.DECODER_MODEL_NAME} "
                    "has a size and a vocabulary of its own; leave one of them out."
                )
    numbers = (config.DECODER_EMBED_DIM, config.DECODER_HEADS)
    if all(isinstance(n, int) and n > 0 for n in numbers) and numbers[0] % numbers[1]:
        yield (
            f"DECODER_HEADS is {config.DECODER_HEADS}; it must divide DECODER_EMBED_DIM "
            f"({config.DECODER_EMBED_DIM}). Try --DECODER_HEADS {math.gcd(*numbers)}."
        )
    has_own_heads = config.MEMORY_LAYERS > 0 and not config.DECODER_MODEL_NAME
    if has_own_heads and config.PROJECTION_DIM % max(config.DECODER_HEADS, 1):
        yield (
            f"MEMORY_LAYERS have the decoder's heads, and DECODER_HEADS {config.DECODER_HEADS} "
            f"must divide PROJECTION_DIM ({config.PROJECTION_DIM}). Try --PROJECTION_DIM "
            f"{config.DECODER_EMBED_DIM}."
        )
    if config.ENCODER_POOLING > 1 and config.ENCODER_TOKENS == "cls":
        yield (
            f"ENCODER_POOLING is {config.ENCODER_POOLING}, and ENCODER_TOKENS cls, which leaves no "
            "patches to average; leave one of them out."
        )
    if config.CAPTIONS_FILE and not config.IMAGE_DIR:
        yield "CAPTIONS_FILE is of the pictures in IMAGE_DIR; add --IMAGE_DIR FOLDER."
    for name in ("IMAGE_DIR", "IMAGE_COLUMN", "CAPTION_COLUMN"):
        if config.STREAM and getattr(config, name):
            yield f"STREAM and {name} both say what to train on; leave one out."
    if config.feature_cache_bytes and not config.STREAM:
        yield (
            f"FEATURE_CACHE is {config.FEATURE_CACHE!r}, and a size is about a stream; write on, "
            "or say which with --STREAM."
        )
    elif config.feature_cache_bytes and config.ENCODER_TRAINED_BLOCKS:
        yield (
            f"FEATURE_CACHE {config.FEATURE_CACHE} keeps features, which a trained encoder "
            "(ENCODER_TRAINED_BLOCKS) changes; leave it out."
        )
    elif config.feature_cache_bytes and config.AUGMENTATION != "none":
        yield (
            f"AUGMENTATION is {config.AUGMENTATION!r}, and FEATURE_CACHE {config.FEATURE_CACHE} "
            "keeps features of pictures as they are; leave one of them out."
        )
    if config.BEST_METRIC == "CIDEr" and config.VALIDATION_IMAGES == 0:
        yield "BEST_METRIC CIDEr needs captions; add --VALIDATION_IMAGES 500 or --BEST_METRIC loss."
    if config.HF_UPLOAD_BEST_CHECKPOINTS and not config.HF_REPO_ID:
        yield "HF_UPLOAD_BEST_CHECKPOINTS needs a repository; add --HF_REPO_ID user/name."


def _encoder_combinations(config: "Config") -> Iterator[str]:
    if config.ENCODER_TRAINED_BLOCKS == 0:
        for field in fields(config):
            is_of_it = OF_TRAINED_ENCODER in notes_of(field, Role)
            if is_of_it and getattr(config, field.name) != field.default:
                yield (
                    f"{field.name} is about a trained encoder, and ENCODER_TRAINED_BLOCKS is 0; "
                    "leave it out, or add --ENCODER_TRAINED_BLOCKS -1."
                )
    for name in ("ENCODER_LORA_RANK", "EMA_DECAY"):
        if config.SHARDING == "on" and getattr(config, name):
            yield f"SHARDING cannot be combined with {name} yet; leave one of them out."
    if config.ENCODER_TRAINED_BLOCKS and 0 < config.NUM_EPOCHS <= config.ENCODER_START_EPOCH:
        yield (
            f"ENCODER_START_EPOCH is {config.ENCODER_START_EPOCH}, and NUM_EPOCHS "
            f"{config.NUM_EPOCHS}; the encoder would never be trained."
        )
    reads_cache = config.stores_features and not config.STREAM
    if config.FEATURE_VIEWS > 1 and not reads_cache:
        yield (
            f"FEATURE_VIEWS is {config.FEATURE_VIEWS}; of a stream, and without cached features, "
            "there are no views, and AUGMENTATION alters pictures each time that they are read. "
            "Leave it out."
        )
    elif config.FEATURE_VIEWS > 1 and config.AUGMENTATION == "none":
        yield (
            f"FEATURE_VIEWS is {config.FEATURE_VIEWS}, and AUGMENTATION none; the views would be "
            "the same. Add --AUGMENTATION crop,flip."
        )
    elif config.AUGMENTATION != "none" and config.FEATURE_VIEWS == 1 and reads_cache:
        yield (
            f"AUGMENTATION is {config.AUGMENTATION!r}, and features are read from a cache; add "
            "--FEATURE_VIEWS 8 to keep that many views of a picture there, or --FEATURE_CACHE off."
        )
