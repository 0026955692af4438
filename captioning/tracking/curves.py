"""Learning curves: the lines of a run's `metrics.jsonl` drawn as `curves.png`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captioning.system.files import atomic_write

TRAINING_COLOUR = "#9aa5b1"
VALIDATION_COLOUR = "#1f6feb"
METRIC_COLOURS = ("#d1495b", "#2a9d8f", "#edae49", "#6f4e9b", "#00798c")
SHOWN_METRICS = ("CIDEr", "BLEU-4", "ROUGE-L", "METEOR", "SPICE")
PANEL = (5.2, 3.8)
"""Width and height of a panel, inches."""
SMOOTHED_POINTS = 40
"""The smoothed training curve averages about a fortieth of the run."""

Point = tuple[float, float]


def draw_curves(lines: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw loss, caption metrics and learning rate over steps; whole or not at all.

    `lines` are those of `metrics.jsonl`; a panel without numbers is left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [
        draw
        for draw, has_numbers in (
            (_draw_loss, any("loss" in line or "validation_loss" in line for line in lines)),
            (_draw_metrics, any(name in line for line in lines for name in SHOWN_METRICS)),
            (_draw_learning_rate, any("learning_rate" in line for line in lines)),
        )
        if has_numbers
    ]
    if not panels:
        return
    # Margins are given: to find them, matplotlib would lay all of it out once more.
    width, height = PANEL[0] * len(panels), PANEL[1]
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=0.55 / width,
        right=1 - 0.15 / width,
        bottom=0.5 / height,
        top=1 - 0.65 / height,
        wspace=0.75 / (PANEL[0] - 0.75),
    )
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", fontweight="bold")
    for draw, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        draw(axes, lines)
        axes.set_xlabel("step")
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9aa5b1")
        axes.tick_params(colors="#52606d", labelsize=9)
        axes.margins(x=0.02)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=9)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=130)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Each value replaced by the mean of it and the few before it."""
    window = max(1, len(points) // SMOOTHED_POINTS)
    means = []
    for i, (step, _) in enumerate(points):
        nearby = points[max(0, i - window + 1) : i + 1]
        means.append((step, sum(value for _, value in nearby) / len(nearby)))
    return means


def _draw_loss(axes: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    training, validation = _points(lines, "loss"), _points(lines, "validation_loss")
    _plot(axes, training, color=TRAINING_COLOUR, alpha=0.35, linewidth=0.8)
    _plot(axes, smoothed(training), color=TRAINING_COLOUR, linewidth=1.8, label="training")
    _plot(axes, validation, "o-", color=VALIDATION_COLOUR, markersize=4, label="validation")
    axes.set_title("Loss per token", loc="left", fontsize=11)


def _draw_metrics(axes: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    if rewards := _points(lines, "reward"):
        label = "reward of samples (CIDEr-D)"
        _plot(axes, smoothed(rewards), color=TRAINING_COLOUR, linewidth=1.8, label=label)
    for name, colour in zip(SHOWN_METRICS, METRIC_COLOURS, strict=True):
        if scores := _points(lines, name):
            _plot(axes, scores, "o-", color=colour, markersize=4, label=name)
    axes.set_ylim(bottom=0)
    axes.set_title("Captions of the validation split", loc="left", fontsize=11)


def _draw_learning_rate(axes: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    _plot(axes, _points(lines, "learning_rate"), color="#52606d", linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("Learning rate", loc="left", fontsize=11)


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """Steps and values of the lines that hold a number of that name."""
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def _plot(axes: Any, points: Sequence[Point], marks: str = "-", **style: Any) -> None:
    axes.plot([step for step, _ in points], [value for _, value in points], marks, **style)
