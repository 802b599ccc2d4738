"""What is sent, tried again and given up, without an engine."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.failures import RULES
from fusion.recipe import Sampling
from jobs.backlog import Backlog
from services.answers import Answer, Manner, SampleRequest, Wanted


def _manner(temperature: float = 0.8) -> Manner:
    return Manner("key", Sampling(temperature=temperature), timeout_s=1.0, keeps_all=False)


def _requests(count: int, samples: int = 2) -> list[SampleRequest]:
    wanted = [Wanted(index) for index in range(samples)]
    return [
        SampleRequest(f"p{n}", [{"role": "user", "content": "?"}], wanted) for n in range(count)
    ]


def _answer(prompt: str, wanted: Wanted, failure: str | None = None) -> Answer:
    id_ = f"{prompt}/{wanted.sample_index}"
    return Answer(id_, prompt, wanted.sample_index, seed=wanted.draw, failure=failure)


def _fail_until_settled(backlog: Backlog, reason: str) -> tuple[int, Answer]:
    """How often one answer was sent, and its final failure."""
    for sent in range(1, 100):
        (request,) = backlog.take(1)
        (wanted,) = request.wanted
        if settled := backlog.settle(_answer(request.prompt_id, wanted, reason)):
            return sent, settled
    raise AssertionError("it was never settled")


def test_a_call_has_about_as_many_answers_as_asked_for_and_prompts_stay_whole():
    backlog = Backlog(_requests(10, samples=4), _manner())
    taken = backlog.take(10)
    assert [len(request.wanted) for request in taken] == [4, 4, 4]
    assert backlog.num_sent == 12


@pytest.mark.parametrize("reason", RULES)
def test_a_failure_is_tried_as_often_as_its_rule_says(reason):
    backlog = Backlog(_requests(1, samples=1), _manner())
    sent, failure = _fail_until_settled(backlog, reason)
    assert sent == failure.attempts == RULES[reason].attempts
    assert backlog.is_settled


def test_an_empty_answer_is_drawn_again_with_another_seed():
    backlog = Backlog(_requests(1, samples=1), _manner())
    _, failure = _fail_until_settled(backlog, "empty")
    assert failure.seed == RULES["empty"].attempts - 1


def test_an_empty_answer_at_temperature_zero_is_final():
    sent, _ = _fail_until_settled(Backlog(_requests(1, samples=1), _manner(0.0)), "empty")
    assert sent == 1


def test_what_came_before_a_call_died_is_not_asked_again():
    backlog = Backlog(_requests(2), _manner())
    requests = backlog.take(4)
    assert backlog.settle(_answer("p0", Wanted(0)))
    assert backlog.lose(requests, "gone", counts=True) == []
    again = [(r.prompt_id, w.sample_index) for r in backlog.take(9) for w in r.wanted]
    assert again == [("p0", 1), ("p1", 0), ("p1", 1)]


def test_a_call_that_never_arrived_is_no_attempt():
    backlog = Backlog(_requests(1, samples=1), _manner())
    for _ in range(50):
        assert backlog.lose(backlog.take(1), "no replica", counts=False) == []
    assert not backlog.is_settled


def test_a_prompt_that_kills_the_engine_is_found_and_the_others_are_answered():
    backlog = Backlog(_requests(300, samples=1), _manner())
    settled: list[Answer] = []
    deaths = 0
    while not backlog.is_settled:
        requests = backlog.take(150)
        if any(request.prompt_id == "p7" for request in requests):
            deaths += 1
            settled += backlog.lose(requests, "engine gone", counts=True)
        else:
            kept = [backlog.settle(_answer(r.prompt_id, r.wanted[0])) for r in requests]
            settled += [answer for answer in kept if answer]
    assert deaths == RULES["engine_died"].attempts
    assert {a.prompt_id for a in settled if a.failure} == {"p7"}
    assert len(settled) == 300


@given(st.lists(st.sampled_from([None, None, None, "timeout", "empty", "too_long", "died"])))
def test_every_wanted_answer_is_settled_once_whatever_happens(events):
    backlog = Backlog(_requests(5, samples=3), _manner())
    settled: list[Answer] = []
    script = iter(events)
    while not backlog.is_settled:
        requests = backlog.take(4)
        event = next(script, None)
        if event == "died":
            settled += backlog.lose(requests, "gone", counts=True)
            continue
        for request in requests:
            for wanted in request.wanted:
                if answer := backlog.settle(_answer(request.prompt_id, wanted, event)):
                    settled.append(answer)
    counted = Counter((answer.prompt_id, answer.sample_index) for answer in settled)
    assert counted == Counter({(f"p{n}", index): 1 for n in range(5) for index in range(3)})
