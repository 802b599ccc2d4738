"""The page: one HTML file that loads nothing and runs no script but its own two."""

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

import jinja2
import polars as pl
from plotly.offline import get_plotlyjs

from fusion.entries import Entries
from fusion.report import charts, tables, yield_tables
from fusion.report.accuracy import measure_accuracy, read_verdicts
from fusion.report.data import ReportData
from fusion.report.figures import Figure, colour_name, figure_json
from fusion.report.headline import write_headline
from fusion.report.pairs import choose_pairs
from fusion.report.text import format_duration, format_number
from fusion.report.yields import by_domain_and_source, left_out

# Plotly's map library, which no chart here uses, adds its own style sheet to a page that has no
# element of this id; the policy would refuse it and the console complain.
_FOREIGN_STYLE_ID = re.compile(r'document\.getElementById\("([0-9a-f]{64})"\)')


@dataclass(frozen=True)
class Tile:
    """One count of the run, in large type."""

    number: str
    label: str


def render_page(data: ReportData) -> str:
    """The report as one self-contained HTML page."""
    sections = _sections(data)
    figures = [figure for value in sections.values() for figure in _figures_in(value)]
    style = _asset("page.css") + _chart_heights(figures)
    scripts = [get_plotlyjs(), _asset("page.js")]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fusion.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(
        sections,
        policy=content_security_policy(scripts, style),
        style=style,
        foreign_style_ids=_FOREIGN_STYLE_ID.findall(scripts[0]),
        scripts=scripts,
        figures_json=_script_json(figure_json(figures)),
        colours={name: colour_name(name, data.sources) for name in data.models},
    )


def content_security_policy(scripts: Sequence[str], style: str) -> str:
    """Nothing is loaded from anywhere; only these very scripts and this very style apply.

    The empty style is Plotly's: it makes an empty style element and fills it by script.
    """
    allowed_scripts = " ".join(_source_hash(script) for script in scripts)
    allowed_styles = " ".join(_source_hash(text) for text in (style, ""))
    return (
        f"default-src 'none'; script-src {allowed_scripts}; style-src {allowed_styles}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _sections(data: ReportData) -> dict[str, Any]:
    verdicts = read_verdicts(data.results)
    accuracy = measure_accuracy(verdicts, data.models)
    accuracy_charts = charts.accuracy_figures(accuracy, data.sources)
    yields = by_domain_and_source(data.yields)
    entries = Entries.of(data.recipe, data.manifests)
    lengths = tables.measure_lengths(data.results, data.models)
    return {
        "recipe": data.recipe,
        "sources": data.sources,
        "headline": write_headline(data, accuracy, verdicts),
        "tiles": _tiles(data, yields),
        "accuracy_average": accuracy_charts[-1] if accuracy_charts else None,
        "accuracy_charts": accuracy_charts[:-1],
        "accuracy_table": tables.accuracy_table(accuracy, data.sources) if accuracy else None,
        "held_out_rewards": tables.held_out_reward_table(data),
        "mix_charts": charts.mix_figures(yields, data.sources),
        "yield_table": tables.yield_table(yields, data.sources),
        "left_out_charts": charts.left_out_figures(left_out(data.yields)),
        "left_out_table": tables.left_out_table(data.manifests),
        "row_yields": yield_tables.row_table(entries),
        "asked_yields": yield_tables.asked_table(entries, data.sources),
        "prompt_yields": yield_tables.prompt_table(data.yields),
        "answer_yields": yield_tables.answer_table(data.yields, data.sources),
        "pair_yields": yield_tables.pair_table(data.yields, data.sources),
        "reward_charts": charts.reward_figures(data.rewards, data.sources),
        "reward_table": tables.reward_table(data.rewards, data.sources),
        "length_chart": charts.length_figure(lengths),
        "length_table": tables.length_table(lengths, data.sources),
        "sft_charts": charts.training_figures("sft", data.logs.get("sft", ())),
        "dpo_charts": charts.training_figures("dpo", data.logs.get("dpo", ())),
        "time_chart": charts.time_figure(data.manifests),
        "stage_table": tables.stage_table(data.manifests),
        "pairs": choose_pairs(data.preferences),
        "num_pairs": format_number(data.preferences.height),
        "same_source": data.recipe.selection.pair_scope == "same_source",
        "lineage": data.lineage,
    }


def _tiles(data: ReportData, yields: pl.DataFrame) -> list[Tile]:
    manifests = data.manifests.values()
    return [
        Tile(format_number(len(data.sources)), "sources"),
        Tile(format_number(sum(yields["answers"])), "answers"),
        Tile(format_number(sum(yields["sft"])), "sft rows"),
        Tile(format_number(data.preferences.height), "preference pairs"),
        Tile(format_number(sum(sum(m.tokens.values()) for m in manifests)), "tokens"),
        Tile(format_duration(sum(m.seconds for m in manifests)), "in all stages"),
    ]


def _figures_in(value: Any) -> list[Figure]:
    candidates = value if isinstance(value, list) else [value]
    return [candidate for candidate in candidates if isinstance(candidate, Figure)]


def _chart_heights(figures: Sequence[Figure]) -> str:
    """Space kept for each chart, so that the page does not jump while they are drawn."""
    return "".join(
        f"\n#chart-{figure.id} {{ min-height: {figure.height}px; }}" for figure in figures
    )


def _asset(name: str) -> str:
    return (files("fusion.report") / "templates" / name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
