"""Field paths and templates of a recipe."""

import contextlib
import math
import string
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.errors import BadInputError
from fusion.ingest.fields import checked_number, parse_field, parse_path, paths_of, text_of
from fusion.ingest.rows import RowError

ROW: dict[str, Any] = {
    "question": "Why?",
    "turns": [{"content": "first"}, {"content": "second"}],
    "answer": {"value": 27.0},
    "empty": "",
    "nothing": None,
}
NAMES = st.text(string.ascii_letters + string.digits + "_- +é问", min_size=1, max_size=8)
STEPS = st.lists(st.one_of(NAMES, st.integers(0, 3)), max_size=4)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("question", "Why?"),
        ("turns[0].content", "first"),
        ("turns[-1].content", "second"),
        ("answer.value", 27.0),
        ("turns", [{"content": "first"}, {"content": "second"}]),
    ],
)
def test_path_finds_the_value(path: str, value: Any) -> None:
    assert parse_field(path).read(ROW) == value


@pytest.mark.parametrize(
    "path",
    [
        "missing",
        "turns[2].content",
        "turns[-3].content",
        "turns[0].role",
        "question.text",
        "nothing.text",
        "answer[0]",
    ],
)
def test_path_into_nothing_is_a_missing_field_that_names_the_columns(path: str) -> None:
    with pytest.raises(RowError) as error:
        parse_field(path).read(ROW)
    assert error.value.reason == "missing_field"
    assert path in error.value.detail
    assert "turns" in error.value.detail


@pytest.mark.parametrize("path", ["nothing", "more.nothing", "list[0]"])
def test_path_to_a_null_is_a_missing_field_that_is_null(path: str) -> None:
    row = {"nothing": None, "more": {"nothing": None}, "list": [None]}
    with pytest.raises(RowError) as error:
        parse_field(path).read(row)
    assert (error.value.reason, error.value.detail) == ("missing_field", f"{path} is null")


@pytest.mark.parametrize(
    "path", ["", "a..b", "[0]", "a[x]", "a[0", ".a", "a.", "a]b", f"a[{'9' * 5000}]"]
)
def test_text_that_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(BadInputError, match="not a path"):
        parse_path(path)


def test_template_fills_in_paths_and_keeps_doubled_braces() -> None:
    template = parse_field("Q: {question} {{n={answer.value}}}: {turns[0].content}")
    assert template.read(ROW) == "Q: Why? {n=27}: first"
    assert [path.text for path in paths_of(template)] == [
        "question",
        "answer.value",
        "turns[0].content",
    ]


def test_template_leaves_no_blank_line_for_an_empty_last_value() -> None:
    assert parse_field("{question}\n{empty}").read(ROW) == "Why?"


@pytest.mark.parametrize("template", ["{question", "question}", "{a{b}}", "{}", "{a..b}"])
def test_template_with_a_lone_brace_or_a_bad_path_is_refused(template: str) -> None:
    with pytest.raises(BadInputError):
        parse_field(template)


def test_template_of_a_list_is_a_wrong_type() -> None:
    with pytest.raises(RowError) as error:
        parse_field("{turns}").read(ROW)
    assert error.value.reason == "wrong_type"


@pytest.mark.parametrize(
    ("value", "text"),
    [(27.0, "27"), (0.5, "0.5"), (-3, "-3"), (Decimal("1.50"), "1.50"), ("x", "x")],
)
def test_number_becomes_text(value: Any, text: str) -> None:
    assert text_of(value, "gold") == text


@pytest.mark.parametrize("value", [True, ["x"], {"x": 1}, b"x"])
def test_other_types_do_not_become_text(value: Any) -> None:
    with pytest.raises(RowError, match="not text"):
        text_of(value, "gold")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_does_not_become_text(value: float) -> None:
    with pytest.raises(RowError, match="neither text nor a finite number") as error:
        text_of(value, "gold")
    assert error.value.reason == "wrong_type"


@pytest.mark.parametrize("value", [10**400, -(10**400), "1e400", 1e400, math.nan])
def test_number_that_no_answer_could_be_ranked_by_is_refused(value: Any) -> None:
    with pytest.raises(RowError) as error:
        checked_number(value, "reward")
    assert error.value.reason == "not_a_number"


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(RowError) as error:
        text_of("a\ud800", "gold")
    assert error.value.reason == "invalid_unicode"


@given(NAMES, STEPS, st.text())
def test_written_path_leads_back_to_the_value(
    first: str, rest: list[str | int], value: str
) -> None:
    text = first + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in rest)
    row: Any = value
    for step in reversed([first, *rest]):
        row = [None] * step + [row] if isinstance(step, int) else {step: row}
    path = parse_path(text)
    assert path.steps == (first, *rest)
    assert path.read(row) == value


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_as_a_template_once_its_braces_are_doubled(text: str) -> None:
    template = "{question}" + text.replace("{", "{{").replace("}", "}}")
    assert parse_field(template).read(ROW) == ("Why?" + text).rstrip()


@given(st.text(alphabet="ab.[]{}0-", max_size=12))
def test_parser_accepts_or_refuses_and_never_breaks(text: str) -> None:
    with contextlib.suppress(BadInputError):
        assert parse_field(text) is not None
