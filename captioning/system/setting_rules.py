"""What the values of settings must satisfy, each alone and together; `config` holds the settings.

A rule is a test and the same in words, for the sentence that a user gets.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from captioning.system.options import check_value


def is_layers(text: str) -> bool:
    """Whether `text` names layers: "last", "-2", "-1,-4"; none twice."""
    parts = text.replace("last", "-1").split(",")
    return all(re.fullmatch(r"-[1-9]\d{0,3}", part) for part in parts) and len(set(parts)) == len(
        parts
    )


def is_augmentation(text: str) -> bool:
    """Whether `text` names kinds of augmentation, none twice, or none at all."""
    kinds = text.split(",")
    return text == "none" or (
        len(set(kinds)) == len(kinds) and set(kinds) <= {"crop", "flip", "colour"}
    )


def _at_least(low: float) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value >= low), f"at least {low:g}"


def _between(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: low <= value < high), f"at least {low:g} and below {high:g}"


_POSITIVE: tuple[Callable[[Any], bool], str] = ((lambda value: value > 0), "above 0")
_FILE_NAME: tuple[Callable[[Any], bool], str] = (
    (lambda value: not set("/\\\0") & set(value) and value not in (".", "..")),
    "a plain name, without slashes",
)

RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "DATASET": ((lambda value: bool(value) and not {".", ".."} & set(value.split("/"))), "a name"),
    "STREAM_STEPS_PER_EPOCH": _at_least(1),
    "STREAM_HELD_OUT": _at_least(2),
    "STREAM_CACHE_GB": _at_least(0),
    "RUN_NAME": _FILE_NAME,
    "VALIDATION_FRACTION": _between(0, 1),
    "TEST_FRACTION": _between(0, 1),
    "MAX_BAD_FRACTION": ((lambda value: 0 <= value <= 1), "from 0 to 1"),
    "RANDOM_SEED": _between(0, 2**63),
    "NUM_WORKERS": _at_least(-1),
    "ENCODER_MODEL_NAME": (bool, "the name of a vision model"),
    "ENCODER_IMAGE_SIZE": _at_least(0),
    "ENCODER_LAYERS": (is_layers, "last, or places from the end such as -2 or -1,-4, none twice"),
    "ENCODER_TRAINED_BLOCKS": _at_least(-1),
    "ENCODER_LEARNING_RATE": _at_least(0),
    "ENCODER_LAYER_DECAY": ((lambda value: 0 < value <= 1), "above 0 and at most 1"),
    "ENCODER_WARMUP_STEPS": _at_least(-1),
    "ENCODER_START_EPOCH": _at_least(0),
    "ENCODER_LORA_RANK": _at_least(0),
    "FEATURE_VIEWS": _at_least(1),
    "AUGMENTATION": (is_augmentation, 'none, or some of "crop,flip,colour"'),
    "PROJECTION_DIM": _at_least(1),
    "DECODER_EMBED_DIM": ((lambda value: value >= 2 and value % 2 == 0), "even and at least 2"),
    "DECODER_LAYERS": _at_least(1),
    "DECODER_HEADS": _at_least(1),
    "DECODER_FF_DIM": _at_least(1),
    "DECODER_DROPOUT": _between(0, 1),
    "VOCAB_SIZE": _at_least(260),
    "MAX_SEQ_LEN": _at_least(3),
    "BATCH_SIZE": _at_least(1),
    "MICRO_BATCH_SIZE": _at_least(0),
    "CAPTIONS_PER_STEP": _at_least(0),
    "NUM_EPOCHS": _at_least(1),
    "LEARNING_RATE": _POSITIVE,
    "WEIGHT_DECAY": _at_least(0),
    "ADAM_BETA1": _between(0, 1),
    "ADAM_BETA2": _between(0, 1),
    "ADAM_EPS": _POSITIVE,
    "WARMUP_STEPS": _at_least(0),
    "GRAD_CLIP_VALUE": _at_least(0),
    "LABEL_SMOOTHING": _between(0, 1),
    "EMA_DECAY": _between(0, 1),
    "VALIDATION_INTERVAL": _at_least(1),
    "VALIDATION_IMAGES": _at_least(-1),
    "BEAM_SIZE": _at_least(1),
    "SAVE_INTERVAL_STEPS": _at_least(0),
    "SAVE_INTERVAL_MINUTES": _at_least(0),
    "KEEP_CHECKPOINTS": _at_least(0),
    "LOG_INTERVAL": _at_least(1),
}
"""What a value must satisfy, and the same in words."""


TRAINING_THE_ENCODER = frozenset(
    "ENCODER_LAYER_DECAY ENCODER_WARMUP_STEPS ENCODER_START_EPOCH ENCODER_LORA_RANK "
    "GRADIENT_CHECKPOINTING SHARDING".split()
)
"""Settings that mean nothing while the encoder is frozen."""


def stores_features(config: Any) -> bool:
    """Whether pictures are encoded once and for all."""
    return bool(config.CACHE_FEATURES and config.ENCODER_TRAINED_BLOCKS == 0)


def problems_of(config: Any) -> Iterator[str]:
    """Every value, and every pair of values, that cannot be: a sentence for each."""
    for field in fields(config):
        value = getattr(config, field.name)
        yield from check_value(field, value)
        if field.name in RULES and isinstance(value, str | int | float):
            holds, rule = RULES[field.name]
            finite = not isinstance(value, float) or math.isfinite(value)
            if not (finite and holds(value)):
                yield f"{field.name} is {value!r}; it must be {rule}."
    yield from _combinations(config)


def _combinations(config: Any) -> Iterator[str]:
    yield from _encoder_combinations(config)
    numbers = (config.DECODER_EMBED_DIM, config.DECODER_HEADS)
    if all(isinstance(n, int) and n > 0 for n in numbers) and numbers[0] % numbers[1]:
        yield (
            f"DECODER_HEADS is {config.DECODER_HEADS}; it must divide DECODER_EMBED_DIM "
            f"({config.DECODER_EMBED_DIM}). Try --DECODER_HEADS {math.gcd(*numbers)}."
        )
    held_out = (config.VALIDATION_FRACTION, config.TEST_FRACTION)
    if all(isinstance(share, float) and share < 1 for share in held_out) and sum(held_out) >= 1:
        yield (
            f"VALIDATION_FRACTION {held_out[0]} and TEST_FRACTION {held_out[1]} leave nothing to "
            "train on; their sum must be below 1."
        )
    if bool(config.IMAGE_DIR) != bool(config.CAPTIONS_FILE):
        missing = "CAPTIONS_FILE" if config.IMAGE_DIR else "IMAGE_DIR"
        yield f"IMAGE_DIR and CAPTIONS_FILE go together; add --{missing} PATH."
    if config.STREAM and config.IMAGE_DIR:
        yield "STREAM and IMAGE_DIR both say what to train on; leave one out."
    if config.STREAM_CACHE_GB and not config.STREAM:
        yield "STREAM_CACHE_GB is about a stream; leave it out, or say which with --STREAM."
    elif config.STREAM_CACHE_GB and not stores_features(config):
        yield (
            "STREAM_CACHE_GB keeps features, which a trained encoder (ENCODER_TRAINED_BLOCKS) "
            "changes and CACHE_FEATURES false forbids; leave it out."
        )
    elif config.STREAM_CACHE_GB and config.AUGMENTATION != "none":
        yield (
            f"AUGMENTATION is {config.AUGMENTATION!r}, and STREAM_CACHE_GB keeps features of "
            "pictures as they are; leave one of them out."
        )
    if config.BEST_METRIC == "CIDEr" and config.VALIDATION_IMAGES == 0:
        yield "BEST_METRIC CIDEr needs captions; add --VALIDATION_IMAGES 500 or --BEST_METRIC loss."
    if config.HF_UPLOAD_BEST_CHECKPOINTS and not config.HF_REPO_ID:
        yield "HF_UPLOAD_BEST_CHECKPOINTS needs a repository; add --HF_REPO_ID user/name."


def _encoder_combinations(config: Any) -> Iterator[str]:
    if config.ENCODER_TRAINED_BLOCKS == 0:
        for field in fields(config):
            if field.name in TRAINING_THE_ENCODER and getattr(config, field.name) != field.default:
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
    reads_cache = stores_features(config) and not config.STREAM
    if config.FEATURE_VIEWS > 1 and config.STREAM:
        yield (
            f"FEATURE_VIEWS is {config.FEATURE_VIEWS}; of a stream there are no views, and "
            "AUGMENTATION alters its pictures each time that they pass. Leave it out."
        )
    elif config.FEATURE_VIEWS > 1 and not reads_cache:
        yield (
            f"FEATURE_VIEWS is {config.FEATURE_VIEWS}; without cached features there are no views "
            "of them, and AUGMENTATION alters pictures each time that they are read. Leave it out."
        )
    elif config.FEATURE_VIEWS > 1 and config.AUGMENTATION == "none":
        yield (
            f"FEATURE_VIEWS is {config.FEATURE_VIEWS}, and AUGMENTATION none; the views would be "
            "the same. Add --AUGMENTATION crop,flip."
        )
    elif config.AUGMENTATION != "none" and config.FEATURE_VIEWS == 1 and reads_cache:
        yield (
            f"AUGMENTATION is {config.AUGMENTATION!r}, and features are read from a cache; add "
            "--FEATURE_VIEWS 8 to keep that many views of a picture there, or --CACHE_FEATURES "
            "false."
        )
