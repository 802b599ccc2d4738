"""What an engine is given to continue, against the chat template of its model."""

import asyncio
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

import pytest
from rich.console import Console

from cluster.connection import connected
from fusion.chat import load_tokenizer
from fusion.errors import BadInputError, CrucibleError
from fusion.identity import response_id
from fusion.recipe import Engine, Sampling
from fusion.recipe_file import load_recipe
from fusion.run import Run
from jobs.progress import Progress
from jobs.run import run_recipe
from services.applications import serving, start_serve
from services.source import Served, engine_arguments, source_application

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
MODEL = str(Path(__file__).parents[2] / "rehearsal" / "models" / "llama")
KEY = "a-source-key"
USER = {"role": "user", "content": "Say river stone two times"}
CONVERSATIONS = {
    "one turn": [USER],
    "a system turn": [{"role": "system", "content": "Be brief."}, USER],
    "several turns": [USER, {"role": "assistant", "content": "river stone"}, USER],
    "outer white space": [{"role": "user", "content": "  12 + 30 =\n"}],
}


def _sampled() -> dict[str, list[int]]:
    """In a process of its own: the prompt's token ids in the outputs of vLLM, by conversation."""
    from cluster.settings import engine_environment

    os.environ.update(engine_environment(on_cpu=True, threads=1))
    return asyncio.run(_sample())


async def _sample() -> dict[str, list[int]]:
    from ray.serve.llm import LLMConfig

    from services.answers import Manner, SampleRequest, Wanted
    from services.engine import SourceServer

    served = Served("llama", MODEL, None, Engine(max_model_len=512))
    config = LLMConfig(
        model_loading_config={"model_id": "llama", "model_source": MODEL},
        engine_kwargs=engine_arguments(served, on_cpu=True),
        placement_group_config={"bundles": [{"CPU": 1}]},
        log_engine_metrics=False,
    )
    server = SourceServer.sync_init(config)
    await server.start()
    client = server.engine._engine_client
    generate, given = client.generate, {}

    async def noting(prompt, params, id_, **more):
        async for output in generate(prompt, params, id_, **more):
            given[id_] = list(output.prompt_token_ids)
            yield output

    client.generate = noting
    requests = [SampleRequest(name, turns, [Wanted(0)]) for name, turns in CONVERSATIONS.items()]
    manner = Manner(KEY, Sampling(max_tokens=2), timeout_s=60.0, keeps_all=True)
    async for _ in server.sample(requests, manner):
        pass
    client.shutdown()
    return {name: given[response_id(name, KEY, 0)] for name in CONVERSATIONS}


@pytest.fixture(scope="module")
def given():
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_sampled).result()


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_engine_continues_exactly_what_the_template_says(given, name):
    expected = load_tokenizer(MODEL).apply_chat_template(
        CONVERSATIONS[name], add_generation_prompt=True, return_dict=False
    )
    assert given[name] == expected


@pytest.fixture
def mute(tmp_path):
    """A model whose template does not say where an answer begins."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }} {{ 1 }}")
    return str(folder)


def test_a_source_whose_template_cannot_ask_does_not_start_and_says_why(mute):
    application = source_application(Served("llama", mute, None, Engine()), on_cpu=True, threads=1)
    sentence = f"asked did not start: The chat template of {mute} has no generation prompt"
    with connected():
        start_serve()
        with pytest.raises(CrucibleError, match=sentence), serving({"asked": application}):
            pass


def test_a_run_refuses_such_a_model_before_it_reads_a_prompt(mute, tmp_path):
    recipe = load_recipe(HERE / "sampling.yaml", {"storage": str(tmp_path / "runs")})
    sources = [recipe.sources[0].model_copy(update={"model": mute}), *recipe.sources[1:]]
    changed = recipe.model_copy(update={"sources": tuple(sources)})
    progress = Progress(Console(file=StringIO()))
    with pytest.raises(BadInputError, match="The source llama: The chat template of"):
        run_recipe(changed, ["ingest", "sample"], progress)
    assert not Run(changed).manifest("ingest").exists()
