import random
import threading
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusion.verification import Limits, Malformed, Task, Verdict, Verifiers, verify
from fusion.verification.math import final_answer, read_gold
from tests.fusion.verification.published import published_rows


def is_correct(verifiers: Verifiers, reply: str, gold: str) -> bool:
    (verdict,) = verifiers.verify([Task("math", reply, gold)])
    assert isinstance(verdict, Verdict), verdict
    return verdict.correct


@pytest.mark.parametrize(
    ("reply", "gold"),
    [
        ("She makes **$18.00** every day", "18"),
        ("The answer is 18 dollars per day, i.e. $126 per week.", "18"),
        ("The answer is 2 + 1 = 3.", "3"),
        ("\\boxed{5}, no: the answer is 7.", "7"),
        ("the answer is 5. So \\boxed{7}. The answer is correct.", "7"),
        ("还剩9页。", "9"),
        ("3+4=7，答案是 9 页。", "9"),
        ("答案：0.12", "12%"),
        ("$\\dfrac{6}{2}$", "3"),
        ("Long working <<2*9=18>>18\n#### 1,800", "The gold is worked too.\n#### 1800"),
    ],
)
def test_number_in_any_dress_is_accepted(verifiers: Verifiers, reply: str, gold: str) -> None:
    assert is_correct(verifiers, reply, gold)


@pytest.mark.parametrize(
    ("reply", "gold"),
    [
        ("The answer is 0.5", "\\frac{1}{2}"),
        ("so $x=\\sqrt{12}$", "2\\sqrt{3}"),
        ("\\boxed{\\left(3, \\frac{\\pi}{2}\\right)}", "(3,\\frac{\\pi}{2})"),
        ("\\[1+x^2\\]", "x^2+1"),
        ("The answer is 3\\pi", "\\boxed{3\\pi}"),
        ("\\boxed{\\{2,1\\}}", "\\{1,2\\}"),
        ("10000000000", "10^{10}"),
        ("\\boxed{∞}", "\\infty"),
        ("\\boxed{(-\\infty, 3]}", "(-∞, 3]"),
        ("\\boxed{\\text{none}}", "\\text{none}"),
        ("\\boxed{undefined}", "undefined"),
    ],
)
def test_formula_that_means_the_gold_is_accepted(
    verifiers: Verifiers, reply: str, gold: str
) -> None:
    assert is_correct(verifiers, reply, gold)


@pytest.mark.parametrize(
    ("reply", "gold"),
    [
        ("first 18, then 20", "18"),
        ("the answer is 7. Wait, the answer is 5", "7"),
        ("\\boxed{3x}", "3"),
        ("I do not know", "5"),
        ("", "\\sqrt{2}"),
        ("\\boxed{\\sqrt{3}}", "\\sqrt{2}"),
    ],
)
def test_reply_whose_final_answer_differs_is_wrong(
    verifiers: Verifiers, reply: str, gold: str
) -> None:
    assert not is_correct(verifiers, reply, gold)


@pytest.mark.parametrize("gold", [None, "", "  ", "####", "\\frac{1}{"])
def test_gold_that_is_missing_or_does_not_parse_is_malformed(
    verifiers: Verifiers, gold: str | None
) -> None:
    assert isinstance(verifiers.verify([Task("math", "1", gold)])[0], Malformed)


@pytest.mark.parametrize(
    "gold",
    [
        "NaN", "nan", "#### NaN", "$None$", "N/A", "null", "unknown", "inf", "-Infinity",
        "1/0", "0/0", "\\frac{1}{0}", "x/0",
    ],
)  # fmt: skip
def test_gold_that_stands_for_no_value_is_malformed(verifiers: Verifiers, gold: str) -> None:
    assert isinstance(verifiers.verify([Task("math", gold, gold)])[0], Malformed)


def test_gold_that_does_not_parse_is_malformed_even_for_an_empty_reply(
    verifiers: Verifiers,
) -> None:
    assert isinstance(verifiers.verify([Task("math", "", "\\frac{1}{")])[0], Malformed)


def test_endless_comparison_ends_in_time_and_the_pool_goes_on() -> None:
    tower = "\\boxed{10^{10^{10}}+\\sqrt{2}}"
    with Verifiers(Limits(math_timeout_s=1, workers=1)) as verifiers:
        results = verifiers.verify([Task("math", tower, "\\sqrt{7^{7^{7^{7}}}}")])
        after = verifiers.verify([Task("math", "\\boxed{\\sqrt{12}}", "2\\sqrt{3}")])
    assert not (isinstance(results[0], Verdict) and results[0].correct)
    assert getattr(results[0], "seconds", 0) < 30
    assert isinstance(after[0], Verdict)
    assert after[0].correct


