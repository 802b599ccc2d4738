"""The vLLM engine of a source. Importing this imports vLLM (15 s): replicas do, drivers do not."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm.deployment import LLMServer
from vllm import SamplingParams
from vllm.exceptions import VLLMClientError, VLLMServerError
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from fusion.chat import Message, check_template, fit_messages, load_tokenizer, render_prompt
from fusion.errors import CrucibleError, one_line
from fusion.identity import response_id, sampling_seed
from fusion.looping import repeated_tail
from fusion.recipe import Sampling
from services.answers import Answer, Finished, Manner, SampleRequest, SourceDiedError, Wanted
from services.scheduler import SUMMED, AsyncHoldingBack, HoldingBack
from services.window import Window

# Answers that finish within this time travel together; a message each would cost more than they do.
GATHER_S = 1.0
# What a replica whose engine is dead takes to say so before it ends.
LAST_WORDS_S = 1.0
TAIL_LENGTH = 120
BATCH_PRIORITY = 1  # the scheduler takes the lowest number first; what people ask has 0


class Fault(NamedTuple):
    """Why there is no answer, or none of use: a reason of `fusion.failures`, and a sentence."""

    reason: str
    detail: str


class SourceEngine(VLLMEngine):
    """Ray's vLLM engine, with its worker inside the engine core's process on CPU.

    `ray.serve.llm` asks for the multi-process executor on CPU; one process fewer saves about
    a gigabyte and fourteen seconds of imports for each source.

    Answers in a form have one grammar backend: left to itself, vLLM takes what the first such
    request needs, and a schema meant for another then fails late or loses rules. They have no
    whitespace between their parts, of which small models else write nothing but.
    """

    def _start_async_llm_engine(
        self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any
    ) -> Any:
        parallel = vllm_engine_config.parallel_config
        if parallel.distributed_executor_backend == "mp" and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
        structured_outputs = vllm_engine_config.structured_outputs_config
        if structured_outputs.backend == "auto":
            structured_outputs.backend = "xgrammar"
            structured_outputs.disable_any_whitespace = True
        scheduler = vllm_engine_config.scheduler_config
        scheduler.scheduler_cls = AsyncHoldingBack if scheduler.async_scheduling else HoldingBack
        return super()._start_async_llm_engine(
            vllm_engine_args, vllm_engine_config, placement_group
        )


class SourceServer(LLMServer):
    """OpenAI's methods of `ray.serve.llm`, and `sample` for the batch."""

    _default_engine_cls = SourceEngine

    async def start(self) -> None:
        """Start the engine, and load the tokenizer that renders prompts for `sample`.

        Raises:
            BadInputError: the tokenizer cannot be loaded, or its chat template cannot ask.
        """
        loading = self._llm_config.model_loading_config
        revision = self._llm_config.engine_kwargs.get("revision")
        self._tokenizer = load_tokenizer(loading.model_source, revision)
        check_template(self._tokenizer, loading.model_source, "sample")  # before the weights
        if Path(loading.model_source).is_dir():
            # nothing to download: spare each node a process that imports vLLM to find that out
            self._llm_config.get_or_create_callback().ctx.run_init_node = False
        await super().start()
        # beside the event loop, on which the engine's steps wait
        self._renderer = ThreadPoolExecutor(max_workers=1)
        client = self.engine._engine_client
        self._max_model_len = client.model_config.max_model_len
        self._window = Window(client.vllm_config.scheduler_config.max_num_seqs)
        # instead of vLLM's Prometheus counters, which nobody can read in a replica
        client.logger_manager.stat_loggers = [self._window]

    def fit(self, messages: Sequence[Message]) -> list[Message]:
        """A conversation as the model's template takes it."""
        return fit_messages(self._tokenizer, messages)

    def room(self, messages: Sequence[Message]) -> int:
        """Tokens that the context has left for an answer."""
        return int(self._max_model_len - len(render_prompt(self._tokenizer, messages)))

    async def sample(
        self, requests: Sequence[SampleRequest], manner: Manner
    ) -> AsyncIterator[Finished]:
        """Answer all that is wanted, and hand out the answers as they finish.

        A failure is an answer with its reason. All calls share one window, so the engine holds
        as many answers as it has use for, and the slowest of a call holds up no other.

        Raises:
            SourceDiedError: the engine is dead; this process ends soon after.
        """
        yield Finished([], self._window.size)  # the caller knows from it that the call has come
        loop = asyncio.get_running_loop()
        prompts = await loop.run_in_executor(self._renderer, list, map(self._prompt, requests))
        tasks = {
            loop.create_task(self._answer(request.prompt_id, wanted, prompt, manner))
            for request, prompt in zip(requests, prompts, strict=True)
            for wanted in request.wanted
        }
        pending = tasks
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if pending:
                    more, pending = await asyncio.wait(pending, timeout=GATHER_S)
                    done |= more
                yield Finished([task.result() for task in done], self._window.size)
        finally:
            for task in tasks:
                task.cancel()

    def _prompt(self, request: SampleRequest) -> list[int] | Fault:
        """The token ids that the engine gets, or why there are none."""
        try:
            token_ids = render_prompt(self._tokenizer, request.messages)
        except CrucibleError as error:
            return Fault("template", str(error))
        if len(token_ids) >= self._max_model_len:
            detail = f"{len(token_ids)} prompt tokens, the context holds {self._max_model_len}"
            return Fault("too_long", detail)
        return token_ids

    async def _answer(
        self, prompt_id: str, wanted: Wanted, prompt: list[int] | Fault, manner: Manner
    ) -> Answer:
        id_ = response_id(prompt_id, manner.source_key, wanted.sample_index)
        seed = sampling_seed(id_, wanted.draw)
        answer = Answer(id_, prompt_id, wanted.sample_index, seed)
        if isinstance(prompt, Fault):
            return replace(answer, failure=prompt.reason, detail=prompt.detail)
        room = self._max_model_len - len(prompt)
        params = sampling_params(manner.sampling, seed=seed, room=room)
        async with self._window:
            output = await self._generate(id_, prompt, params, manner.timeout_s)
        if isinstance(output, Fault):
            return replace(answer, failure=output.reason, detail=output.detail)
        fault = None if manner.keeps_all else content_fault(output)
        return replace(
            answer,
            text=output.text,
            finish_reason=output.finish_reason or "unknown",
            prompt_tokens=len(prompt),
            completion_tokens=len(output.token_ids),
            cumulative_logprob=output.cumulative_logprob,
            failure=fault.reason if fault else None,
            detail=fault.detail if fault else "",
        )

    async def _generate(
        self, id_: str, prompt: list[int], params: SamplingParams, timeout_s: float
    ) -> CompletionOutput | Fault:
        """What the engine makes of a prompt; only an engine that is dead raises."""
        generated = self.engine._engine_client.generate(
            {"prompt_token_ids": prompt}, params, id_, priority=BATCH_PRIORITY
        )
        try:
            async with asyncio.timeout(timeout_s):
                outputs = [output async for output in generated]  # one: only the final is asked for
        except TimeoutError:
            return Fault("timeout", f"no answer within {timeout_s:g} s")
        except EngineDeadError as error:
            self._end_soon()
            raise SourceDiedError(f"the engine died ({one_line(error)})") from None
        except (VLLMClientError, ValueError) as error:
            return Fault("rejected", one_line(error))
        except VLLMServerError as error:
            return Fault("engine_error", one_line(error.__cause__ or error))
        return outputs[-1].outputs[0]

    def _end_soon(self) -> None:
        """End this process, so that Serve sees at once that it is of no more use."""
        asyncio.get_running_loop().call_later(LAST_WORDS_S, os._exit, 1)


def content_fault(output: CompletionOutput) -> Fault | None:
    """Why an answer that came is of no use: it is empty, or repeats itself until it is cut off."""
    if not output.text.strip():
        return Fault("empty", f"{len(output.token_ids)} tokens and no text")
    if output.finish_reason != "length":
        return None
    tokens = list(output.token_ids)
    if piece := repeated_tail(tokens):
        tail = " ".join(output.text[-TAIL_LENGTH:].split())
        return Fault("looping", f"it repeats its last {piece} of {len(tokens)} tokens: {tail}")
    return None


def sampling_params(sampling: Sampling, *, seed: int, room: int) -> SamplingParams:
    """vLLM's parameters for one answer of at most `room` tokens, its log-prob kept."""
    return SamplingParams(
        **sampling.model_dump(exclude={"max_tokens", "stop"}),
        max_tokens=min(sampling.max_tokens, room),
        stop=list(sampling.stop),
        seed=seed,
        logprobs=0,
        extra_args=dict(SUMMED),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
