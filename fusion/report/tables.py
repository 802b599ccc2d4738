"""The tables: every number that a chart shows, and some that none does."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from fusion.report.accuracy import Accuracy, domains_of
from fusion.report.data import ReportData
from fusion.report.figures import colour_name
from fusion.report.result import tokens_per_second
from fusion.report.text import format_duration, format_number, format_percent
from fusion.run import STAGES
from fusion.store import Manifest


class Cell(NamedTuple):
    """What stands in one field: a text, a smaller note, and a bar in a model's colour."""

    text: str
    note: str = ""
    share: float | None = None
    colour: str = ""
    is_best: bool = False


class TableView(NamedTuple):
    """A table as the page shows it; the first `num_labels` columns are words, not numbers."""

    head: list[str]
    rows: list[list[Cell]]
    num_labels: int = 1


def accuracy_table(accuracy: Accuracy, sources: Sequence[str]) -> TableView:
    """Models below each other, domains side by side; the best of each domain marked."""
    domains = domains_of(accuracy)
    best = {
        domain: max(of[domain].value for of in accuracy.values() if domain in of)
        for domain in domains
    }
    rows = []
    for model, of in accuracy.items():
        cells = [Cell(model, colour=colour_name(model, sources))]
        for domain in domains:
            if domain not in of:
                cells.append(Cell("\N{EN DASH}"))
                continue
            interval = of[domain]
            bounds = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}, n {interval.n:,}"
            text, is_best = format_percent(interval.value), interval.value == best[domain]
            cells.append(Cell(text, bounds, is_best=is_best))
        rows.append(cells)
    return TableView(["model", *domains], rows)


def held_out_reward_table(data: ReportData) -> TableView | None:
    """Mean reward of held-out answers by model and domain; None where none were judged."""
    judged = data.results.filter(pl.col("reward").is_finite())
    if judged.is_empty():
        return None
    means = judged.group_by("model", "domain").agg(pl.col("reward").mean())
    domains = sorted(means["domain"].unique())
    found = {(model, domain): mean for model, domain, mean in means.iter_rows()}
    rows = [
        [
            Cell(model, colour=colour_name(model, data.sources)),
            *(_mean_cell(found.get((model, domain))) for domain in domains),
        ]
        for model in data.models
        if any((model, domain) in found for domain in domains)
    ]
    return TableView(["model", *domains], rows)


def _mean_cell(mean: float | None) -> Cell:
    if mean is None:
        return Cell("\N{EN DASH}")
    return Cell(f"{mean:.3f}")


def yield_table(yields: pl.DataFrame, sources: Sequence[str]) -> TableView | None:
    """From answers to training rows by domain and source; None before anything was selected."""
    if yields.is_empty():
        return None
    most = {kind: max(1, *yields[kind]) for kind in ("pairs", "sft")}
    rows = [
        [
            Cell(row["domain"]),
            Cell(row["source"], colour=colour_name(row["source"], sources)),
            Cell(format_number(row["answers"])),
            _correct_cell(row["correct"], row["answers"]),
            *(
                Cell(
                    format_number(row[kind]),
                    share=row[kind] / most[kind],
                    colour=colour_name(row["source"], sources),
                )
                for kind in ("pairs", "sft")
            ),
        ]
        for row in yields.iter_rows(named=True)
    ]
    head = ["domain", "source", "answers", "correct", "pairs", "sft rows"]
    return TableView(head, rows, num_labels=2)


def _correct_cell(correct: int | None, answers: int) -> Cell:
    if correct is None:
        return Cell("\N{EN DASH}", "not checked")
    share = correct / answers if answers else 0.0
    return Cell(format_number(correct), format_percent(share))


def left_out_table(manifests: Mapping[str, Manifest]) -> TableView | None:
    """What each stage dropped by rule or put into quarantine; None where nothing was."""
    rows = []
    for stage, manifest in _in_order(manifests):
        counts = manifest.counts
        for fate, reasons in (("dropped", counts.dropped), ("quarantined", counts.quarantined)):
            for reason, number in sorted(reasons.items(), key=lambda item: -item[1]):
                words = reason.replace("_", " ")
                unit = counts.unit
                rows.append(
                    [Cell(stage), Cell(fate), Cell(words), Cell(format_number(number), unit)]
                )
    return TableView(["stage", "what became of it", "why", "count"], rows, 3) if rows else None


