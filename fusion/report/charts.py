"""Which charts the page has, and what each draws."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from fusion.report.accuracy import AVERAGE, Accuracy, domains_of
from fusion.report.data import TARGET_MODELS
from fusion.report.figures import Figure, axis, bars_height, category_axis, colour_name, layout
from fusion.report.text import format_duration, format_number, format_percent
from fusion.report.training import Line, centred_mean, training_curves
from fusion.run import STAGES
from fusion.store import Manifest

_NUM_BINS = 36
_TAIL = 0.005  # share of the most extreme values on each side that a histogram leaves out
_BAR = {"cornerradius": 3}
_SIDES = {"chosen": "@good", "rejected": "@bad"}
_SHORT_LOG, _LONG_LOG = 25, 60  # logged steps: below with markers, from there on smoothed


def accuracy_figures(accuracy: Accuracy, sources: Sequence[str]) -> list[Figure]:
    """One chart a domain, models below each other, with 95% intervals."""
    domains = domains_of(accuracy)
    return [_accuracy_figure(domain, accuracy, sources) for domain in domains]


def _accuracy_figure(domain: str, accuracy: Accuracy, sources: Sequence[str]) -> Figure:
    rows = [(model, of[domain]) for model, of in accuracy.items() if domain in of]
    rows.reverse()  # Plotly draws upwards
    models, intervals = [model for model, _ in rows], [interval for _, interval in rows]
    colours = [f"@{colour_name(model, sources)}" for model in models]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": models,
        "x": [i.value for i in intervals],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [i.high - i.value for i in intervals],
            "arrayminus": [i.value - i.low for i in intervals],
            "color": "@ink",
            "thickness": 1.2,
            "width": 3,
        },
        "marker": {"color": colours, **_BAR},
        "width": 0.58,
        "customdata": [
            [format_percent(i.value), format_percent(i.low), format_percent(i.high), i.n]
            for i in intervals
        ],
        "hovertemplate": "%{y}: %{customdata[0]}<br>95% interval %{customdata[1]} to "
        "%{customdata[2]}<br>%{customdata[3]} prompts<extra></extra>",
    }
    return Figure(
        id=f"accuracy-{domain}",
        title="Average over domains" if domain == AVERAGE else domain,
        label=f"Accuracy, {domain}: "
        + ", ".join(f"{model} {format_percent(i.value)}" for model, i in reversed(rows)),
        height=bars_height(len(rows)),
        traces=[bars],
        layout=layout(
            margin={"l": 8, "r": 64, "t": 4, "b": 8},
            xaxis=axis(range=[0, 1.001], tickformat=".0%", dtick=0.25),
            yaxis=category_axis(),
            annotations=[
                _right_label(model, format_percent(interval.value)) for model, interval in rows
            ],
        ),
    )


def _right_label(row: str, text: str) -> dict[str, Any]:
    return {
        "x": 1,
        "xref": "paper",
        "xanchor": "left",
        "xshift": 10,
        "y": row,
        "text": text,
        "showarrow": False,
        "font": {"color": "@ink", "size": 13},
    }


def reward_figures(rewards: pl.DataFrame, sources: Sequence[str]) -> list[Figure]:
    """One chart a domain: the density of each source's rewards over its train answers."""
    return [
        _reward_figure(str(domain), group, sources)
        for (domain,), group in rewards.group_by("domain", maintain_order=True)
    ]


def _reward_figure(domain: str, rewards: pl.DataFrame, sources: Sequence[str]) -> Figure:
    edges = _bin_edges(rewards["reward"])
    traces = []
    for source in sources:
        values = rewards.filter(pl.col("source") == source)["reward"]
        if len(values):
            traces.append(_density(source, values, edges, colour_name(source, sources)))
    return Figure(
        id=f"rewards-{domain}",
        title=domain,
        label=f"Density of rewards by source, {domain}; medians stand in the table below",
        height=220,
        traces=traces,
        layout=layout(
            hovermode="x unified",
            xaxis=axis(title="reward", range=[edges[0], edges[-1]]),
            yaxis=axis(showticklabels=False, rangemode="tozero", showgrid=False),
        ),
    )


