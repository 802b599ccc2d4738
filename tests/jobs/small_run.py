"""A run of ten prompts and one source, with answers and scores stored without a cluster."""

import json
from pathlib import Path

import pyarrow as pa

from fusion.identity import response_id, score_id
from fusion.recipe import Recipe
from fusion.records import RESPONSES, SCORES
from fusion.run import Run
from jobs.ingest import load_prompts
from jobs.models import source_keys
from jobs.score import scorer_keys


def small_recipe(tmp_path: Path) -> Recipe:
    """Ten prompts of which no model is here."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"q": f"question {n}"}) + "\n" for n in range(10)))
    return Recipe.model_validate(
        {
            "name": "first",
            "storage": str(tmp_path / "runs"),
            "target": {"model": "owner/target", "revision": "v1"},
            "sources": [{"name": "one", "model": "owner/one", "revision": "v1"}],
            "datasets": [
                {
                    "name": "questions",
                    "path": str(questions),
                    "domain": "instruction",
                    "fields": {"prompt": "q"},
                }
            ],
            "reward": {"model": "owner/reward", "revision": "v1"},
        }
    )


def store_answers(run: Run) -> None:
    """A poor and a good answer to every prompt, 0.05 apart."""
    (key,), (scorer,) = source_keys(run, "train").values(), scorer_keys(run.recipe)
    answers, scores = [], []
    for prompt in load_prompts(run)["prompt_id"]:
        for index, text in enumerate(("poor", "good")):
            id_ = response_id(prompt, key, index)
            answers.append(
                {
                    "response_id": id_,
                    "prompt_id": prompt,
                    "source": "one",
                    "source_key": key,
                    "sample_index": index,
                    "text": text,
                    "finish_reason": "stop",
                }
            )
            scores.append(
                {
                    "score_id": score_id(id_, scorer, ""),
                    "response_id": id_,
                    "scorer": "reward",
                    "scorer_key": scorer,
                    "reward": 0.1 + index / 20,
                }
            )
    run.shared("responses").partition(key).append(pa.Table.from_pylist(answers, RESPONSES))
    run.shared("scores").partition(scorer).append(pa.Table.from_pylist(scores, SCORES))
