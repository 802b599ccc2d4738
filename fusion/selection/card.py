"""The card of a data set: what it holds, how it was made, how to load it (Hugging Face format)."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from fusion.recipe import Recipe, Source
from fusion.selection.yields import PromptYield, SourceYield, Yields

_BODY = """\
# {name}: answers chosen from {num_sources} sources

Training data for `{target}`, made by Crucible from the answers of several large models: the best
answer to a prompt is a row of `sft`; the best and the worst answer of one source to one prompt are
a row of `preferences`.

{tables}

Both load as they are, and train in TRL without conversion:

```python
from datasets import load_dataset

{load}
```

## Sources

{sources}

## Rules

{rules}

## What became of the prompts

{prompts}

## What became of the answers

A cell such as `12 (empty 9, truncated 3)` says how many left, and at which rule.

{answers}
"""


def dataset_card(recipe: Recipe, yields: Yields, num_rows: Mapping[str, int]) -> str:
    """The README of the data set; `num_rows` has the rows of `sft` and of `preferences`."""
    filled = [table for table in ("sft", "preferences") if num_rows[table]]
    load = [f'{table} = load_dataset("FOLDER", "{table}", split="train")' for table in filled]
    body = _BODY.format(
        name=recipe.name,
        num_sources=len(recipe.sources),
        target=_model_name(recipe.target.model, recipe.target.revision),
        tables=_table(("table", "rows"), [(f"`{name}`", n) for name, n in num_rows.items()]),
        load="\n".join(load),
        sources=_table(("source", "model"), [(s.name, _origin(s)) for s in recipe.sources]),
        rules=_rules(recipe, yields),
        prompts=_table(("data set", "domain", *_PROMPTS), map(_prompt_row, yields.prompts)),
        answers=_table(("data set", "source", *_ANSWERS), map(_source_row, yields.sources)),
    )
    return f"---\n{_front_matter(recipe, filled)}---\n\n{body}"


def _front_matter(recipe: Recipe, filled: Sequence[str]) -> str:
    """YAML that tells `datasets` which files make which configuration; an empty one has none."""
    configs = [
        {"config_name": table, "data_files": [{"split": "train", "path": f"{table}/*.parquet"}]}
        for table in filled
    ]
    languages = sorted({dataset.language for dataset in recipe.datasets})
    facts = {
        "pretty_name": recipe.name,
        "language": languages,
        "task_categories": ["text-generation"],
        "tags": ["crucible", "model-fusion", "sft", "dpo", "trl"],
        "configs": configs,
    }
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)


def _ranked_by(recipe: Recipe) -> str:
    reward = recipe.ranking
    if reward is None:
        return "nothing; verdicts alone judge"
    if reward.kind == "imported":
        return f"rewards from `{reward.path}`"
    if reward.kind == "constant":
        return f"the constant {reward.value:g}"
    return f"{reward.kind} `{_model_name(str(reward.model), reward.revision)}`"


def _rules(recipe: Recipe, yields: Yields) -> str:
    selection = recipe.selection
    domains = [
        (domain, *_policy(recipe, domain), _band(*yields.margins.get(domain, (None, None))))
        for domain in dict.fromkeys(row.domain for row in yields.prompts)
    ]
    lines = [
        f"- ranked by: {_ranked_by(recipe)}",
        f"- the source that gives a prompt's pair: {selection.pair_source}",
        f"- rejected answer: {selection.rejected}",
        f"- sources that may give pairs: {', '.join(selection.pairs_from or ('all',))}",
        f"- answers cut off are left out: {_yes(selection.drop_truncated)}; "
        f"answers that decline are left out: {_yes(selection.drop_refusals)}",
        f"- seed of the split: {selection.seed}",
    ]
    columns = ("domain", "judge", "pairs", "split", "share of sft", "margin")
    return "\n".join(lines) + "\n\n" + _table(columns, domains)


def _policy(recipe: Recipe, domain: str) -> tuple[object, ...]:
    policy = recipe.selection.policy(domain)
    share = policy.sft_share if policy.split == "share" else ""
    return policy.judge, _yes(policy.pairs), policy.split, share


_PROMPTS = ("prompts", "sft", "pairs", "in both", "dropped")
_ANSWERS = ("answers", "correct", "wrong", "mean reward", "left out", "sft", "pairs", "pairs lost")


def _prompt_row(row: PromptYield) -> tuple[object, ...]:
    counts = (row.prompts, row.sft, row.pairs, row.both)
    return row.dataset, row.domain, *counts, _dropped(row.dropped)


def _source_row(row: SourceYield) -> tuple[object, ...]:
    mean = "" if row.reward_mean is None else f"{row.reward_mean:.4f}"
    counts = (row.answers, row.correct, row.wrong, mean, _dropped(row.answers_dropped))
    return row.dataset, row.source, *counts, row.sft, row.pairs, _dropped(row.pairs_dropped)


def _dropped(rules: Mapping[str, int]) -> str:
    details = ", ".join(f"{rule} {count}" for rule, count in rules.items())
    return f"{sum(rules.values())} ({details})" if rules else "0"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _origin(source: Source) -> str:
    if source.kind == "imported":
        return f"answers imported from `{Path(str(source.path)).name}`"
    return f"`{_model_name(str(source.model), source.revision)}`"


def _model_name(model: str, revision: str | None) -> str:
    """A hub id with its revision; of a local folder the name alone, for cards are published."""
    name = Path(model).name if Path(model).is_absolute() else model
    return f"{name}@{revision}" if revision else name


def _band(low: float | None, high: float | None) -> str:
    if low is None:
        return "none" if high is None else f"up to {high:g}"
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
