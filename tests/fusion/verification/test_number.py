from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.verification.number import Number, last_number, read_number, same_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("-3", -3),
        ("−3", -3),
        ("1,234,567", 1234567),
        ("$1,234.50", Fraction("1234.5")),
        ("\\$70{,}000", 70000),
        ("70\\,000\\text{ dollars}", 70000),
        ("-$5", -5),
        ("5 apples", 5),
        ("3.5 km/h", Fraction("3.5")),
        ("9页", 9),
        ("18 元", 18),
        ("1/8", Fraction(1, 8)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("1 1/2", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("45^\\circ", 45),
        ("x = 5", 5),
        ("**42**", 42),
        ("１２", 12),
    ],
)
def test_number_is_read_as_people_write_it(text: str, value: Fraction | int) -> None:
    assert read_number(text) == Number(Fraction(value))


@pytest.mark.parametrize(
    "text", ["", "x", "3x", "2pi", "1,2", "1/0", "5 and 6", "10^5", "--3", "3:00", "9" * 401]
)
def test_text_that_is_more_than_a_number_is_none(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "agree"),
    [
        ("12%", "0.12", True),
        ("12%", "12", True),
        ("0.12", "12%", True),
        ("12%", "12\\%", True),
        ("12%", "1200", False),
        ("12", "0.12", False),
        ("70000001", "70000000", False),
        ("0.333333", "1/3", True),
        ("0.33", "1/3", False),
        ("2/6", "1/3", True),
    ],
)
def test_agreement_of_numbers(gold: str, answer: str, agree: bool) -> None:
    first, second = read_number(gold), read_number(answer)
    assert first is not None
    assert second is not None
    assert same_number(first, second) is agree


@given(st.integers(-(10**30), 10**30))
def test_integers_read_back_with_or_without_commas(number: int) -> None:
    assert read_number(str(number)) == read_number(f"{number:,}") == Number(Fraction(number))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, max_value=10**9, min_value=0))
def test_last_number_of_a_sentence_is_found_whole(number: object) -> None:
    found = last_number(f"First 7, then it costs ${number:,}.")
    assert found is not None
    assert read_number(found[1]) == read_number(str(number))


@given(st.text(alphabet="0123456789.,/%$-+= \\{}fracxpiabc^°元", max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    read_number(text)
    last_number(text)
