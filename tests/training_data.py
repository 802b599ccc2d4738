"""Preference pairs and conversations of the rehearsal's prompts, with replies of unlike lengths."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from fusion.chat import load_tokenizer
from fusion.store import Location
from fusion.training_rows import pair_rows, sft_rows

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "rehearsal" / "models" / "target"


def pairs(count: int) -> list[dict[str, Any]]:
    """The right answer, told several times over by every third row, against another row's."""
    path = ROOT / "rehearsal" / "prompts" / "instruction-test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [_reply(" ".join([row["gold"]] * (1 + 6 * (index % 3 == 0))))],
            "rejected": [_reply(other["gold"] + " not")],
        }
        for index, (row, other) in enumerate(pairwise(rows[: count + 1]))
    ]


def conversations(count: int) -> list[dict[str, Any]]:
    """The chosen side of the pairs."""
    return [{"messages": pair["prompt"] + pair["chosen"]} for pair in pairs(count)]


def pair_table(count: int) -> Any:
    """Pairs as token rows, with reference log-probs that are not the target's own."""
    rows = pair_rows(load_tokenizer(str(TARGET)), pairs(count), max_length=512, reference="r").rows
    for side, value in (("chosen", -7.0), ("rejected", -9.0)):
        column = [value - index % 5 for index in range(rows.num_rows)]
        rows = rows.append_column(f"ref_{side}_logps", [column])
    return rows


def sft_table(count: int) -> Any:
    """Conversations as token rows."""
    messages = [row["messages"] for row in conversations(count)]
    return sft_rows(load_tokenizer(str(TARGET)), messages, max_length=512).rows


def worker_config(folder: Path, training: Any) -> Any:
    """What a worker would be told that trains the rehearsal's target on one thread."""
    from jobs.training_worker import WorkerConfig

    return WorkerConfig(
        name="test",
        model=str(TARGET),
        revision=None,
        training=training,
        lineage={},
        checkpoint=Location.of(folder / "checkpoint"),
        log=Location.of(folder / "log.jsonl"),
        on_gpu=False,
        cores=1,
    )


def _reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
