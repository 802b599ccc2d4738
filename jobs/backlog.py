"""What of a block of requests is still to be sent, and what became of the rest."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fusion.failures import SUSPECTED_AFTER, rule_of, suspects_together
from fusion.identity import response_id, sampling_seed
from services.answers import Answer, Manner, SampleRequest, Wanted

Key = tuple[str, int]


class Backlog:
    """Requests to send, and how often each of their answers has failed.

    Every answer wanted is settled once: by an answer, or by a failure that is final.
    """

    def __init__(self, requests: Iterable[SampleRequest], manner: Manner) -> None:
        self._waiting = deque(requests)
        self._suspects: deque[SampleRequest] = deque()
        self._manner = manner
        self._failed: dict[Key, int] = {}
        self._sent: dict[Key, tuple[SampleRequest, Wanted]] = {}

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits and nothing is out."""
        return not (self._waiting or self._suspects or self._sent)

    @property
    def num_sent(self) -> int:
        """How many answers are asked for and not settled."""
        return len(self._sent)

    def take(self, num_answers: int) -> list[SampleRequest]:
        """The next requests, of about so many answers, as sent from now on.

        What may be what kills the engine comes last, in small groups, and one group at a time.
        """
        queue = self._waiting
        if not queue and self._suspects and not self._sent:
            queue = self._suspects
            num_answers = min(num_answers, suspects_together(self._deaths(queue[0])))
        taken: list[SampleRequest] = []
        while queue and num_answers > 0:
            request = queue.popleft()
            taken.append(request)
            num_answers -= len(request.wanted)
            for wanted in request.wanted:
                self._sent[request.prompt_id, wanted.sample_index] = (request, wanted)
        return taken

    def settle(self, answer: Answer) -> Answer | None:
        """What to keep of an answer that came: itself, or None where it is to be tried again."""
        request, wanted = self._sent.pop((answer.prompt_id, answer.sample_index))
        return answer if answer.failure is None else self._failure(request, wanted, answer)

    def lose(self, requests: Sequence[SampleRequest], detail: str, *, counts: bool) -> list[Answer]:
        """Take back what a call that died left unanswered; returns the failures that are final.

        Where it does not count as a try, all of it waits again.
        """
        final = []
        for request in requests:
            for wanted in request.wanted:
                if self._sent.pop((request.prompt_id, wanted.sample_index), None) is None:
                    continue
                if not counts:
                    self._waiting.append(replace(request, wanted=[wanted]))
                    continue
                id_ = response_id(request.prompt_id, self._manner.source_key, wanted.sample_index)
                died = Answer(
                    response_id=id_,
                    prompt_id=request.prompt_id,
                    sample_index=wanted.sample_index,
                    seed=sampling_seed(id_, wanted.draw),
                    failure="engine_died",
                    detail=detail,
                )
                if failure := self._failure(request, wanted, died):
                    final.append(failure)
        return final

    def _failure(self, request: SampleRequest, wanted: Wanted, answer: Answer) -> Answer | None:
        """The failure with its attempts if it is final, else None, and the answer waits again."""
        key, reason = (request.prompt_id, wanted.sample_index), str(answer.failure)
        failed = self._failed[key] = self._failed.get(key, 0) + 1
        rule = rule_of(reason, greedy=self._manner.sampling.temperature == 0)
        if failed >= rule.attempts:
            return replace(answer, attempts=failed)
        again = replace(wanted, draw=wanted.draw + 1) if rule.new_seed else wanted
        is_suspect = reason == "engine_died" and failed >= SUSPECTED_AFTER
        queue = self._suspects if is_suspect else self._waiting
        queue.append(replace(request, wanted=[again]))
        return None

    def _deaths(self, request: SampleRequest) -> int:
        return self._failed[request.prompt_id, request.wanted[0].sample_index]
