"""A judge may be one of the sources: what it is asked is what the endpoint takes."""

import asyncio

import pytest

from fusion.recipe import Judge
from fusion.rewards.judge import Case, JudgeClient
from tests.services.gateway.asking import EchoSources, run_of
from tests.services.page.canned import Serving

PROMPT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say it."}]


@pytest.fixture
def judged(keys_file, tmp_path, monkeypatch):
    """What our endpoint's sources make of answers; they say again what they were asked."""

    def judge(*answers, key=None, **options):
        place, tokens = keys_file(judge=key or {})
        monkeypatch.setenv("JUDGE_KEY", tokens["judge"])
        run = run_of(tmp_path, keys=place)

        async def ask(url):
            asked = Judge(url=f"{url}/v1", key_env="JUDGE_KEY", **options)
            async with JudgeClient(asked, "llama") as client:
                cases = [Case(PROMPT, answer, ["another"]) for answer in answers]
                return await asyncio.gather(*map(client.judge, cases))

        with Serving(run, EchoSources()) as serving:
            return asyncio.run(ask(serving.base))

    return judge


def test_ratings_come_from_a_source_of_ours(judged):
    assert [each.reward for each in judged("Rating: 7", "Rating: 2")] == [7.0, 2.0]


def test_comparisons_come_from_a_source_of_ours(judged):
    (judgement,) = judged("Better: tie", comparison="pairwise")
    assert judgement.reward == 0.5


def test_the_limits_of_its_key_make_a_judge_wait(judged):
    answers = [f"Rating: {rating}" for rating in (1, 2, 3)]
    judgements = judged(*answers, key={"in_flight": 1}, attempts=10)
    assert [each.reward for each in judgements] == [1.0, 2.0, 3.0]
