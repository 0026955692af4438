"""Student's t against values of tables and of SciPy 1.16."""

import math

import pytest

from captioning.comparison.student import quantile, tail

QUANTILES = {1: 12.7062047362, 2: 4.3026527297, 4: 2.7764451052, 30: 2.0422724563, 1e6: 1.9599663}


@pytest.mark.parametrize("freedom", QUANTILES)
def test_quantiles_are_those_of_tables(freedom: float) -> None:
    assert quantile(0.025, freedom) == pytest.approx(QUANTILES[freedom], rel=1e-7)
    assert tail(QUANTILES[freedom], freedom) == pytest.approx(0.025, rel=1e-6)


def test_tails_at_any_degrees_of_freedom() -> None:
    assert tail(1.0, 1) == pytest.approx(0.25, rel=1e-12)  # Cauchy
    assert tail(0.0, 3.5) == 0.5
    assert tail(5.0, 1.3) == pytest.approx(0.5 - math.atan(5) / math.pi, rel=0.4)  # near Cauchy's
    assert tail(1e3, 2) == pytest.approx((1 - 1e3 / math.sqrt(2 + 1e6)) / 2, rel=1e-6)
    assert tail(math.inf, 2) == 0


@pytest.mark.parametrize("freedom", [0.5, 1, 2.31, 17, 1e4])
@pytest.mark.parametrize("chance", [0.5, 0.4, 0.05, 1e-3, 1e-9, 1e-60])
def test_a_quantile_is_where_the_tail_has_that_chance(freedom: float, chance: float) -> None:
    assert tail(quantile(chance, freedom), freedom) == pytest.approx(chance, rel=1e-8)
