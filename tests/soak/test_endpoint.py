"""The endpoint over real engines, for long: its document, and who goes first."""

import asyncio
import statistics
import time

import pytest
import schemathesis

from cluster.connection import connected
from fusion.recipe import Sampling
from fusion.recipe_file import load_recipe
from jobs.models import source_applications
from services.answers import Manner, SampleRequest, Wanted
from services.applications import handle, serving, source_application_name, start_serve
from services.source import Served
from tests.integration.serving import ROOT, served
from tests.services.gateway.asking import bearer
from tests.services.gateway.contract import ASKS, BAD, GOOD, check_operation, operations_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

EXAMPLES = 350  # of each of three operations, by the schema and against it: 2,100 requests
BATCH = 24
# What was said once is likelier each time, so that an answer takes all its tokens.
ENDLESS = Sampling(frequency_penalty=-2, presence_penalty=-2, max_tokens=200)
PROMPT = [{"role": "user", "content": "Say river stone two times"}]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """The operations of an endpoint with real sources, a key for them, and its certificate."""
    with served(tmp_path_factory.mktemp("soak")) as up:
        certificate = str(up.certificate)
        document = schemathesis.openapi.from_url(f"{up.base}/openapi.json", verify=certificate)
        yield operations_of(document), bearer(up.first_key), certificate


@pytest.mark.parametrize("mode", [GOOD, BAD], ids=["good", "bad"])
@pytest.mark.parametrize("label", ASKS)
def test_every_answer_of_real_sources_is_as_documented(live, label, mode):
    operations, headers, certificate = live
    check_operation(operations[label], mode, headers, examples=EXAMPLES, verify=certificate)


def test_people_go_before_the_batch():
    """With one place, four of the batch wait for it in the engine; a person's answer is next."""
    recipe = load_recipe(ROOT / "rehearsal" / "recipe.yaml")
    source = recipe.source("llama")
    engine = source.engine.model_copy(update={"max_num_seqs": 1})
    source = source.model_copy(update={"engine": engine})
    with connected() as holdings:
        start_serve()
        with serving(source_applications(recipe, [Served.of(source)], holdings)):
            deployed = handle(source_application_name(recipe.name, "llama"))
            batch_s, person_s = asyncio.run(_ask_in_a_batch(deployed))
    assert person_s < 2.5 * batch_s / BATCH


async def _ask_in_a_batch(deployed):
    requests = [SampleRequest(str(i), PROMPT, [Wanted(0)]) for i in range(BATCH)]
    body = {"model": "llama", "messages": PROMPT, "max_tokens": 16}
    manner = Manner("key", ENDLESS, timeout_s=600, keeps_all=True)

    async def ask():
        (reply,) = [p async for p in deployed.options(stream=True).openai.remote("chat", body, 64)]
        assert reply.status == 200

    await ask()
    started = time.monotonic()
    batch = asyncio.ensure_future(_finished(deployed.options(stream=True), requests, manner))
    await asyncio.sleep(0.2)
    persons_s = [await _seconds_of(ask()) for _ in range(5)]
    assert not batch.done()
    await batch
    return time.monotonic() - started, statistics.median(persons_s)


async def _seconds_of(asked):
    started = time.monotonic()
    await asked
    return time.monotonic() - started


async def _finished(deployed, requests, manner):
    parts = [part async for part in deployed.sample.remote(requests, manner)]
    assert sum(len(part.answers) for part in parts) == len(requests)
