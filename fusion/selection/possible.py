"""Whether a recipe can give a row at all, told before anything is sampled."""

import math

from fusion.recipe import Dataset, Margin, Recipe


def why_no_rows(recipe: Recipe) -> str | None:
    """Why no prompt can become a row of sft or preferences, whatever is answered; None if one can.

    Answers of an imported source are not counted beforehand: there may be any number. Test prompts
    alone are no mistake: models can be measured without a fusion.
    """
    train = [dataset for dataset in recipe.datasets if dataset.split == "train"]
    if not train:
        return None
    asked = [dataset for dataset in train if any(_answers(recipe, dataset).values())]
    if not asked:
        return (
            "no source is asked a prompt of a train data set; correct domains and samples of the "
            "sources"
        )
    reasons = [_why_no_row(recipe, dataset) for dataset in asked]
    if any(reason is None for reason in reasons):
        return None
    return f"{reasons[0]}, and the data set {asked[0].name} makes rows of prompts with a pair alone"


def _why_no_row(recipe: Recipe, dataset: Dataset) -> str | None:
    policy = recipe.selection.policy(dataset.domain)
    needs_pair = policy.pairs and policy.split == "share" and not policy.keep_unpaired
    if not needs_pair or (policy.share_of == "answered" and policy.sft_share > 0):
        return None
    return _why_too_few(recipe, dataset) or _why_too_far(recipe, dataset)


def _why_too_few(recipe: Recipe, dataset: Dataset) -> str | None:
    """Why a prompt has too few answers in the scope of a pair."""
    selection = recipe.selection
    allowed = selection.pairs_from or [source.name for source in recipe.sources]
    counts = [count for name, count in _answers(recipe, dataset).items() if name in allowed]
    scope = selection.pair_scope
    if scope == "cross_source" and sum(count > 0 for count in counts) < 2:
        return "selection.pair_scope cross_source needs two sources to pair, and there are not two"
    most = max(counts, default=0) if scope == "same_source" else sum(counts)
    if most >= selection.min_answers:
        return None
    return (
        f"a pair needs {selection.min_answers} answers (selection.min_answers) in the scope "
        f"{scope}, and at most {most:.0f} are asked for: raise samples"
    )


def _why_too_far(recipe: Recipe, dataset: Dataset) -> str | None:
    """Where rewards judge, the best answer of a source is never below its worst."""
    selection = recipe.selection
    judged_by_reward = selection.policy(dataset.domain).judge == "reward" and recipe.ranking
    bounds = selection.bounds(dataset.domain) or Margin(low=None, high=None)
    is_below_zero = bounds.high is not None and bounds.high < 0
    if judged_by_reward and selection.pair_scope == "same_source" and is_below_zero:
        return f"the margin's high is {bounds.high:g}, and chosen is never worse than rejected"
    return None


def _answers(recipe: Recipe, dataset: Dataset) -> dict[str, float]:
    """The most answers that a prompt of a data set can have, by source."""
    return {
        source.name: math.inf
        if source.kind == "imported" and source.asks(dataset.domain)
        else recipe.samples(source, dataset)
        for source in recipe.sources
    }
