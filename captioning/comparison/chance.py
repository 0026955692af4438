"""How far two models are apart, and whether chance alone would set them so far apart.

A model's score is the mean over a few seeds, each on the same many pictures. Other seeds would
give another mean, and so would other pictures. Both are chance, and each has a variance:

    seeds      that of the seeds' scores, divided by their number; Student's t with the degrees of
               freedom of Welch (1947), since two models' seeds need not vary alike
    pictures   the bootstrap's, of the difference of the two means on the same resampled pictures,
               less what differs from seed to seed there too and is counted above (two-way
               clustering: Cameron, Gelbach and Miller, 2011)

Each has its own quantile of t, and the half width of the interval is the root of the sum of the
squares, which keeps its level whatever the two variances are (Banerjee, 1960). One t for their sum
(Satterthwaite, 1946) does not: with two seeds that happen to lie close it takes the many degrees of
freedom of the pictures for those of the seeds. `benchmarks/comparison.py` measures both ways.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np

from captioning.comparison.student import quantile, tail
from captioning.metrics.intervals import CONFIDENCE, Interval
from captioning.metrics.ngrams import FloatArray

STEPS = 30
"""Of the search for a p-value, each of which halves what is left."""
SMALLEST = 1e-15
"""No chance is called smaller."""


@dataclass(frozen=True)
class SeedScores:
    """A score of one model: of each of S seeds, on the pictures and on pictures drawn anew."""

    each: tuple[float, ...]
    """On the pictures; [S]."""
    drawn: FloatArray
    """On resampled pictures, which must be the same for all models; [S, samples]."""
    pictures: int
    """How many there are."""

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.each)

    @property
    def seed_variance(self) -> float:
        """Of the mean over seeds, as other seeds would change it; 0 for a single seed."""
        return variance(self.each) / self.seeds if self.seeds > 1 else 0.0

    @property
    def shared_variance(self) -> float:
        """The share of `seed_variance` that comes of pictures: seeds err on different ones."""
        if self.seeds < 2:
            return 0.0
        apart = np.var(self.drawn - self.drawn.mean(axis=0), axis=1, ddof=1).sum()
        return float(apart) / (self.seeds - 1) / self.seeds * _unbiased(self.pictures)


@dataclass(frozen=True)
class Difference:
    """First minus second."""

    value: float
    parts: tuple[tuple[float, float], ...]
    """Variances of which chance is made, each with its degrees of freedom."""
    covers_seeds: bool
    """Whether chance includes other seeds; else it is of pictures alone."""

    @property
    def interval(self) -> Interval:
        """95 %."""
        half = _half_width((1 - CONFIDENCE) / 2, self.parts)
        return Interval(self.value - half, self.value + half)

    @property
    def p_value(self) -> float:
        """Two-sided: how often equal models would be at least so far apart."""
        return _p_value(abs(self.value), self.parts)


def seed_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95 % interval of the mean of some seeds' scores; None for fewer than two."""
    if len(values) < 2:
        return None
    spread = math.sqrt(variance(values) / len(values))
    half = quantile((1 - CONFIDENCE) / 2, len(values) - 1) * spread
    return Interval(fmean(values) - half, fmean(values) + half)


def difference(first: SeedScores, second: SeedScores) -> Difference:
    """The difference of two models on the same two pictures or more.

    Seeds are covered where both models have two or more.
    """
    value = fmean(first.each) - fmean(second.each)
    covers_seeds = min(first.seeds, second.seeds) > 1
    apart = first.drawn.mean(axis=0) - second.drawn.mean(axis=0)
    pictures = float(np.var(apart, ddof=1)) * _unbiased(first.pictures)
    parts: tuple[tuple[float, float], ...] = ((pictures, first.pictures - 1.0),)
    if covers_seeds:
        rest = pictures - first.shared_variance - second.shared_variance
        own = [(one.seed_variance, one.seeds - 1.0) for one in (first, second)]
        total = sum(part for part, _ in own)
        parts = ((max(rest, 0.0), first.pictures - 1.0), (total, _welch(own)))
    return Difference(value, parts, covers_seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm, 1979), to be held against the same limit each."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _welch(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances, each with its own."""
    total = sum(part for part, _ in parts)
    if total == 0:
        return sum(freedom for _, freedom in parts)
    return 1 / sum((part / total) ** 2 / freedom for part, freedom in parts)


def _half_width(chance: float, parts: Sequence[tuple[float, float]]) -> float:
    """Half the interval that leaves `chance` on either side; of (variance, degrees of freedom)."""
    return math.sqrt(sum(part * quantile(chance, freedom) ** 2 for part, freedom in parts if part))


def _p_value(distance: float, parts: Sequence[tuple[float, float]]) -> float:
    """Two-sided: what the interval that just reaches over `distance` leaves out."""
    parts = [(part, freedom) for part, freedom in parts if part > 0]
    if not parts:
        return float(distance == 0)
    t = distance / math.sqrt(sum(part for part, _ in parts))
    # Between what t would be with the most degrees of freedom for all, and with the fewest.
    low, high = (tail(t, extreme(freedom for _, freedom in parts)) for extreme in (max, min))
    if high - low <= 1e-12 or high < SMALLEST:
        return 2 * max(high, SMALLEST)
    low, high = math.log(max(low, SMALLEST)), math.log(high)
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _half_width(math.exp(middle), parts) > distance:
            low = middle
        else:
            high = middle
    return 2 * math.exp(high)


def _unbiased(pictures: int) -> float:
    """The bootstrap's variance is that of the sample, with a divisor that is too large by one."""
    return pictures / (pictures - 1)