def _bin_edges(values: pl.Series) -> list[float]:
    low = float(values.quantile(_TAIL, "nearest") or 0.0)
    high = float(values.quantile(1 - _TAIL, "nearest") or 0.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    return [low + (high - low) * i / _NUM_BINS for i in range(_NUM_BINS + 1)]


def _density(name: str, values: pl.Series, edges: list[float], colour: str) -> dict[str, Any]:
    step = edges[1] - edges[0]
    inside = values.filter(values.is_between(edges[0], edges[-1]))
    bins = ((inside - edges[0]) / step).cast(pl.Int64).clip(0, _NUM_BINS - 1)
    counts = [0] * _NUM_BINS
    for row in bins.value_counts().iter_rows():
        counts[row[0]] = row[1]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [_rounded((a + b) / 2) for a, b in pairwise(edges)],
        "y": [_rounded(share) for share in _smoothed(_smoothed([c / len(values) for c in counts]))],
        "line": {"color": f"@{colour}", "width": 2, "shape": "spline", "smoothing": 0.6},
        "fill": "tozeroy",
        "fillcolor": f"@{colour}/0.10",
        "hovertemplate": "%{y:.1%}",
    }


def _smoothed(shares: list[float]) -> list[float]:
    """A binomial blur over three bins, so that few answers do not look like a comb."""
    padded = [shares[0], *shares, shares[-1]]
    return [(padded[i - 1] + 2 * padded[i] + padded[i + 1]) / 4 for i in range(1, len(padded) - 1)]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def length_figure(lengths: pl.DataFrame) -> Figure | None:
    """Quartiles of reply lengths of base, sft and dpo by domain; None without replies."""
    traces = [
        _length_boxes(str(model), group)
        for (model,), group in lengths.group_by("model", maintain_order=True)
        if model in TARGET_MODELS
    ]
    if not traces:
        return None
    return Figure(
        id="lengths",
        title="Tokens of a reply",
        label="Reply lengths of base, sft and dpo by domain; the table below has the numbers",
        height=320,
        traces=traces,
        layout=layout(
            boxmode="group",
            boxgap=0.35,
            boxgroupgap=0.25,
            xaxis=category_axis(ticksuffix=""),
            yaxis=axis(title="tokens", rangemode="tozero"),
        ),
    )


def _length_boxes(model: str, lengths: pl.DataFrame) -> dict[str, Any]:
    return {
        "type": "box",
        "name": model,
        "x": lengths["domain"].to_list(),
        "lowerfence": lengths["p10"].to_list(),
        "q1": lengths["p25"].to_list(),
        "median": lengths["p50"].to_list(),
        "q3": lengths["p75"].to_list(),
        "upperfence": lengths["p90"].to_list(),
        "line": {"color": f"@{model}", "width": 1.6},
        "fillcolor": f"@{model}/0.22",
        "hoverinfo": "y+name",
    }


