"""What a fusion came to, in one sentence and a number."""

from dataclasses import dataclass

import polars as pl

from fusion.report.accuracy import AVERAGE, Accuracy, domains_of
from fusion.report.comparison import Difference, compare
from fusion.report.data import ReportData
from fusion.report.text import format_number, format_percent, format_points
from fusion.statistics import disjoint


@dataclass(frozen=True)
class Comparison:
    """The fused model against another, ready to read."""

    other: str
    points: str
    bounds: str
    overlap: str
    reading: str
    tone: str


@dataclass(frozen=True)
class Headline:
    """The sentence on top of the page, and what its numbers mean where it has any."""

    sentence: str
    explanation: str | None = None
    comparisons: tuple[Comparison, ...] = ()


def write_headline(data: ReportData, accuracy: Accuracy, verdicts: pl.DataFrame) -> Headline:
    """The fused model (dpo, else sft) against the best single source and the base."""
    fused = next((model for model in ("dpo", "sft") if model in accuracy), None)
    if fused is None:
        return _headline_without_fused(data, accuracy)
    best = best_source(accuracy, fused, data.sources)
    others = [model for model in ("base", best) if model is not None and model in accuracy]
    return Headline(
        sentence=_sentence(accuracy, fused, best),
        explanation=_explanation(accuracy, fused),
        comparisons=tuple(
            _comparison(other, difference, accuracy, fused)
            for other in others
            if (difference := compare(verdicts, fused, other)) is not None
        ),
    )


def best_source(accuracy: Accuracy, fused: str, sources: tuple[str, ...]) -> str | None:
    """The source with the highest average, of those asked in every domain of the fused model."""
    domains = accuracy[fused].keys()
    asked_all = [name for name in sources if name in accuracy and accuracy[name].keys() >= domains]
    return max(asked_all, key=lambda name: accuracy[name][AVERAGE].value, default=None)


def _sentence(accuracy: Accuracy, fused: str, best: str | None) -> str:
    share = format_percent(accuracy[fused][AVERAGE].value)
    text = f"The fused model reaches {share}"
    if "base" in accuracy:
        before = format_percent(accuracy["base"][AVERAGE].value)
        text = f"Fusion takes the target from {before} to {share}"
    if best is None:
        return f"{text}."
    return f"{text}; the best source, {best}, has {format_percent(accuracy[best][AVERAGE].value)}."


def _explanation(accuracy: Accuracy, fused: str) -> str:
    *domains, _ = domains_of({fused: accuracy[fused]})
    num_prompts = format_number(accuracy[fused][AVERAGE].n)
    average = (
        f", the average over {', '.join(domains)}" if len(domains) > 1 else f" in {domains[0]}"
    )
    return f"Share of held-out prompts answered correctly{average}; {num_prompts} prompts."


def _headline_without_fused(data: ReportData, accuracy: Accuracy) -> Headline:
    why = "No held-out prompt has a checked answer, so there is no accuracy."
    if accuracy:
        why = "The fused model has no checked answers yet, so it has no accuracy."
    if data.yields is None:
        return Headline("Nothing has been selected yet.", why)
    num_sft = format_number(sum(part.sft for part in data.yields.prompts))
    num_pairs = format_number(sum(part.pairs for part in data.yields.sources))
    sources = "one source" if len(data.sources) == 1 else f"{len(data.sources)} sources"
    sentence = f"{num_sft} conversations and {num_pairs} preference pairs from {sources}."
    return Headline(sentence, why)


def _comparison(other: str, difference: Difference, accuracy: Accuracy, fused: str) -> Comparison:
    """A clear difference need not part the two models' own intervals, which is stricter."""
    are_apart = disjoint(accuracy[fused][AVERAGE], accuracy[other][AVERAGE])
    reading, tone = "no clear difference", "level"
    if difference.is_clear:
        reading, tone = ("better", "better") if difference.low > 0 else ("worse", "worse")
    return Comparison(
        other="the target before fusion" if other == "base" else other,
        points=f"{format_points(difference.value)} points",
        bounds=f"{format_points(difference.low)} to {format_points(difference.high)}",
        overlap="lie apart" if are_apart else "overlap",
        reading=reading,
        tone=tone,
    )
