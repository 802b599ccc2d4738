"""What a layout comes to: memory, tokens, hours and bytes, with where each figure is from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.connection import Holdings
from cluster.engine_fit import GIB, Room, Split, room
from cluster.plan import Layout, Model, reward_need, served_rewards, smallest_kind
from cluster.roofline import roofline
from fusion.architecture import Architecture, architecture
from fusion.recipe import Cluster, Engine, Recipe, Reward

# Text of about 4 bytes a token, halved by the store's compression; ids and figures of a row.
STORED_BYTES_A_TOKEN = 2.0
STORED_BYTES_AN_ANSWER = 160.0
STORED_BYTES_A_SCORE = 120.0
HOUR_S = 3600.0

Origin = Literal["stated", "measured", "at best"]


@dataclass(frozen=True)
class Work:
    """What a source has to do; None where the number of prompts is not known."""

    answers: int | None
    left: int | None
    """Answers not stored yet."""
    answer_tokens: float
    is_measured: bool = False
    """Whether the length is the mean of stored answers, not the recipe's assumption."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one engine, and where the figure is from."""

    tokens_a_second: float
    origin: Origin


@dataclass(frozen=True)
class Row:
    """One model of the plan."""

    name: str
    model: str
    wave: int | None
    """Counted from 1; None for the reward model."""
    parameters: int | None
    size_origin: str | None
    split: Split
    replicas: int
    gpus: int
    nodes: tuple[str, ...]
    room: Room | None
    at_once: int | None
    """Average answers that one engine decodes together."""
    work: Work | None
    speed: Speed | None
    hours: float | None


@dataclass(frozen=True)
class Forecast:
    """A recipe on a cluster."""

    waves: int
    rows: tuple[Row, ...]
    reward_stays: bool
    wave_hours: tuple[float | None, ...]
    answers: int | None
    tokens: int | None
    stored_gib: float | None
    checkpoints_gib: float | None
    assumptions: tuple[str, ...]


def forecast(
    recipe: Recipe,
    models: Sequence[Model],
    rewards: Mapping[str, Reward],
    layout: Layout,
    holdings: Holdings,
    works: Mapping[str, Work],
    measured: Mapping[str, float],
) -> Forecast:
    """The figures of a layout.

    Args:
        recipe: The recipe.
        models: The sources, as they were laid out.
        rewards: The scorers that were laid out with them.
        layout: Their sizes and waves.
        holdings: The cluster.
        works: What each source has to do.
        measured: Tokens a second of one engine so far, by source.
    """
    by_name = {model.name: model for model in models}
    rows = [
        _row(by_name[name], number, layout, holdings, recipe.cluster, works[name], measured)
        for number, wave in enumerate(layout.packed.waves, start=1)
        for name in wave.names
    ]
    hours = tuple(
        _longest(r for r in rows if r.wave == n + 1) for n in range(len(layout.packed.waves))
    )
    for name, reward in served_rewards(rewards).items():
        rows.append(_reward_row(name, reward, recipe, holdings, works))
    answers = _sum(work.answers for work in works.values())
    tokens = _sum(
        None if w.answers is None else round(w.answers * w.answer_tokens) for w in works.values()
    )
    return Forecast(
        waves=len(layout.packed.waves),
        rows=tuple(rows),
        reward_stays=layout.packed.has_beside,
        wave_hours=hours,
        answers=answers,
        tokens=tokens,
        stored_gib=_stored_gib(recipe, answers, tokens),
        checkpoints_gib=_checkpoints_gib(recipe),
        assumptions=_assumptions(recipe.cluster, rows, works),
    )


def _row(
    model: Model,
    wave: int,
    layout: Layout,
    holdings: Holdings,
    settings: Cluster,
    work: Work,
    measured: Mapping[str, float],
) -> Row:
    split = layout.splits[model.name]
    placed = layout.packed.waves[wave - 1]
    size, kind = architecture(model.model, settings.models), smallest_kind(holdings)
    found = at_once = None
    if size and kind and kind.memory_gib:
        found = room(size, model.engine, split, kind.memory_gib)
        length = settings.prompt_tokens + work.answer_tokens
        at_once = found.answers_at_once(length, model.engine.max_num_seqs)
    replicas = placed.replicas[model.name]
    speed = _speed(model, size, split, holdings, settings, work, measured, at_once)
    hours = None
    if speed and work.left is not None:
        hours = work.left * work.answer_tokens / speed.tokens_a_second / replicas / HOUR_S
    return Row(
        name=model.name,
        model=model.model,
        wave=wave,
        parameters=size.parameters if size else None,
        size_origin=size.origin if size else None,
        split=split,
        replicas=replicas,
        gpus=split.gpus * replicas if holdings.gpus else 0,
        nodes=placed.nodes.get(model.name, ()),
        room=found,
        at_once=at_once,
        work=work,
        speed=speed,
        hours=hours,
    )