def training_figures(stage: str, log: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Small charts over the steps: loss, learning rate, gradient norm and what else is logged."""
    return [
        Figure(
            id=f"{stage}-{curve.id}",
            title=curve.title,
            label=f"{curve.title} of {stage} over {len(curve.lines[0].steps)} logged steps",
            height=200,
            traces=[
                trace
                for line in curve.lines
                for trace in _line(
                    line, _SIDES.get(line.name, f"@{stage}"), is_noisy=curve.is_noisy
                )
            ],
            layout=layout(
                hovermode="x unified",
                xaxis=axis(title="step", showgrid=False),
                yaxis=axis(nticks=5, exponentformat="e"),
                showlegend=len(curve.lines) > 1,
                legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            ),
        )
        for curve in training_curves(log)
    ]


def _line(line: Line, colour: str, *, is_noisy: bool) -> list[dict[str, Any]]:
    """The line itself; a long noisy one becomes faint and gets a smooth one over it."""
    num_steps, colour = len(line.steps), _SIDES.get(line.name, colour)
    is_faint = is_noisy and num_steps >= _LONG_LOG
    trace = {
        "type": "scatter",
        "mode": "lines+markers" if num_steps < _SHORT_LOG else "lines",
        "name": line.name,
        "x": line.steps,
        "y": [_rounded(value) for value in line.values],
        "line": {"color": f"{colour}/0.30" if is_faint else colour, "width": 1 if is_faint else 2},
        "marker": {"size": 5, "color": colour},
        "hovertemplate": "%{y:.4g}",
        "showlegend": not is_faint,
    }
    if not is_faint:
        return [trace]
    smooth = {
        "y": [_rounded(value) for value in centred_mean(line.values, width=num_steps // 12)],
        "line": {"color": colour, "width": 2},
        "hoverinfo": "skip",
        "hovertemplate": None,
        "showlegend": True,
    }
    return [trace, trace | smooth]


def mix_figures(yields: pl.DataFrame, sources: Sequence[str]) -> list[Figure]:
    """Pairs and sft rows by domain, stacked by source; those of which there are any."""
    titles = {"sft": "Conversations for sft", "pairs": "Preference pairs"}
    return [
        _mix_figure(kind, title, yields.filter(pl.col(kind) > 0), sources)
        for kind, title in titles.items()
        if yields[kind].sum()
    ]


def _mix_figure(kind: str, title: str, rows: pl.DataFrame, sources: Sequence[str]) -> Figure:
    domains = list(reversed(rows["domain"].unique(maintain_order=True).to_list()))
    totals = {domain: sum(rows.filter(pl.col("domain") == domain)[kind]) for domain in domains}
    return Figure(
        id=f"mix-{kind}",
        title=title,
        label=f"{title}: " + ", ".join(f"{d} {format_number(n)}" for d, n in totals.items()),
        height=bars_height(len(domains)),
        traces=[
            _mix_bar(source, domains, rows.filter(pl.col("source") == source), kind, sources)
            for source in sources
        ],
        layout=layout(
            barmode="stack",
            margin={"l": 8, "r": 60, "t": 4, "b": 8},
            xaxis=axis(tickformat=",d", nticks=5),
            yaxis=category_axis(),
            annotations=[_right_label(d, format_number(n)) for d, n in totals.items()],
        ),
    )


def _mix_bar(
    source: str, domains: list[str], rows: pl.DataFrame, kind: str, sources: Sequence[str]
) -> dict[str, Any]:
    counts = dict(zip(rows["domain"], rows[kind], strict=True))
    return {
        "type": "bar",
        "orientation": "h",
        "name": source,
        "y": domains,
        "x": [counts.get(domain, 0) for domain in domains],
        "width": 0.58,
        "marker": {
            "color": f"@{colour_name(source, sources)}",
            "line": {"color": "@ground", "width": 1},
        },
        "hovertemplate": "%{y}, " + source + ": %{x:,}<extra></extra>",
    }


def left_out_figures(left_out: Mapping[str, Mapping[str, int]]) -> list[Figure]:
    """What selection left out, by rule: answers, pairs, whole prompts."""
    return [
        _plain_bars(
            f"left-out-{kind}",
            f"{kind} left out, by rule".capitalize(),
            {rule.replace("_", " "): float(number) for rule, number in rules.items()},
            format_number,
        )
        for kind, rules in left_out.items()
        if rules
    ]


def time_figure(manifests: Mapping[str, Manifest]) -> Figure | None:
    """How long each stage took; None where none has finished."""
    seconds = {stage: manifests[stage].seconds for stage in STAGES if stage in manifests}
    return _plain_bars("time", "Time by stage", seconds, format_duration) if seconds else None


def _plain_bars(
    id: str, title: str, values: Mapping[str, float], write: Callable[[float], str]
) -> Figure:
    labels = {name: write(value) for name, value in values.items()}
    names = list(values)[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": [values[name] for name in names],
        "width": 0.58,
        "marker": {"color": "@plain", **_BAR},
        "customdata": [labels[name] for name in names],
        "hovertemplate": "%{y}: %{customdata}<extra></extra>",
    }
    return Figure(
        id=id,
        title=title,
        label=f"{title}: " + ", ".join(f"{name} {text}" for name, text in labels.items()),
        height=bars_height(len(names)) - 16,
        traces=[bars],
        layout=layout(
            margin={"l": 8, "r": 92, "t": 4, "b": 4},
            xaxis=axis(showticklabels=False, showgrid=False, rangemode="tozero"),
            yaxis=category_axis(),
            annotations=[_right_label(name, text) for name, text in labels.items()],
        ),
    )
