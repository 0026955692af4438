"""Charts as inline SVG, drawn for a page that has the colours: `--series-1` ... in its style sheet.

A chart is a few kilobytes of text that scales with the page and follows light and dark, which a
picture of a plotting library does not. Pure functions of numbers; nothing is read or written.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from captioning.tracking.curves import Point

WIDTH, HEIGHT = 380, 236
LEFT, RIGHT, TOP, BOTTOM = 48, 368, 12, 198
"""The plot's rectangle inside the drawing; labels stand in the rest."""
ROW_PIXELS = 38
"""Height of a row of intervals, its label included."""
TICKS = 5
LINE_POINTS = 300
"""Points of a line at most: more cannot be told apart at this width."""
DOT_MARKERS = 40
"""A line with at most so many points shows each as a dot."""
NORMAL_95 = 1.959963984540054
"""Standard deviations that hold 95 % of a normal distribution around its mean."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    """What it is; "" keeps it out of the legend."""
    points: tuple[Point, ...]
    colour: int
    """Number of its colour in the style sheet, from 1."""
    style: Literal["line", "faint"] = "line"


@dataclass(frozen=True)
class IntervalRow:
    """One row of a chart of intervals."""

    label: str
    value: float
    low: float
    high: float
    parts: tuple[float, ...]
    """What the value is the mean of."""
    colour: int


@dataclass(frozen=True)
class ConfidenceBin:
    """The captions whose confidence falls into one range."""

    confidence: float
    """Their mean confidence."""
    share_right: float
    low: float
    """Lower end of the 95 % interval of `share_right`."""
    high: float
    """Upper end of it."""
    count: int


@dataclass(frozen=True)
class Axis:
    """Numbers from `low` to `high` along pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    step: float
    """Distance of two ticks; ticks are its multiples."""

    @classmethod
    def fitted(cls, low: float, high: float, start: float, end: float) -> "Axis":
        """An axis of just these numbers, with about `TICKS` ticks at round ones."""
        return cls(low, high, start, end, _round_step((high - low) / TICKS))

    @classmethod
    def rounded(cls, low: float, high: float, start: float, end: float) -> "Axis":
        """An axis that begins and ends with a tick."""
        step = _round_step(((high - low) or 1.0) / TICKS)
        first = math.floor(low / step + 1e-9)
        last = max(math.ceil(high / step - 1e-9), first + 1)
        return cls(first * step, last * step, start, end, step)

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """The multiples of `step` on the axis."""
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [number * self.step for number in range(first, last + 1)]


def line_chart(
    series: Sequence[Series], *, name: str, from_zero: bool = False, x_label: str = "step"
) -> Markup:
    """Lines over `x_label` from 0; series without points are left out, one must have some."""
    shown = [line for line in series if line.points]
    xs = [x for line in shown for x, _ in line.points]
    ys = [y for line in shown for _, y in line.points]
    x = Axis.fitted(0.0, max(xs) or 1.0, LEFT, RIGHT)
    y = Axis.rounded(0.0 if from_zero else min(ys), max(ys), BOTTOM, TOP)
    parts = [_grid(x, y, x_label=x_label)]
    for line in shown:
        parts += _line(line, x, y, x_label)
    return _chart(name, parts, [(line.label, line.colour) for line in shown if line.label])


def histogram(
    values: Sequence[float],
    *,
    name: str,
    x_label: str,
    whole: bool = False,
    compared: Sequence[float] = (),
    labels: tuple[str, str] = ("captions", "references"),
) -> Markup:
    """Share of `values` in each bin, its median marked; `compared` is drawn as an outline.

    `whole` numbers get a bin each, as long as 40 bins hold them.
    """
    edges = _bin_edges([*values, *compared], whole=whole)
    shares, outline = _shares(values, edges), _shares(compared, edges)
    x = Axis.fitted(edges[0], edges[-1], LEFT, RIGHT)
    y = Axis.rounded(0.0, max(*shares, *outline), BOTTOM, TOP)
    parts = [_grid(x, y, x_label=x_label, percent=True, shift=0.5 if whole else 0.0)]
    for low, high, share in zip(edges, edges[1:], shares, strict=False):
        if share:
            width = max(x(high) - x(low) - 1.5, 0.8)
            parts.append(
                f'<rect class="bar" x="{x(low) + 0.75:.1f}" y="{y(share):.1f}" width="{width:.1f}" '
                f'height="{BOTTOM - y(share):.1f}" rx="1.5">'
                f"<title>{_range_label(low, high, whole)}: {share:.1%}</title></rect>"
            )
    if compared:
        steps = [
            f"{x(edge):.1f},{y(share):.1f}"
            for low, high, share in zip(edges, edges[1:], outline, strict=False)
            for edge in (low, high)
        ]
        parts.append(f'<polyline class="line series-3" points="{" ".join(steps)}"/>')
    parts.append(_median_mark(values, x, shift=0.5 if whole else 0.0))
    return _chart(name, parts, [(labels[0], 1), (labels[1], 3)] if compared else [])


