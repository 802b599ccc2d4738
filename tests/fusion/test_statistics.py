"""Intervals against published figures and against what must hold of them."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.statistics import Interval, disjoint, histogram, mean_of_shares, quantiles, wilson

shares = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_the_published_bounds(successes, n, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    interval = wilson(successes, n)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@given(shares)
def test_wilson_holds_its_share_and_stays_within_0_and_1(share):
    successes, n = share
    interval = wilson(successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.n == n
    assert wilson(n - successes, n).low == pytest.approx(1 - interval.high)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_share(successes, n):
    with pytest.raises(ValueError, match="no share"):
        wilson(successes, n)


@given(shares)
def test_mean_of_one_share_is_that_share(share):
    alone = wilson(*share)
    mean = mean_of_shares([alone])
    assert mean.n == alone.n
    assert (mean.value, mean.low, mean.high) == pytest.approx((alone.value, alone.low, alone.high))


@given(st.lists(shares, min_size=2, max_size=6))
def test_mean_lies_within_its_bounds_and_they_are_tighter_than_the_parts(drawn):
    parts = [wilson(*share) for share in drawn]
    mean = mean_of_shares(parts)
    assert 0 <= mean.low <= mean.value <= mean.high <= 1
    widths = [part.high - part.low for part in parts]
    assert mean.high - mean.low <= sum(widths) / len(widths) + 1e-12
    assert mean == mean_of_shares(parts[::-1])


def test_mean_weighs_domains_alike_whatever_their_size():
    assert mean_of_shares([wilson(0, 1000), wilson(10, 10)]).value == 0.5


def test_mean_covers_the_truth_in_95_of_100_runs():
    rng, truths, sizes, covered = random.Random(0), (0.9, 0.5, 0.2), (60, 40, 80), 0
    for _ in range(1500):
        parts = [
            wilson(sum(rng.random() < p for _ in range(n)), n)
            for p, n in zip(truths, sizes, strict=True)
        ]
        mean = mean_of_shares(parts)
        covered += mean.low <= sum(truths) / 3 <= mean.high
    assert 0.93 <= covered / 1500 <= 0.97


def test_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        mean_of_shares([])


def test_intervals_that_touch_are_not_disjoint():
    low, middle, high = (Interval(x, x - 0.1, x + 0.1, 9) for x in (0.1, 0.3, 0.75))
    assert disjoint(low, high)
    assert disjoint(high, low)
    assert not disjoint(Interval(0.1, 0.0, 0.2, 9), Interval(0.3, 0.2, 0.4, 9))
    assert not disjoint(middle, middle)


def test_quantiles_interpolate_and_pass_over_what_is_not_finite():
    values = [0.0, math.nan, 10.0, math.inf, 5.0]
    assert quantiles(values, (0, 0.25, 0.5, 1)) == (0.0, 2.5, 5.0, 10.0)
    assert quantiles([math.nan]) == ()


def test_histogram_counts_every_finite_value_once():
    counted = histogram([0.0, 0.1, 0.9, 1.0, math.nan], bins=2)
    assert counted.edges == (0.0, 0.5, 1.0)
    assert counted.counts == (2, 2)
    assert histogram([]).counts == ()
