"""What an evaluation hands to its report: plain values, no pictures opened and nothing drawn yet.

`evaluate.py` fills these; `report.py` turns a `Report` into one HTML file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioning.metrics.intervals import Diversity


@dataclass(frozen=True)
class WordHeat:
    """One word of a caption and where in the picture the model looked while writing it."""

    text: str
    heat: NDArray[np.floating[Any]]
    """(rows, columns) attention >= 0, laid over the whole upright picture; any small size."""


@dataclass(frozen=True, kw_only=True)
class GalleryItem:
    """One evaluated picture."""

    image: Path | None
    """The picture's file; None where captions were scored without pictures."""
    caption: str
    references: tuple[str, ...] = ()
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Its own scores, by the names of `ReportedScore.name`."""
    confidence: float | None = None
    """Geometric mean of its token probabilities, 0 to 1."""
    words: tuple[WordHeat, ...] | None = None
    """The caption's words with what each looked at; needed only for `gallery_indexes`."""
    correct: bool | None = None
    """Whether the caption tells the truth, where that can be checked (drawn scenes)."""

    @property
    def length_words(self) -> int:
        """Words of the caption, split at spaces."""
        return len(self.caption.split())

    def score(self, name: str) -> float | None:
        """A score of this picture, or None where it is absent or not a finite number."""
        return finite(self.scores.get(name))


@dataclass(frozen=True, kw_only=True)
class ReportedScore:
    """A corpus score, or the reason why it was not computed."""

    name: str
    value: float | None
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    skipped: str = ""
    """Why `value` is None, in one line."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that one report shows; a part that is empty is left out of the page."""

    title: str
    """What was evaluated, e.g. "CLIP ViT-B/32 on Flickr30k"."""
    subtitle: str = ""
    """Where it lies and when it was evaluated."""
    scores: tuple[ReportedScore, ...] = ()
    """In the order in which they are shown; the first two are shown large."""
    items: tuple[GalleryItem, ...] = ()
    """Every evaluated picture: all count in the distributions, some stand in the gallery."""
    curves: tuple[Mapping[str, Any], ...] = ()
    """The lines of the run's `metrics.jsonl`."""
    warnings: tuple[str, ...] = ()
    """What the reader must know before the numbers; the warning of `diversity` is added."""
    diversity: Diversity | None = None
    """How varied the captions are."""
    measures: Mapping[str, object] = field(default_factory=dict)
    """Further numbers by label, shown beside those of `diversity`."""
    protocol: Mapping[str, object] = field(default_factory=dict)
    """Label to value: split, pictures, references a picture, tokenizer, decoding."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The settings of the run."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    """Git commit, package versions, data fingerprint, hardware."""


def finite(value: object) -> float | None:
    """`value` as a float; None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return float(value) if math.isfinite(value) else None


def finite_values(values: Sequence[float | None]) -> list[float]:
    """The finite numbers among `values`, in their order."""
    return [number for value in values if (number := finite(value)) is not None]
