"""`crucible serve` and `crucible ask`: a source behind the OpenAI-compatible endpoint."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest
import yaml

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PROMPT = "Say river stone two times"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """The recipe and address of an endpoint with one source up; interrupted at the end."""
    folder, port = tmp_path_factory.mktemp("serve"), _free_port()
    recipe = folder / "recipe.yaml"
    changes = {
        "extends": str(ROOT / "rehearsal" / "recipe.yaml"),
        "name": "served",
        "storage": str(folder / "runs"),
        "endpoint": {"port": port, "sources": ["llama"]},
    }
    recipe.write_text(yaml.safe_dump(changes))
    command = [sys.executable, "-m", "jobs", "serve", str(recipe)]
    with subprocess.Popen(command, cwd=ROOT) as server:
        base = f"http://127.0.0.1:{port}"
        _wait_until_up(server, base)
        yield recipe, base
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0


def _wait_until_up(server: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{base}/v1/models").json()["data"]:
                return
        except (httpx.HTTPError, ValueError):
            time.sleep(1)
    pytest.fail(f"the endpoint did not come up; its exit code is {server.poll()}")


@pytest.fixture(scope="module")
def client(endpoint):
    return openai.OpenAI(base_url=f"{endpoint[1]}/v1", api_key="none", max_retries=0)


def test_sources_that_are_up_are_listed(client):
    assert [model.id for model in client.models.list()] == ["llama"]


def test_chat_answers_with_usage(client):
    messages = [{"role": "user", "content": PROMPT}]
    reply = client.chat.completions.create(
        model="llama", messages=messages, max_tokens=16, temperature=0
    )
    assert reply.choices[0].message.content
    assert reply.usage.completion_tokens > 0


def test_streamed_chat_says_what_the_whole_one_says(client):
    request = {
        "model": "llama",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 16,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**request).choices[0].message.content
    events = client.chat.completions.create(**request, stream=True)
    parts = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(parts) == whole


def test_a_source_that_is_not_up_is_a_404(client):
    with pytest.raises(openai.NotFoundError, match="not up"):
        client.chat.completions.create(model="none", messages=[{"role": "user", "content": "x"}])


def test_a_request_that_openai_would_refuse_is_a_400(client):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model="llama", messages=[{"role": "user", "content": "x"}], max_tokens=-1
        )


def test_ask_prints_the_answer_of_each_source(endpoint):
    command = [sys.executable, "-m", "jobs", "ask", str(endpoint[0]), PROMPT]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert asked.returncode == 0, asked.stderr
    assert "llama" in asked.stdout
