"""The rules in their order: exclude, rank, pair, split, fill the rows, count."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from fusion.recipe import Policy, Recipe
from fusion.selection.answers import describe, exclude, judge
from fusion.selection.pairs import (
    best_of_prompts,
    best_of_sources,
    candidate_pairs,
    mark_dropped,
)
from fusion.selection.rows import preference_rows, sft_rows
from fusion.selection.split import lose_pairs_to_sft, split
from fusion.selection.yields import Yields, count_yields


@dataclass(frozen=True)
class Choice:
    """What was chosen, by response id; the texts are still to be filled in."""

    best: pl.DataFrame
    pairs: pl.DataFrame
    uses: pl.DataFrame
    yields: Yields

    def response_ids(self) -> pl.Series:
        """The answers whose texts the rows need, each once, sorted."""
        picked = [
            self.best.join(self.uses.filter("in_sft"), on="prompt", how="semi")["response_id"]
        ]
        kept = self.pairs.filter(pl.col("dropped_by").is_null())
        picked += [kept["chosen_response_id"], kept["rejected_response_id"]]
        return pl.concat([column.rename("response_id") for column in picked]).unique().sort()


@dataclass(frozen=True)
class Selected:
    """The two tables, with the columns of `records.SFT` and `records.PREFERENCES`."""

    sft: pl.DataFrame
    preferences: pl.DataFrame
    yields: Yields


def select(
    recipe: Recipe, prompts: pl.DataFrame, responses: pl.DataFrame, scores: pl.DataFrame
) -> Selected:
    """Turn scored answers into training rows, by the recipe's policy for each domain.

    Frames have the columns of `records.PROMPTS` (train split), `RESPONSES` and `SCORES`, each id
    once. Answers to other prompts, and scores of other answers, are passed over. Equal input in
    any order gives equal output, sorted by the recipe's order of data sets and by prompt id.

    Raises:
        ValueError: a prompt's data set or an answer's source is not the recipe's.
    """
    choice = choose(recipe, prompts, describe(responses), scores)
    return fill(choice, prompts, responses.select("response_id", "text"))


def choose(
    recipe: Recipe, prompts: pl.DataFrame, described: pl.DataFrame, scores: pl.DataFrame
) -> Choice:
    """`select` without texts: what `describe` keeps of the answers is enough to choose."""
    selection, sources = recipe.selection, [source.name for source in recipe.sources]
    numbered = _number_prompts(prompts, recipe)
    described = _number_sources(described, sources)
    allowed = [sources.index(name) for name in selection.pairs_from or sources]
    answers = exclude(judge(described, numbered, scores, selection), recipe)
    usable = answers.filter(pl.col("dropped_by").is_null())
    best_by_source = best_of_sources(usable)
    best = best_of_prompts(best_by_source)
    pairs = candidate_pairs(answers, best_by_source, numbered, selection, allowed)
    pairs = mark_dropped(pairs, selection, sources, allowed)
    uses = split(numbered, best, pairs, selection.seed)
    pairs = lose_pairs_to_sft(pairs, uses)
    yields = count_yields(recipe, answers, best, pairs, uses)
    named = _name_sources(pairs, sources, "source", "rejected_source")
    return Choice(_name_sources(best, sources, "source"), named, uses, yields)


def fill(choice: Choice, prompts: pl.DataFrame, texts: pl.DataFrame) -> Selected:
    """The rows of a choice; `texts` has response_id and text of at least `response_ids()`."""
    uses = choice.uses.select(
        "prompt", "prompt_id", "dataset", "domain", "in_sft", "in_preferences"
    )
    uses = uses.join(prompts.select("prompt_id", "messages"), on="prompt_id")
    texts = texts.join(choice.response_ids().to_frame(), on="response_id", how="semi")
    best = choice.best.select("prompt", "source", "response_id", "reward")
    pairs = choice.pairs.drop("prompt_id", "domain")
    return Selected(sft_rows(uses, best, texts), preference_rows(uses, pairs, texts), choice.yields)


def _number_prompts(prompts: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """The prompts in the order of the output, numbered, with the policy of their domain."""
    order = {dataset.name: index for index, dataset in enumerate(recipe.datasets)}
    _check_known("prompts are of the data sets", prompts["dataset"], list(order))
    ranked = prompts.select("prompt_id", "dataset", "domain", "messages").sort(
        pl.col("dataset").replace_strict(order, return_dtype=pl.Int32), "prompt_id"
    )
    rows = [_policy_row(recipe, domain) for domain in ranked["domain"].unique()]
    policies = pl.DataFrame(rows, _POLICY_COLUMNS)
    return ranked.with_row_index("prompt").join(policies, on="domain").sort("prompt")


_POLICY_COLUMNS: dict[str, Any] = {
    "domain": pl.String,
    "judge": pl.String,
    "makes_pairs": pl.Boolean,
    "split": pl.String,
    "sft_share": pl.Float64,
    "share_of": pl.String,
    "keep_unpaired": pl.Boolean,
    "drop_identical": pl.Boolean,
}


def _policy_row(recipe: Recipe, domain: str) -> dict[str, Any]:
    policy = recipe.selection.policy(domain)
    return {
        "domain": domain,
        "judge": _judge(recipe, policy),
        "makes_pairs": policy.pairs,
        **policy.model_dump(include=set(_POLICY_COLUMNS) & set(Policy.model_fields) - {"judge"}),
    }


def _judge(recipe: Recipe, policy: Policy) -> str:
    is_rewardless = policy.judge == "reward" and recipe.ranking is None
    return "verdict" if is_rewardless else policy.judge


def _number_sources(described: pl.DataFrame, sources: list[str]) -> pl.DataFrame:
    _check_known("answers are of the sources", described["source"], sources)
    order = {name: index for index, name in enumerate(sources)}
    return described.with_columns(pl.col("source").replace_strict(order, return_dtype=pl.Int32))


def _name_sources(frame: pl.DataFrame, sources: list[str], *columns: str) -> pl.DataFrame:
    names = dict(enumerate(sources))
    return frame.with_columns(pl.col(columns).replace_strict(names, return_dtype=pl.String))


def _check_known(what: str, given: pl.Series, known: list[str]) -> None:
    unknown = sorted(set(given.unique()) - set(known))
    if unknown:
        raise ValueError(f"{what} {unknown}, which the recipe does not have; it has {known}")
