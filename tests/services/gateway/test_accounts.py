"""The audit log and what may never stand in it, in logs or in metrics."""

import json
import logging

import pytest

from tests.services.gateway.asking import bearer, said

SECRET = "the prompt nobody else may read"


@pytest.fixture
def asked(started, keys_file, tmp_path, caplog):
    """Asks as Ann with one good and one bad request; gives all that was written, and her key."""

    def ask(**endpoint):
        caplog.set_level(logging.DEBUG)
        place, tokens = keys_file(ann={})
        log = tmp_path / "runs" / "r" / "logs" / "audit.jsonl"
        client = started(keys=place, headers=bearer(tokens["ann"]), **endpoint)
        client.post("/v1/chat/completions", json=said(SECRET))
        client.post("/v1/chat/completions", json=said(SECRET, colour=SECRET))
        fanout = {"messages": [{"role": "user", "content": SECRET}]}
        client.post("/v1/fanout", json=fanout)
        client.post("/v1/chat/completions", json=said(), headers=bearer("crucible-no-key"))
        written = log.read_text()
        logs = caplog.text + client.get("/metrics").text
        return [json.loads(line) for line in written.splitlines()], written, logs, tokens["ann"]

    return ask


def test_the_audit_log_says_who_asked_which_source_and_how_it_ended(asked):
    rows, *_ = asked()
    assert [(r["key"], r.get("source"), r["status"], r.get("outcome")) for r in rows] == [
        ("ann", "llama", 200, "answered"),
        ("ann", None, 422, None),
        ("ann", "llama", 200, "answered"),
        ("ann", "gemma", 200, "answered"),
        ("none", None, 401, None),
    ]
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"]) == (3, 2)
    assert rows[0]["at"] <= rows[-1]["at"]


def test_neither_texts_nor_keys_are_written_anywhere(asked):
    _, written, logs, token = asked()
    for text in (written, logs):
        assert SECRET not in text
        assert token not in text
        assert token.split("-", 2)[-1] not in text


def test_texts_are_kept_where_that_is_switched_on(asked):
    rows, *_ = asked(audit_text=True)
    assert rows[0]["question"][0]["content"] == rows[0]["answer"] == SECRET
