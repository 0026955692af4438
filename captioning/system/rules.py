"""What can be true of a setting, to be written beside its type: a rule, and roles.

NUM_EPOCHS: Annotated[int, at_least(1), MAY_CHANGE] = 15
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from captioning.system.terminal import one_line


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy: a test, and the same in words, for the sentence of an error."""

    holds: Callable[[Any], object]
    text: str


def at_least(low: float) -> Rule:
    """Numbers from `low` on."""
    return Rule(lambda value: value >= low, f"at least {low:g}")


def within(low: int, high: int) -> Rule:
    """Numbers from `low` to `high`.

    Where a value decides how much is built, `high` is above all that is of use and below what no
    machine can hold: a checkpoint of a stranger may say what it likes.
    """
    return Rule(lambda value: low <= value <= high, f"from {low:,} to {high:,}")


def between(low: float, high: float) -> Rule:
    """Numbers from `low` on that are below `high`."""
    return Rule(lambda value: low <= value < high, f"at least {low:g} and below {high:g}")


@dataclass(frozen=True)
class Role:
    """What is true of a setting besides its rule."""

    meaning: str


NO_EFFECT = Role("says where and how a run computes and logs, not what comes out; it may change")
MAY_CHANGE = Role("a run may go on with another value")
PER_RUN = Role("a comparison gives it to each run")
SHARED = Role("must be the same for all models of a comparison")
TYPED = Role("a place or an account: the user's own, never taken from a checkpoint")
ON_CARD = Role("the model card shows it")
ARCHITECTURE = Role("what a model's weights are made for: as INIT_CHECKPOINT_PATH has it")
OF_ENCODER = Role("decides what features are: as INIT_CHECKPOINT_PATH has it, unless it is set")
OF_TRAINED_ENCODER = Role("means nothing while the encoder is frozen")
OF_OWN_DECODER = Role("means nothing where the decoder begins as a language model")
OF_PRETRAINED = Role("means nothing where the decoder begins with random weights")
OF_CHECKPOINTS = Role("means nothing where captions are given")
OF_GIVEN_CAPTIONS = Role("means nothing where a checkpoint captions")


def is_layers(text: str) -> bool:
    """Whether `text` names layers: "last", "-2", "-1,-4"; none twice."""
    parts = text.replace("last", "-1").split(",")
    return all(re.fullmatch(r"-[1-9]\d{0,3}", one) for one in parts) and len({*parts}) == len(parts)


def is_augmentation(text: str) -> bool:
    """Whether `text` names kinds of augmentation, none twice, or none at all."""
    kinds = text.split(",")
    return text == "none" or (
        len({*kinds}) == len(kinds) and {*kinds} <= {"crop", "flip", "colour"}
    )


def bytes_of(text: str) -> int | None:
    """ "500GB" -> 500,000,000,000; None for what is no size."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([KMGT])B", text)
    return int(float(found[1]) * 1000 ** (1 + "KMGT".index(found[2]))) if found else None


POSITIVE = Rule(lambda value: value > 0, "above 0")
FRACTION = Rule(lambda value: 0 <= value <= 1, "from 0 to 1")
SHARE = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")
SEED = between(0, 2**63)
MOST_BEAMS = 1_000
LONGEST_CAPTION = 4_096
"""Tokens."""
WIDEST = 2**16
"""The largest width of a layer."""
WIDTH = within(1, WIDEST)
FF_WIDTH = within(1, 4 * WIDEST)
EVEN = Rule(lambda value: 2 <= value <= WIDEST and value % 2 == 0, f"even and from 2 to {WIDEST:,}")
DATASET_NAME = Rule(
    lambda text: text and not {".", ".."} & set(text.split("/")) and text == one_line(text),
    "a name",
)
NOT_EMPTY = Rule(bool, "the name of a vision model")
FILE_NAME = Rule(
    lambda text: not set("/\\") & set(text) and text not in (".", "..") and text == one_line(text),
    "a plain name, without slashes and control characters",
)
LAYERS = Rule(is_layers, "last, or places from the end such as -2 or -1,-4, none twice")
KINDS_OF_AUGMENTATION = Rule(is_augmentation, 'none, or some of "crop,flip,colour"')
CACHE = Rule(lambda text: text in ("on", "off") or bytes_of(text), "on, off, or a size as 500GB")
INTERVAL = Rule(
    lambda text: re.fullmatch(r"\d{1,9}|\d{1,9}(\.\d{1,9})?m", text),
    'minutes such as "10m", steps such as "500", or 0',
)