def reward_table(rewards: pl.DataFrame, sources: Sequence[str]) -> TableView | None:
    """Quantiles of the rewards by domain and source; None without rewards."""
    if rewards.is_empty():
        return None
    order = pl.DataFrame({"source": list(sources), "order": list(range(len(sources)))})
    summary = (
        rewards.group_by("domain", "source")
        .agg(
            pl.len().alias("n"),
            *(pl.col("reward").quantile(q, "linear").alias(f"p{q}") for q in (0.1, 0.5, 0.9)),
        )
        .join(order, on="source")
        .sort("domain", "order")
    )
    rows = [
        [
            Cell(row["domain"]),
            Cell(row["source"], colour=colour_name(row["source"], sources)),
            Cell(format_number(row["n"])),
            *(Cell(f"{row[name]:.3f}") for name in ("p0.1", "p0.5", "p0.9")),
        ]
        for row in summary.iter_rows(named=True)
    ]
    return TableView(["domain", "source", "answers", "10%", "median", "90%"], rows, 2)


def measure_lengths(results: pl.DataFrame, models: Sequence[str]) -> pl.DataFrame:
    """Quantiles of reply tokens by model and domain, and the share that hit the limit."""
    tokens = pl.col("completion_tokens")
    quantiles = [tokens.quantile(q / 100, "linear").alias(f"p{q}") for q in (10, 25, 50, 75, 90)]
    order = pl.DataFrame(
        {"model": list(models), "order": list(range(len(models)))},
        schema={"model": pl.String, "order": pl.Int64},
    )
    return (
        results.filter(tokens.is_not_null())
        .group_by("model", "domain")
        .agg(
            *quantiles,
            pl.len().alias("n"),
            (pl.col("finish_reason") == "length").mean().alias("truncated"),
        )
        .join(order, on="model")
        .sort("order", "domain")
        .drop("order")
    )


def length_table(lengths: pl.DataFrame, sources: Sequence[str]) -> TableView | None:
    """The lengths of every model by domain; None without replies."""
    if lengths.is_empty():
        return None
    rows = [
        [
            Cell(row["model"], colour=colour_name(row["model"], sources)),
            Cell(row["domain"]),
            Cell(format_number(row["n"])),
            *(Cell(format_number(row[name])) for name in ("p10", "p50", "p90")),
            Cell(format_percent(row["truncated"])),
        ]
        for row in lengths.iter_rows(named=True)
    ]
    head = ["model", "domain", "replies", "10%", "median", "90%", "cut at the limit"]
    return TableView(head, rows, 2)


def stage_table(manifests: Mapping[str, Manifest]) -> TableView | None:
    """What went in and out of each stage, its tokens and its time; None before any finished."""
    if not manifests:
        return None
    rates = tokens_per_second(manifests)
    head = ["stage", "in", "out", "dropped", "quarantined", "tokens", "tokens a second", "time"]
    return TableView(head, [_stage_row(s, m, rates.get(s)) for s, m in _in_order(manifests)])


def _stage_row(stage: str, manifest: Manifest, rate: float | None) -> list[Cell]:
    counts = manifest.counts
    tokens = ", ".join(f"{kind} {format_number(n)}" for kind, n in sorted(manifest.tokens.items()))
    total = sum(manifest.tokens.values())
    return [
        Cell(stage),
        Cell(format_number(counts.entered), counts.unit),
        Cell(format_number(counts.results)),
        Cell(format_number(sum(counts.dropped.values()))),
        Cell(format_number(sum(counts.quarantined.values()))),
        Cell(format_number(total), tokens) if total else Cell("\N{EN DASH}"),
        Cell(format_number(rate)) if rate is not None else Cell("\N{EN DASH}"),
        Cell(format_duration(manifest.seconds)),
    ]


def _in_order(manifests: Mapping[str, Manifest]) -> list[tuple[str, Manifest]]:
    return [(stage, manifests[stage]) for stage in STAGES if stage in manifests]
