"""`crucible verify`: verdicts, malformed rows and the summary."""

import json
from pathlib import Path

import pytest

from fusion.errors import BadInputError
from jobs.verify import verify_file


def _verify(folder: Path, *lines: str) -> tuple[dict, list[dict]]:
    file, out = folder / "in.jsonl", folder / "out.jsonl"
    file.write_text("\n".join(lines) + "\n")
    summary = json.loads(verify_file(file, out))
    return summary, [json.loads(line) for line in out.read_text().splitlines()]


def _row(**values: object) -> str:
    return json.dumps(
        {"id": "x", "verifier": "exact", "response": "blue", "gold": "blue", **values}
    )


def test_right_and_wrong_answers_are_counted_and_written_in_order(tmp_path):
    summary, rows = _verify(tmp_path, _row(id="a"), _row(id="b", response="red"))
    assert [(r["id"], r["correct"]) for r in rows] == [("a", True), ("b", False)]
    assert (summary["rows"], summary["correct"], summary["wrong"]) == (2, 1, 1)


@pytest.mark.parametrize(
    "line",
    [
        "{not json",
        "[]",
        '{"id": ' + "[" * 100_000,
        _row(verifier="magic"),
        _row(response=None),
        _row(response=7),
        _row(gold=["blue"]),
        _row(verifier="math", gold=None),
        _row(verifier="code", tests="def check(: pass", entry_point="f"),
        _row(verifier="code", tests="42", entry_point="f"),
    ],
)
def test_malformed_row_is_an_error_with_a_reason_and_no_verdict(tmp_path, line):
    summary, rows = _verify(tmp_path, line, _row(id="good"))
    assert rows[0]["correct"] is None
    assert rows[0]["reason"]
    assert (summary["errors"], summary["correct"]) == (1, 1)


def test_a_row_with_an_invalid_byte_is_malformed_and_the_next_one_is_graded(tmp_path):
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    broken = (
        _row(verifier="math", response="so it is @ 7", gold="7").encode().replace(b"@", b"\xff")
    )
    file.write_bytes(broken + b"\n" + _row(response="蓝", gold="蓝").encode() + b"\n")
    summary = json.loads(verify_file(file, out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert (summary["errors"], summary["correct"]) == (1, 1)
    assert rows[0]["correct"] is None
    assert "line 1 is not UTF-8" in rows[0]["reason"]


def test_an_id_that_is_no_unicode_comes_back_as_it_was(tmp_path):
    summary, rows = _verify(tmp_path, _row(id="\ud800"))
    assert (rows[0]["id"], summary["correct"]) == ("\ud800", 1)


def test_verdicts_that_cannot_be_written_are_bad_input(tmp_path):
    (tmp_path / "in.jsonl").write_text(_row())
    with pytest.raises(BadInputError, match="--out /proc/out cannot be written"):
        verify_file(tmp_path / "in.jsonl", Path("/proc/out"))


def test_missing_file_is_bad_input(tmp_path):
    with pytest.raises(BadInputError, match="no file"):
        verify_file(tmp_path / "none.jsonl", tmp_path / "out.jsonl")
