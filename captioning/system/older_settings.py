"""Settings of version 0.1, read as what they are called since.

Twelve went with version 0.2: seven are gone, five are two in one (CHANGELOG.md has the table).
"""

from collections.abc import Callable, Mapping
from typing import Any

from captioning.system.errors import UserError

CARRIED_OVER: dict[str, Callable[[Any], bool]] = {
    "POSITIONS": lambda value: value == "sinusoidal",
    "LOWERCASE_CAPTIONS": lambda value: value is False,
    "ENCODER_WARMUP_STEPS": lambda value: value == -1,
    **dict.fromkeys(
        ("STREAM_HELD_OUT", "STOP_ON_SAVE_ERROR", "WANDB_LOG_BEST", "HF_PRIVATE"),
        lambda value: True,
    ),
}
"""Settings of version 0.1 that are gone, and the values for which nothing has changed."""
BECAME = {
    **dict.fromkeys(("DATASET_REVISION", "ENCODER_REVISION"), "write name@revision"),
    **dict.fromkeys(("SAVE_INTERVAL_STEPS", "SAVE_INTERVAL_MINUTES"), "write SAVE_INTERVAL"),
    **dict.fromkeys(("VALIDATION_FRACTION", "TEST_FRACTION"), "write HELD_OUT_FRACTION"),
    **dict.fromkeys(("CACHE_FEATURES", "STREAM_CACHE_GB"), "write FEATURE_CACHE"),
    **dict.fromkeys(CARRIED_OVER, "leave it out"),
}
"""What to do where somebody still names them."""
NEEDED_BY_WEIGHTS = ("POSITIONS",)
"""Of these, what a model needs even if it is only captioned with."""


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
        if to_train or name in NEEDED_BY_WEIGHTS
    ]
    for name, revision in (
        ("DATASET_SOURCE" if kept.get("DATASET_SOURCE") else "DATASET", "DATASET_REVISION"),
        ("ENCODER_MODEL_NAME", "ENCODER_REVISION"),
    ):
        if wanted := kept.pop(revision, ""):
            kept[name] = f"{kept.get(name, defaults[name])}@{wanted}"
    steps, minutes = (kept.pop(f"SAVE_INTERVAL_{one}", None) for one in ("STEPS", "MINUTES"))
    if steps or minutes is not None:
        kept["SAVE_INTERVAL"] = str(steps) if steps else f"{minutes:g}m"
    held_out = {kept.pop(f"{one}_FRACTION", None) for one in ("VALIDATION", "TEST")} - {None}
    if len(held_out) > 1 and to_train:
        lost.append(
            f"{place}: VALIDATION_FRACTION and TEST_FRACTION differ, and HELD_OUT_FRACTION is both "
            "since version 0.2. Write that instead, or go on with version 0.1."
        )
    if held_out:
        kept["HELD_OUT_FRACTION"] = max(held_out)
    is_cached, room = kept.pop("CACHE_FEATURES", None), kept.pop("STREAM_CACHE_GB", 0)
    if is_cached is False or room:
        kept["FEATURE_CACHE"] = f"{room:g}GB" if room else "off"
    if lost:
        raise UserError(*lost)
    return kept
