"""Existing training data: TRL's conversational format, and what is said of other rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion.errors import BadInputError
from fusion.ingest import DataPath, read_training_rows

ASKED = [{"role": "user", "content": "2 + 2?"}]
REPLY = [{"role": "assistant", "content": "4"}]
WRONG = [{"role": "assistant", "content": "5"}]
PAIR = {"prompt": ASKED, "chosen": REPLY, "rejected": WRONG}
PAIR_COLUMNS = ("prompt", "chosen", "rejected")


def _read(folder: Path, row: Any, *columns: str) -> list[dict[str, Any]]:
    file = folder / "data.jsonl"
    file.write_text(f"{json.dumps(row)}\n")
    return list(read_training_rows(DataPath(str(file)), columns))


def test_rows_in_the_format_come_as_they_are(tmp_path: Path) -> None:
    assert _read(tmp_path, {**PAIR, "more": 1}, *PAIR_COLUMNS) == [{**PAIR, "more": 1}]
    conversation = {"messages": [*ASKED, *REPLY, *ASKED, *REPLY]}
    assert _read(tmp_path, conversation, "messages") == [conversation]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"chosen": None}, "row 1: it lacks chosen"),
        ({"prompt": []}, "row 1: it lacks prompt"),
        ({"prompt": "2 + 2?"}, "prompt is not a list of turns"),
        ({"chosen": [{"role": "assistant"}]}, "chosen is not a list of turns"),
        ({"rejected": [{"role": "assistant", "content": 4}]}, "rejected is not a list of turns"),
        ({"chosen": ["4"]}, "chosen is not a list of turns"),
        ({"prompt": [*ASKED, *REPLY]}, "prompt ends in a turn of assistant, not of user"),
        ({"chosen": ASKED}, "chosen ends in a turn of user, not of assistant"),
        ({"chosen": [*ASKED, *REPLY]}, "chosen has 2 turns, not the reply alone"),
    ],
)
def test_a_pair_of_another_form_is_told(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInputError, match=f"{sentence}.*with the columns prompt, chosen,"):
        _read(tmp_path, PAIR | changes, *PAIR_COLUMNS)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [(ASKED, "ends in a turn of user"), (REPLY, "a reply without a prompt")],
)
def test_a_conversation_without_prompt_or_reply_is_told(
    tmp_path: Path, messages: Any, sentence: str
) -> None:
    with pytest.raises(BadInputError, match=sentence):
        _read(tmp_path, {"messages": messages}, "messages")


def test_a_line_that_is_no_row_is_told(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{")
    with pytest.raises(BadInputError, match=r"data\.jsonl, row 1: "):
        list(read_training_rows(DataPath(str(tmp_path / "data.jsonl")), PAIR_COLUMNS))
