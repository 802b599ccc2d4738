import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.verification import Malformed, Task, Verdict, verify
from fusion.verification.choice import read_choice, read_gold


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("b.", "B"),
        ("B) Paris", "B"),
        ("The answer is (B).", "B"),
        ("The answer is **B**", "B"),
        ("the correct answer is B because A is wrong", "B"),
        ("Answer: J", "J"),
        ("答案是B。", "B"),
        ("所以选B", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("(A) fails, (C) fails, so (B)", "B"),
        ("Not option A. I choose option B", "B"),
        ("The answer is (A). Wait: the answer is (B).", "B"),
        ("Reasoning about A cat.\n\nB. Paris", "B"),
        ("I think A cat sat", None),
        ("", None),
        ("The answer is unknown", None),
        ("Answer: K", None),
    ],
)
def test_letter_a_reply_settles_on(reply: str, letter: str | None) -> None:
    assert read_choice(reply) == letter


@pytest.mark.parametrize("gold", ["B", "(B)", "b", "B. Paris", " B "])
def test_gold_letter_is_read_in_any_form(gold: str) -> None:
    assert read_gold(gold) == "B"


@pytest.mark.parametrize("gold", [None, "", "K", "Paris", "12"])
def test_gold_that_is_no_letter_is_malformed(gold: str | None) -> None:
    assert isinstance(verify([Task("choice", "A", gold)])[0], Malformed)


def test_reply_without_a_letter_is_no_answer() -> None:
    verdict = verify([Task("choice", "I cannot say", "A")])[0]
    assert isinstance(verdict, Verdict)
    assert (verdict.correct, verdict.reason) == (False, "no_answer")


@given(st.text(), st.sampled_from("ABCDEFGHIJ"))
def test_a_boxed_letter_at_the_end_decides(text: str, letter: str) -> None:
    assert read_choice(f"{text}\n\\boxed{{{letter}}}") == letter
