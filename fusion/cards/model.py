"""The card of a fused model: what it is made from, how it was trained, what it can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fusion.cards.dataset import source_table
from fusion.cards.licences import common_licence, licence
from fusion.cards.markdown import listed, published_name, table, with_front_matter
from fusion.recipe import Recipe, Training
from fusion.recipe_file import HUB_ID

_STAGES = {
    "sft": "fine-tuned on the best answers of its sources",
    "dpo": "fine-tuned on the best answers of its sources, then on their preference pairs",
}

_BODY = """\
# {name}: {target} fused from {num_sources} sources

`{target}`, {how}. Made by Crucible.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{place}")
tokenizer = AutoTokenizer.from_pretrained("{place}")
```

## Sources

{sources}

Whoever uses the model is bound by the licences of the target, of the sources and of the prompts.

## Accuracy on held-out prompts

{accuracy}

## Training

{training}

{course}

## Lineage

{lineage}
"""

_SETTINGS = (
    "epochs",
    "batch_size",
    "max_length",
    "learning_rate",
    "warmup_ratio",
    "weight_decay",
    "seed",
    "precision",
)


@dataclass(frozen=True)
class ModelFacts:
    """What a run knows of a model that it trained."""

    stage: str
    """sft or dpo: the last stage that trained it."""
    rows: Mapping[str, int]
    """Stage -> training rows."""
    lineage: Mapping[str, str]
    """Hashes and versions by name."""
    accuracy: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """As in result.json: model -> domain -> value, low, high, n."""
    course: str = "How it went is not recorded."
    """How the last stage went: logged steps, and which saved step was chosen."""


def model_card(
    recipe: Recipe, facts: ModelFacts, *, place: str = "FOLDER", dataset: str | None = None
) -> str:
    """The README of a model; `place` is its hub id or folder, `dataset` the id of its data."""
    target = recipe.target
    body = _BODY.format(
        name=recipe.name,
        target=published_name(target.model, target.revision),
        num_sources=len(recipe.sources),
        how=_STAGES[facts.stage],
        place=place,
        sources=source_table(recipe),
        accuracy=_accuracy(facts),
        training=_training(recipe, facts),
        course=facts.course,
        lineage=listed(facts.lineage),
    )
    is_on_hub = bool(HUB_ID.match(target.model))
    front: dict[str, Any] = {
        "base_model": target.model if is_on_hub else None,
        "base_model_relation": "finetune" if is_on_hub else None,
        "license": common_licence([licence(target.license, target.model, target.revision)]),
        "language": sorted({d.language for d in recipe.datasets}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "datasets": [dataset] if dataset else None,
        "tags": ["crucible", "model-fusion", *facts.rows],
    }
    return with_front_matter(front, body)


def _accuracy(facts: ModelFacts) -> str:
    """The model before and after each stage up to its own, and its sources."""
    later = {"dpo"} if facts.stage == "sft" else set()
    shown = {name: of for name, of in facts.accuracy.items() if name not in later}
    if not shown:
        return "Not measured."
    domains = list(dict.fromkeys(domain for of in shown.values() for domain in of))
    rows = [(name, *(_share(of.get(d)) for d in domains)) for name, of in shown.items()]
    return "With 95 % intervals.\n\n" + table(("model", *domains), rows)


def _share(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return ""
    value, low, high = (100 * interval[name] for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _training(recipe: Recipe, facts: ModelFacts) -> str:
    stages: dict[str, Training] = {"sft": recipe.sft, "dpo": recipe.dpo}
    sections = [stages[stage] for stage in facts.rows]
    rows = [("rows", *facts.rows.values())]
    rows += [(name, *(getattr(section, name) for section in sections)) for name in _SETTINGS]
    if "dpo" in facts.rows:
        before_dpo = [""] * (len(sections) - 1)
        rows += [(name, *before_dpo, getattr(recipe.dpo, name)) for name in ("loss", "beta")]
    return table(("setting", *facts.rows), rows)
