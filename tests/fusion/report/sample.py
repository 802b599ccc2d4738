"""A whole run's data, random by seed: four domains, three sources, sft and dpo that learn."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import polars as pl

from fusion.identity import prompt_id, response_id
from fusion.recipe import Recipe
from fusion.recipe_file import dump_recipe, parse_recipe, recipe_hash
from fusion.report import DatasetInput, Lineage, ModelInput, ReportData, train_rewards
from fusion.run import STAGES
from fusion.selection import Selected, select
from fusion.store import Counts, Manifest

DOMAINS = {"instruction": None, "math": "math", "code": "exact", "chinese": None}
SKILL = {
    "mathilda": {"math": 0.82, "code": 0.35, "instruction": 0.4},
    "coder": {"math": 0.41, "code": 0.93, "instruction": 0.45},
    "scribe": {"math": 0.33, "code": 0.3, "instruction": 0.8},
    "base": {"math": 0.12, "code": 0.09},
    "sft": {"math": 0.55, "code": 0.48},
    "dpo": {"math": 0.66, "code": 0.57},
}
SOURCES = ("mathilda", "coder", "scribe")
Row = dict[str, Any]


def sample_recipe() -> Recipe:
    """A recipe with a train and a held-out data set of each domain."""
    datasets = [
        {
            "name": f"{domain}-{split}",
            "path": f"prompts/{domain}-{split}.jsonl",
            "domain": domain,
            "verifier": verifier,
            "split": split,
            "fields": {"prompt": "question", "gold": "answer"},
        }
        for domain, verifier in DOMAINS.items()
        for split in ("train", "test")
    ]
    return parse_recipe(
        {
            "name": "garden",
            "target": {"model": "example/target-1b", "revision": "v1.0"},
            "sources": [{"name": n, "model": f"example/{n}", "revision": "v2"} for n in SOURCES],
            "datasets": datasets,
            "reward": {"model": "example/reward", "revision": "v3"},
            "selection": {"margin": {"low": 0.05, "high": 3.0}},
        }
    )


class Tables(NamedTuple):
    """The store's tables, with all their columns."""

    prompts: pl.DataFrame
    responses: pl.DataFrame
    scores: pl.DataFrame


def sample_tables(seed: int = 0, *, num_train: int = 80) -> Tables:
    """Four answers of each source to each train prompt, and their scores."""
    rng = random.Random(seed)
    prompts = pl.DataFrame(
        [_prompt(domain, "train", i) for domain in DOMAINS for i in range(num_train)]
    )
    return Tables(prompts, *_answers(rng, prompts))


def sample_data(seed: int = 0, *, num_train: int = 80, num_test: int = 60) -> ReportData:
    """A finished run."""
    rng = random.Random(seed)
    recipe = sample_recipe()
    prompts, responses, scores = sample_tables(seed, num_train=num_train)
    selected = select(recipe, prompts, responses, scores)
    return ReportData(
        recipe=recipe,
        results=pl.DataFrame(_results(rng, num_test), _RESULTS, orient="row"),
        preferences=selected.preferences,
        rewards=train_rewards(recipe, prompts, responses, scores),
        yields=selected.yields,
        lineage=sample_lineage(recipe),
        manifests=sample_manifests(responses, selected),
        logs={"sft": _sft_log(rng), "dpo": _dpo_log(rng)},
    )


def empty_data() -> ReportData:
    """A run of which nothing but the recipe is there."""
    full = sample_data(num_train=2, num_test=1)
    return ReportData(
        recipe=full.recipe,
        results=full.results.clear(),
        preferences=full.preferences.clear(),
        rewards=full.rewards.clear(),
        yields=None,
        lineage=full.lineage,
    )


