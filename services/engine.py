"""The vLLM engine of a source. Importing this imports vLLM (15 s): replicas do, drivers do not."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm.deployment import LLMServer
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from fusion.chat import load_tokenizer, render_prompt
from fusion.errors import CrucibleError
from fusion.identity import response_id, sampling_seed
from fusion.recipe import Sampling
from services.answers import Answer, SampleRequest


class SourceEngine(VLLMEngine):
    """Ray's vLLM engine, with its worker inside the engine core's process on CPU.

    `ray.serve.llm` asks for the multi-process executor on CPU; one process fewer saves about
    a gigabyte and fourteen seconds of imports for each source.
    """

    def _start_async_llm_engine(
        self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any
    ) -> Any:
        parallel = vllm_engine_config.parallel_config
        if parallel.distributed_executor_backend == "mp" and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(
            vllm_engine_args, vllm_engine_config, placement_group
        )


class SourceServer(LLMServer):
    """OpenAI's methods of `ray.serve.llm`, and `sample` for the batch."""

    _default_engine_cls = SourceEngine

    async def start(self) -> None:
        """Start the engine, and load the tokenizer that renders prompts for `sample`."""
        loading = self._llm_config.model_loading_config
        if Path(loading.model_source).is_dir():
            # nothing to download: spare each node a process that imports vLLM to find that out
            self._llm_config.get_or_create_callback().ctx.run_init_node = False
        await super().start()
        revision = self._llm_config.engine_kwargs.get("revision")
        self._tokenizer = load_tokenizer(loading.model_source, revision)
        self._max_model_len = self.engine._engine_client.model_config.max_model_len

    async def sample(
        self, requests: Sequence[SampleRequest], source_key: str, sampling: Sampling
    ) -> list[Answer]:
        """Answer every wanted sample of every request; a failure is an answer with its reason."""
        answers = await asyncio.gather(
            *(self._answer_prompt(request, source_key, sampling) for request in requests)
        )
        return [answer for of_prompt in answers for answer in of_prompt]

    async def _answer_prompt(
        self, request: SampleRequest, source_key: str, sampling: Sampling
    ) -> list[Answer]:
        try:
            token_ids = render_prompt(self._tokenizer, request.messages)
        except CrucibleError as error:
            return self._failures(request, source_key, "template", str(error))
        if len(token_ids) >= self._max_model_len:
            detail = f"{len(token_ids)} prompt tokens, the context holds {self._max_model_len}"
            return self._failures(request, source_key, "too_long", detail)
        return await asyncio.gather(
            *(
                self._answer(request.prompt_id, index, token_ids, source_key, sampling)
                for index in request.sample_indexes
            )
        )

    async def _answer(
        self, prompt: str, index: int, token_ids: list[int], source_key: str, sampling: Sampling
    ) -> Answer:
        wanted = response_id(prompt, source_key, index)
        seed = sampling_seed(wanted)
        room = self._max_model_len - len(token_ids)
        params = sampling_params(sampling, seed=seed, room=room)
        inputs = {"prompt_token_ids": token_ids}
        generated = self.engine._engine_client.generate(inputs, params, wanted)
        outputs = [output async for output in generated]  # one: only the final output is asked for
        best = outputs[-1].outputs[0]
        return Answer(
            response_id=wanted,
            prompt_id=prompt,
            sample_index=index,
            seed=seed,
            text=best.text,
            finish_reason=best.finish_reason or "unknown",
            prompt_tokens=len(token_ids),
            completion_tokens=len(best.token_ids),
            cumulative_logprob=best.cumulative_logprob,
        )

    def _failures(
        self, request: SampleRequest, source_key: str, reason: str, detail: str
    ) -> list[Answer]:
        return [
            Answer(
                response_id=(wanted := response_id(request.prompt_id, source_key, index)),
                prompt_id=request.prompt_id,
                sample_index=index,
                seed=sampling_seed(wanted),
                failure=reason,
                detail=detail,
            )
            for index in request.sample_indexes
        ]


def sampling_params(sampling: Sampling, *, seed: int, room: int) -> Any:
    """vLLM's parameters for one answer of at most `room` tokens, its log-prob kept."""
    return SamplingParams(
        **sampling.model_dump(exclude={"max_tokens", "stop"}),
        max_tokens=min(sampling.max_tokens, room),
        stop=list(sampling.stop),
        seed=seed,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
