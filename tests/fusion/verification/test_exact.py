import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.verification import Malformed, Task, Verdict, verify
from fusion.verification.exact import judge_exact, normalise


@pytest.mark.parametrize(
    ("reply", "gold"),
    [
        ("Paris", "paris"),
        ("  PARIS. ", "Paris"),
        ("巴黎。", "巴黎"),
        ("Ｐａｒｉｓ！", "Paris"),
        ("new   york\n", "New York"),
        ("**Paris**", "Paris"),
        ("Let me think.\nIt could be Lyon.\n\nParis", "Paris"),
        ("The answer is Paris.", "Paris"),
        ("I would say Lyon. The answer is: Paris", "Paris"),
        ("答案是：巴黎。", "巴黎"),
        ("So \\boxed{Paris} it is", "Paris"),
    ],
)
def test_reply_that_says_the_gold_as_its_answer_is_correct(reply: str, gold: str) -> None:
    assert judge_exact(reply, gold) == (True, "equal")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no_answer"),
        ("Lyon", "wrong_answer"),
        ("Paris is nice, but it is Lyon", "wrong_answer"),
        ("The answer is Paris. No:\nthe answer is Lyon", "wrong_answer"),
        ("Paris\nLyon", "wrong_answer"),
    ],
)
def test_reply_that_ends_elsewhere_is_wrong(reply: str, reason: str) -> None:
    assert judge_exact(reply, "Paris") == (False, reason)


def test_missing_gold_is_malformed_and_not_wrong() -> None:
    assert all(
        isinstance(v, Malformed) for v in verify([Task("exact", "x"), Task("exact", "x", " ")])
    )


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(), st.text(min_size=1).filter(str.strip))
def test_any_reply_gets_a_verdict_and_the_gold_itself_is_correct(reply: str, gold: str) -> None:
    verdicts = verify([Task("exact", reply, gold), Task("exact", gold, gold)])
    assert isinstance(verdicts[0], Verdict)
    assert isinstance(verdicts[1], Verdict)
    assert verdicts[1].correct