def calibration_chart(bins: Sequence[ConfidenceBin], *, name: str) -> Markup:
    """Share right over confidence: dots as large as their captions are many, 95 % intervals."""
    x, y = Axis.fitted(0, 1, LEFT, RIGHT), Axis.rounded(0, 1, BOTTOM, TOP)
    parts = [_grid(x, y, x_label="confidence", percent=True)]
    parts.append(f'<path class="diagonal" d="M{LEFT} {BOTTOM}L{RIGHT} {TOP}"/>')
    largest = max(group.count for group in bins)
    for group in bins:
        at, radius = x(group.confidence), 3 + 6 * math.sqrt(group.count / largest)
        parts.append(
            f'<path class="whisker" d="M{at:.1f} {y(group.low):.1f}V{y(group.high):.1f}"/>'
            f'<circle class="dot series-1" cx="{at:.1f}" cy="{y(group.share_right):.1f}" '
            f'r="{radius:.1f}"><title>{group.count} captions of confidence '
            f"{group.confidence:.2f}: {group.share_right:.0%} right "
            f"({group.low:.0%} to {group.high:.0%})</title></circle>"
        )
    return _chart(name, parts, [])


def interval_chart(rows: Sequence[IntervalRow], *, name: str) -> Markup:
    """A row each: a large dot for the value, a bar for its interval, small dots for its parts."""
    ends = [end for row in rows for end in (row.value, row.low, row.high, *row.parts)]
    low, high = min(ends), max(ends)
    margin = 0.04 * (high - low or abs(high) or 1.0)
    x = Axis.fitted(low - margin, high + margin, 10, WIDTH - 10)
    bottom = ROW_PIXELS * len(rows) + 4
    parts = []
    for tick in x.ticks():
        parts.append(
            f'<path class="grid" d="M{x(tick):.1f} 0V{bottom}"/><text x="{x(tick):.1f}" '
            f'y="{bottom + 16}" text-anchor="middle">{short_number(tick)}</text>'
        )
    for number, row in enumerate(rows):
        middle, colour = ROW_PIXELS * number + 26, f"series-{row.colour}"
        parts.append(
            f'<text class="strong" x="10" y="{middle - 11}">{escape(row.label)}</text>'
            f'<path class="line {colour}" d="M{x(row.low):.1f} {middle}H{x(row.high):.1f}"/>'
        )
        parts += [
            f'<circle class="part {colour}" cx="{x(part):.1f}" cy="{middle}" r="2.6"/>'
            for part in row.parts
        ]
        parts.append(
            f'<circle class="dot {colour}" cx="{x(row.value):.1f}" cy="{middle}" r="5.5">'
            f"<title>{escape(row.label)} {row.value:.3f}, {row.low:.3f} to {row.high:.3f}</title>"
            "</circle>"
        )
    return _chart(name, parts, [], height=bottom + 22)


def thinned(points: Sequence[Point], limit: int = LINE_POINTS) -> tuple[Point, ...]:
    """At most `limit` points, evenly taken, the last one among them."""
    if len(points) <= limit:
        return tuple(points)
    return tuple(points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit))


def short_number(value: float) -> str:
    """A number for an axis: 12k, 3M, 0.25, 5e-4."""
    size = abs(value)
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if size >= factor:
            return f"{value / factor:.3g}{unit}"
    if 0 < size < 0.001:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}"


