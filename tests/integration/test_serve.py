"""`crucible serve` and `crucible ask`: two sources and the reward model behind the endpoint."""

import json
import re
import socket
import threading
import time

import httpx
import openai
import psutil
import pytest
from playwright.sync_api import expect

from fusion.identity import prompt_id
from fusion.recipe_file import load_recipe
from fusion.run import Run
from tests.integration.serving import ROOT, crucible, served
from tests.services.page.browsing import chromium, watched
from tests.services.page.canned import pair_row, write_pairs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PROMPT = "Say river stone two times"
ASKED = {"messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": 16}
PICK = {
    "type": "object",
    "properties": {"pick": {"enum": ["red", "blue"]}},
    "required": ["pick"],
    "additionalProperties": False,
}
# With its end-of-turn token out of reach, an answer fills all the room there is.
ENDLESS = json.loads((ROOT / "rehearsal/models/llama/generation_config.json").read_text())


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with served(tmp_path_factory.mktemp("serve")) as up:
        yield up


@pytest.fixture(scope="module")
def token(endpoint):
    key = endpoint.key("ann")
    _wait_until(lambda: endpoint.get("/v1/models", key).status_code == 200)
    return key


@pytest.fixture
def client(endpoint, token):
    return _client(endpoint, token)


def _client(endpoint, token):
    trusting = httpx.Client(verify=endpoint.tls)
    base = f"{endpoint.base}/v1"
    return openai.OpenAI(base_url=base, api_key=token, max_retries=0, http_client=trusting)


