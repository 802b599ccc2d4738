"""OpenAI's routes over sources in this process."""

import json

import pytest

from tests.services.gateway.asking import error_of, said

LARGE_SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "it", "schema": {"$id": "x" * 70_000}},
}


def test_models_are_the_sources_that_are_up(started, sources):
    sources.down.add("gemma")
    models = started().get("/v1/models").json()
    assert [card["id"] for card in models["data"]] == ["llama"]


def test_chat_answers_with_usage(started):
    reply = started().post("/v1/chat/completions", json=said("river stone")).json()
    assert reply["choices"][0]["message"]["content"] == "river stone"
    assert reply["usage"]["total_tokens"] == 5


def test_completion_answers(started):
    reply = started().post("/v1/completions", json={"model": "llama", "prompt": "once"}).json()
    assert reply["choices"][0]["text"] == "once"


def test_what_is_given_reaches_the_source_and_nothing_else(started, sources):
    given = {"temperature": 0.5, "seed": 3, "stop": ["a"], "n": 2, "logprobs": True, "user": "me"}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    body = said(max_completion_tokens=7, tools=tools, **given)
    assert started().post("/v1/chat/completions", json=body).status_code == 200
    (asked,) = sources.asked
    given.pop("user")
    assert asked == {
        "source": "llama",
        "method": "chat",
        "longest": 4096,
        "model": "llama",
        "messages": body["messages"],
        "max_tokens": 7,
        "tools": tools,
        **given,
    }


def test_the_form_of_an_answer_reaches_the_source_as_it_was_given(started, sources):
    schema = {"type": "object", "properties": {"a": {"const": None}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}
    body = said(response_format=form)
    assert started().post("/v1/chat/completions", json=body).status_code == 200
    assert sources.asked[0]["response_format"] == form


def _stream(client, **fields):
    with client.stream("POST", "/v1/chat/completions", json=said(stream=True, **fields)) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        return [line.removeprefix("data: ") for line in reply.iter_lines() if line]


def test_stream_says_what_the_whole_answer_says_and_ends(started):
    *chunks, last = _stream(started())
    said_ = "".join(json.loads(c)["choices"][0]["delta"]["content"] for c in chunks)
    assert said_ == "hello there"
    assert last == "[DONE]"


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stream_has_usage_only_where_it_is_asked_for(started, wanted):
    lines = _stream(started(), stream_options={"include_usage": wanted})
    assert any("usage" in line for line in lines) == wanted


def test_a_source_that_dies_in_a_stream_ends_it_with_an_error_and_the_next_request_works(
    started, sources
):
    client = started()
    sources.dying.add("llama")
    *_, error, done = _stream(client)
    assert json.loads(error)["error"]["code"] == "source_down"
    assert done == "[DONE]"
    sources.dying.clear()
    assert client.post("/v1/chat/completions", json=said()).status_code == 200


def test_a_source_that_is_down_is_a_503_that_says_when_to_come_back(started, sources):
    sources.down.add("llama")
    response = started().post("/v1/chat/completions", json=said())
    assert "llama does not answer" in error_of(response, 503)["message"]
    assert int(response.headers["Retry-After"]) > 0


def test_an_unknown_source_is_a_404(started):
    response = started().post("/v1/chat/completions", json=said() | {"model": "none"})
    assert error_of(response, 404)["code"] == "model_not_found"


def test_what_the_source_cannot_take_is_a_400_in_its_words(started, sources):
    sources.refusing.add("llama")
    response = started().post("/v1/chat/completions", json=said())
    assert error_of(response, 400)["message"] == "The context is too short."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"n": 9}, "n"),
        ({"messages": [{"role": "user", "content": "x"}] * 129}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temperatur": 1}, "temperatur"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages.0.colour"),
        ({"response_format": {"type": "poem"}}, "response_format"),
        ({"response_format": LARGE_SCHEMA}, "response_format.json_schema.json_schema.schema"),
    ],
)
def test_a_field_that_is_unknown_or_out_of_bounds_is_a_422_that_names_it(started, fields, param):
    response = started().post("/v1/chat/completions", json=said() | fields)
    assert error_of(response, 422)["param"] == param


def test_several_prompts_count_as_several_answers(started):
    body = {"model": "llama", "prompt": ["a"] * 5, "n": 2}
    assert error_of(started().post("/v1/completions", json=body), 422)["param"] == "prompt"


def test_health_needs_a_source_to_be_ready(started, sources):
    client = started()
    assert client.get("/healthz").json() == client.get("/readyz").json() == {"status": "ok"}
    sources.down.update(sources.names)
    assert client.get("/healthz").status_code == 200
    error_of(client.get("/readyz"), 503)


def test_the_page_learns_what_there_is(started):
    about = started().get("/v1/endpoint").json()
    assert about == {
        "run": "r",
        "sources": ["llama", "gemma"],
        "reward": True,
        "keys": False,
        "limits": {"max_tokens": 4096, "n": 8, "messages": 128, "body_bytes": 1048576},
    }


def test_metrics_count_requests_tokens_and_times_by_source_and_key(started):
    client = started()
    client.post("/v1/chat/completions", json=said())
    _stream(client)
    text = client.get("/metrics").text
    assert (
        'crucible_requests_total{key="none",path="/v1/chat/completions",status="200"} 2.0' in text
    )
    assert 'crucible_tokens_total{key="none",kind="completion",source="llama"} 4.0' in text
    assert 'crucible_first_token_seconds_count{key="none",source="llama"} 1.0' in text
    assert 'crucible_answer_seconds_count{key="none",source="llama"} 2.0' in text
    assert 'crucible_queue{key="none",source="llama"} 0.0' in text


def test_paths_that_do_not_exist_are_one_label(started):
    client = started()
    for path in ("/a", "/b"):
        error_of(client.get(path), 404)
    assert (
        'crucible_requests_total{key="none",path="other",status="404"} 2.0'
        in client.get("/metrics").text
    )
