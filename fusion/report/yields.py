"""The yields of a selection, put together by domain and source and by rule."""

from collections import Counter
from collections.abc import Iterable, Mapping

import polars as pl

from fusion.selection import SourceYield, Yields

_COLUMNS = {
    "domain": pl.String,
    "source": pl.String,
    "answers": pl.Int64,
    "correct": pl.Int64,
    "pairs": pl.Int64,
    "sft": pl.Int64,
}


def by_domain_and_source(yields: Yields | None) -> pl.DataFrame:
    """Answers, correct ones, pairs and sft rows; `correct` is null where nothing was checked."""
    groups: dict[tuple[str, str], list[SourceYield]] = {}
    for part in yields.sources if yields else ():
        groups.setdefault((part.domain, part.source), []).append(part)
    rows = [_row(domain, source, parts) for (domain, source), parts in groups.items()]
    return pl.DataFrame(rows, _COLUMNS, orient="row")


def left_out(yields: Yields | None) -> dict[str, Mapping[str, int]]:
    """What each kind of row lost, by rule: answers, then pairs, then whole prompts."""
    if yields is None:
        return {}
    return {
        "answers": _summed(part.answers_dropped for part in yields.sources),
        "pairs": _summed(part.pairs_dropped for part in yields.sources),
        "prompts": _summed(part.dropped for part in yields.prompts),
    }


def _row(domain: str, source: str, parts: list[SourceYield]) -> tuple[str | int | None, ...]:
    num_checked = sum(part.correct + part.wrong for part in parts)
    return (
        domain,
        source,
        sum(part.answers for part in parts),
        sum(part.correct for part in parts) if num_checked else None,
        sum(part.pairs for part in parts),
        sum(part.sft for part in parts),
    )


def _summed(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(total.most_common())
