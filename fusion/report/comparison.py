"""How much better one model is than another on the same held-out prompts."""

from math import sqrt
from typing import NamedTuple

import polars as pl

from fusion.statistics import wilson


class Difference(NamedTuple):
    """Accuracy of one model less another's; low and high bound it with 95 % confidence."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def compare(verdicts: pl.DataFrame, model: str, other: str) -> Difference | None:
    """The paired difference, averaged over the domains that both were asked; None without any.

    verdicts: prompt_id, domain, model and is_correct, one row a model and prompt.
    """
    ours = verdicts.filter(pl.col("model") == model)
    theirs = verdicts.filter(pl.col("model") == other).select("prompt_id", other="is_correct")
    paired = ours.join(theirs, on="prompt_id")
    if paired.is_empty():
        return None
    by_domain = [
        _paired_difference(group["is_correct"], group["other"])
        for _, group in paired.group_by("domain", maintain_order=True)
    ]
    return _average(by_domain)


def _paired_difference(ours: pl.Series, theirs: pl.Series) -> Difference:
    """The score interval of a difference of paired shares, phi taken as it is.

    Source: R. G. Newcombe, Improved confidence intervals for the difference between binomial
    proportions based on paired data, Statistics in Medicine 17 (1998).
    """
    n = len(ours)
    both, only_ours = int((ours & theirs).sum()), int((ours & ~theirs).sum())
    only_theirs = int((~ours & theirs).sum())
    neither = n - both - only_ours - only_theirs
    first = wilson(both + only_ours, n)
    second = wilson(both + only_theirs, n)
    sides = (both + only_ours) * (only_theirs + neither) * (both + only_theirs)
    sides *= only_ours + neither
    phi = (both * neither - only_ours * only_theirs) / sqrt(sides) if sides else 0.0
    value = first.value - second.value
    down = _combine(first.value - first.low, second.high - second.value, phi)
    up = _combine(first.high - first.value, second.value - second.low, phi)
    return Difference(value, value - down, value + up)


def _combine(first: float, second: float, phi: float) -> float:
    return sqrt(max(0.0, first**2 - 2 * phi * first * second + second**2))


def _average(differences: list[Difference]) -> Difference:
    """The mean, its distances to the bounds combined as those of independent estimates."""
    n = len(differences)
    value = sum(d.value for d in differences) / n
    down = sqrt(sum((d.value - d.low) ** 2 for d in differences)) / n
    up = sqrt(sum((d.high - d.value) ** 2 for d in differences)) / n
    return Difference(value, value - down, value + up)
