"""The charts, as Plotly's own JSON.

A colour is the name of a variable in page.css, marked by @ (and an opacity behind a slash):
page.js puts in what the reader's light or dark scheme makes of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusion.report.data import TARGET_MODELS

NUM_SOURCE_COLOURS = 8
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
_ROW_PX = 30


@dataclass(frozen=True)
class Figure:
    """One chart: `label` is what a screen reader says of it."""

    id: str
    title: str
    label: str
    height: int
    traces: list[dict[str, Any]]
    layout: dict[str, Any]


def colour_name(model: str, sources: Sequence[str]) -> str:
    """The name of a model's colour, the same wherever it appears; plain for a source of the past.

    Rows of an earlier recipe may stand in a run until its stages have run again.
    """
    if model in TARGET_MODELS:
        return model
    if model not in sources:
        return "plain"
    return f"source-{sources.index(model) % NUM_SOURCE_COLOURS}"


def axis(**options: Any) -> dict[str, Any]:
    """A quiet axis: no line, hair-thin grid, no zooming."""
    quiet = {
        "gridcolor": "@grid",
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
        "ticklen": 0,
        "tickfont": {"color": "@muted", "size": 12},
        "title": {"font": {"color": "@muted", "size": 12}},
    }
    if title := options.pop("title", None):
        quiet["title"] = {"text": title, "font": {"color": "@muted", "size": 12}, "standoff": 8}
    return quiet | options


def category_axis(**options: Any) -> dict[str, Any]:
    """An axis of names, in full ink; a name that reads as a number stays a name."""
    names = {
        "type": "category",
        "showgrid": False,
        "tickfont": {"color": "@ink", "size": 13},
        "ticksuffix": "  ",
    }
    return axis(**(names | options))


def layout(**options: Any) -> dict[str, Any]:
    """What all charts share: the page's own ground, font and hover label."""
    shared = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": "@ink"},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "showlegend": False,
        "dragmode": False,
        "hoverlabel": {
            "bgcolor": "@raised",
            "bordercolor": "@line",
            "font": {"family": FONT, "size": 13, "color": "@ink"},
        },
        "xaxis": axis(),
        "yaxis": axis(),
    }
    return shared | options


def bars_height(num_rows: int) -> int:
    """Height of a chart of horizontal bars."""
    return _ROW_PX * num_rows + 44


def figure_json(figures: Sequence[Figure]) -> list[Mapping[str, Any]]:
    """What page.js draws, in the order of the page."""
    return [
        {"id": f"chart-{f.id}", "traces": f.traces, "layout": f.layout | {"height": f.height}}
        for f in figures
    ]
