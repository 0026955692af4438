"""Does a confidence of 0.8 mean right 8 times in 10? Confidence against share right, in bins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NORMAL_95 = 1.959963984540054
"""Standard deviations that hold 95 % of a normal distribution around its mean."""


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
