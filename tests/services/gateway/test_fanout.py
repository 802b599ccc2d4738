"""One conversation to several sources."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.services.gateway.asking import error_of, events_of, hold, release, wait_until


def _ask(client, text="the answer is 4", **fields):
    body = {"messages": [{"role": "user", "content": text}], **fields}
    response = client.post("/v1/fanout", json=body)
    assert response.status_code == 200, response.text
    return events_of(response.text)


def _of(events, name):
    return [data for kind, data in events if kind == name]


def test_all_sources_that_are_up_answer_each_n_times_and_done_comes_last(started):
    events = _ask(started(), n=2)
    answers = _of(events, "answer")
    assert sorted((a["model"], a["index"]) for a in answers) == [
        ("gemma", 0),
        ("gemma", 1),
        ("llama", 0),
        ("llama", 1),
    ]
    assert events[-1] == ("done", {})


def test_deltas_make_up_the_answer(started):
    events = _ask(started(), models=["llama"])
    (answer,) = _of(events, "answer")
    assert "".join(d["text"] for d in _of(events, "delta")) == answer["text"] == "the answer is 4"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
    assert answer["finish_reason"] == "stop"
    assert 0 <= answer["first_token_ms"] <= answer["latency_ms"]
    assert answer["reward"] is answer["verdict"] is answer["reason"] is None


def test_answers_are_rated_and_verified(started):
    (answer,) = _of(
        _ask(started(), "4", models=["llama"], score=True, gold="4", verifier="exact"), "answer"
    )
    assert answer["reward"] == 0.1
    assert answer["verdict"] == "correct"
    (answer,) = _of(_ask(started(), "5", models=["llama"], gold="4", verifier="exact"), "answer")
    assert answer["verdict"] == "wrong"
    assert answer["reason"]


def test_a_source_that_fails_or_is_down_is_an_entry(started, sources):
    sources.down.add("gemma")
    sources.dying.add("llama")
    events = _ask(started(), models=["llama", "gemma"])
    errors = {e["model"]: e for e in _of(events, "error")}
    assert errors["gemma"]["index"] is None
    assert errors["llama"]["index"] == 0
    assert errors["llama"]["error"]["code"] == "source_down"
    assert events[-1][0] == "done"


def test_what_a_source_cannot_take_is_an_entry(started, sources):
    sources.refusing.add("gemma")
    events = _ask(started())
    assert [e["error"]["message"] for e in _of(events, "error")] == ["The context is too short."]
    assert len(_of(events, "answer")) == 1


def test_a_full_source_is_an_entry(started, sources):
    client = started(limits={"in_flight": 1})
    hold(client, sources)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(_ask, client, models=["llama"], n=2)
        wait_until(lambda: sources.under_way == 1)
        release(client, sources)
        events = asked.result()
    assert [e["error"]["code"] for e in _of(events, "error")] == ["source_busy"]
    assert len(_of(events, "answer")) == 1


def test_a_source_is_sampled_as_the_recipe_says_but_for_what_is_given(started, sources):
    _ask(started(), models=["llama"], n=2, temperature=0.1, seed=5)
    assert [asked["seed"] for asked in sources.asked] == [5, 6]
    asked = sources.asked[0]
    assert (asked["temperature"], asked["top_p"], asked["stop"]) == (0.1, 0.95, ["###"])
    assert asked["longest"] == 64
    assert "max_tokens" not in asked


@pytest.mark.parametrize(
    "fields",
    [
        {"gold": "4"},
        {"verifier": "math"},
        {"verifier": "code", "gold": "4"},
        {"models": ["llama", "llama"]},
        {"models": []},
        {"n": 9},
        {"colour": "red"},
        {"messages": [{"role": "assistant", "content": "x"}]},
    ],
)
def test_a_fan_out_that_makes_no_sense_is_a_422(started, fields):
    body = {"messages": [{"role": "user", "content": "x"}], **fields}
    error_of(started().post("/v1/fanout", json=body), 422)


def test_an_unknown_source_fails_the_call(started):
    body = {"messages": [{"role": "user", "content": "x"}], "models": ["none"]}
    error_of(started().post("/v1/fanout", json=body), 404)


def test_without_a_reward_model_nothing_is_rated(started, sources):
    sources.has_reward = False
    body = {"messages": [{"role": "user", "content": "x"}], "score": True}
    assert error_of(started().post("/v1/fanout", json=body), 422)["param"] == "score"


def test_nothing_up_is_a_503(started, sources):
    sources.down.update(sources.names)
    body = {"messages": [{"role": "user", "content": "x"}]}
    error_of(started().post("/v1/fanout", json=body), 503)
