"""The judge's client against a server on the loopback that speaks OpenAI's dialect."""

import asyncio
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fusion.errors import CrucibleError
from fusion.recipe import Judge
from fusion.rewards.judge import Case, JudgeClient

PROMPT = [{"role": "user", "content": "Say something long."}]


class Endpoint:
    """Answers chat completions by a function of the request; keeps what it was asked."""

    def __init__(self, reply: Callable[[dict], str | int]) -> None:
        self.bodies: list[dict] = []
        self.headers: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.headers.append(self.headers["Authorization"])
                said = reply(body)
                status = said if isinstance(said, int) else 200
                choice = {"message": {"role": "assistant", "content": said}}
                content = json.dumps({"choices": [choice]}).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "17")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endpoint():
    """Makes endpoints that are gone after the test."""
    made: list[Endpoint] = []

    def make(reply: Callable[[dict], str | int]) -> Endpoint:
        made.append(Endpoint(reply))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(judge: Judge, *cases: Case):
    async def all_of_them():
        async with JudgeClient(judge, "wise") as client:
            return await asyncio.gather(*map(client.judge, cases))

    return asyncio.run(all_of_them())


def longer_is_better(body: dict) -> str:
    first, second = re.findall(r"answer\]\n(.*?)\n\[end", body["messages"][0]["content"])
    if len(first) == len(second):
        return "Better: tie"
    return f"Better: {'first' if len(first) > len(second) else 'second'}"


def test_ratings_become_rewards_and_what_was_said_is_kept(endpoint):
    up = endpoint(lambda body: f"Fine. Rating: {7 if 'good text' in str(body) else 2}")
    good, bad = ask(Judge(url=up.url), Case(PROMPT, "good text"), Case(PROMPT, "poor text"))
    assert (good.reward, bad.reward) == (7.0, 2.0)
    seeds = {"good text" in str(body): body["seed"] for body in up.bodies}
    assert good.reason == f"Fine. Rating: 7\n[seed {seeds[True]}]"
    assert {body["model"] for body in up.bodies} == {"wise"}


def test_the_share_of_wins_counts_both_orders(endpoint):
    up = endpoint(longer_is_better)
    judge = Judge(url=up.url, comparison="pairwise")
    (middle,) = ask(judge, Case(PROMPT, "xxx", others=["x", "xxxxx", "yyy"]))
    assert middle.reward == pytest.approx((1 + 0 + 0.5) / 3)
    assert len(up.bodies) == 6


def test_a_judge_that_always_likes_the_first_place_ranks_nothing(endpoint):
    up = endpoint(lambda body: "Better: first")
    judge = Judge(url=up.url, comparison="pairwise")
    rewards = [j.reward for j in ask(judge, Case(PROMPT, "a", ["b"]), Case(PROMPT, "b", ["a"]))]
    assert rewards == [0.5, 0.5]


def test_answers_that_are_compared_with_each_other_are_asked_about_once_in_each_order(endpoint):
    up = endpoint(longer_is_better)
    texts = ["x", "xxx", "yy", "zz"]
    cases = [Case(PROMPT, text, [other for other in texts if other != text]) for text in texts]
    judgements = ask(Judge(url=up.url, comparison="pairwise"), *cases)
    assert [j.reward for j in judgements] == pytest.approx([0, 1, 0.5, 0.5])
    assert len(up.bodies) == len(texts) * (len(texts) - 1)
    said = [set(re.findall(r"\[seed (\d+)\]", j.reason)) for j in judgements]
    assert set.union(*said) == {str(body["seed"]) for body in up.bodies}
    assert all(len(seeds) == 6 for seeds in said) and len(said[0] & said[1]) == 2


def test_an_answer_without_others_cannot_be_compared(endpoint):
    up = endpoint(longer_is_better)
    (alone,) = ask(Judge(url=up.url, comparison="pairwise"), Case(PROMPT, "a"))
    assert (alone.reward, alone.failure) == (None, "alone")


def test_the_same_question_is_asked_with_the_same_seed_a_retry_with_another(endpoint):
    up = endpoint(lambda body: "no idea")
    judge = Judge(url=up.url, attempts=2)
    for _ in range(2):
        (unclear, again) = ask(judge, Case(PROMPT, "a"), Case(PROMPT, "a"))
        assert unclear == again and unclear.failure == "judge_unclear"
    seeds = [body["seed"] for body in up.bodies]
    assert len(seeds) == 4 and len(set(seeds)) == 2


def test_a_busy_endpoint_is_asked_again(endpoint):
    replies = iter([503, "Rating: 4"])
    up = endpoint(lambda body: next(replies))
    (judgement,) = ask(Judge(url=up.url), Case(PROMPT, "a"))
    assert judgement.reward == 4.0


def test_a_busy_endpoint_is_left_alone_for_as_long_as_it_asks(endpoint, monkeypatch):
    replies, pauses = iter([429, 503, "Rating: 4"]), []

    async def note(seconds):
        pauses.append(seconds)

    monkeypatch.setattr("fusion.rewards.judge.asyncio.sleep", note)
    up = endpoint(lambda body: next(replies))
    (judgement,) = ask(Judge(url=up.url), Case(PROMPT, "a"))
    assert (judgement.reward, pauses) == (4.0, [17.0, 2.0])


def test_a_refusal_is_not_asked_again(endpoint):
    up = endpoint(lambda body: 401)
    (judgement,) = ask(Judge(url=up.url), Case(PROMPT, "a"))
    assert judgement.failure == "judge_failed" and "401" in judgement.detail
    assert len(up.bodies) == 1


def test_nobody_there_is_a_failure_with_its_cause():
    (judgement,) = ask(Judge(url="http://127.0.0.1:9/v1", attempts=1), Case(PROMPT, "a"))
    assert judgement.failure == "judge_failed" and "ConnectError" in judgement.detail


def test_the_key_comes_from_the_environment(endpoint, monkeypatch):
    up = endpoint(lambda body: "Rating: 5")
    monkeypatch.setenv("JUDGE_KEY", "secret")
    ask(Judge(url=up.url, key_env="JUDGE_KEY"), Case(PROMPT, "a"))
    assert up.headers == ["Bearer secret"]
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(CrucibleError, match="JUDGE_KEY"):
        ask(Judge(url=up.url, key_env="JUDGE_KEY"), Case(PROMPT, "a"))
