"""Runs of a comparison made by hand, without any training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioning.comparison.comparing import Comparison, compare_runs
from captioning.comparison.runs import Cost, CurvePoint, RunResult
from captioning.metrics import score_captions
from captioning.sources.records import CaptionedPicture
from config import Config, result_settings

THINGS = ("dog", "cat", "boat", "kite", "house", "tree", "man", "car")
PICTURES = 24


def references(number: int) -> tuple[str, ...]:
    """What people say of a picture."""
    thing, other = THINGS[number % 8], THINGS[(number * 3 + 1) % 8]
    return (f"a {thing} stands near a small {other}", f"there is a {thing} beside a {other}")


def sample_run(
    model: str,
    seed: int | None = 1,
    *,
    right: Sequence[bool] | float = 1.0,
    image: Path = Path("a.png"),
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> RunResult:
    """A run whose captions are a reference where `right` says so (or for that share), else wrong.

    `changes` replace fields of the result.
    """
    if not isinstance(right, Sequence):
        right = [number < right * PICTURES for number in range(PICTURES)]
    texts = [
        references(number)[0] if is_right else "a bird sings"
        for number, is_right in enumerate(right)
    ]
    ids = [f"{number:03}" for number in range(len(texts))]
    scores = score_captions(
        dict(zip(ids, texts, strict=True)),
        {key: references(number) for number, key in enumerate(ids)},
    )
    captions = tuple(
        CaptionedPicture(
            image, text, references(number), {"CIDEr": float(cider)}, correct=bool(is_right)
        )
        for number, (text, cider, is_right) in enumerate(
            zip(texts, scores.per_image["CIDEr"], right, strict=True)
        )
    )
    curve = (CurvePoint(10, 1, 60.0, 0.5, 2.0), CurvePoint(20, 2, 122.0, 0.4, 1.9))
    fields: dict[str, Any] = {
        "model": model,
        "seed": seed,
        "checkpoint": f"checkpoints/{model}-{seed}/best",
        "scores": scores,
        "means": {},
        "others": {},
        "truth": {},
        "captions": captions,
        "cost": Cost(
            encoder=model,
            feature_tokens=50,
            feature_width=768,
            parameters_trained=1_200_000,
            parameters_frozen=86_000_000,
        ),
        "protocol": {"data": "small", "split": "test", "decoding": "greedy", "tokenizer": "PTB"},
        "settings": vars(Config(**{"ENCODER_MODEL_NAME": model, **(settings or {})})),
        "hardware": {"device": "cpu", "processor": "x"},
        "curve": curve,
        "losses": ((5, 3.0), (10, 2.0)),
    }
    return RunResult(**{**fields, **changes})


def compared(runs: Sequence[RunResult], **options: Any) -> Comparison:
    """Their comparison, as the commands make it."""
    return compare_runs(runs, result_settings(Config()), **options)