def _chart(
    name: str, parts: Iterable[str], legend: Sequence[tuple[str, int]], height: int = HEIGHT
) -> Markup:
    entries = "".join(
        f'<span class="series-{colour}">{escape(label)}</span>' for label, colour in legend
    )
    return Markup(
        f'<figure class="chart"><figcaption><b>{escape(name)}</b>'
        f'<span class="legend">{entries}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _grid(x: Axis, y: Axis, *, x_label: str, percent: bool = False, shift: float = 0.0) -> str:
    """Horizontal lines, the numbers of both axes (those of x moved by `shift`), the x label."""
    parts = []
    for tick in y.ticks():
        text = f"{tick:.0%}" if percent else short_number(tick)
        parts.append(
            f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{RIGHT}"/>'
            f'<text x="{LEFT - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{text}</text>'
        )
    for tick in x.ticks():
        at = x(tick + shift)
        if at <= RIGHT + 0.5:
            parts.append(
                f'<text x="{at:.1f}" y="{BOTTOM + 16}" text-anchor="middle">'
                f"{short_number(tick)}</text>"
            )
    middle = (LEFT + RIGHT) / 2
    label = escape(x_label)
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{label}</text>')
    return "".join(parts)


def _line(line: Series, x: Axis, y: Axis, x_label: str) -> list[str]:
    places = [(x(a), y(b)) for a, b in thinned(line.points)]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    parts = [f'<polyline class="{line.style} series-{line.colour}" points="{path}"/>']
    if line.style == "line" and len(line.points) <= DOT_MARKERS:
        parts += [
            f'<circle class="dot series-{line.colour}" cx="{at:.1f}" cy="{height:.1f}" r="3">'
            f"<title>{escape(line.label)} {value:.4g} at {escape(x_label)} {step:g}"
            "</title></circle>"
            for (at, height), (step, value) in zip(places, line.points, strict=True)
        ]
    return parts


def _median_mark(values: Sequence[float], x: Axis, *, shift: float) -> str:
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    at = x(median + shift)
    anchor = "end" if at > RIGHT - 90 else "start"
    return (
        f'<path class="median" d="M{at:.1f} {TOP}V{BOTTOM}"/>'
        f'<text class="strong" x="{at + (5 if anchor == "start" else -5):.1f}" y="{TOP + 9}" '
        f'text-anchor="{anchor}">median {short_number(median)}</text>'
    )


def _bin_edges(values: Sequence[float], *, whole: bool) -> list[float]:
    low, high = min(values), max(values)
    if whole and high - low < 40:
        return [float(edge) for edge in range(math.floor(low), math.floor(high) + 2)]
    step = _round_step((high - low or 1.0) / 24)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9) + 1
    return [number * step for number in range(first, last + 1)]


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    counts = [0] * (len(edges) - 1)
    step = edges[1] - edges[0]
    for value in values:
        counts[min(int((value - edges[0]) / step + 1e-9), len(counts) - 1)] += 1
    return [count / max(len(values), 1) for count in counts]


def _range_label(low: float, high: float, whole: bool) -> str:
    if whole and high - low == 1:
        return f"{low:g}"
    return f"{short_number(low)} to {short_number(high)}"


def _round_step(rough: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) at or above a rough step, which rounding
    may have made 0."""
    rough = max(rough, sys.float_info.min)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def confidence_bins(
    confidences: Sequence[float], right: Sequence[bool], *, bins: int = 10
) -> list[ConfidenceBin]:
    """Ranges of equal width over 0 to 1, those without captions left out."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for confidence, is_right in zip(confidences, right, strict=True):
        members[min(int(confidence * bins), bins - 1)].append((confidence, is_right))
    return [_bin(pairs) for pairs in members if pairs]


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """Expected calibration error: mean distance of confidence and share right, by captions.

    Guo et al., 2017, On Calibration of Modern Neural Networks, equation 3.
    """
    total = sum(group.count for group in bins)
    return sum(group.count * abs(group.share_right - group.confidence) for group in bins) / total


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927): sensible for few trials and for 0 and 1."""
    share, z = successes / count, NORMAL_95
    centre = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def _bin(pairs: Sequence[tuple[float, bool]]) -> ConfidenceBin:
    successes = sum(is_right for _, is_right in pairs)
    low, high = wilson_interval(successes, len(pairs))
    return ConfidenceBin(
        confidence=math.fsum(confidence for confidence, _ in pairs) / len(pairs),
        share_right=successes / len(pairs),
        low=low,
        high=high,
        count=len(pairs),
    )
