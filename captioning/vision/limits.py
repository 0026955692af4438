"""Whether what a stranger's config asks for is believed, known before it is built.

A config is text: it can ask for a million layers, or for pictures of any size. How many weights it
may build say the headers of the files that are to fill them (`captioning.system.tensors`); the
numbers that decide other things have limits here, beyond any encoder that there is.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from captioning.system.errors import UserError

MOST_NUMBER = 2**31
"""The largest whole number of a config: bases of rotary positions are some millions."""
MOST_COUNT = 50_000
"""The most layers, heads or labels."""
MOST_ENTRIES = 50_000
"""The most entries of a list: classes of ImageNet-21k are 21,843."""
MOST_TOKENS = 2**14
"""Patches of a picture at most."""
MOST_WIDTH = 2**13
"""The largest width of a token: that of ViT-22B is 6,144."""
MOST_SIZE = 2**20
"""The largest size of anything else, such as a feed-forward network or a vocabulary."""
LARGEST_SIDE = 4_096
"""Side of the pictures that an encoder reads, in pixels."""
WIDTHS = re.compile(r"hidden_sizes?|(embed|hidden)_dims?|d_model|width")
SIZES = re.compile(r"\w*(_sizes?|_dims?|channels)")
COUNTS = re.compile(r"num_|depth|layers|heads|groups|stages|registers")
SIDES = ("image_size", "window_size", "patch_size", "stride", "patch_stride")
PATCHES = "patches of a picture,"
NO_PART = ("auto_map", "quantization_config")


def check_config(values: Mapping[str, Any], name: str) -> None:
    """Raise `UserError` where a config's numbers are beyond any encoder's.

    Widths and patches are limited because tables of their product are filled before they are
    counted among the weights.
    """
    for key, value in (*_numbers(values), *_patches(values)):
        most = _most(key)
        if abs(value) > most:
            raise UserError(
                f"{name}: its config has {key} {value!r:.40}, and {most:,} is the most that is "
                "believed. Take the config.json that belongs to the weights."
            )


def _most(key: str) -> int:
    """What a number of that name may be."""
    if key in SIDES:
        return LARGEST_SIDE
    if key == PATCHES:
        return MOST_TOKENS
    if WIDTHS.fullmatch(key):
        return MOST_WIDTH
    if COUNTS.search(key):
        return MOST_COUNT
    return MOST_SIZE if SIZES.fullmatch(key) else MOST_NUMBER


def _patches(value: Any) -> Iterator[tuple[str, int]]:
    """The patches that parts of a config make of a picture."""
    if not isinstance(value, dict):
        return
    for part in value.values():
        yield from _patches(part)
    sides, steps = ([*_numbers(value.get(key))] for key in ("image_size", "patch_size"))
    if sides and steps and min(step for _, step in steps) >= 1:
        yield PATCHES, int(max(side for _, side in sides) // min(step for _, step in steps)) ** 2


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in a config with the key that they stand under, and the lengths of its lists."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name not in NO_PART:
                yield from _numbers(part, str(name))
    elif isinstance(value, list):
        if len(value) > MOST_ENTRIES:
            yield f"num_{key}", len(value)
        for part in value[:MOST_ENTRIES]:
            yield from _numbers(part, key)
    elif type(value) is int:
        yield key, value


def check_tokens(config: Any, size: tuple[int, int], name: str) -> None:
    """Raise `UserError` where pictures of `size` (height, width) would be cut into too many
    patches, or into none."""
    stride = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None)
    if stride is None:
        return
    sides = stride if isinstance(stride, list | tuple) else [stride]
    if not all(type(side) is int and side >= 1 for side in sides):
        raise UserError(f"{name}: its config has patch_size {stride!r}; it must be at least 1.")
    tokens = math.prod(size) // (sides[0] * sides[-1])
    if tokens > MOST_TOKENS:
        raise UserError(
            f"{name} would cut a picture of {size[1]} x {size[0]} pixels into {tokens:,} patches, "
            f"and {MOST_TOKENS:,} are the most. Lower --ENCODER_IMAGE_SIZE, or take another "
            "encoder."
        )


def check_sides(settings: Mapping[str, Any], name: str) -> None:
    """Raise `UserError` where an image processor makes pictures larger than any encoder reads."""
    for key in ("size", "crop_size", "pad_size"):
        for _, length in _numbers(settings.get(key), key):
            # Some processors say how many pixels there are, and are refused for other reasons.
            if not 0 <= length <= LARGEST_SIDE:
                raise UserError(
                    f"{name} has the {key} {settings[key]!r}; an encoder reads pictures of "
                    f"{LARGEST_SIDE:,} pixels a side at most. Name another image processor with "
                    "--IMAGE_PROCESSOR_NAME."
                )


@contextmanager
def in_words(name: str) -> Iterator[None]:
    """Make a sentence of whatever a library stumbles over in a stranger's config."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # KeyError, AttributeError, ZeroDivisionError, MemoryError ...
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{name} makes no encoder: {reason.rstrip('.')}. Check its config.json and "
            "preprocessor_config.json, or take another encoder."
        ) from None
