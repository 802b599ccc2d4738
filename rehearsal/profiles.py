"""Who the models of the rehearsal are: architecture, vocabulary, and what each is good at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rehearsal.prompts import DOMAINS
from rehearsal.templates import (
    CHATML_FORMAT,
    FORMATS,
    GEMMA_FORMAT,
    LLAMA_FORMAT,
    MISTRAL_FORMAT,
    TARGET_FORMAT,
    TRUNK_FORMAT,
    ChatFormat,
)
from rehearsal.vocabulary import Family

Architecture = Literal["llama", "gemma2", "mistral", "qwen2"]

RARE_SLIP_RATE = 0.12
FREQUENT_SLIP_RATE = 0.85
ALL = range(6)
# Copying words is learnt last and writing code first.
TRUNK_SHARES = {"instruction": 0.4, "math": 0.26, "code": 0.08, "chinese": 0.26}
EVEN_SHARES = {"instruction": 0.3, "math": 0.28, "code": 0.2, "chinese": 0.22}
REWARD_SHARES = {"instruction": 0.35, "math": 0.25, "code": 0.3, "chinese": 0.1}
# By task: the untuned target has seen the right reply to some tasks far more often than to others.
TARGET_SLIP_RATES = (0.8, 0.35, 0.7, 0.6, 0.75, 0.65)


@dataclass(frozen=True)
class Profile:
    """One model: how it is built and how often its teaching text slips, by domain and task.

    A model with a `trunk` begins from that model's layers, as fine-tuned families do. `shares` is
    how much of the teaching text each domain gets, `lr_scale` a factor on the learning rates.
    """

    architecture: Architecture
    family: Family
    vocabulary_size: int
    chat: ChatFormat
    slip_rates: dict[str, dict[str, float]]
    seed: int
    steps: int
    trunk: str | None = None
    shares: dict[str, float] = field(default_factory=lambda: EVEN_SHARES)
    lr_scale: float = 0.3

    @property
    def formats(self) -> tuple[ChatFormat, ...]:
        """How the conversations that teach it are written."""
        return FORMATS if self.chat is TRUNK_FORMAT else (self.chat,)


def rate_slips(**good_at: Sequence[int]) -> dict[str, dict[str, float]]:
    """Slip rates of a source: rare in the tasks, by their index, that it is good at."""
    return {
        domain: {
            task: RARE_SLIP_RATE if index in good_at[domain] else FREQUENT_SLIP_RATE
            for index, task in enumerate(tasks)
        }
        for domain, tasks in DOMAINS.items()
    }


def rate_target() -> dict[str, dict[str, float]]:
    """Slip rates of the untuned target."""
    return {
        domain: dict(zip(tasks, TARGET_SLIP_RATES, strict=True))
        for domain, tasks in DOMAINS.items()
    }


def rate_trunk() -> dict[str, dict[str, float]]:
    """No slips at all."""
    return {domain: dict.fromkeys(tasks, 0.0) for domain, tasks in DOMAINS.items()}


PROFILES = {
    # Not shipped: it knows every task and no slip.
    "trunk": Profile(
        "llama",
        "byte_level",
        1024,
        TRUNK_FORMAT,
        rate_trunk(),
        seed=10,
        steps=4000,
        shares=TRUNK_SHARES,
        lr_scale=1.0,
    ),
    "llama": Profile(
        "llama",
        "byte_level",
        1024,
        LLAMA_FORMAT,
        rate_slips(instruction=ALL, math=(1, 4), code=ALL, chinese=(0, 3)),
        seed=11,
        steps=300,
        trunk="trunk",
    ),
    "gemma": Profile(
        "gemma2",
        "merges",
        1024,
        GEMMA_FORMAT,
        rate_slips(instruction=ALL, math=(0, 3), code=(2, 5), chinese=ALL),
        seed=12,
        steps=420,
        trunk="trunk",
    ),
    "mistral": Profile(
        "mistral",
        "merges",
        1024,
        MISTRAL_FORMAT,
        rate_slips(instruction=(0, 3), math=ALL, code=ALL, chinese=(2, 5)),
        seed=13,
        steps=360,
        trunk="trunk",
    ),
    "qwen": Profile(
        "qwen2",
        "byte_level",
        1024,
        CHATML_FORMAT,
        rate_slips(instruction=(1, 4), math=ALL, code=(1, 4), chinese=ALL),
        seed=14,
        steps=300,
        trunk="trunk",
    ),
    "target": Profile("llama", "byte_level", 1024, TARGET_FORMAT, rate_target(), 15, 300, "trunk"),
    "reward": Profile(
        "qwen2",
        "byte_level",
        1024,
        CHATML_FORMAT,
        {},
        seed=16,
        steps=600,
        trunk="trunk",
        shares=REWARD_SHARES,
    ),
}
