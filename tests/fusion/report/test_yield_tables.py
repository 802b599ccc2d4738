import pytest

from fusion.entries import AnswersAsked, Entries, RowsRead
from fusion.report.yield_tables import (
    answer_table,
    asked_table,
    pair_table,
    prompt_table,
    row_table,
)
from tests.fusion.report.sample import SOURCES, sample_data


@pytest.fixture(scope="module")
def yields():
    return sample_data(num_train=20, num_test=1).yields


def numbers(table, row):
    """A row's counts by heading."""
    pairs = list(zip(table.head, row, strict=True))[table.num_labels :]
    return {name: int(cell.text.replace(",", "")) for name, cell in pairs}


def rules_of(table):
    """The headings that are rules of selection."""
    counted = {"prompts", "answers", "sft", "pairs", "in both", "usable"}
    return [name for name in table.head[table.num_labels :] if name not in counted]


def test_every_data_set_has_a_row_and_its_prompts_add_up(yields):
    table = prompt_table(yields)
    assert [row[0].text for row in table.rows] == [row.dataset for row in yields.prompts]
    for row in table.rows:
        n = numbers(table, row)
        dropped = sum(n[rule] for rule in rules_of(table))
        assert n["prompts"] == n["sft"] + n["pairs"] - n["in both"] + dropped


def test_every_data_set_and_source_has_a_row_and_its_answers_add_up(yields):
    table = answer_table(yields, SOURCES)
    assert [(row[0].text, row[2].text) for row in table.rows] == [
        (row.dataset, row.source) for row in yields.sources
    ]
    for row in table.rows:
        n = numbers(table, row)
        assert n["answers"] == n["usable"] + sum(n[rule] for rule in rules_of(table))


def test_every_pair_that_a_source_might_have_given_is_accounted_for(yields):
    table = pair_table(yields, SOURCES)
    assert "other source" in rules_of(table)
    for row in table.rows:
        n = numbers(table, row)
        assert n["prompts"] == n["pairs"] + sum(n[rule] for rule in rules_of(table))


def test_rules_at_which_nothing_left_have_no_column(yields):
    assert "refused" not in rules_of(answer_table(yields, SOURCES))


def test_before_anything_was_selected_there_is_no_table():
    assert prompt_table(None) is None
    assert answer_table(None, SOURCES) is None
    assert pair_table(None, SOURCES) is None


def test_rows_and_answers_that_left_before_selection_have_their_reasons():
    rows = [
        RowsRead("a", "math", 9, 5, {"duplicate": 4}),
        RowsRead("b", "math", 3, 0, {"excluded": 2, "invalid_json": 1}),
    ]
    asked = [
        AnswersAsked("a", "math", SOURCES[0], 20, 18, {"timeout": 2}),
        AnswersAsked("", "", SOURCES[1], 7, 4, {"no_prompt": 3}),
    ]
    entries = Entries(tuple(rows), tuple(asked))
    table = row_table(entries)
    assert table.head[4:] == ["duplicate", "excluded", "invalid json"]
    assert [list(numbers(table, row).values()) for row in table.rows] == [
        [9, 5, 4, 0, 0],
        [3, 0, 0, 2, 1],
    ]
    table = asked_table(entries, SOURCES)
    assert [row[0].text for row in table.rows] == ["a", "(imported)"]
    assert numbers(table, table.rows[0]) == {
        "asked": 20, "answers": 18, "timeout": 2, "no prompt": 0
    }  # fmt: skip
    assert row_table(Entries()) is None and asked_table(Entries(), SOURCES) is None
