"""Settings of version 0.1, read as what they are called since.

Thirteen went with version 0.2: eight are gone, five are two in one (CHANGELOG.md has the table).
"""

from collections.abc import Callable, Mapping
from typing import Any

from captioning.system.errors import UserError

CARRIED_OVER: dict[str, Callable[[Any], bool]] = {
    "POSITIONS": lambda value: value == "sinusoidal",
    "LOWERCASE_CAPTIONS": lambda value: value is False,
    "ENCODER_WARMUP_STEPS": lambda value: value == -1,
    "STREAM_HELD_OUT": lambda value: value == 1000,
    "HF_PRIVATE": lambda value: value is False,
    **dict.fromkeys(("STOP_ON_SAVE_ERROR", "WANDB_LOG_BEST", "COMPILE"), lambda value: True),
}
"""Settings of version 0.1 that are gone, and the values for which nothing has changed."""
FRACTIONS = ("VALIDATION_FRACTION", "TEST_FRACTION")
BECAME = {
    **dict.fromkeys(("DATASET_REVISION", "ENCODER_REVISION"), "write name@revision"),
    **dict.fromkeys(("SAVE_INTERVAL_STEPS", "SAVE_INTERVAL_MINUTES"), "write SAVE_INTERVAL"),
    **dict.fromkeys(FRACTIONS, "write HELD_OUT_FRACTION"),
    **dict.fromkeys(("CACHE_FEATURES", "STREAM_CACHE_GB"), "write FEATURE_CACHE"),
    **dict.fromkeys(CARRIED_OVER, "leave it out"),
    "COMPILE": "write CUDA_GRAPHS",
}
"""What to do where somebody still names them."""
NUMBERS = (*FRACTIONS, "SAVE_INTERVAL_STEPS", "SAVE_INTERVAL_MINUTES", "STREAM_CACHE_GB")

LARGEST_NUMBER = 10**15
"""Above any that was ever meant; a number that is none is not below it either."""


def from_older(
    values: Mapping[str, Any], defaults: Mapping[str, Any], *, place: str, to_train: bool
) -> dict[str, Any]:
    """Settings as version 0.1 named them, by their names of today; `defaults` are today's.

    Raises `UserError` naming those that cannot be kept; without `to_train` only those that the
    weights of a model need.
    """
    kept = {key: value for key, value in values.items() if key not in CARRIED_OVER}
    lost = [
        f"{place}: {name} is {values[name]!r}, which version 0.2 no longer has. Leave it out, or "
        "go on with version 0.1."
        for name, is_same in CARRIED_OVER.items()
        if name in values and not is_same(values[name])
        if to_train or name == "POSITIONS"
    ]
    for name, revision in (
        ("DATASET_SOURCE" if kept.get("DATASET_SOURCE") else "DATASET", "DATASET_REVISION"),
        ("ENCODER_MODEL_NAME", "ENCODER_REVISION"),
    ):
        if wanted := kept.pop(revision, ""):
            kept[name] = f"{kept.get(name, defaults[name])}@{wanted}"
    numbers = {name: kept.pop(name) for name in NUMBERS if name in kept}
    wrong = [
        name
        for name, value in numbers.items()
        if type(value) not in (int, float) or not abs(value) < LARGEST_NUMBER
    ]
    lost += [f"{place}: {name} is {numbers[name]!r}; it must be a number." for name in wrong]
    is_cached = kept.pop("CACHE_FEATURES", True)
    if lost:
        raise UserError(*lost)
    if steps := numbers.get("SAVE_INTERVAL_STEPS"):
        kept["SAVE_INTERVAL"] = str(steps)
    elif "SAVE_INTERVAL_MINUTES" in numbers:
        kept["SAVE_INTERVAL"] = f"{_plain(numbers['SAVE_INTERVAL_MINUTES'])}m"
    held_out = {numbers[name] for name in FRACTIONS if name in numbers}
    if len(held_out) > 1 and to_train:
        raise UserError(
            f"{place}: VALIDATION_FRACTION and TEST_FRACTION differ, and HELD_OUT_FRACTION is both "
            "since version 0.2. Write that instead, or go on with version 0.1."
        )
    if len(held_out) == 1:
        kept["HELD_OUT_FRACTION"] = float(held_out.pop())
    if room := numbers.get("STREAM_CACHE_GB"):
        kept["FEATURE_CACHE"] = f"{_plain(room)}GB"
    elif not is_cached:
        kept["FEATURE_CACHE"] = "off"
    return kept


def _plain(number: float) -> str:
    """A number as settings write it, without an exponent."""
    return f"{number:.9f}".rstrip("0").rstrip(".")
