"""Charts: numbers land where the axes say, and odd data makes no odd drawing."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.reports.charts import (
    BOTTOM,
    LEFT,
    LINE_POINTS,
    RIGHT,
    TOP,
    Axis,
    Series,
    calibration_chart,
    confidence_bins,
    histogram,
    line_chart,
    short_number,
    thinned,
)

numbers = st.floats(-1e6, 1e6)


def test_the_axis_and_the_dots_name_what_runs_along_it() -> None:
    chart = line_chart([Series("a", ((0, 1), (1.25, 2)), 1)], name="a", x_label="minutes")
    assert ">minutes</text>" in chart
    assert "a 2 at minutes 1.25" in chart


def test_a_line_runs_from_corner_to_corner() -> None:
    chart = line_chart([Series("loss", ((0, 0), (50, 5), (100, 10)), 1)], name="Loss")
    middle = f"{(LEFT + RIGHT) / 2:.1f},{(BOTTOM + TOP) / 2:.1f}"
    assert f'points="{LEFT}.0,{BOTTOM}.0 {middle} {RIGHT}.0,{TOP}.0"' in chart
    assert chart.count("<circle") == 3
    assert "loss 5 at step 50" in chart


def test_bars_are_shares_and_the_median_is_marked() -> None:
    chart = histogram([1, 1, 1, 2], name="Length", x_label="words", whole=True)
    assert "<title>1: 75.0%</title>" in chart
    assert "<title>2: 25.0%</title>" in chart
    assert "median 1<" in chart


def test_the_calibration_chart_shows_share_and_interval() -> None:
    bins = confidence_bins([0.5] * 4, [True, True, True, False])
    chart = calibration_chart(bins, name="Calibration")
    assert f'cx="{(LEFT + RIGHT) / 2:.1f}" cy="{BOTTOM + 0.75 * (TOP - BOTTOM):.1f}"' in chart
    assert "4 captions of confidence 0.50: 75% right (30% to 95%)" in chart


def test_labels_are_escaped() -> None:
    chart = line_chart([Series("<b>", ((0, 1), (1, 2)), 1)], name="<script>")
    assert "<b>&lt;script&gt;</b>" in chart
    assert "<script>" not in chart


@given(st.lists(numbers, min_size=1, max_size=60), st.booleans())
def test_any_numbers_stay_inside_the_plot(values: list[float], from_zero: bool) -> None:
    points = tuple((float(step), value) for step, value in enumerate(values))
    if from_zero:
        points = tuple((step, abs(value)) for step, value in points)
    chart = line_chart([Series("x", points, 1)], name="x", from_zero=from_zero)
    (drawn,) = re.findall(r'points="([^"]+)"', chart)
    for place in drawn.split():
        x, y = map(float, place.split(","))
        assert LEFT - 0.1 <= x <= RIGHT + 0.1
        assert TOP - 0.1 <= y <= BOTTOM + 0.1


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=60), st.booleans())
def test_every_value_is_in_a_bar(values: list[float], whole: bool) -> None:
    values = [float(int(value)) for value in values] if whole else values
    chart = histogram(values, name="x", x_label="x", whole=whole)
    shares = re.findall(r": ([\d.]+)%</title>", chart)
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.06 * len(shares))


@given(numbers, st.floats(1e-6, 1e6))
def test_a_rounded_axis_holds_its_numbers_between_two_ticks(low: float, size: float) -> None:
    axis = Axis.rounded(low, low + size, BOTTOM, TOP)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    slack = 1e-6 * max(size, abs(low))
    assert ticks[0] - slack <= low <= low + size <= ticks[-1] + slack


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    points = [(float(i), 0.0) for i in range(10_001)]
    kept = thinned(points)
    assert len(kept) == LINE_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12_000, "12k"), (2.5e6, "2.5M"), (0.25, "0.25"), (5e-4, "5e-4"), (-0.1, "-0.1")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short_number(value) == text
