"""`crucible ask`: answers side by side, and what it says where there is no endpoint."""

import io
import socket

import pytest
from rich.console import Console

from fusion.errors import BadInputError, CrucibleError
from fusion.recipe import Endpoint
from jobs.ask import Question, answers_table, ask_sources


def _answer(model, index, text, **judged):
    return {
        "event": "answer",
        "model": model,
        "index": index,
        "text": text,
        "usage": {"prompt_tokens": 3, "completion_tokens": 7},
        "latency_ms": 1234.0,
        "reward": None,
        "verdict": None,
        **judged,
    }


def test_answers_stand_in_a_column_a_source_and_a_row_a_sample():
    error = {
        "event": "error",
        "model": "llama",
        "index": None,
        "error": {"message": "It is [down]."},
    }
    answers = [
        _answer("gemma", 0, "[red]forty-two[/red]", reward=0.5, verdict="correct"),
        _answer("gemma", 1, "forty-three"),
        error,
    ]
    output = io.StringIO()
    Console(file=output, width=80).print(answers_table(answers))
    lines = output.getvalue().splitlines()
    assert "gemma" in lines[1] and "llama" in lines[1]
    assert "[red]forty-two[/red]" in lines[3] and "It is [down]." in lines[3]
    assert "correct, reward 0.5, 7 tokens, 1.2 s" in lines[4]
    assert "forty-three" in lines[6]


def test_no_endpoint_is_a_failure_in_one_sentence():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(CrucibleError, match=r"No endpoint answers at .*crucible serve"):
        ask_sources(Endpoint(port=port), Question("hello"))


def test_a_certificate_that_is_none_is_told(tmp_path):
    junk = str(tmp_path / "c.pem")
    endpoint = Endpoint(tls_certificate=junk, tls_key=junk)
    for content in (None, "no certificate"):
        if content:
            (tmp_path / "c.pem").write_text(content)
        with pytest.raises(BadInputError, match=r"c\.pem, which is no certificate"):
            ask_sources(endpoint, Question("hello"))


def test_an_endpoint_on_every_address_is_reached_by_loopback():
    endpoint = Endpoint(host="0.0.0.0", keys="k", port=9, tls_certificate="c", tls_key="k")
    assert endpoint.address == "https://127.0.0.1:9"
    assert Endpoint(host="::1", port=9).address == "http://[::1]:9"
