"""A small world of prompts, answers and scores, built from one line an answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl
import pytest

from fusion.identity import response_id
from fusion.recipe import Recipe
from fusion.selection import Selected, select

SOURCES = ("alpha", "beta", "gamma")


class Answer(NamedTuple):
    """One answer; prompt ids are made of the data set's name and a number, as in `math/1`."""

    prompt: str
    source: str = "alpha"
    index: int = 0
    text: str = "an answer"
    reward: float | None = None
    verdict: str | None = None
    finish_reason: str = "stop"

    @property
    def id(self) -> str:
        return response_id(self.prompt, self.source, self.index)


@dataclass(frozen=True)
class World:
    recipe: Recipe
    prompts: pl.DataFrame
    responses: pl.DataFrame
    scores: pl.DataFrame

    def select(self) -> Selected:
        return select(self.recipe, self.prompts, self.responses, self.scores)


def make_recipe(datasets: Sequence[str], *, has_reward: bool = True, **selection: Any) -> Recipe:
    """A recipe with a data set a domain, of the domain's name."""
    return Recipe.model_validate(
        {
            "name": "small",
            "target": {"model": "target"},
            "sources": [{"name": name, "model": f"model-{name}"} for name in SOURCES],
            "datasets": [
                {"name": name, "path": "p.jsonl", "domain": name, "fields": {"prompt": "prompt"}}
                for name in datasets
            ],
            "reward": {"model": "reward"} if has_reward else None,
            "selection": selection,
        }
    )


def make_world(
    answers: Sequence[Answer],
    *,
    datasets: Sequence[str] = ("instruction",),
    prompts: Sequence[str] = (),
    has_reward: bool = True,
    **selection: Any,
) -> World:
    """The world of these answers; `prompts` names those without any."""
    recipe = make_recipe(datasets, has_reward=has_reward, **selection)
    ids = sorted({*prompts, *(answer.prompt for answer in answers)})
    return World(recipe, _prompts(ids), _responses(answers), _scores(answers, has_reward))


def _prompts(ids: Sequence[str]) -> pl.DataFrame:
    rows = [
        {
            "prompt_id": id_,
            "dataset": id_.split("/")[0],
            "domain": id_.split("/")[0],
            "split": "train",
            "messages": [{"role": "user", "content": f"question {id_}"}],
        }
        for id_ in ids
    ]
    turn = pl.Struct({"role": pl.String, "content": pl.String})
    names = ("prompt_id", "dataset", "domain", "split")
    return pl.DataFrame(rows, {**dict.fromkeys(names, pl.String), "messages": pl.List(turn)})


def _responses(answers: Sequence[Answer]) -> pl.DataFrame:
    rows = [
        (a.id, a.prompt, a.source, f"{a.source}-key", a.index, a.text, a.finish_reason)
        for a in answers
    ]
    text = ("response_id", "prompt_id", "source", "source_key")
    schema = {**dict.fromkeys(text, pl.String), "sample_index": pl.Int32}
    schema |= {"text": pl.String, "finish_reason": pl.String}
    return pl.DataFrame(rows, schema, orient="row")


def _scores(answers: Sequence[Answer], has_reward: bool) -> pl.DataFrame:
    rows = [(a.id, "reward", a.reward, None) for a in answers if has_reward]
    rows += [(a.id, "math", None, a.verdict) for a in answers]
    schema = {"response_id": pl.String, "scorer": pl.String}
    schema |= {"reward": pl.Float64, "verdict": pl.String}
    return pl.DataFrame(rows, schema, orient="row")


@pytest.fixture(scope="session")
def answer() -> type[Answer]:
    return Answer


@pytest.fixture(scope="session")
def world() -> Callable[..., World]:
    return make_world
