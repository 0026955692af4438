"""The page of a comparison: one HTML file to look at, and beside it Markdown and JSON.

    write_comparison(compare_runs(runs), folder, title="CLIP or ViT?")

Reads the pictures that it shows and `templates/`; writes `comparison.html`, `comparison.md` and
`comparison.json`. The page holds all that it needs and asks the network for nothing.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from captioning.comparison.comparing import (
    COMPARED,
    RANKED_BY,
    Comparison,
    ModelResult,
    PairDifference,
)
from captioning.comparison.findings import (
    caveats,
    duration_text,
    findings,
    number_text,
    p_text,
    percent,
)
from captioning.comparison.runs import RunResult
from captioning.comparison.tables import (
    EFFORT,
    bytes_text,
    chance_text,
    comparison_json,
    effort_texts,
    interval_text,
    markdown,
)
from captioning.reports.charts import IntervalRow, Series, interval_chart, line_chart
from captioning.reports.gallery import embedded_picture
from captioning.reports.report import page_environment
from captioning.sources.records import CaptionedPicture
from captioning.system.files import write_json, write_text
from captioning.tracking.console import count_text
from captioning.tracking.curves import Point, smoothed

COLOURS = (1, 3, 4, 5, 6, 7, 8, 2)
"""Numbers of the style sheet's colours in the order in which models get them."""
PICTURES_PER_GROUP = 12
GROUPS = ("apart", "random")
SEED = 0


@dataclass(frozen=True)
class Said:
    """What one model says of a picture."""

    model: str
    colour: int
    picture: CaptionedPicture


@dataclass(frozen=True)
class Card:
    """A picture with every model's caption."""

    picture: tuple[str, int, int]
    """Its address, width and height."""
    said: tuple[Said, ...]
    references: tuple[str, ...]
    groups: tuple[str, ...]
    spread: float
    """Best CIDEr minus worst."""

    @property
    def sort_keys(self) -> dict[str, float]:
        """What the page can sort by."""
        mean = fmean(one.picture.scores[RANKED_BY] for one in self.said)
        return {"spread": self.spread, RANKED_BY: mean}


@dataclass(frozen=True)
class Cell:
    """A figure of the table, with what stands small below it."""

    text: str
    notes: tuple[tuple[str, str], ...] = ()