def test_formulas_are_compared_from_a_thread_that_is_not_the_main_one() -> None:
    results: list[Verdict | Malformed] = []
    tasks = [Task("math", "\\boxed{\\sqrt{12}}", "2\\sqrt{3}")]
    thread = threading.Thread(target=lambda: results.extend(verify(tasks, Limits(workers=1))))
    thread.start()
    thread.join()
    assert isinstance(results[0], Verdict)
    assert results[0].correct


def check_gsm8k(verifiers: Verifiers, golds: list[str]) -> None:
    boxed = [f"So we get \\boxed{{{read_gold(gold)}}}." for gold in golds]
    shuffled = golds[:]
    random.Random(0).shuffle(shuffled)
    wrong = [
        Task("math", reply, gold)
        for reply, gold in zip(shuffled, golds, strict=True)
        if read_gold(reply) != read_gold(gold)
    ]
    right = [
        Task("math", reply, gold) for reply, gold in zip(golds + boxed, golds * 2, strict=True)
    ]
    assert [v for v in verifiers.verify(right) if not (isinstance(v, Verdict) and v.correct)] == []
    assert [v for v in verifiers.verify(wrong) if not isinstance(v, Verdict) or v.correct] == []


def test_gsm8k_slice_accepts_its_golds_and_no_shuffled_one(verifiers: Verifiers) -> None:
    check_gsm8k(verifiers, [row["answer"] for row in published_rows("gsm8k_test.jsonl")[:150]])


@pytest.mark.soak
def test_gsm8k_accepts_every_gold_and_no_shuffled_one(verifiers: Verifiers) -> None:
    golds = [row["answer"] for row in published_rows("gsm8k_test.jsonl")]
    assert len(golds) == 1319
    check_gsm8k(verifiers, golds)


def test_chinese_replies_are_accepted(verifiers: Verifiers) -> None:
    golds = [row["answer"] for row in published_rows("cmath_zh.jsonl")]
    replies = [f"先算 3+4=7。所以答案是{gold}。" for gold in golds]
    verdicts = verifiers.verify([Task("math", r, g) for r, g in zip(replies, golds, strict=True)])
    assert [v for v in verdicts if not (isinstance(v, Verdict) and v.correct)] == []


@settings(deadline=None)
@example("$ $")
@given(st.text(alphabet="0123456789.,$\\{}boxed#=\n 答案是answer", max_size=80))
def test_no_reply_breaks_the_search_for_its_final_answer(reply: str) -> None:
    found = final_answer(reply)
    assert found is None or found


@pytest.mark.parametrize(
    "piece", ["\\[", "\\(", "$$", "$a\n", "\\boxed{", "answer is ", "answer: ^    ", "{", "#### "]
)
def test_a_reply_of_megabytes_is_searched_in_no_time(piece: str) -> None:
    start = time.monotonic()
    assert final_answer(piece * (2_000_000 // len(piece)) + "\nSo \\boxed{7}") == "7"
    final_answer(piece * (2_000_000 // len(piece)))
    assert time.monotonic() - start < 5


def test_a_number_before_a_long_sentence_is_read_in_no_time(verifiers: Verifiers) -> None:
    start = time.monotonic()
    sentence = "5 internationalisations notwithstanding, " + "characteristically " * 50 + "(so)"
    assert not is_correct(verifiers, f"The answer is {sentence}", "6")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("\\[x\\] and \\[y", "x"),
        ("\\(x\\) or $$y$$ or \\[z\\]", "z"),
        ("$a\nb$", None),
        ("$$$x$$", "$x"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed{\\frac{1}{2}} } \\boxed{3}", "3"),
    ],
)
def test_only_what_is_closed_is_a_formula(reply: str, answer: str | None) -> None:
    assert final_answer(reply) == answer


@given(st.text(alphabet=st.characters(exclude_characters="\\#"), max_size=80), st.integers())
def test_number_boxed_last_is_the_final_answer(text: str, number: int) -> None:
    assert final_answer(f"{text}\n\\boxed{{{number}}}") == str(number)
