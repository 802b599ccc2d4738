"""Accuracy by model and domain, with 95 % intervals, on held-out prompts that have a verdict."""

from collections.abc import Mapping, Sequence

import polars as pl

from fusion.statistics import Interval, mean_of_shares, wilson

AVERAGE = "average"

Accuracy = Mapping[str, Mapping[str, Interval]]
"""Model -> domain, or AVERAGE -> interval; in the order in which they are shown."""


def read_verdicts(results: pl.DataFrame) -> pl.DataFrame:
    """Prompt, domain, model and is_correct of every held-out answer that could be checked."""
    judged = results.filter(pl.col("verdict").is_not_null())
    is_correct = (pl.col("verdict") == "correct").alias("is_correct")
    return judged.select("prompt_id", "domain", "model", is_correct)


def measure_accuracy(verdicts: pl.DataFrame, models: Sequence[str]) -> Accuracy:
    """The share of correct answers of each model that has verdicts, in the order of `models`."""
    counted = verdicts.group_by("model", "domain").agg(
        pl.col("is_correct").sum().alias("correct"), pl.len().alias("n")
    )
    accuracy = {}
    for model in models:
        rows = counted.filter(pl.col("model") == model).sort("domain")
        domains = {
            str(row["domain"]): wilson(row["correct"], row["n"])
            for row in rows.iter_rows(named=True)
        }
        if domains:
            accuracy[model] = domains | {AVERAGE: mean_of_shares(list(domains.values()))}
    return accuracy


def domains_of(accuracy: Accuracy) -> list[str]:
    """Every domain that any model has, in alphabetical order, the average last."""
    domains = {domain for of in accuracy.values() for domain in of}
    return sorted(domains, key=lambda domain: (domain == AVERAGE, domain))