def write_comparison(
    comparison: Comparison,
    folder: Path,
    *,
    title: str,
    subtitle: str = "",
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write all three files into `folder`, each whole or not at all; the JSON, to which `more` is
    added, comes last. Raises `UserError` for a picture that cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    page = render_comparison(comparison, title=title, subtitle=subtitle)
    write_text(folder / "comparison.html", page)
    write_text(folder / "comparison.md", markdown(comparison, title=title, subtitle=subtitle))
    content = {"title": title, **comparison_json(comparison), **(more or {})}
    write_json(folder / "comparison.json", content)


def print_comparison(folder: Path) -> None:
    """Print the Markdown, and where the files lie."""
    print("\n" + (folder / "comparison.md").read_text(encoding="utf-8"))
    print(f"page      {folder / 'comparison.html'}")
    print(f"numbers   {folder / 'comparison.md'}, {folder / 'comparison.json'}")


def render_comparison(comparison: Comparison, *, title: str, subtitle: str = "") -> str:
    """The whole HTML page."""
    colours = {
        model.name: COLOURS[number % len(COLOURS)]
        for number, model in enumerate(sorted(comparison.models, key=lambda one: one.name))
    }
    runs = [run for model in comparison.models for run in model.runs]
    return (
        page_environment()
        .get_template("comparison.html")
        .render(
            title=title,
            subtitle=subtitle,
            comparison=comparison,
            colours=colours,
            findings=findings(comparison),
            caveats=caveats(comparison),
            score_charts=_score_charts(comparison, colours),
            head=_head(comparison),
            rows=[(model.name, _row(comparison, model)) for model in comparison.models],
            matrices=[(metric, _matrix(comparison, metric)) for metric in COMPARED],
            curves=_curves(comparison, colours),
            cards=_cards(comparison, colours),
            groups=GROUPS,
            protocol=runs[0].protocol,
            shared={
                name: value
                for name, value in runs[0].settings.items()
                if all(run.settings.get(name) == value for run in runs)
            },
            differing={
                model.name: {
                    name: model.runs[0].settings.get(name) for name in comparison.differing
                }
                for model in comparison.models
            },
            hardware=runs[0].hardware,
            interval=interval_text,
            number=number_text,
            p_text=p_text,
            chance=chance_text(comparison),
        )
    )


def picture_groups(comparison: Comparison) -> dict[str, list[int]]:
    """Places of the pictures to show: those on which the models are furthest apart, and others."""
    ciders = [[one.scores[RANKED_BY] for one in run.captions] for run in _first_runs(comparison)]
    spreads = [max(of_picture) - min(of_picture) for of_picture in zip(*ciders, strict=True)]
    by_spread = sorted(range(len(spreads)), key=lambda i: (-spreads[i], i))
    rest = by_spread[PICTURES_PER_GROUP:]
    drawn = random.Random(SEED).sample(rest, min(PICTURES_PER_GROUP, len(rest)))
    return {"apart": by_spread[:PICTURES_PER_GROUP], "random": drawn}


def _first_runs(comparison: Comparison) -> list[RunResult]:
    return [model.runs[0] for model in comparison.models]


def _cards(comparison: Comparison, colours: Mapping[str, int]) -> list[Card]:
    cards = []
    for group, places in picture_groups(comparison).items():
        for place in places:
            said = tuple(
                Said(run.model, colours[run.model], run.captions[place])
                for run in _first_runs(comparison)
            )
            ciders = [one.picture.scores[RANKED_BY] for one in said]
            shown = said[0].picture
            picture = embedded_picture(shown.image)
            spread = max(ciders) - min(ciders)
            cards.append(Card(picture, said, shown.references, (group,), spread))
    return cards


def _score_charts(comparison: Comparison, colours: Mapping[str, int]) -> list[Markup]:
    """A chart a compared score: mean, interval over pictures, a dot a seed."""
    charts = []
    for metric in COMPARED:
        rows = []
        for model in comparison.models:
            score = model.scores[metric]
            assert score.pictures is not None  # both are bootstrapped
            parts = score.each if len(score.each) > 1 else ()
            ends = (score.pictures.low, score.pictures.high)
            rows.append(IntervalRow(model.name, score.value, *ends, parts, colours[model.name]))
        charts.append(interval_chart(rows, name=metric))
    return charts


def _head(comparison: Comparison) -> list[str]:
    return [
        "model",
        *comparison.metrics,
        *(name.replace("_", " ") for name in comparison.truths),
        *("parameters", "features", "time an epoch", "time to the best"),
        *(EFFORT if comparison.has_effort else ()),
    ]


def _row(comparison: Comparison, model: ModelResult) -> list[Cell]:
    cells = []
    for metric in comparison.metrics:
        score, notes = model.scores[metric], []
        if score.pictures:
            notes.append(("pictures", interval_text(score.pictures)))
        if score.seeds:
            notes.append(("seeds", interval_text(score.seeds)))
        cells.append(Cell(number_text(score.value), tuple(notes)))
    cells += [Cell(percent(model.truth[name])) for name in comparison.truths]
    cost = model.cost
    cells.append(
        Cell(
            f"{count_text(cost.parameters_trained)} trained",
            (("", f"{count_text(cost.parameters_frozen)} frozen"),),
        )
    )
    size = (("", f"{bytes_text(cost.feature_bytes)} a picture"),)
    cells.append(
        Cell(f"{cost.feature_tokens} × {cost.feature_width}", size)
        if cost.feature_tokens
        else Cell("–")
    )
    cells.append(Cell(duration_text(model.seconds_an_epoch)))
    epochs = () if model.epochs_to_best is None else (("", f"epoch {model.epochs_to_best:.3g}"),)
    cells.append(Cell(duration_text(model.seconds_to_best), epochs))
    return [*cells, *(map(Cell, effort_texts(model)) if comparison.has_effort else ())]


def _matrix(comparison: Comparison, metric: str) -> list[tuple[str, list[PairDifference | None]]]:
    """A row a model: how far it is ahead of each other one; None on the diagonal."""
    names = [model.name for model in comparison.models]
    return [
        (
            row,
            [
                None if row == column else comparison.difference(row, column, metric)
                for column in names
            ],
        )
        for row in names
    ]


def _curves(comparison: Comparison, colours: Mapping[str, int]) -> list[Markup]:
    """Validation scores over steps and minutes, training loss; a line a run, a label a model."""

    def lines(points: Any) -> list[Series]:
        return [
            Series(model.name if number == 0 else "", points(run), colours[model.name])
            for model in comparison.models
            for number, run in enumerate(model.runs)
        ]

    panels = (
        (f"{RANKED_BY} of the validation split", "step", lines(_by_step), True),
        (f"{RANKED_BY} over training time", "minutes", lines(_by_minutes), True),
        ("Training loss per token", "step", lines(_losses), False),
    )
    return [
        line_chart(series, name=name, x_label=x_label, from_zero=from_zero)
        for name, x_label, series, from_zero in panels
        if any(line.points for line in series)
    ]


def _by_step(run: RunResult) -> tuple[Point, ...]:
    return tuple((one.step, one.score) for one in run.curve if one.score is not None)


def _by_minutes(run: RunResult) -> tuple[Point, ...]:
    return tuple(
        (round(one.seconds / 60, 2), one.score)
        for one in run.curve
        if one.score is not None and one.seconds is not None
    )


def _losses(run: RunResult) -> tuple[Point, ...]:
    return tuple(smoothed(run.losses))
