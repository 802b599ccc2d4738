"""Figures with their uncertainty: intervals for shares and for their mean, quantiles, histograms.

Nothing here draws random numbers, so a report comes out the same every time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum, isfinite, sqrt
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate, the bounds of its confidence interval, and how many items it rests on."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie from `edges[i]` up to `edges[i + 1]`; the last bin has both edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """The score interval of a share: sound for small n and at shares of 0 and 1.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22 (1927).

    Raises:
        ValueError: n is not positive, or successes lie outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no share; expected 0 <= successes <= n, n >= 1")
    share = successes / n
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding must not push a bound past the share itself, nor past 0 and 1.
    low, high = max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))
    return Interval(share, low if successes else 0.0, high if successes < n else 1.0, n)


def mean_of_shares(shares: Sequence[Interval]) -> Interval:
    """The unweighted mean of independent shares, such as the accuracies of several domains.

    MOVER, the method of variance estimates recovery: each share's distance to its own Wilson
    bound stands for its standard error, so the bounds stay within 0 and 1 and one share alone
    keeps its Wilson interval. Source: G. Y. Zou, W. Huang, X. Zhang, A note on confidence interval
    estimation for a linear function of binomial proportions, CSDA 53 (2009), equation 2.

    Raises:
        ValueError: there is no share.
    """
    if not shares:
        raise ValueError("no share was given; expected at least one")
    count = len(shares)
    mean = fsum(share.value for share in shares) / count
    below = sqrt(fsum((share.value - share.low) ** 2 for share in shares)) / count
    above = sqrt(fsum((share.high - share.value) ** 2 for share in shares)) / count
    low, high = max(0.0, mean - below), min(1.0, mean + above)
    return Interval(mean, low, high, sum(share.n for share in shares))


def disjoint(a: Interval, b: Interval) -> bool:
    """Whether two intervals have no point in common: a difference beyond doubt at their level.

    It is stricter than a test of the difference; intervals that overlap prove nothing.
    """
    return a.high < b.low or b.high < a.low


def quantiles(
    values: Iterable[float], shares: Sequence[float] = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
) -> tuple[float, ...]:
    """The values below which these shares of the finite values lie, by linear interpolation.

    Empty where there is no finite value.
    """
    finite = _finite(values)
    if not finite.size:
        return ()
    return tuple(float(value) for value in np.quantile(finite, shares))


def histogram(values: Iterable[float], *, bins: int = 20) -> Histogram:
    """The finite values in bins of equal width from the least to the greatest; empty for none."""
    finite = _finite(values)
    if not finite.size:
        return Histogram((), ())
    counts, edges = np.histogram(finite, bins=bins)
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))


def _finite(values: Iterable[float]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.array([value for value in values if isfinite(value)], dtype=np.float64)
