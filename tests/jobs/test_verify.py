"""`crucible verify`: verdicts, malformed rows and the summary."""

import json
import os
import subprocess
import sys
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
        _row(id=["x"]),
        _row(id=True),
        _row(id=float("nan")),
        _row(id=float("inf")),
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


def test_a_disk_that_fills_is_told_in_one_sentence(tmp_path):
    (tmp_path / "in.jsonl").write_text(_row())
    with pytest.raises(BadInputError, match="--out /dev/full cannot be written"):
        verify_file(tmp_path / "in.jsonl", Path("/dev/full"))


def _in_a_shell(folder: Path, shell: str, out: str) -> str:
    """What grading in.jsonl says on stderr, run as `"$@"` of a line of bash."""
    script = (
        "from pathlib import Path; from jobs.verify import verify_file\n"
        f"print(verify_file(Path('in.jsonl'), Path('{out}')))"
    )
    return subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-B", "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    ).stderr


def test_out_is_as_it_was_when_the_verdicts_do_not_fit(tmp_path):
    (tmp_path / "in.jsonl").write_text((_row() + "\n") * 2000)
    (tmp_path / "out.jsonl").write_text("before")
    said = _in_a_shell(tmp_path, "ulimit -f 8; trap '' XFSZ; \"$@\"", "out.jsonl")
    assert "BadInputError: --out out.jsonl cannot be written (File too large)" in said
    assert (tmp_path / "out.jsonl").read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("out", ["/dev/stdout", "all.jsonl"])
def test_the_summary_follows_verdicts_that_go_to_the_same_file(tmp_path, out):
    (tmp_path / "in.jsonl").write_text(_row(id="a"))
    assert _in_a_shell(tmp_path, '"$@" > all.jsonl', out) == ""
    verdict, summary = (tmp_path / "all.jsonl").read_text().splitlines()
    assert (json.loads(verdict)["id"], json.loads(summary)["correct"]) == ("a", 1)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_out_that_is_the_input_by_another_name_is_refused(tmp_path, link):
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text(_row())
    link(file, out)
    with pytest.raises(BadInputError, match="is the input"):
        verify_file(file, out)
    assert file.read_text() == _row()


def test_verdicts_can_go_through_a_pipe(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text(_row(id="a"))
    reading, writing = os.pipe()
    with os.fdopen(reading) as verdicts:
        with os.fdopen(writing, "w"):
            verify_file(file, Path(f"/dev/fd/{writing}"))
        assert json.loads(verdicts.read())["id"] == "a"


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    summary, rows = _verify(tmp_path, "\ufeff" + _row(id="a"))
    assert (rows[0]["id"], summary["correct"]) == ("a", 1)


def test_a_row_without_an_id_is_known_by_its_number(tmp_path):
    _, rows = _verify(tmp_path, _row(id=None), '{"verifier": "exact"}', _row(id=10**400))
    assert [row["id"] for row in rows] == [1, 2, 10**400]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "in.jsonl has no rows."),
        (_row().encode("utf-16"), "could be graded"),
        (f"[{_row()}]".encode(), "could be graded"),
    ],
)
def test_a_file_of_which_no_row_is_graded_is_told_on_stderr(tmp_path, capsys, data, says):
    (tmp_path / "in.jsonl").write_bytes(data)
    summary = json.loads(verify_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl"))
    assert summary["rows"] == summary["errors"]
    assert says in capsys.readouterr().err


def test_missing_file_is_bad_input(tmp_path):
    with pytest.raises(BadInputError, match="no file"):
        verify_file(tmp_path / "none.jsonl", tmp_path / "out.jsonl")
