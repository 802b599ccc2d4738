"""Who gets in, and what of a request is taken."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from fusion.keys import read_keyring, without_key, write_keyring
from fusion.store import Location
from tests.services.gateway.asking import bearer, error_of, hold, release, said, wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture
def ann(keys_file):
    """A keys file with one key, and its token."""
    place, tokens = keys_file(ann={})
    return place, tokens["ann"]


def test_every_answer_keeps_browsers_from_guessing_and_storing(started, ann):
    client = started(keys=ann[0])
    for path in ("/healthz", "/v1/models", "/none"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_a_key_opens(started, ann):
    place, token = ann
    client = started(keys=place)
    assert client.post(CHAT, json=said(), headers=bearer(token)).status_code == 200
    assert client.get("/v1/models", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/endpoint", "/metrics", "/none"])
def test_without_a_key_nothing_is_told(started, ann, path):
    response = started(keys=ann[0]).get(path)
    error_of(response, 401)
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_health_and_document_need_no_key(started, ann, path):
    assert started(keys=ann[0]).get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models",
        "/V1/models",
        "/v1/models/",
        "/healthz/../v1/models",
        "/page/../v1/models",
        "/page/%2e%2e/v1/models",
        "/v1%2fmodels",
        "/v1/models;a",
        "/%00/v1/models",
    ],
)
def test_no_spelling_of_a_path_gets_around_the_key(started, ann, path):
    assert started(keys=ann[0]).get(path).status_code in (401, 404)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer crucible-00000000-x",
        "Bearer \xff\xfe",
        "x" * 9999,
    ],
)
def test_a_wrong_key_is_a_401(started, ann, value):
    headers = [(b"authorization", value.encode("latin-1"))]
    error_of(started(keys=ann[0]).get("/v1/models", headers=headers), 401)


def test_a_key_with_another_s_id_is_a_401(started, keys_file):
    place, tokens = keys_file(ann={}, bob={})
    id_ = tokens["ann"].split("-")[1]
    secret = tokens["bob"].split("-", 2)[2]
    response = started(keys=place).get("/v1/models", headers=bearer(f"crucible-{id_}-{secret}"))
    error_of(response, 401)


def test_two_keys_at_once_are_a_401(started, ann):
    value = f"Bearer {ann[1]}".encode()
    headers = [(b"authorization", value), (b"authorization", value)]
    error_of(started(keys=ann[0]).get("/v1/models", headers=headers), 401)


def test_an_expired_key_is_a_401_that_says_so(started, keys_file):
    place, tokens = keys_file(ann={"expires_at": datetime.now(UTC) - timedelta(seconds=1)})
    response = started(keys=place).get("/v1/models", headers=bearer(tokens["ann"]))
    assert "expired" in error_of(response, 401)["message"]


def test_a_revoked_key_dies_while_the_endpoint_runs(started, ann):
    place, token = ann
    client = started(keys=place)
    assert client.get("/v1/models", headers=bearer(token)).status_code == 200
    file = Location.of(place)
    write_keyring(file, without_key(read_keyring(file), "ann", datetime.now(UTC)))
    deadline = time.monotonic() + 10
    while client.get("/v1/models", headers=bearer(token)).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    response = client.get("/v1/models", headers=bearer(token))
    assert "revoked" in error_of(response, 401)["message"]


def test_a_deleted_keys_file_lets_nobody_in_and_a_broken_one_keeps_the_keys(started, ann, tmp_path):
    place, token = ann
    client = started(keys=place)
    doorkeeper = client.app.state.desk.doorkeeper
    (tmp_path / "keys.json").write_text("{broken")
    doorkeeper.read()
    assert client.get("/v1/models", headers=bearer(token)).status_code == 200
    (tmp_path / "keys.json").unlink()
    doorkeeper.read()
    error_of(client.get("/v1/models", headers=bearer(token)), 401)


def test_a_key_asks_only_its_sources(started, keys_file):
    place, tokens = keys_file(ann={"sources": ("gemma",)})
    client = started(keys=place, headers=bearer(tokens["ann"]))
    assert error_of(client.post(CHAT, json=said()), 403)["code"] == "source_not_allowed"
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["gemma"]
    assert client.get("/v1/endpoint").json()["sources"] == ["gemma"]
    body = {"messages": [{"role": "user", "content": "x"}]}
    assert "llama" not in client.post("/v1/fanout", json=body).text
    error_of(client.post("/v1/fanout", json=body | {"models": ["llama"]}), 403)


def test_requests_a_minute(started, keys_file):
    place, tokens = keys_file(ann={"requests_per_minute": 2}, bob={})
    client = started(keys=place)
    for _ in range(2):
        assert client.post(CHAT, json=said(), headers=bearer(tokens["ann"])).status_code == 200
    response = client.post(CHAT, json=said(), headers=bearer(tokens["ann"]))
    assert "2 requests a minute" in error_of(response, 429)["message"]
    assert 1 <= int(response.headers["Retry-After"]) <= 30
    assert client.post(CHAT, json=said(), headers=bearer(tokens["bob"])).status_code == 200


def test_tokens_a_minute_are_charged_after_the_answer(started, keys_file):
    place, tokens = keys_file(ann={"tokens_per_minute": 8})
    client = started(keys=place, headers=bearer(tokens["ann"]))
    assert [client.post(CHAT, json=said()).status_code for _ in range(3)] == [200, 200, 429]


def test_requests_in_flight(started, sources, keys_file):
    place, tokens = keys_file(ann={"in_flight": 1})
    client = started(keys=place, headers=bearer(tokens["ann"]))
    hold(client, sources)
    first = threading.Thread(target=client.post, args=[CHAT], kwargs={"json": said()})
    first.start()
    wait_until(lambda: sources.under_way == 1)
    error_of(client.post(CHAT, json=said()), 429)
    release(client, sources)
    first.join()
    assert client.post(CHAT, json=said()).status_code == 200


def test_a_full_source_is_a_429_and_takes_requests_again(started, sources):
    client = started(limits={"in_flight": 1})
    hold(client, sources)
    first = threading.Thread(target=client.post, args=[CHAT], kwargs={"json": said()})
    first.start()
    wait_until(lambda: sources.under_way == 1)
    response = client.post(CHAT, json=said())
    assert error_of(response, 429)["code"] == "source_busy"
    assert response.headers["Retry-After"] == "1"
    release(client, sources)
    first.join()
    assert client.post(CHAT, json=said()).status_code == 200


def test_a_body_that_says_it_is_too_large_is_not_read(started):
    client = started(limits={"body_bytes": 1000})
    response = client.post(CHAT, json=said("x" * 2000))
    assert "1,000 bytes" in error_of(response, 413)["message"]


def test_a_body_that_turns_out_too_large_is_a_413(started):
    pieces = (b" " * 100 for _ in range(50))
    headers = {"Content-Type": "application/json"}
    client = started(limits={"body_bytes": 1000})
    error_of(client.post(CHAT, content=pieces, headers=headers), 413)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_json_by_its_header_is_a_415(started, kind):
    response = started().post(CHAT, content=json.dumps(said()), headers={"Content-Type": kind})
    error_of(response, 415)


@pytest.mark.parametrize(
    "body",
    [b"{", b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 5_000, b"1" * 10_000, b"nul"],
)
def test_a_body_that_is_no_json_or_deep_is_refused(started, body):
    response = started().post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    error_of(response, response.status_code)


def test_deep_json_where_any_json_may_stand_is_refused_or_taken_but_never_a_failure(started):
    for depth in (10, 100, 300, 900):
        deep = json.loads('{"a":' * depth + "1" + "}" * depth)
        tools = [{"type": "function", "function": {"name": "f", "parameters": deep}}]
        assert started().post(CHAT, json=said(tools=tools)).status_code in (200, 400, 422)


def test_lone_surrogates_are_refused(started):
    body = json.dumps(said("x")).replace('"x"', '"\\ud800"')
    response = started().post(CHAT, content=body, headers={"Content-Type": "application/json"})
    error_of(response, 422)


@pytest.mark.parametrize("header", ["x-request-disconnect-disabled", "x-request-timeout-seconds"])
def test_headers_that_serve_s_proxy_would_obey_are_refused(started, header):
    error_of(started().get("/v1/models", headers={header: "1"}), 400)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "[::1", "", "localhost@x"]
)
def test_a_name_that_was_pointed_at_this_machine_does_not_open_an_endpoint_without_keys(
    started, host
):
    headers = {"Host": host}
    error_of(started().get("/v1/models", headers=headers), 403)
    assert started().get("/healthz", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000"])
def test_loopback_may_be_asked_by_its_names(started, host):
    assert started().get("/v1/models", headers={"Host": host}).status_code == 200


def test_with_keys_the_name_does_not_matter(started, ann):
    headers = {"Host": "models.example", **bearer(ann[1])}
    assert started(keys=ann[0]).get("/v1/models", headers=headers).status_code == 200


def test_a_slow_body_is_given_up(started):
    import asyncio

    client = started(limits={"body_timeout_s": 0.1})
    sent = []

    async def ask():
        scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "query_string": b"",
        }

        async def receive():
            await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        await client.app(scope, receive, send)

    client.portal.call(ask)
    assert sent[0]["status"] == 408


def test_other_origins_may_not_call_unless_configured(started):
    headers = {"Origin": "https://evil.example"}
    assert "access-control-allow-origin" not in started().get("/healthz", headers=headers).headers
    client = started(cors=["https://good.example"])
    assert "access-control-allow-origin" not in client.get("/healthz", headers=headers).headers
    asked = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
    assert (
        client.options(CHAT, headers=asked).headers["access-control-allow-origin"]
        == asked["Origin"]
    )


def test_an_endpoint_that_breaks_says_so_without_a_word_of_the_prompt(started, sources, caplog):
    def broken(*arguments):
        raise ValueError("secret prompt")

    sources.ask = broken
    response = started().post(CHAT, json=said("secret prompt"))
    error_of(response, 500)
    assert "secret" not in response.text + caplog.text
    assert "ValueError at" in caplog.text
