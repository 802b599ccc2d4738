"""The yield report: where every prompt, answer and pair of each data set and source went."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fusion.entries import Entries
from fusion.report.figures import colour_name
from fusion.report.tables import Cell, TableView
from fusion.report.text import format_number
from fusion.selection import SourceYield, Yields
from fusion.selection.answers import EXCLUSIONS
from fusion.selection.pairs import PAIR_RULES
from fusion.selection.split import PROMPT_RULES

IMPORTED = "(imported)"


def row_table(entries: Entries) -> TableView | None:
    """A data set a row: the rows that were read, the prompts they gave, and why others did not."""
    reasons = _reasons(row.left_out for row in entries.rows)
    rows = [
        [
            Cell(row.dataset),
            Cell(row.domain),
            *_numbers(row.rows, row.prompts),
            *_counts(row.left_out, reasons),
        ]
        for row in entries.rows
    ]
    head = ["data set", "domain", "rows", "prompts", *_words(reasons)]
    return TableView(head, rows, 2) if rows else None


def asked_table(entries: Entries, sources: Sequence[str]) -> TableView | None:
    """A data set and source a row: the answers asked, those that came, and why others did not."""
    reasons = _reasons(row.failed for row in entries.answers)
    rows = [
        [
            Cell(row.dataset or IMPORTED),
            Cell(row.domain),
            Cell(row.source, colour=colour_name(row.source, sources)),
            *_numbers(row.asked, row.answers),
            *_counts(row.failed, reasons),
        ]
        for row in entries.answers
    ]
    head = ["data set", "domain", "source", "asked", "answers", *_words(reasons)]
    return TableView(head, rows, 3) if rows else None


def prompt_table(yields: Yields | None) -> TableView | None:
    """A data set a row: its prompts, what they became, and how many left at which rule."""
    if yields is None:
        return None
    rules = _in_use(PROMPT_RULES, (row.dropped for row in yields.prompts))
    rows = [
        [
            Cell(row.dataset),
            Cell(row.domain),
            *_numbers(row.prompts, row.sft, row.pairs, row.both),
            *_counts(row.dropped, rules),
        ]
        for row in yields.prompts
    ]
    head = ["data set", "domain", "prompts", "sft", "pairs", "in both", *_words(rules)]
    return TableView(head, rows, 2)


def answer_table(yields: Yields | None, sources: Sequence[str]) -> TableView | None:
    """A data set and source a row: its answers, and how many left at which rule."""
    if yields is None:
        return None
    rules = _in_use(EXCLUSIONS, (row.answers_dropped for row in yields.sources))
    rows = [
        [
            *_labels(row, sources),
            *_numbers(row.prompts, row.answers, _num_usable(row), row.sft),
            *_counts(row.answers_dropped, rules),
        ]
        for row in yields.sources
    ]
    counted = ["prompts", "answers", "usable", "sft", *_words(rules)]
    return TableView(["data set", "domain", "source", *counted], rows, 3)


def pair_table(yields: Yields | None, sources: Sequence[str]) -> TableView | None:
    """A data set and source a row: at most a pair a prompt, and at which rule it was lost."""
    if yields is None:
        return None
    rules = _in_use(PAIR_RULES, (row.pairs_dropped for row in yields.sources))
    rows = [
        [
            *_labels(row, sources),
            *_numbers(row.prompts, row.pairs),
            *_counts(row.pairs_dropped, rules),
        ]
        for row in yields.sources
    ]
    return TableView(["data set", "domain", "source", "prompts", "pairs", *_words(rules)], rows, 3)


def _labels(row: SourceYield, sources: Sequence[str]) -> list[Cell]:
    source = Cell(row.source, colour=colour_name(row.source, sources))
    return [Cell(row.dataset), Cell(row.domain), source]


def _num_usable(row: SourceYield) -> int:
    return row.answers - sum(row.answers_dropped.values())


def _in_use(rules: Iterable[str], dropped: Iterable[Mapping[str, int]]) -> list[str]:
    """The rules at which anything left, in their order."""
    used = {rule for counts in dropped for rule in counts}
    return [rule for rule in rules if rule in used]


def _reasons(counts: Iterable[Mapping[str, int]]) -> list[str]:
    """All for which anything left, the most frequent first."""
    return [name for name, _ in sum(map(Counter, counts), Counter[str]()).most_common()]


def _counts(dropped: Mapping[str, int], rules: Iterable[str]) -> list[Cell]:
    return _numbers(*(dropped.get(rule, 0) for rule in rules))


def _numbers(*numbers: int) -> list[Cell]:
    return [Cell(format_number(number)) for number in numbers]


def _words(rules: Iterable[str]) -> list[str]:
    return [rule.replace("_", " ") for rule in rules]
