"""What a comparison knows of a run: its captions with their scores, its curve, its cost.

Reads the folder of an evaluation (`metrics.json`, `captions.jsonl`) and, where there is one, the
folder of the run (`metrics.jsonl`); opens no model.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from captioning.metrics import Scores, score_captions
from captioning.metrics.ngrams import FloatArray
from captioning.sources.records import CaptionedPicture
from captioning.system.errors import UserError
from captioning.system.reading import read_regular
from captioning.tracking.effort import Effort

MEASURED_BY_EVERYONE = ("CIDEr", "BLEU-4", "BLEU-3", "BLEU-2", "BLEU-1", "ROUGE-L")
MEANS = ("CLIPScore", "RefCLIPScore", "R@1", "R@5", "R@10", "SPICE", "SPIDEr", "CHAIRs")
"""Further scores whose corpus value is the mean over the pictures."""
FEATURE_BYTES = 2
"""Bytes of a number in the feature cache (float16)."""


@dataclass(frozen=True)
class CurvePoint:
    """A validation."""

    step: int
    epoch: int
    seconds: float | None
    """Trained so far; None where the log does not tell."""
    score: float | None
    """CIDEr on the validation pictures."""
    loss: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model takes."""

    encoder: str
    feature_tokens: int
    feature_width: int
    parameters_trained: int
    parameters_frozen: int

    @property
    def feature_bytes(self) -> int:
        """Bytes of a picture's features, as the cache keeps them."""
        return self.feature_tokens * self.feature_width * FEATURE_BYTES


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run, evaluated."""

    model: str
    seed: int | None
    """None where the checkpoint stands for itself."""
    checkpoint: str
    scores: Scores
    means: dict[str, FloatArray]
    """Further scores for each picture, whose mean is the corpus score."""
    others: dict[str, float]
    """Further corpus scores, which no bootstrap knows (METEOR)."""
    truth: dict[str, float]
    """On drawn scenes: share of captions that are right, by what they tell."""
    captions: tuple[CaptionedPicture, ...]
    """In the order of `scores.ids`."""
    cost: Cost
    protocol: dict[str, object]
    settings: dict[str, Any]
    """The settings that it was trained with; empty where somebody else trained it."""
    hardware: dict[str, Any]
    effort: Effort | None = None
    """What captioning took; None where it was not measured."""
    curve: tuple[CurvePoint, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    """Step and training loss."""

    @property
    def best(self) -> CurvePoint | None:
        """The validation with the best CIDEr, or the smallest loss where none was captioned."""
        scored = [point for point in self.curve if point.score is not None]
        if scored:
            return max(scored, key=lambda point: point.score or 0.0)
        return min(self.curve, key=lambda point: point.loss, default=None)

    @property
    def seconds_an_epoch(self) -> float | None:
        """Median over the epochs, validation and saving included."""
        times = [(0, 0.0)]
        times += [(one.epoch, one.seconds) for one in self.curve if one.seconds is not None]
        spans = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(times) if b[0] > a[0]]
        return median(spans) if spans else None


def read_run(
    evaluation: Path,
    *,
    model: str,
    seed: int | None = None,
    run_dir: Path | None = None,
    pictures: Path | None = None,
) -> RunResult:
    """The run whose `best` was evaluated into a folder; `run_dir` has its log.

    Raises `UserError` where a file is missing or is not as an evaluation writes it, or names other
    pictures than those in `pictures`: they are to be shown, and the folder may be somebody else's.
    """
    numbers, lines = _read_numbers(evaluation / "metrics.json"), []
    path = evaluation / "captions.jsonl"
    try:
        lines = [json.loads(line) for line in _read(path).splitlines() if line]
        ids = [os.path.realpath(line["image"]) for line in lines]
        _refuse_outside(ids, pictures, evaluation)
        scores = _scores(numbers, lines, ids)
        means = _means(numbers, lines)
        record = numbers["provenance"]
        curve, losses = _read_log(run_dir / "metrics.jsonl") if run_dir else ((), ())
        return RunResult(
            model=model,
            seed=seed,
            checkpoint=str(numbers.get("checkpoint", "")),
            scores=scores,
            means=means,
            others={
                name: numbers[name]
                for name in ("METEOR", "CHAIRi")
                if isinstance(numbers.get(name), int | float)
            },
            truth={
                name: share for name, share in numbers.get("truth", {}).items() if share is not None
            },
            captions=_captions(lines, scores),
            cost=Cost(**numbers["model"]),
            protocol=numbers["protocol"],
            settings=record["settings"],
            hardware=record["hardware"],
            effort=Effort.from_json(numbers["effort"]) if "effort" in numbers else None,
            curve=curve,
            losses=losses,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{evaluation} is not what an evaluation of today writes ({error!r}); remove it and "
            "give the same command again."
        ) from None


def _captions(lines: Sequence[Mapping[str, Any]], scores: Scores) -> tuple[CaptionedPicture, ...]:
    return tuple(
        CaptionedPicture(
            image=Path(line["image"]),
            caption=line["caption"],
            references=tuple(line["references"]),
            scores={"CIDEr": float(cider)},
            correct=line.get("correct"),
        )
        for line, cider in zip(lines, scores.per_image["CIDEr"], strict=True)
    )


def _refuse_outside(images: Sequence[str], pictures: Path | None, evaluation: Path) -> None:
    for image in images if pictures else ():
        if not Path(image).is_relative_to(os.path.realpath(pictures or "")):
            raise UserError(
                f"{evaluation} is of {image}, which is no picture of {pictures}. Remove that "
                "folder, and the run is evaluated anew."
            )


def _read(path: Path) -> str:
    try:
        return read_regular(path).decode()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _read_numbers(path: Path) -> dict[str, Any]:
    try:
        numbers = json.loads(_read(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from None
    return numbers if isinstance(numbers, dict) else {}


def _scores(
    numbers: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], ids: Sequence[str]
) -> Scores:
    """The captions scored anew, but CIDEr as written where document frequencies are elsewhere."""
    scores = score_captions(
        {key: line["caption"] for key, line in zip(ids, lines, strict=True)},
        {key: line["references"] for key, line in zip(ids, lines, strict=True)},
        tokenizer=numbers.get("tokenizer", "ptb"),  # the only one there was at first
    )
    if "document frequencies" not in numbers["protocol"]:
        return scores
    cider = np.array([float(line["scores"]["CIDEr"]) for line in lines])
    return replace(
        scores,
        per_image={**scores.per_image, "CIDEr": cider},
        corpus={**scores.corpus, "CIDEr": float(cider.mean())},
    )


def _means(numbers: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, FloatArray]:
    """Scores that were computed of every picture, besides those that are computed anew."""
    return {
        name: np.array([float(line["scores"][name]) for line in lines])
        for name in MEANS
        if numbers.get(name) is not None and all(name in line["scores"] for line in lines)
    }


def _read_log(path: Path) -> tuple[tuple[CurvePoint, ...], tuple[tuple[int, float], ...]]:
    """Validations and training losses of a run's log; both empty where there is none."""
    if not path.is_file():
        return (), ()
    lines = [json.loads(line) for line in _read(path).splitlines() if line]
    curve = tuple(
        CurvePoint(
            line["step"],
            line["epoch"],
            line.get("seconds"),
            line.get("CIDEr"),
            line["validation_loss"],
        )
        for line in lines
        if line.get("validation_loss") is not None
    )
    losses = tuple((line["step"], line["loss"]) for line in lines if line.get("loss") is not None)
    return curve, losses


def run_of(name: str) -> str:
    """What a checkpoint's run is called: as its folder, whatever its settings say."""
    return Path(name).absolute().parent.name if Path(name).is_dir() else name


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each checkpoint's short name: run and folder, or more where two would be called the same."""
    paths = {name: Path(name).absolute().parts for name in names if Path(name).is_dir()}
    labels = {name: name for name in names}
    for length in range(2, max(map(len, paths.values()), default=1) + 1):
        short = {name: "/".join(parts[-length:]) for name, parts in paths.items()}
        if len(set(short.values())) == len(short):
            return labels | short
    return labels
