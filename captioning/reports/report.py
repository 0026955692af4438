"""The report of an evaluation: one HTML file to look at, to send, and to take slides from.

    write_report(Path("report.html"), report)

Reads the pictures of the gallery and `templates/`; the file holds all it needs (pictures, styles,
script) and its content policy forbids it the network. `evaluate.py` writes it beside its numbers.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from captioning.metrics.intervals import Diversity
from captioning.reports.charts import (
    Series,
    calibration_chart,
    calibration_error,
    confidence_bins,
    histogram,
    line_chart,
)
from captioning.reports.gallery import (
    GROUPS,
    embedded_heat,
    embedded_picture,
    finite,
    finite_values,
    gallery_indexes,
)
from captioning.sources.records import CaptionedPicture
from captioning.system.files import write_text
from captioning.tracking.curves import Point, smoothed

TEMPLATES_DIR = Path(__file__).parent / "templates"
CURVE_METRICS = {"CIDEr": 1, "BLEU-4": 3, "ROUGE-L": 4, "METEOR": 5, "SPICE": 2}
"""Scores of validation that are drawn, and the colour of each."""
HISTOGRAM_SCORES = ("CIDEr", "BLEU-4", "CLIPScore")
SORT_SCORES = ("CIDEr", "BLEU-4", "ROUGE-L")
REPEATED_SHOWN = 6
"""Most frequent captions that are listed."""


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
    items: tuple[CaptionedPicture, ...] = ()
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


@dataclass(frozen=True)
class Card:
    """One picture of the gallery, ready for the page."""

    item: CaptionedPicture
    groups: tuple[str, ...]
    picture: tuple[str, int, int] | None
    """Its address, width and height."""
    words: tuple[tuple[str, str], ...]
    """Each word with its heat; empty where the caption is plain text."""

    @property
    def sort_keys(self) -> dict[str, float | None]:
        """What the page can sort by."""
        scores = {name: finite(self.item.scores.get(name)) for name in SORT_SCORES}
        return {
            **scores,
            "confidence": finite(self.item.confidence),
            "length": len(self.item.caption.split()),
        }


def render_report(report: Report) -> str:
    """The whole HTML page. Raises `UserError` for a gallery picture that cannot be read."""
    items = report.items
    repeated = Counter(item.caption.strip() for item in items).most_common(REPEATED_SHOWN)
    template = page_environment().get_template("report.html")
    return template.render(
        report=report,
        warnings=_warnings(report),
        scores=[score for score in report.scores if finite(score.value) is not None],
        skipped=[score for score in report.scores if finite(score.value) is None],
        measures={**_diversity_measures(report.diversity), **report.measures},
        curves=_curve_charts(report.curves),
        cards=_cards(items),
        groups=GROUPS,
        sort_scores=[name for name in SORT_SCORES if _has_score(items, name)],
        distributions=_distribution_charts(items),
        repeated=[(caption, count) for caption, count in repeated if count > 1],
        calibration=_calibration(items),
    )


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write the page of `report` as one file; whole or not at all."""
    page = render_report(report)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def page_environment() -> Environment:
    """What fills the pages of `templates/`; it escapes all that it is given."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES_DIR),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = _score_text
    environment.filters["value"] = _value_text
    environment.filters["number"] = finite
    return environment


def _score_text(value: object) -> str:
    number = finite(value)
    return "–" if number is None else f"{number:.3f}"


def _value_text(value: object) -> str:
    """A setting, a count or a share as people read it."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _warnings(report: Report) -> list[str]:
    repetition = report.diversity.warning if report.diversity else None
    return [*report.warnings, repetition] if repetition else list(report.warnings)


def _diversity_measures(diversity: Diversity | None) -> dict[str, object]:
    """The tiles of `diversity`: label and number."""
    if diversity is None:
        return {}
    measures: dict[str, object] = {
        "distinct-1": diversity.distinct_1,
        "distinct-2": diversity.distinct_2,
        "vocabulary": diversity.vocabulary_size,
        "tokens a caption": diversity.mean_length,
        "shortest, longest": f"{diversity.shortest}, {diversity.longest}",
    }
    if diversity.share_in_training is not None:
        measures["also in training"] = f"{diversity.share_in_training:.1%}"
        measures["novel captions"] = f"{diversity.share_novel:.1%}"
    return measures


def _cards(items: Sequence[CaptionedPicture]) -> list[Card]:
    chosen = gallery_indexes(items)
    groups: dict[int, list[str]] = {}
    for group in GROUPS:
        for index in chosen[group]:
            groups.setdefault(index, []).append(group)
    return [_card(items[index], tuple(names)) for index, names in groups.items()]


def _card(item: CaptionedPicture, groups: tuple[str, ...]) -> Card:
    picture = embedded_picture(item.image) if item.has_image else None
    words = item.words if picture else ()
    return Card(item, groups, picture, tuple((word.text, embedded_heat(word)) for word in words))


def _curve_charts(lines: Sequence[Mapping[str, Any]]) -> list[Markup]:
    training, validation = _points(lines, "loss"), _points(lines, "validation_loss")
    loss = [
        Series("", tuple(training), 2, "faint"),
        Series("training", tuple(smoothed(training)), 2),
        Series("validation", tuple(validation), 1),
    ]
    metrics = [
        Series(name, tuple(_points(lines, name)), colour) for name, colour in CURVE_METRICS.items()
    ]
    rate = [Series("", tuple(_points(lines, "learning_rate")), 4)]
    panels = (
        ("Loss per token", loss, False),
        ("Validation scores", metrics, True),
        ("Learning rate", rate, True),
    )
    return [
        line_chart(series, name=name, from_zero=from_zero)
        for name, series, from_zero in panels
        if any(line.points for line in series)
    ]


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """(step, value) of the lines that hold a finite number of that name."""
    pairs = ((finite(line.get("step")), finite(line.get(name))) for line in lines)
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def _distribution_charts(items: Sequence[CaptionedPicture]) -> list[Markup]:
    if not items:
        return []
    lengths = [len(item.caption.split()) for item in items]
    reference_lengths = [len(text.split()) for item in items for text in item.references]
    charts = [
        histogram(
            lengths, name="Caption length", x_label="words", whole=True, compared=reference_lengths
        )
    ]
    for name in HISTOGRAM_SCORES:
        if values := finite_values([item.scores.get(name) for item in items]):
            charts.append(histogram(values, name=f"{name} of each picture", x_label=name))
    if values := finite_values([item.confidence for item in items]):
        charts.append(histogram(values, name="Confidence", x_label="confidence"))
    return charts


def _calibration(items: Sequence[CaptionedPicture]) -> dict[str, Any] | None:
    """The chart of confidence against share right, with what is said beside it."""
    checked = [
        (confidence, item.correct)
        for item in items
        if item.correct is not None and (confidence := finite(item.confidence)) is not None
    ]
    if not checked:
        return None
    confidences, right = zip(*checked, strict=True)
    bins = confidence_bins(confidences, right)
    return {
        "chart": calibration_chart(bins, name="Share right over confidence"),
        "captions": len(checked),
        "share_right": sum(right) / len(right),
        "mean_confidence": sum(confidences) / len(confidences),
        "error": calibration_error(bins),
    }


def _has_score(items: Sequence[CaptionedPicture], name: str) -> bool:
    return any(finite(item.scores.get(name)) is not None for item in items)
