"""The prompt files of the rehearsal: `python -m rehearsal.prompts` writes them again."""

import json
from pathlib import Path
from typing import Literal

from rehearsal import chinese, code_problems, instruction, math_problems
from rehearsal.tasks import Exercise, Task, generate_exercises

FOLDER = Path(__file__).parent / "prompts"
SEED = 1
DOMAINS: dict[str, dict[str, Task]] = {
    "instruction": instruction.TASKS,
    "math": math_problems.TASKS,
    "code": code_problems.TASKS,
    "chinese": chinese.TASKS,
}
TRAIN_COUNTS = {"instruction": 480, "math": 480, "code": 360, "chinese": 240}
TEST_COUNT = 120

Split = Literal["train", "test"]


def count_prompts(domain: str, split: Split) -> int:
    """How many prompts a file holds."""
    return TRAIN_COUNTS[domain] if split == "train" else TEST_COUNT


def write_row(exercise: Exercise, domain: str, split: Split, index: int) -> dict[str, str]:
    """One row of a prompt file; only what may be known of its answer is in it.

    Training prompts of `instruction` and `chinese` are judged without a gold.
    """
    row = {"id": f"{domain}-{split}-{index:04}", "prompt": exercise.prompt}
    if domain == "code":
        row |= {"tests": exercise.tests, "entry_point": exercise.entry_point}
    elif domain == "math" or split == "test":
        row["gold"] = exercise.gold
    return row | {"category": exercise.category}


def write_rows(domain: str, split: Split) -> list[dict[str, str]]:
    """All rows of a prompt file, in order."""
    exercises = generate_exercises(DOMAINS[domain], split, count_prompts(domain, split), SEED)
    return [write_row(exercise, domain, split, i) for i, exercise in enumerate(exercises)]


def render_file(domain: str, split: Split) -> str:
    """The content of a prompt file: one JSON object a line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in write_rows(domain, split)]
    return "\n".join(lines) + "\n"


def write_files() -> None:
    """Writes every prompt file."""
    FOLDER.mkdir(exist_ok=True)
    for domain in DOMAINS:
        for split in ("train", "test"):
            (FOLDER / f"{domain}-{split}.jsonl").write_text(render_file(domain, split))


if __name__ == "__main__":
    write_files()
