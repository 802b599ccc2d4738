"""Data sets of the hub, streamed through `datasets` from a stand-in for the Hub's HTTP API."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fusion.ingest.hub import COMMIT, hub_with

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
HISTORY = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

# One process for all cases: it takes the endpoint when `datasets` is imported, once.
READ = """
import dataclasses, itertools, json, sys
from fusion.errors import BadInputError
from fusion.ingest.reading import DataPath, read_rows
for case in json.loads(sys.argv[1]):
    limit = case.pop("limit", None)
    try:
        rows = itertools.islice(read_rows(DataPath(**case)), limit)
        print(json.dumps([dataclasses.asdict(row) for row in rows]))
    except BadInputError as error:
        print(json.dumps(str(error)))
"""

IMPORT = """
import polars as pl
from fusion.ingest import import_rewards
from fusion.recipe import Reward
fields = {"reward": "n", "response_id": "q"}
reward = Reward(kind="imported", path="hf://owner/scores", revision="v1", fields=fields)
answers = pl.DataFrame({"response_id": ["a"]})
print(import_rewards(reward, "key", answers, malformed_limit=0).judgements[0].reward)
"""


def parquet(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()


MANY = [{"q": f"question {n}", "n": n} for n in range(3000)]
REPOSITORIES = {
    "owner/lines": {
        "README.md": b"---\nlicense: mit\n---\n",
        "data/train-1.jsonl": "\n".join(map(json.dumps, MANY)).encode(),
        "data/train-2.jsonl": '{"q": "三", "n": 3000}\n'.encode(),
    },
    "owner/chats": {"train.parquet": parquet([{"chat": HISTORY}])},
    "owner/table": {"test.csv": b"q,n\na,1\n"},
    "owner/scores": {"train.jsonl": b'{"q": "a", "n": 1.5}\n'},
    "owner/damaged": {"train.jsonl": b'{"q": "good"}\n{"q": "\xff"}\n{"q": "fine"}\n'},
    "owner/broken": {"train.parquet": parquet([{"q": "a"}])[:-40]},
}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each case gave, and under `asked` what was asked of the hub."""

    def case(name: str, **keys: Any) -> dict[str, Any]:
        return {"path": f"hf://owner/{name}", "revision": "v1", **keys}

    cases = {
        "first row": case("lines", limit=1),
        "asked so far": {},
        "lines": case("lines", revision=COMMIT),
        "chats": case("chats"),
        "table": case("table", hub_split="test"),
        "damaged": case("damaged"),
        "broken": case("broken"),
        "no such revision": case("lines", revision="v9"),
        "no such repository": case("none"),
        "no such subset": case("lines", subset="none"),
        "no such split": case("lines", hub_split="test"),
    }
    first = json.dumps([cases["first row"]])
    rest = json.dumps([case for name, case in list(cases.items())[2:]])
    with hub_with(REPOSITORIES) as (endpoint, asked):
        home = str(tmp_path_factory.mktemp("home"))
        env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": home, "PYTHONPATH": str(ROOT)}
        outputs = []
        for argument in (first, rest):
            command = [sys.executable, "-c", READ, argument]
            done = subprocess.run(
                command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, done.stderr
            outputs += [json.loads(line) for line in done.stdout.splitlines()]
            if argument is first:
                outputs.append(list(asked))
    return dict(zip(cases, outputs, strict=True))


def test_rewards_are_imported_at_their_revision(tmp_path: Path) -> None:
    with hub_with(REPOSITORIES) as (endpoint, _):
        env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", IMPORT],
            env=env | {"PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.stdout == "1.5\n", done.stderr


def columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row["columns"] for row in rows]


def test_rows_of_every_shard_and_format_come_in_their_order(read: dict[str, Any]) -> None:
    assert columns(read["lines"]) == [*MANY, {"q": "三", "n": 3000}]
    assert [row["number"] for row in read["lines"]] == list(range(1, 3002))
    assert columns(read["table"]) == [{"q": "a", "n": 1}]


def test_history_is_kept(read: dict[str, Any]) -> None:
    assert columns(read["chats"]) == [{"chat": HISTORY}]


def test_rows_are_streamed_and_what_is_not_needed_is_not_fetched(read: dict[str, Any]) -> None:
    assert columns(read["first row"]) == MANY[:1]
    fetched = [path for path in read["asked so far"] if path.startswith("GET") and ".jsonl" in path]
    assert any(path.endswith("train-1.jsonl") for path in fetched)
    assert not any(path.endswith("train-2.jsonl") for path in fetched)


def test_text_that_is_not_utf8_is_malformed_alone(read: dict[str, Any]) -> None:
    assert [row.get("reason", "") for row in read["damaged"]] == ["", "invalid_utf8", ""]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("no such revision", "Revision 'v9' doesn't exist"),
        ("no such repository", "hf://owner/none at v1 cannot be read from the hub"),
        ("no such subset", "'none' not found"),
        ("no such split", "Bad split: test"),
        ("broken", "hf://owner/broken"),
    ],
)
def test_what_is_not_there_or_damaged_is_one_sentence(
    read: dict[str, Any], case: str, says: str
) -> None:
    assert isinstance(read[case], str), read[case]
    assert says in read[case]
    assert "\n" not in read[case]