def _speed(
    model: Model,
    size: Architecture | None,
    split: Split,
    holdings: Holdings,
    settings: Cluster,
    work: Work,
    measured: Mapping[str, float],
    at_once: int | None,
) -> Speed | None:
    if model.name in settings.throughput:
        return Speed(settings.throughput[model.name], "stated")
    if model.name in measured:
        return Speed(measured[model.name], "measured")
    kind = smallest_kind(holdings)
    limits = roofline(size, model.engine, split, kind) if size and kind else None
    if limits is None or not at_once:
        return None
    rate = limits.tokens_a_second(at_once, settings.prompt_tokens, work.answer_tokens)
    return Speed(rate, "at best")


def _reward_row(
    name: str, reward: Reward, recipe: Recipe, holdings: Holdings, works: Mapping[str, Work]
) -> Row:
    """One forward pass over prompt and answer each; at best that is its arithmetic."""
    settings, kind = recipe.cluster, smallest_kind(holdings)
    size = architecture(str(reward.model), settings.models)
    need = reward_need(name, reward, holdings, settings)
    engine, one = Engine(dtype=reward.dtype), Split(1, 1)
    limits = roofline(size, engine, one, kind) if size and kind else None
    answers = _sum(work.left for work in works.values())
    hours = speed = None
    if limits and answers is not None:
        tokens = sum(
            (w.left or 0) * (settings.prompt_tokens + w.answer_tokens) for w in works.values()
        )
        speed = Speed(1 / limits.prefill_s(1), "at best")
        hours = tokens / speed.tokens_a_second / need.replicas / HOUR_S
    weights = size.weights_bytes(engine) / GIB if size else None
    return Row(
        name=name,
        model=str(reward.model),
        wave=None,
        parameters=size.parameters if size else None,
        size_origin=size.origin if size else None,
        split=one,
        replicas=need.replicas,
        gpus=need.gpus,
        nodes=(),
        room=None if weights is None else Room(weights, 0.0, 0),
        at_once=reward.batch_size,
        work=None,
        speed=speed,
        hours=hours,
    )


def _longest(rows: Iterable[Row]) -> float | None:
    hours = [row.hours for row in rows]
    known = [h for h in hours if h is not None]
    return max(known) if len(known) == len(hours) and known else None


def _sum(numbers: Iterable[int | None]) -> int | None:
    given = list(numbers)
    return None if None in given else sum(n for n in given if n is not None)


def _stored_gib(recipe: Recipe, answers: int | None, tokens: int | None) -> float | None:
    """Answers with their text, and a score each of the reward model and of a verifier."""
    if answers is None or tokens is None:
        return None
    judges = len(recipe.rewards) + any(d.verifier for d in recipe.datasets)
    a_row = STORED_BYTES_AN_ANSWER + judges * STORED_BYTES_A_SCORE
    return (tokens * STORED_BYTES_A_TOKEN + answers * a_row) / GIB


def _checkpoints_gib(recipe: Recipe) -> float | None:
    """The models that sft and dpo leave, in the target's own number format."""
    target = architecture(recipe.target.model, recipe.cluster.models)
    return 2 * target.weights_bytes(Engine()) / GIB if target else None


def _assumptions(
    settings: Cluster, rows: Sequence[Row], works: Mapping[str, Work]
) -> tuple[str, ...]:
    said = []
    if not all(work.is_measured for work in works.values()):
        said.append(
            f"an answer has {settings.answer_tokens} tokens (cluster.answer_tokens) and a prompt "
            f"{settings.prompt_tokens} (cluster.prompt_tokens) where none is stored yet"
        )
    if any(row.speed and row.speed.origin == "at best" for row in rows):
        said.append(
            "a speed marked * is what the GPU's data sheet allows at best; measure one engine and "
            "say it in cluster.throughput"
        )
    unknown = sorted(row.name for row in rows if row.parameters is None)
    if unknown:
        said.append(
            f"the size of {', '.join(unknown)} is not known here, so only GPUs are counted; "
            "say it in cluster.models"
        )
    if any(work.answers is None for work in works.values()):
        said.append("the prompts of some data set are not known here; say them in cluster.prompts")
    return tuple(said)
