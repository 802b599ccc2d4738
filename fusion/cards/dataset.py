"""The card of a data set: what it holds, how it was made, how to load it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fusion.cards.licences import common_licence, licence
from fusion.cards.markdown import listed, published_name, table, with_front_matter, yes
from fusion.entries import Entries
from fusion.recipe import Dataset, Recipe, Source
from fusion.selection.yields import PromptYield, SourceYield, Yields

_BODY = """\
# {name}: answers chosen from {num_sources} sources

Training data for `{target}`, made by Crucible from the answers of several large models: the best
answer to a prompt is a row of `sft`; a better and a worse answer to one prompt, of one source
unless the rules below say otherwise, are a row of `preferences`.

{tables}

Both load as they are, and train in TRL without conversion:

```python
from datasets import load_dataset

{load}
```

## Sources

{sources}

## Prompts

{datasets}

Whoever uses these rows is bound by the licences of the sources and of the prompts.

## Rules

{rules}

## What became of the prompts
{rows}
{prompts}

## What became of the answers

A cell such as `12 (empty 9, truncated 3)` says how many left, and at which rule.

{answers}

## Hashes

Equal hashes mean equal content, whatever the files are called.

{hashes}
"""


def dataset_card(
    recipe: Recipe,
    yields: Yields,
    num_rows: Mapping[str, int],
    hashes: Mapping[str, str],
    *,
    entries: Entries | None = None,
    place: str = "FOLDER",
) -> str:
    """The README of the data set.

    Args:
        recipe: The recipe whose rules chose the rows.
        yields: What selection counted.
        num_rows: The rows of `sft` and of `preferences`.
        hashes: Fingerprints by name, of the rules and the tables.
        entries: What ingest and sample counted, where the run has them.
        place: Where it is loaded from: a hub id, or the folder of the card.
    """
    entries = entries or Entries()
    filled = [name for name in ("sft", "preferences") if num_rows[name]]
    load = [f'{name} = load_dataset("{place}", "{name}", split="train")' for name in filled]
    body = _BODY.format(
        name=recipe.name,
        num_sources=len(recipe.sources),
        target=published_name(recipe.target.model, recipe.target.revision),
        tables=table(("table", "rows"), [(f"`{name}`", n) for name, n in num_rows.items()]),
        load="\n".join(load),
        sources=source_table(recipe),
        datasets=table(
            ("data set", "domain", "from", "licence"), map(_dataset_row, _train(recipe))
        ),
        rules=_rules(recipe, yields),
        rows=_rows(recipe, entries),
        prompts=table(("data set", "domain", *_PROMPTS), map(_prompt_row, yields.prompts)),
        answers=table(
            ("data set", "source", *_ANSWERS),
            [_source_row(row, entries) for row in yields.sources],
        ),
        hashes=listed(hashes),
    )
    return with_front_matter(_facts(recipe, filled), body)


def source_table(recipe: Recipe) -> str:
    """The sources with their models and licences."""
    rows = [(s.name, _origin(s), _source_licence(s)) for s in recipe.sources]
    return table(("source", "model", "licence"), rows)


def _facts(recipe: Recipe, filled: Sequence[str]) -> dict[str, Any]:
    """What the hub and `datasets` read: which files make which configuration, none if empty."""
    licences = [*map(_source_licence, recipe.sources), *map(_dataset_licence, _train(recipe))]
    return {
        "pretty_name": recipe.name,
        "license": common_licence(licences),
        "language": sorted({dataset.language for dataset in recipe.datasets}),
        "task_categories": ["text-generation"],
        "tags": ["crucible", "model-fusion", "sft", "dpo", "trl"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*.parquet"}]}
            for name in filled
        ],
    }


def _train(recipe: Recipe) -> list[Dataset]:
    return [dataset for dataset in recipe.datasets if dataset.split == "train"]


def _rules(recipe: Recipe, yields: Yields) -> str:
    selection = recipe.selection
    domains = [
        (domain, *_policy(recipe, domain), _margin(recipe, yields, domain))
        for domain in dict.fromkeys(row.domain for row in yields.prompts)
    ]
    left_out = [
        name
        for name in ("truncated", "refusals", "too_long", "duplicates", "same_text")
        if getattr(selection, f"drop_{name}")
    ]
    lines = [
        f"- ranked by: {_ranked_by(recipe)}",
        f"- answers a source's best one may be paired with: {selection.pair_scope}",
        f"- the source that gives a prompt's pair: {selection.pair_source}",
        f"- rejected answer: {selection.rejected}",
        f"- of equal rewards: {selection.ties}",
        f"- sources that may give pairs: {', '.join(selection.pairs_from or ('all',))}",
        f"- usable answers that a pair needs: {selection.min_answers}",
        f"- left out besides empty and unjudged answers: {', '.join(left_out) or 'nothing'}",
        f"- seed of the split: {selection.seed}",
        *_ingest_rules(recipe),
    ]
    columns = ("domain", "judge", "pairs", "split", "share of sft", "margin")
    return "\n".join(lines) + "\n\n" + table(columns, domains)


def _ingest_rules(recipe: Recipe) -> list[str]:
    near, run = recipe.ingest.near_duplicates, recipe.ingest.overlap_words
    lines = ["- prompts left out as equal: to a held-out one, or to one before"]
    if near is not None:
        lines.append(f"- as nearly equal: from {near:g} of equal shingles")
    if run is not None:
        lines.append(f"- as contaminated: {run} words in a row shared with a held-out prompt")
    for dataset in _train(recipe):
        values = [f"`{path}` {' or '.join(held)}" for path, held in dataset.exclude.items()]
        topics = [f"prompts for {topic}" for topic in dataset.exclude_topics]
        if values or topics:
            lines.append(f"- as excluded from {dataset.name}: {', '.join([*values, *topics])}")
    return lines


def _ranked_by(recipe: Recipe) -> str:
    reward = recipe.ranking
    if reward is None:
        return "nothing; verdicts alone judge"
    if reward.kind == "imported":
        return f"rewards from `{published_name(str(reward.path), None)}`"
    if reward.kind == "constant":
        return f"the constant {reward.value:g}"
    return f"{reward.kind} `{published_name(str(reward.model), reward.revision)}`"


def _policy(recipe: Recipe, domain: str) -> tuple[object, ...]:
    policy = recipe.selection.policy(domain)
    share = f"{policy.sft_share} of {policy.share_of}" if policy.split == "share" else ""
    return policy.judge, yes(policy.pairs), policy.split, share


_PROMPTS = ("prompts", "sft", "pairs", "in both", "dropped")
_ANSWERS = (
    "failed",
    "answers",
    "correct",
    "wrong",
    "mean reward",
    "left out",
    "sft",
    "pairs",
    "pairs lost",
)


def _rows(recipe: Recipe, entries: Entries) -> str:
    """The rows that were read of the train data sets, where they were counted."""
    train = {dataset.name for dataset in _train(recipe)}
    counted = [row for row in entries.rows if row.dataset in train]
    if not counted:
        return ""
    rows = [(row.dataset, row.rows, row.prompts, _dropped(row.left_out)) for row in counted]
    return "\n" + table(("data set", "rows", "prompts", "left out"), rows) + "\n"


def _prompt_row(row: PromptYield) -> tuple[object, ...]:
    counts = (row.prompts, row.sft, row.pairs, row.both)
    return row.dataset, row.domain, *counts, _dropped(row.dropped)


def _source_row(row: SourceYield, entries: Entries) -> tuple[object, ...]:
    failed = _dropped(entries.failed(row.dataset, row.source)) if entries.answers else ""
    mean = "" if row.reward_mean is None else f"{row.reward_mean:.4f}"
    counts = (row.answers, row.correct, row.wrong, mean, _dropped(row.answers_dropped))
    gave = (*counts, row.sft, row.pairs, _dropped(row.pairs_dropped))
    return row.dataset, row.source, failed, *gave


def _dataset_row(dataset: Dataset) -> tuple[object, ...]:
    origin = f"`{published_name(dataset.path, dataset.revision)}`"
    return dataset.name, dataset.domain, origin, _dataset_licence(dataset)


def _dropped(rules: Mapping[str, int]) -> str:
    details = ", ".join(f"{rule} {count}" for rule, count in rules.items())
    return f"{sum(rules.values())} ({details})" if rules else "0"


def _origin(source: Source) -> str:
    if source.kind == "imported":
        return f"answers imported from `{published_name(str(source.path), source.revision)}`"
    return f"`{published_name(str(source.model), source.revision)}`"


def _source_licence(source: Source) -> str:
    if source.kind == "imported":
        return licence(source.license, str(source.path), source.revision, "dataset")
    return licence(source.license, str(source.model), source.revision)


def _dataset_licence(dataset: Dataset) -> str:
    return licence(dataset.license, dataset.path, dataset.revision, "dataset")


def _margin(recipe: Recipe, yields: Yields, domain: str) -> str:
    """The bounds that held, in the reward's own scale."""
    low, high = yields.margins.get(domain, (None, None))
    if not recipe.selection.policy(domain).pairs:
        return "none"
    if low is None:
        return "none" if high is None else f"up to {high:g}"
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"
