"""The difference of two models with few seeds: by hand, by its properties, by simulation."""

import math

import numpy as np
import pytest

from benchmarks.comparison import Noise, drawn_models, false_alarms, found_shares
from captioning.comparison.chance import SeedScores, difference, holm, seed_interval
from captioning.comparison.student import quantile, tail


def scores(each: list[float], *, noise: float = 0.0, pictures: int = 300) -> SeedScores:
    """Seeds whose resampled scores all move by the same `noise`."""
    shared = np.random.default_rng(0).normal(0, noise, 500)
    return SeedScores(tuple(each), np.array(each)[:, None] + shared, pictures)


def still(value: float, *, noise: float = 0.0) -> SeedScores:
    """One seed; `noise` of the pictures, of its own."""
    drawn = value + np.random.default_rng(1).normal(0, noise, (1, 500))
    return SeedScores((value,), drawn, 300)


def test_the_interval_over_seeds_is_students() -> None:
    assert seed_interval([1.0]) is None
    # Mean 2, deviation 1, three seeds: 4.303 / sqrt(3) = 2.484 either way.
    interval = seed_interval([1.0, 2.0, 3.0])
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)
    many = seed_interval([0.0, 1.0] * 50)
    assert many is not None
    assert many.high == pytest.approx(0.5 + 1.9842 * 0.5025 / 10, abs=1e-3)


def test_where_pictures_do_not_matter_it_is_welchs_test() -> None:
    # By hand: means 2 and 5, variances 1/3 and 4/3, t = 3 / sqrt(5/3), Welch's df 2.941.
    found = difference(scores([1.0, 2.0, 3.0]), scores([3.0, 5.0, 7.0]))
    freedom = (5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)
    t = 3 / math.sqrt(5 / 3)
    assert found.value == -3
    assert found.p_value == pytest.approx(2 * tail(t, freedom), rel=1e-6)
    half = quantile(0.025, freedom) * math.sqrt(5 / 3)
    assert (found.interval.low, found.interval.high) == pytest.approx((-3 - half, -3 + half))
    assert found.covers_seeds


def test_what_was_published_of_resnet_and_vit_does_not_hold() -> None:
    """Means and Student intervals of three seeds gave t = 2.31 on 2 degrees: p is 0.146."""
    resnet, vit = (2.109 - 0.4905, 2.109, 2.109 + 0.4905), (1.453 - 0.031, 1.453, 1.453 + 0.031)
    assert difference(scores(list(resnet)), scores(list(vit))).p_value == pytest.approx(
        0.146, abs=0.003
    )


def test_one_seed_is_of_pictures_alone() -> None:
    found = difference(still(2.0, noise=0.1), scores([1.0, 1.4]))
    assert not found.covers_seeds
    # 1.98: the bootstrap's deviation .1 and a quantile of t on 299 degrees.
    assert found.interval.high - found.value == pytest.approx(0.197, rel=0.1)


def test_the_interval_leaves_out_nothing_where_p_is_below_five_percent() -> None:
    random = np.random.default_rng(5)
    for _ in range(40):
        one, other = drawn_models(random, Noise(0.1, 0.3), seeds=3, models=2, pictures=60)
        found = difference(one, other)
        is_out = found.interval.low > 0 or found.interval.high < 0
        assert is_out == (found.p_value < 0.05)


def test_swapped_models_differ_by_the_opposite() -> None:
    one, other = drawn_models(np.random.default_rng(1), Noise(0.3, 0.1), seeds=3, models=2)
    there, back = difference(one, other), difference(other, one)
    assert there.value == -back.value
    assert there.p_value == pytest.approx(back.p_value)
    assert there.interval.low == pytest.approx(-back.interval.high)


def test_more_noise_of_pictures_makes_less_sure() -> None:
    rows = [difference(still(2.0, noise=n), still(1.0)).p_value for n in (0.2, 0.4, 0.8)]
    assert rows == sorted(rows)
    assert difference(still(1.0), still(1.0)).p_value == 1
    assert difference(still(2.0), still(1.0)).p_value == 0


def test_noise_that_seeds_share_with_pictures_counts_once() -> None:
    """Seeds that differ by which pictures they get right: the variance is that of their mean."""
    random = np.random.default_rng(2)
    models = [
        drawn_models(random, Noise(0.0, 0.0, of_each=0.8), seeds=8, models=1)[0] for _ in range(60)
    ]
    own = np.mean([one.seed_variance for one in models])
    assert np.mean([one.shared_variance for one in models]) == pytest.approx(own, rel=0.15)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .04 times 3, 2, 1; no later one may be smaller than an earlier one.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_four_equal_models_of_three_seeds_are_seldom_told_apart() -> None:
    """Drawing n - 1 of n seeds calls a pair significant in a quarter of such comparisons."""
    assert false_alarms(Noise(0.3, 0.3), seeds=3, models=4, repeats=60) <= 0.12


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("models", [2, 4])
@pytest.mark.parametrize(
    "noise",
    [
        *(Noise(0.0, 0.0), Noise(0.05, 0.05), Noise(0.3, 0.3), Noise(0.3, 0.02), Noise(0.0, 0.3)),
        *(Noise(0.05, 0.05, of_model=0.6, of_each=0.5), Noise(0.3, 0.02, of_model=0.6)),
    ],
)
def test_equal_models_differ_in_five_percent_at_most(seeds: int, models: int, noise: Noise) -> None:
    # 5 % and 2 more, and three standard deviations of what 1,000 repetitions give.
    assert false_alarms(noise, seeds=seeds, models=models, repeats=1000) <= 0.07 + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_a_difference_of_twice_the_noise_is_found_as_often_as_theory_allows(seeds: int) -> None:
    found, theory = found_shares(Noise(0.3, 0.3), seeds=seeds, times=2.0, repeats=2000)
    # Pictures take a little of it; three standard deviations of 2,000 repetitions are 0.03.
    assert theory - 0.06 <= found <= theory + 0.03
