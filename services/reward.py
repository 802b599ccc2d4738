"""The reward model as a Serve application: whole conversations in, one raw score each out."""

import math
from collections.abc import Sequence

from ray import serve

from cluster.settings import engine_environment
from fusion.chat import load_tokenizer, render_conversation
from fusion.errors import CrucibleError
from fusion.recipe import Reward
from fusion.rewards.judgement import Judgement

Row = tuple[int, ...]


class RewardServer:
    """Scores conversations in micro-batches sorted by length, so that little is padding."""

    def __init__(self, reward: Reward, on_cpu: bool) -> None:
        """Load model and tokenizer."""
        import torch

        from fusion.rewards.scorer import load_scorer

        self._reward = reward
        self._tokenizer = load_tokenizer(str(reward.model), reward.revision)
        device = torch.device("cpu" if on_cpu else "cuda")
        self._scorer = load_scorer(reward, self._tokenizer, device)

    def score(self, conversations: Sequence[list[dict[str, str]]]) -> list[Judgement]:
        """One judgement a conversation, in the order given; equal ones are computed once."""
        rendered = [self._render(conversation) for conversation in conversations]
        judged = self._judge({row for row in rendered if isinstance(row, tuple)})
        return [judged[row] if isinstance(row, tuple) else row for row in rendered]

    def _judge(self, rows: set[Row]) -> dict[Row, Judgement]:
        judged: dict[Row, Judgement] = {}
        order = sorted(rows, key=lambda row: (len(row), row))
        size = self._reward.batch_size
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            for row, (value, heads) in zip(batch, self._scorer.score(batch), strict=True):
                judged[row] = _judgement(value, heads)
        return judged

    def _render(self, conversation: list[dict[str, str]]) -> Row | Judgement:
        try:
            token_ids = render_conversation(self._tokenizer, conversation)
        except CrucibleError as error:
            return Judgement(failure="template", detail=str(error))
        if len(token_ids) > self._reward.max_length:
            detail = f"{len(token_ids)} tokens, the limit is {self._reward.max_length}"
            return Judgement(failure="too_long", detail=detail)
        return tuple(token_ids)


def _judgement(value: float, heads: list[float] | None) -> Judgement:
    if math.isfinite(value):
        return Judgement(value, heads)
    return Judgement(failure="not_a_number", detail=f"the reward is {value}")


def reward_application(
    reward: Reward, *, on_cpu: bool, threads: int, name: str = "Reward"
) -> serve.Application:
    """The Serve application of a reward model, its deployment by this name."""
    environment = engine_environment(on_cpu=on_cpu, threads=threads)
    deployment = serve.deployment(
        RewardServer,
        name=name,
        num_replicas=reward.replicas,
        max_ongoing_requests=4,
        graceful_shutdown_timeout_s=5,
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": 0 if on_cpu else 1,
            "runtime_env": {"env_vars": environment},
        },
        # so that Ray tells whether it has room, as of sources
        placement_group_bundles=[{"CPU": 1} if on_cpu else {"CPU": 1, "GPU": 1}],
    )
    return deployment.bind(reward, on_cpu)
