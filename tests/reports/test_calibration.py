"""Calibration: bins, intervals and error against values worked out by hand."""

import pytest

from captioning.reports.charts import calibration_error, confidence_bins, wilson_interval


def test_bins_hold_their_captions() -> None:
    confidences = [0.0, 0.05, 0.95, 1.0, 0.91]
    low, high = confidence_bins(confidences, [False, True, True, True, False])
    assert (low.count, low.share_right) == (2, 0.5)
    assert low.confidence == pytest.approx(0.025)
    assert high.count == 3
    assert high.share_right == pytest.approx(2 / 3)
    assert high.low < 2 / 3 < high.high


def test_the_error_weighs_bins_by_their_captions() -> None:
    # Three captions at 0.9 of which all are right, one at 0.4 that is wrong:
    # 3/4 of |1 - 0.9| and 1/4 of |0 - 0.4|.
    bins = confidence_bins([0.9, 0.9, 0.9, 0.4], [True, True, True, False])
    assert calibration_error(bins) == pytest.approx(0.75 * 0.1 + 0.25 * 0.4)


@pytest.mark.parametrize(
    ("successes", "count", "expected"),
    [(5, 10, (0.2366, 0.7634)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))],
)
def test_wilson_intervals(successes: int, count: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(successes, count) == pytest.approx(expected, abs=5e-5)
