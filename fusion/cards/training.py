"""The card that lies in a checkpoint: what it started from, what it learned of, how it went."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fusion.cards.markdown import published_name
from fusion.recipe import Dpo, Training

_POINTS = 10
_BODY = """\
---
library_name: transformers
pipeline_tag: text-generation
{base_line}tags:
- crucible
- {method}
---

# {name}

`{start}` after {what} on {rows:,} {unit}, made by Crucible. Plain Hugging Face files:
`AutoModelForCausalLM.from_pretrained` and vLLM load them.

## Training

```yaml
{recipe}
```

## How it went

{course}

## Lineage

{lineage}
"""
_CURVES = ("loss", "grad_norm", "rewards/accuracies", "rewards/margins", "kl")


def training_card(
    *,
    name: str,
    start: str,
    revision: str | None,
    training: Training,
    num_rows: int,
    lineage: Mapping[str, str],
    log: Sequence[Mapping[str, Any]],
    choice: Mapping[str, Any],
) -> str:
    """The README of a trained model.

    Args:
        name: Of the run and stage.
        start: The model that training started from.
        revision: Its revision, where it is a hub id.
        training: The recipe's section.
        num_rows: Rows trained on.
        lineage: Fingerprints of all that the model depends on.
        log: The logged steps.
        choice: The saved step that was chosen, and those it was chosen from with their figures.
    """
    by_pairs = isinstance(training, Dpo)
    return _BODY.format(
        base_line=f"base_model: {start}\n" if revision else "",
        method="dpo" if by_pairs else "sft",
        name=name,
        start=published_name(start, revision),
        what=f"preference optimisation ({training.loss})" if isinstance(training, Dpo) else "SFT",
        rows=num_rows,
        unit="pairs" if by_pairs else "conversations",
        recipe=_settings(training),
        course=course(log, choice),
        lineage="\n".join(f"- {key}: `{value}`" for key, value in lineage.items()),
    )


def course(log: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> str:
    """How a training went: some of its logged steps, and which saved step was chosen."""
    steps = [row for row in log if "grad_norm" in row]
    return f"{_curves(steps)}\n\n{_choice(choice)}"


def _settings(training: Training) -> str:
    """The recipe's section; of a local data set the name alone."""
    settings = training.model_dump(mode="json")
    if training.data:
        settings["data"] = published_name(training.data, None)
    return yaml.safe_dump(settings, sort_keys=False).strip()


def _curves(steps: Sequence[Mapping[str, Any]]) -> str:
    """A table of some logged steps, the first and the last among them."""
    if not steps:
        return "Its log was not kept."
    columns = [key for key in _CURVES if key in steps[0]]
    places = sorted({round(i * (len(steps) - 1) / (_POINTS - 1)) for i in range(_POINTS)})
    lines = [f"| step | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for place in places:
        row = steps[place]
        cells = " | ".join(f"{row[column]:.4g}" for column in columns)
        lines.append(f"| {row['step']} | {cells} |")
    return "\n".join(lines)


def _choice(choice: Mapping[str, Any]) -> str:
    judged = [row for row in choice["candidates"] if "held_out/loss" in row]
    if not judged:
        return f"The weights are those of the last step, {choice['chosen']}."
    scores = "; ".join(
        f"step {row['step']}: "
        + ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "step")
        for row in judged
    )
    return (
        f"The weights are those of step {choice['chosen']}, the best on rows kept back ({scores})."
    )