def sample_lineage(recipe: Recipe) -> Lineage:
    """Made-up fingerprints and versions."""
    models = [ModelInput("target", "base", recipe.target.model, "v1.0", "9f" * 16)]
    models += [ModelInput("source", n, f"example/{n}", "v2", "3c" * 16) for n in SOURCES]
    models += [ModelInput("reward", "reward", "example/reward", "v3", "b7" * 16)]
    return Lineage(
        recipe_hash=recipe_hash(recipe),
        recipe_yaml=dump_recipe(recipe),
        models=tuple(models),
        datasets=tuple(
            DatasetInput(d.name, d.path, d.revision, d.domain, d.split, 80) for d in recipe.datasets
        ),
        versions={"crucible": "0.1.0", "ray": "2.60.0", "vllm": "0.29.0", "python": "3.11.2"},
    )


def sample_manifests(responses: pl.DataFrame, selected: Selected) -> dict[str, Manifest]:
    """One a stage, each in balance."""
    started = datetime(2026, 1, 2, 9, tzinfo=UTC)
    tokens = {"completion": int(responses["completion_tokens"].sum()), "prompt": 41_000}
    lost = Counter[str]()
    for part in selected.yields.prompts:
        lost.update(part.dropped)
    num_prompts = sum(part.prompts for part in selected.yields.prompts)
    counts = {
        "ingest": Counts(
            entered=num_prompts + 10,
            results=num_prompts,
            dropped={"duplicate": 9},
            quarantined={"no_prompt": 1},
            unit="prompts",
        ),
        "sample": Counts(entered=responses.height, results=responses.height, unit="answers"),
        "select": Counts(
            entered=num_prompts,
            results=num_prompts - lost.total(),
            dropped=dict(lost),
            unit="prompts",
        ),
    }
    return {
        stage: Manifest(
            stage=stage,
            recipe_hash="0" * 32,
            inputs={},
            code_version="0.1.0",
            counts=counts.get(stage, Counts(entered=400, results=400)),
            tokens=tokens if stage in ("sample", "evaluate") else {},
            seconds=seconds,
            yields=selected.yields.as_json() if stage == "select" else {},
            started_at=started,
            finished_at=started + timedelta(seconds=seconds),
        )
        for stage, seconds in zip(
            STAGES[:-1], (1.2, 214.0, 66.5, 0.4, 182.0, 20.1, 143.7, 58.0), strict=True
        )
    }


def _prompt(domain: str, split: str, index: int) -> Row:
    text = {
        "instruction": f"Write a short note to gardener number {index} about watering roses.",
        "math": f"A bed has {index + 3} rows of {index + 2} tulips. How many tulips are there?",
        "code": f"Write a Python function that adds {index} to every item of a list.",
        "chinese": f"请用一句话介绍第{index}号花园。",
    }[domain]
    messages = [{"role": "user", "content": text if split == "train" else f"{text} (held out)"}]
    return {
        "prompt_id": prompt_id(messages),
        "dataset": f"{domain}-{split}",
        "domain": domain,
        "split": split,
        "messages": messages,
    }


