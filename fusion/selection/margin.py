"""The margin of a pair, and the bounds it keeps to."""

import polars as pl

from fusion.recipe import Margin, Selection

# Rewards are sums of rounded numbers: a margin of 0.1 may read 0.09999999999999998.
SLACK = 1e-9

_COLUMNS = {"domain": pl.String, "low": pl.Float64, "high": pl.Float64, "slack": pl.Float64}


def margin_bounds(
    lowest: pl.DataFrame, prompts: pl.DataFrame, selection: Selection
) -> pl.DataFrame:
    """The bounds on the reward by domain: `low` and `high`, null where there is none.

    Quantiles are taken over the best-against-worst pairs of two different answers, which may be
    few: they interpolate linearly between two margins. `slack` widens the bounds by what rounding
    may cost, or narrows them by it where a pair right at a bound is out.
    """
    margins = lowest.filter(pl.col("response_id") != pl.col("chosen_response_id"))
    margins = margins.join(prompts.select("prompt", "domain"), on="prompt")
    rows = []
    for domain in prompts["domain"].unique().sort():
        of_domain = margins.filter(pl.col("domain") == domain)["margin"]
        band = selection.bounds(domain) or Margin(low=None, high=None)
        low, high = (_bound(bound, band, of_domain) for bound in (band.low, band.high))
        rows.append((domain, low, high, SLACK if band.inclusive else -SLACK))
    return pl.DataFrame(rows, _COLUMNS, orient="row")


def is_too_close() -> pl.Expr:
    """The margin is under its lower bound."""
    return pl.col("margin") < pl.col("low") - pl.col("slack")


def is_too_far() -> pl.Expr:
    """The margin is over its upper bound."""
    return pl.col("margin") > pl.col("high") + pl.col("slack")


def is_in_range() -> pl.Expr:
    """Neither of both; a bound or a margin that is not there holds nobody back."""
    return ~(is_too_close() | is_too_far()).fill_null(False)


def _bound(bound: float | None, band: Margin, margins: pl.Series) -> float | None:
    if bound is None or band.unit == "reward":
        return bound
    return margins.quantile(bound, "linear")
