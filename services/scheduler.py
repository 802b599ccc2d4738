"""vLLM's schedulers, which send an answer when it is whole where nobody wants it piece by piece.

The engine core tells the process of the replica of every token of every answer. For the batch that
is all cost: the replica took a sixth of a core for it beside 2,400 tokens a second, most of it for
log-probs of which only the sum is kept. Held back are answers that ask for that, that are read only
at their end, and whose end is for the engine to see, which stop strings are not.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

# How often the engine core says how many answers run and wait; a message a step costs the steps.
STATS_EVERY_S = 0.1
# Among a request's `extra_args`: of the log-probs of its tokens only the sum is wanted.
SUMMED = {"logprobs_summed": True}


def is_held_back(params: SamplingParams | None) -> bool:
    """Whether an answer with these parameters is sent when it is whole."""
    if params is None or params.output_kind != RequestOutputKind.FINAL_ONLY or params.stop:
        return False
    return SUMMED.items() <= (params.extra_args or {}).items()


class HoldingBack(Scheduler):
    """A scheduler whose outputs leave out answers that are held back until they end."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """As vLLM's."""
        super().__init__(*args, **options)
        self._held: dict[str, _Held] = {}
        self._told_at = 0.0

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """As vLLM's, less the parts of answers that are held back."""
        requests = map(self.requests.get, scheduler_output.num_scheduled_tokens)
        held_back = {r.request_id for r in requests if r and is_held_back(r.sampling_params)}
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(
            scheduler_output, model_runner_output
        )
        for of_client in outputs.values():
            of_client.outputs = [
                output
                for output in of_client.outputs
                if output.request_id not in held_back or self._is_whole(output)
            ]
        return {client: of for client, of in outputs.items() if _says_something(of)}

    def make_stats(self, *args: Any, **options: Any) -> Any:
        """As vLLM's, now and then."""
        now = time.monotonic()
        if now - self._told_at < STATS_EVERY_S:
            return None
        self._told_at = now
        return super().make_stats(*args, **options)

    def finish_requests(self, *args: Any, **options: Any) -> list[Request]:
        """As vLLM's; what is held of a request that is aborted is forgotten."""
        finished: list[Request] = super().finish_requests(*args, **options)
        for request in finished:
            self._held.pop(request.request_id, None)
        return finished

    def _is_whole(self, output: EngineCoreOutput) -> bool:
        """Whether an answer ends with this output, which then has all of it."""
        held = self._held.setdefault(output.request_id, _Held())
        held.add(output)
        if output.finished:
            held.give(output)
            del self._held[output.request_id]
        return bool(output.finished)


class AsyncHoldingBack(HoldingBack, AsyncScheduler):
    """The same of the scheduler that runs a step ahead, which vLLM takes on GPUs."""


def _says_something(of_client: EngineCoreOutputs) -> bool:
    return bool(of_client.outputs or of_client.finished_requests or of_client.scheduler_stats)


@dataclass
class _Held:
    """What there is of an answer so far."""

    token_ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    events: list[Any] = field(default_factory=list)
    prefill_stats: Any = None

    def add(self, output: EngineCoreOutput) -> None:
        self.token_ids += output.new_token_ids
        self.events += output.events or ()
        self.prefill_stats = self.prefill_stats or output.prefill_stats
        if output.new_logprobs is not None:
            self.logprob += float(output.new_logprobs.logprobs[:, 0].sum())

    def give(self, last: EngineCoreOutput) -> None:
        """Make the last output the only one: all tokens, and one log-prob that is their sum."""
        last.new_token_ids = self.token_ids
        last.events = self.events or None
        last.prefill_stats = self.prefill_stats
        if last.new_logprobs is not None:
            one = last.new_logprobs.slice_request(0, 1)
            last.new_logprobs = one._replace(logprobs=np.array([[self.logprob]]))