def _answers(rng: random.Random, prompts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    responses, scores = [], []
    for prompt in prompts.iter_rows(named=True):
        for source in SOURCES:
            for index in range(4):
                response = _response(rng, prompt, source, index)
                responses.append(response)
                scores += _scores(rng, prompt["domain"], source, response["response_id"])
    return pl.DataFrame(responses), pl.DataFrame(scores, infer_schema_length=None)


def _response(rng: random.Random, prompt: Row, source: str, index: int) -> Row:
    tokens = max(4, round(rng.lognormvariate(4.2, 0.6)))
    return {
        "response_id": response_id(prompt["prompt_id"], source, index),
        "prompt_id": prompt["prompt_id"],
        "source": source,
        "sample_index": index,
        "text": _text(rng, prompt["domain"], source),
        "source_key": f"{source}-1",
        "finish_reason": "length" if tokens > 200 else "stop",
        "prompt_tokens": 12,
        "completion_tokens": tokens,
        "cumulative_logprob": None,
        "seed": index,
    }


def _text(rng: random.Random, domain: str, source: str) -> str:
    if domain == "code":
        body = f"return [x + {rng.randint(0, 99)} for x in items]"
        return f"Here is the function:\n\n    def add(items):\n        {body}\n"
    if domain == "math":
        return f"Rows times tulips in a row.\nSo the answer is {rng.randint(10, 9000)}."
    words = ("soil", "morning", "gently", "roots", "water", "shade", "weekly", "mulch", "petals")
    return f"{source}: " + " ".join(rng.choices(words, k=rng.randint(8, 60))) + "."


def _scores(rng: random.Random, domain: str, source: str, response: str) -> list[Row]:
    if domain == "chinese":
        return []
    is_correct = rng.random() < SKILL[source][domain]
    reward = rng.gauss(1.2 * is_correct + SKILL[source][domain], 0.7)
    row = {
        "score_id": f"{response}-reward",
        "response_id": response,
        "scorer": "reward",
        "scorer_key": "reward-1",
        "reward": reward,
        "heads": None,
        "verdict": None,
        "reason": None,
    }
    if DOMAINS[domain] is None:
        return [row]
    verdict = "correct" if is_correct else "wrong"
    checked = {"score_id": f"{response}-verdict", "scorer": DOMAINS[domain], "reward": None}
    return [row, {**row, **checked, "verdict": verdict}]


_RESULTS = {
    "response_id": pl.String,
    "model": pl.String,
    "prompt_id": pl.String,
    "dataset": pl.String,
    "domain": pl.String,
    "text": pl.String,
    "finish_reason": pl.String,
    "completion_tokens": pl.Int32,
    "reward": pl.Float64,
    "verdict": pl.String,
    "reason": pl.String,
}


def _results(rng: random.Random, num_test: int) -> list[Row]:
    prompts = [_prompt(domain, "test", i) for domain in DOMAINS for i in range(num_test)]
    return [_result(rng, prompt, model) for prompt in prompts for model in SKILL]


def _result(rng: random.Random, prompt: Row, model: str) -> Row:
    domain = prompt["domain"]
    is_correct = rng.random() < SKILL[model].get(domain, 0.3)
    return {
        "response_id": response_id(prompt["prompt_id"], model, 0),
        "model": model,
        "prompt_id": prompt["prompt_id"],
        "dataset": prompt["dataset"],
        "domain": domain,
        "text": "An answer.",
        "finish_reason": "stop",
        "completion_tokens": max(
            3, round(rng.lognormvariate(4.6 if model == "base" else 4.1, 0.5))
        ),
        "reward": rng.gauss(0.4 + is_correct, 0.5) if domain != "chinese" else None,
        "verdict": (("wrong", "correct")[is_correct]) if DOMAINS[domain] else None,
        "reason": None,
    }


def _sft_log(rng: random.Random) -> list[Row]:
    return [
        {
            "step": step,
            "epoch": step / 100,
            "loss": 0.4 + 2.2 * 0.97**step + rng.gauss(0, 0.04),
            "learning_rate": 5e-6 * min(step / 30, 1 - (step - 30) / 300),
            "grad_norm": 1.1 + rng.random(),
            "mean_token_accuracy": 0.9 - 0.5 * 0.97**step + rng.gauss(0, 0.01),
        }
        for step in range(1, 301, 2)
    ]


def _dpo_log(rng: random.Random) -> list[Row]:
    return [
        {
            "step": step,
            "loss": 0.69 * 0.985**step + rng.gauss(0, 0.01),
            "learning_rate": 8e-7 * (1 - step / 100),
            "grad_norm": 2 + rng.random(),
            "rewards/margins": 0.02 * step + rng.gauss(0, 0.05),
            "rewards/accuracies": min(1, 0.5 + 0.005 * step + rng.gauss(0, 0.02)),
            "rewards/chosen": 0.008 * step + rng.gauss(0, 0.03),
            "rewards/rejected": -0.012 * step + rng.gauss(0, 0.03),
        }
        for step in range(5, 101, 5)
    ]
