"""Answers held back by the scheduler, against the same answers sent token by token."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MODEL = Path(__file__).parents[2] / "rehearsal" / "models" / "llama"
ENGINE = {
    "dtype": "bfloat16",
    "max_model_len": 512,
    "max_num_seqs": 4,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2**28,
    "enable_chunked_prefill": False,
    "disable_log_stats": False,
}
QUESTIONS = MODEL.parent.parent / "prompts" / "code-test.jsonl"
ASKED = 4


def _answered_both_ways() -> dict:
    """In a process of its own: the answers of one engine, held back and not, and what it sent."""
    from cluster.settings import CPU_ENGINE

    os.environ.update(CPU_ENGINE)
    from vllm import EngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.llm_engine import LLMEngine

    from fusion.chat import load_tokenizer, render_prompt
    from fusion.recipe import Sampling
    from services.engine import sampling_params
    from services.scheduler import HoldingBack

    arguments = EngineArgs(model=str(MODEL), scheduler_cls=HoldingBack, **ENGINE)
    engine = LLMEngine.from_engine_args(arguments)
    tokenizer = load_tokenizer(str(MODEL))
    rows = map(json.loads, QUESTIONS.read_text().splitlines()[:ASKED])
    asked = [
        {"prompt_token_ids": render_prompt(tokenizer, [{"role": "user", "content": row["prompt"]}])}
        for row in rows
    ]
    sent: dict[str, list[int]] = {}
    received = engine.output_processor.process_outputs

    def noting(outputs, **more):
        for output in outputs:
            sent.setdefault(output.request_id.partition("-")[0], []).append(
                len(output.new_token_ids)
            )
        return received(outputs, **more)

    engine.output_processor.process_outputs = noting

    def answers(way: str, **changes) -> dict:
        engine.reset_prefix_cache()
        for number, prompt in enumerate(asked):
            params = sampling_params(Sampling(max_tokens=40), seed=number, room=100)
            for name, value in changes.items():
                setattr(params, name, value)
            engine.add_request(f"{way}{number}", prompt, params)
        done = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    (one,) = output.outputs
                    token_ids = list(one.token_ids)
                    answer = (one.text, token_ids, one.cumulative_logprob, one.finish_reason)
                    done[output.request_id.removeprefix(way)] = answer
        return done

    held = answers("held")
    told = {
        "plain": answers("plain", extra_args=None),
        "streamed": answers("streamed", output_kind=RequestOutputKind.CUMULATIVE),
        "stopped": answers("stopped", stop=["\n\n\n"]),
    }
    engine.add_request("gone0", asked[0], sampling_params(Sampling(), seed=0, room=100))
    engine.step()
    scheduler = engine.engine_core.engine_core.scheduler
    waiting = len(scheduler._held)
    engine.abort_request(["gone0"])
    return {"held": held, "told": told, "sent": sent, "left": (waiting, len(scheduler._held))}


@pytest.fixture(scope="module")
def seen() -> dict:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_answered_both_ways).result()


@pytest.mark.parametrize("way", ["plain", "streamed", "stopped"])
def test_an_answer_held_back_is_the_same_to_the_last_bit(seen, way):
    assert len(seen["held"]) == ASKED
    assert all(len(token_ids) > 10 for _, token_ids, _, _ in seen["held"].values())
    for number, (text, token_ids, logprob, reason) in seen["held"].items():
        other = seen["told"][way][number]
        assert (text, token_ids, reason) == (other[0], other[1], other[3])
        assert logprob == pytest.approx(other[2], rel=1e-12)


def test_it_is_sent_once_and_whole(seen):
    for number, answer in seen["held"].items():
        assert seen["sent"][f"held{number}"] == [len(answer[1])]


def test_what_is_read_as_it_comes_or_ends_at_a_text_is_sent_token_by_token(seen):
    for way in ("plain", "streamed", "stopped"):
        for number, answer in seen["told"][way].items():
            assert len(seen["sent"][f"{way}{number}"]) == len(answer[1])


def test_an_aborted_answer_is_forgotten(seen):
    assert seen["left"] == (1, 0)
