"""Student's t distribution, which NumPy does not have: tails and quantiles.

The tail is an incomplete beta function (DLMF 26.5 and 8.17), computed by its continued fraction
(DLMF 8.17.22) with Lentz's method; good to nine digits for any degrees of freedom, whole or not.
"""

import math

TINY = 1e-300
EPSILON = 1e-15
MAX_TERMS = 10_000


def tail(t: float, freedom: float) -> float:
    """The chance of a value above `t`, which is 0 or more."""
    if math.isinf(t):
        return 0.0
    whole = freedom + t * t
    return _regularized_beta(freedom / whole, t * t / whole, freedom / 2, 0.5) / 2


def quantile(chance: float, freedom: float) -> float:
    """The value that is exceeded with this chance, of at most one half: the inverse of `tail`."""
    if chance >= 0.5:
        return 0.0
    low, high = 0.0, 1.0
    while tail(high, freedom) > chance:
        low, high = high, 2 * high
        if high > 1e150:
            return math.inf
    value, wanted = (low + high) / 2, math.log(chance)
    for _ in range(200):
        found = tail(value, freedom)
        low, high = (value, high) if found > chance else (low, value)
        # Newton's step on the logarithm of the tail, or the middle where it leads out.
        step = (math.log(found) - wanted) * found / _density(value, freedom)
        following = value + step if low < value + step < high else (low + high) / 2
        if abs(following - value) <= 1e-13 * value:
            break
        value = following
    return value


def _density(t: float, freedom: float) -> float:
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    scale -= math.log(freedom * math.pi) / 2
    return math.exp(scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))


def _regularized_beta(x: float, rest: float, a: float, b: float) -> float:
    """I_x(a, b), where `rest` is 1 - x, at full precision."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _regularized_beta(rest, x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log(rest)) / a
    return front / _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) by Lentz's method."""
    value = c = 1.0
    d = 0.0
    for term in range(1, MAX_TERMS):
        m = term // 2
        if term % 2:
            factor = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1)) * x
        else:
            factor = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m)) * x
        d = 1 / (1 + factor * d or TINY)
        c = 1 + factor / c or TINY
        value *= c * d
        if abs(c * d - 1) < EPSILON:
            break
    return value