def _wait_until(is_so, *, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _endless(**fields):
    eos = ENDLESS["eos_token_id"]
    ids = eos if isinstance(eos, list) else [eos]
    bias = {str(id_): -100 for id_ in ids}
    messages = [{"role": "user", "content": PROMPT}]
    return {"model": "llama", "messages": messages, "max_tokens": 440, "logit_bias": bias, **fields}


def test_sources_that_are_up_are_listed(client):
    assert [model.id for model in client.models.list()] == ["llama", "gemma"]


@pytest.mark.parametrize("source", ["llama", "gemma"])
def test_chat_answers_with_usage(client, source):
    reply = client.chat.completions.create(model=source, **ASKED)
    assert reply.choices[0].message.content
    assert reply.model == source
    assert reply.usage.completion_tokens > 0


def test_streamed_chat_says_what_the_whole_one_says_and_counts_the_same(client):
    whole = client.chat.completions.create(model="llama", **ASKED)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    events = list(client.chat.completions.create(model="llama", **ASKED, **options))
    parts = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_n_logprobs_seed_and_stop(client):
    asked = {**ASKED, "temperature": 1.0, "n": 3, "logprobs": True, "top_logprobs": 2, "seed": 7}
    first, again = (client.chat.completions.create(model="gemma", **asked) for _ in range(2))
    assert [c.index for c in first.choices] == [0, 1, 2]
    assert all(len(t.top_logprobs) == 2 for t in first.choices[0].logprobs.content)
    texts = [c.message.content for c in first.choices]
    assert texts == [c.message.content for c in again.choices]
    whole = client.chat.completions.create(model="gemma", **ASKED).choices[0].message.content
    cut = client.chat.completions.create(model="gemma", **ASKED, stop=[whole[3:6]])
    assert cut.choices[0].message.content == whole[: whole.index(whole[3:6])]


def test_completions_take_text_and_token_ids(client):
    for prompt in ("river stone", [5, 6, 7]):
        reply = client.completions.create(model="llama", prompt=prompt, max_tokens=4)
        assert reply.choices[0].finish_reason in ("stop", "length")


def test_tools_reach_the_source(client):
    function = {"name": "look_up", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": function}]
    reply = client.chat.completions.create(model="llama", **ASKED, tools=tools, tool_choice="none")
    assert reply.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="tool"):
        client.chat.completions.create(model="llama", **ASKED, tools=tools, tool_choice="auto")


@pytest.mark.parametrize("source", ["llama", "gemma"])
def test_an_answer_keeps_to_the_form_asked_for(client, source):
    asked = {**ASKED, "max_tokens": 48}
    form = {"type": "json_schema", "json_schema": {"name": "pick", "schema": PICK}}
    reply = client.chat.completions.create(model=source, **asked, response_format=form)
    said = reply.choices[0].message.content
    assert json.loads(said)["pick"] in PICK["properties"]["pick"]["enum"]
    events = client.chat.completions.create(
        model=source, **asked, response_format=form, stream=True
    )
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == said
    form = {"type": "json_object"}
    reply = client.chat.completions.create(model=source, **asked, response_format=form)
    assert reply.choices[0].message.content.startswith("{")


def test_a_schema_that_no_source_can_keep_to_is_a_bad_request(client):
    for schema in ({"type": "none"}, {"type": "array", "uniqueItems": True}):
        form = {"type": "json_schema", "json_schema": {"name": "pick", "schema": schema}}
        with pytest.raises(openai.BadRequestError, match="schema"):
            client.chat.completions.create(model="llama", **ASKED, response_format=form)
    assert client.chat.completions.create(model="llama", **ASKED).choices


def test_a_system_turn_is_taken_by_every_source(client):
    messages = [{"role": "system", "content": "Be brief."}, *ASKED["messages"]]
    for source in ("llama", "gemma"):
        reply = client.chat.completions.create(model=source, **{**ASKED, "messages": messages})
        assert reply.choices[0].message.content


def test_errors_are_openai_s(endpoint, client):
    with pytest.raises(openai.NotFoundError, match="no source 'none'"):
        client.chat.completions.create(model="none", **ASKED)
    with pytest.raises(openai.UnprocessableEntityError, match="max_tokens"):
        client.chat.completions.create(model="llama", **{**ASKED, "max_tokens": -1})
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(model="llama", **{**ASKED, "max_tokens": 510})
    with pytest.raises(openai.AuthenticationError):
        _client(endpoint, "crucible-0-0").models.list()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(**_endless(n=8))


def test_without_max_tokens_an_answer_has_the_room_there_is(client):
    asked = {key: value for key, value in _endless().items() if key != "max_tokens"}
    reply = client.chat.completions.create(**asked)
    assert reply.usage.total_tokens == 512


def test_a_client_that_hangs_up_frees_its_place(endpoint, token, client):
    """Seven endless answers wait for the one place; with them gone, a short one comes at once."""
    started = time.monotonic()
    client.chat.completions.create(**_endless())
    endless_s = time.monotonic() - started
    streams = [client.chat.completions.create(**_endless(), stream=True) for _ in range(1)]
    streams[0].__next__()
    threads = [threading.Thread(target=_give_up, args=[client]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    streams[0].close()
    started = time.monotonic()
    client.chat.completions.create(model="llama", **{**ASKED, "max_tokens": 1})
    assert time.monotonic() - started < max(1.0, 2 * endless_s)
    queue = 'crucible_queue{key="ann",source="llama"} 0.0'
    _wait_until(lambda: queue in endpoint.get("/metrics", token).text)
    assert 'outcome="abandoned"' in endpoint.get("/metrics", token).text


def _give_up(client):
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(**_endless())


def test_fan_out_is_rated_and_verified(endpoint, token):
    prompt = "What is 2 + 3?"
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "n": 2,
        "score": True,
        "gold": "5",
        "verifier": "math",
    }
    headers = {"Authorization": f"Bearer {token}"}
    events = []
    asked = {"json": body, "headers": headers, "timeout": 120, "verify": endpoint.tls}
    with httpx.stream("POST", f"{endpoint.base}/v1/fanout", **asked) as reply:
        assert reply.status_code == 200
        lines = [line for line in reply.iter_lines() if line]
    for name, data in zip(lines[::2], lines[1::2], strict=True):
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    answers = [data for name, data in events if name == "answer"]
    assert {(a["model"], a["index"]) for a in answers} == {
        (m, i) for m in ("llama", "gemma") for i in (0, 1)
    }
    for answer in answers:
        assert isinstance(answer["reward"], float)
        assert answer["verdict"] in ("correct", "wrong")
        assert answer["usage"]["completion_tokens"] > 0
        deltas = [
            d["text"]
            for name, d in events
            if name == "delta" and (d["model"], d["index"]) == (answer["model"], answer["index"])
        ]
        assert "".join(deltas) == answer["text"]
    assert events[-1] == ("done", {})


def test_the_page_asks_compares_exports_and_shows_pairs(endpoint, token):
    write_pairs(Run(load_recipe(endpoint.recipe)), [pair_row(number) for number in range(3)])
    with (
        chromium() as browser,
        watched(browser, endpoint.base, refusals=1, ignore_https_errors=True) as shown,
    ):
        page = shown.page
        page.goto(endpoint.base)
        page.get_by_label("Key", exact=True).fill(token)
        page.keyboard.press("Enter")
        expect(page.get_by_label("gemma", exact=True)).to_be_checked()
        page.get_by_label("Check as").select_option("math")
        page.get_by_label("Right answer").fill("5")
        page.get_by_label("Temperature").fill("1.5")
        page.get_by_label("Answers each").fill("3")
        page.locator("#prompt").fill("What is 2 + 3?")
        page.keyboard.press("Control+Enter")
        done = page.locator(".answer[data-state=done]")
        expect(done).to_have_count(6, timeout=60_000)
        facts = [fact.text_content() for fact in done.nth(0).locator(".facts > div").all()]
        names = [re.match("[a-z ]+", fact).group() for fact in facts[2:]]
        assert names == ["tokens", "first", "in all"]
        assert facts[0].startswith("reward") and facts[1] in ("verdictcorrect", "verdictwrong")
        texts = [answer.locator(".text").text_content() for answer in done.all()]
        better, worse = [
            place for place, text in enumerate(texts) if text.strip() and text not in texts[:place]
        ][:2]
        done.nth(better).get_by_role("button", name="Better").click()
        done.nth(worse).get_by_role("button", name="Worse").click()
        page.keyboard.press("e")
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        row = json.loads(download.value.path().read_text())
        assert row["chosen"] == [{"role": "assistant", "content": texts[better]}]
        assert row["rejected"] == [{"role": "assistant", "content": texts[worse]}]
        assert row["prompt_id"] == prompt_id(row["prompt"])
        page.locator("#prompt").fill(PROMPT)
        page.keyboard.press("Control+Enter")
        expect(done).to_have_count(12, timeout=60_000)
        page.get_by_role("link", name="Pairs").click()
        page.get_by_label("Search").fill("sum is 4.")
        expect(page.locator("#count")).to_have_text("1\u20131 of 1 pair")


def test_ask_prints_the_answers_in_columns_or_as_json(endpoint, token):
    arguments = ["ask", str(endpoint.recipe), PROMPT, "--score"]
    shown = crucible(*arguments, CRUCIBLE_API_KEY=token)
    assert shown.returncode == 0, shown.stderr
    assert "llama" in shown.stdout
    assert "reward" in shown.stdout
    told = crucible(*arguments, "--json", "-n", "2", CRUCIBLE_API_KEY=token)
    answers = json.loads(told.stdout)
    assert [(a["model"], a["index"]) for a in answers] == [
        ("gemma", 0),
        ("gemma", 1),
        ("llama", 0),
        ("llama", 1),
    ]
    refused = crucible(*arguments, CRUCIBLE_API_KEY="crucible-0-0")
    assert refused.returncode == 2
    assert "CRUCIBLE_API_KEY" in refused.stderr


def test_a_revoked_key_is_dead_within_seconds(endpoint):
    key = endpoint.key("leaver")
    _wait_until(lambda: endpoint.get("/v1/models", key).status_code == 200)
    assert crucible("keys", "revoke", "leaver", "--keys", str(endpoint.keys_file)).returncode == 0
    _wait_until(lambda: endpoint.get("/v1/models", key).status_code == 401)


def _raw(endpoint, request):
    """What the endpoint answers to bytes as they are."""
    host, port = endpoint.base.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        endpoint.tls.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(request)
        return connection.recv(65536)


def test_requests_out_of_shape_are_refused(endpoint, token):
    post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    key = f"Authorization: Bearer {token}\r\n".encode()
    assert b" 413 " in _raw(endpoint, post + key + b"Content-Length: 99999999\r\n\r\n{")
    assert b" 401 " in _raw(endpoint, post + b"Content-Length: 99999999\r\n\r\n{")
    assert b" 400 " in _raw(endpoint, post + key + b"Content-Length: 1\r\n\r\n{")
    slow = _raw(endpoint, post + key + b"Content-Length: 100\r\n\r\n{")
    assert b" 408 " in slow
    for path in (b"//v1/models", b"/page/../v1/models", b"/healthz/%2e%2e/v1/models"):
        said = _raw(endpoint, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 401 " in said or b" 404 " in said
    trick = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nx-request-disconnect-disabled: ?1\r\n"
    assert b" 400 " in _raw(endpoint, trick + key + b"\r\n")


def test_neither_prompts_nor_keys_are_in_logs_and_metrics(endpoint, token):
    runs = endpoint.recipe.parent / "runs"
    audit = (runs / "served" / "logs" / "audit.jsonl").read_text()
    assert '"key": "ann"' in audit
    session = _session_folder(endpoint)
    logs = [p.read_text(errors="replace") for p in session.rglob("logs/**/*") if p.is_file()]
    assert logs
    secret = token.split("-", 2)[-1]
    for text in (audit, endpoint.get("/metrics", token).text, *logs):
        assert PROMPT not in text
        assert secret not in text


def _session_folder(endpoint):
    """Where the Ray of this very endpoint writes its logs."""
    from pathlib import Path

    for process in psutil.Process(endpoint.process.pid).children(recursive=True):
        for argument in process.cmdline():
            if "session_dir=" in argument:
                return Path(argument.partition("session_dir=")[2])
    raise AssertionError("no Ray process of the endpoint")


def test_a_source_that_dies_mid_answer_gives_a_clean_error_and_comes_back(endpoint, token, client):
    stream = client.chat.completions.create(**_endless(n=8), stream=True)
    next(stream)
    (replica,) = [
        process
        for process in psutil.Process(endpoint.process.pid).children(recursive=True)
        if "source-llama" in " ".join(process.cmdline())
    ]
    replica.kill()
    with pytest.raises(openai.APIError, match="does not answer"):
        list(stream)
    assert client.chat.completions.create(model="gemma", **ASKED).choices

    statuses = set()

    def answers_again():
        try:
            return bool(client.chat.completions.create(model="llama", **ASKED).choices)
        except openai.InternalServerError as error:
            statuses.add(error.status_code)
            return False

    _wait_until(answers_again, seconds=180)
    assert statuses <= {503}
