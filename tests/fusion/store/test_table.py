"""Table: atomic parts, anti-join, one row an id, compaction, content identity."""

import json
import os
import pickle
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.errors import CrucibleError
from fusion.store import Location, Table, fingerprint_rows
from fusion.store import parts as files

COMPACTIONS = 4
MESSAGES = pa.list_(
    pa.struct([pa.field("role", pa.string(), False), pa.field("content", pa.string(), False)])
)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("messages", MESSAGES),
        pa.field("reward", pa.float64()),
        pa.field("tokens", pa.int32()),
    ]
)

# Appends a part of 500 rows for each line it is given and says so. At the part of the second
# argument it is killed after the file was written and before it was renamed.
APPEND = """
import os, signal, sys
import pyarrow as pa
from fusion.store import Location, Table
schema = pa.schema([pa.field("id", pa.string(), nullable=False), ("text", pa.string())])
table = Table(Location.of(sys.argv[1]), schema, "id")
text = [os.urandom(1500).hex() for _ in range(500)]
for part, _ in enumerate(sys.stdin):
    if sys.argv[2:] == [str(part)]:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    ids = [f"{part:05}-{row:03}" for row in range(500)]
    table.append(pa.table({"id": ids, "text": text}))
    print(part, flush=True)
"""

# Compacts and dies by SIGKILL at the deletion of the given number.
COMPACT = """
import os, pickle, signal, sys
from fusion.store import Location
table, left = pickle.loads(bytes.fromhex(sys.argv[1])), int(sys.argv[2])
delete = Location.delete
def delete_or_die(self):
    global left
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    delete(self)
Location.delete = delete_or_die
table.compact(target_rows=25)
"""


@pytest.fixture
def table(storage: Location) -> Table:
    return Table(storage / "table", SCHEMA, "id")


def row(id_: object, text: str = "t", **values: object) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    return {"id": str(id_), "text": text, "messages": messages, "reward": 0.5, "tokens": 1} | values


def rows(*content: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(content), schema=SCHEMA)


def numbered(*numbers: int) -> pa.Table:
    return rows(*[row(f"{number:04}", f"text {number}") for number in numbers])


def part_names(table: Table) -> list[str]:
    return [part.name for part in files.list_parts(table.location)]


def test_missing_folder_is_an_empty_table(table: Table) -> None:
    assert table.read().schema == SCHEMA
    assert table.read(["reward"]).schema.names == ["reward"]
    assert table.num_rows == 0 and len(table.ids()) == 0
    assert table.missing(["b", "a"]).to_pylist() == ["b", "a"]
    assert table.fingerprint() == fingerprint_rows(rows())
    table.compact()
    assert table.location.list() == ()


def test_appended_rows_are_read_back_in_order_of_their_ids(table: Table) -> None:
    first = table.append(numbered(3, 1))
    second = table.append(numbered(2).to_batches()[0])
    assert first != second and part_names(table) == sorted([first, second])
    assert table.read().equals(numbered(1, 2, 3))
    assert table.ids().to_pylist() == ["0001", "0002", "0003"]
    assert table.num_rows == 3


def test_append_of_no_rows_writes_nothing(table: Table) -> None:
    assert table.append(rows()) is None
    assert not table.location.exists()


def test_folder_holds_zstd_parquet_and_nothing_else(table: Table) -> None:
    for number in range(6):
        table.append(numbered(number))
    table.compact(target_rows=3)
    entries = table.location.list(recursive=True)
    assert len(entries) == 2 and all(entry.name.endswith(".parquet") for entry in entries)
    if table.location.scheme == "file":
        assert len(os.listdir(table.location.path)) == 2
    with table.location.filesystem.open_input_file(
        (table.location / entries[0].name).path
    ) as stream:
        assert pq.ParquetFile(stream).metadata.row_group(0).column(0).compression == "ZSTD"


def test_missing_keeps_order_and_repetition_of_what_is_wanted(table: Table) -> None:
    table.append(numbered(2, 4))
    wanted = ["0005", "0004", "0001", "0002", "0005"]
    for given_ids in (wanted, pa.array(wanted), pa.chunked_array([wanted[:2], wanted[2:]])):
        assert table.missing(given_ids).to_pylist() == ["0005", "0001", "0005"]
    assert table.missing(pa.array(wanted, pa.large_string())).to_pylist() == [
        "0005",
        "0001",
        "0005",
    ]
    assert table.missing([]).to_pylist() == []


def test_id_written_twice_is_read_once_and_the_choice_ignores_the_order(
    table: Table, storage: Location
) -> None:
    one, other = row("a", "first"), row("a", "second", reward=None)
    twin = Table(storage / "twin", SCHEMA, "id")
    table.append(rows(one, row("b")))
    table.append(rows(other))
    twin.append(rows(other, row("b"), one, one))
    assert table.num_rows == 2
    assert table.read().num_rows == 2
    assert table.read().equals(twin.read())
    assert table.fingerprint() == twin.fingerprint() == fingerprint_rows(table.read())


def test_columns_and_filter_have_no_influence_on_which_row_is_kept(table: Table) -> None:
    for text in ("one", "two", "three"):
        table.append(rows(row("a", text), row(text, text)))
    (kept,) = table.read(filter=pc.field("id") == "a").to_pylist()
    assert table.read(["text"], pc.field("id") == "a").to_pylist() == [{"text": kept["text"]}]
    for text in {"one", "two", "three"} - {kept["text"]}:
        assert table.read(["id"], pc.field("text") == text).to_pylist() == [{"id": text}]
    found = table.read(["id"], pc.field("text") == kept["text"])["id"].to_pylist()
    assert found == sorted(["a", kept["text"]])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (numbered(1).drop_columns("tokens"), r"missing: \['tokens'\]"),
        (numbered(1).append_column("more", [[1]]), r"unknown: \['more'\]"),
        (numbered(1).append_column("tokens", [[1]]), "each of .* once"),
        (rows(row("a", reward=None)).set_column(3, "reward", [["0.5"]]), "'reward' is string"),
        (numbered(1).set_column(4, "tokens", [[1.5]]), "'tokens' is double"),
        (numbered(1).set_column(4, "tokens", [[2**40]]), "'tokens' does not fit int32"),
        (numbered(1).set_column(1, "text", [[7]]), "'text' is int64; expected string"),
        (rows({**row("a"), "text": None}), "'text' has 1 nulls"),
        (rows({**row("a"), "id": None}), "'id' has 1 nulls"),
        (numbered(1).set_column(2, "messages", [[[{"role": "user"}]]]), "'messages' is list"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(
    table: Table, wrong: pa.Table, says: str
) -> None:
    with pytest.raises(CrucibleError, match=says):
        table.append(wrong)
    assert part_names(table) == []


def test_rows_of_the_same_kind_fit(table: Table) -> None:
    loose = pa.Table.from_pylist([row("a", reward=1, tokens=None)]).select(
        ["tokens", "reward", "messages", "text", "id"]
    )
    loose = loose.set_column(3, "text", loose["text"].cast(pa.large_string()))
    loose = loose.set_column(4, "id", loose["id"].dictionary_encode())
    table.append(loose)
    assert table.read().to_pylist() == [row("a", reward=1.0, tokens=None)]


def test_parent_reads_every_partition_and_a_partition_its_own(table: Table) -> None:
    table.append(numbered(1))
    table.partition("qwen-1").append(numbered(3, 2))
    table.partition("gemma-1").append(numbered(2, 4))
    table.partition("qwen-1").partition("deeper").append(numbered(5))
    assert table.read().equals(numbered(1, 2, 3, 4))
    assert table.partition("qwen-1").read().equals(numbered(2, 3, 5))
    assert table.missing(["0004", "0009"]).to_pylist() == ["0009"]
    assert table.fingerprint() == fingerprint_rows(table.read())


@pytest.mark.parametrize("key", ["", "a/b", ".hidden", ".."])
def test_partition_key_is_the_name_of_a_visible_folder(table: Table, key: str) -> None:
    with pytest.raises(ValueError, match="partition key"):
        table.partition(key)


def test_table_travels_to_a_worker(table: Table) -> None:
    pickle.loads(pickle.dumps(table)).append(numbered(1))
    assert table.num_rows == 1


@pytest.mark.parametrize("damage", ["not parquet", "cut short", "flipped byte", "other type"])
def test_damaged_part_is_named(table: Table, damage: str) -> None:
    names = [table.append(numbered(*range(start, start + 200))) for start in (0, 200, 400)]
    broken = table.location / names[1]
    data = bytearray(broken.read_bytes())
    if damage == "not parquet":
        data = bytearray(b"hello, this is not Parquet")
    elif damage == "cut short":
        del data[len(data) // 2 :]
    elif damage == "flipped byte":
        data[100] ^= 0xFF  # within the ids' data page
    else:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": ["a"], "text": [["t"]]}), sink)
        data = bytearray(sink.getvalue())
    broken.write_bytes(bytes(data))
    for read in (table.read, table.ids, table.compact):
        if damage == "other type" and read == table.ids:
            continue  # its ids are as they should be
        with pytest.raises(CrucibleError, match=rf"{names[1]}\S* cannot be read as a part"):
            read()


def test_wrong_filter_is_not_blamed_on_a_part(table: Table) -> None:
    table.append(numbered(1))
    with pytest.raises(pa.ArrowException):
        table.read(filter=pc.field("no such column") == 1)


def test_part_of_an_older_schema_reads_null_for_the_new_column_and_keeps_its_fingerprint(
    table: Table,
) -> None:
    table.append(numbered(1, 2))
    wider = Table(table.location, SCHEMA.append(pa.field("language", pa.string())), "id")
    assert wider.read()["language"].to_pylist() == [None, None]
    assert wider.fingerprint() == table.fingerprint() == fingerprint_rows(wider.read())


def test_compaction_under_an_older_schema_loses_no_newer_column(table: Table) -> None:
    wider = Table(table.location, SCHEMA.append(pa.field("language", pa.string())), "id")
    for number in range(3):
        wider.append(numbered(number).append_column("language", [["en"]]))
    table.compact()
    assert wider.read()["language"].to_pylist() == ["en"] * 3


def test_file_that_crucible_did_not_write_counts_alike(table: Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(numbered(2, 1), sink)
    (table.location / "train-00000.parquet").write_bytes(sink.getvalue())
    table.append(numbered(3))
    assert table.fingerprint() == fingerprint_rows(numbered(1, 2, 3))
    table.compact()
    assert table.fingerprint() == fingerprint_rows(numbered(1, 2, 3))
    assert len(part_names(table)) == 1


def test_fingerprint_tells_different_content_apart(table: Table) -> None:
    base = numbered(1, 2)
    others = [numbered(1), numbered(1, 2, 3), rows(row("0001"), row("0002")), rows()]
    assert len({fingerprint_rows(each) for each in [base, *others]}) == 5


# --- any order, any chunking -------------------------------------------------------------------

contents = st.lists(
    st.builds(
        lambda number, text, reward: row(f"{number:02}", text, reward=reward),
        st.integers(0, 12),
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.none() | st.floats(allow_nan=False),
    ),
    max_size=16,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(contents, st.randoms(use_true_random=False), st.booleans())
def test_order_chunking_and_compaction_of_appends_change_nothing(
    storage: Location, content: list[dict], shuffler: random.Random, compacted: bool
) -> None:
    whole, chunked = (Table(storage / uuid4().hex, SCHEMA, "id") for _ in range(2))
    whole.append(rows(*content))
    again = content + shuffler.choices(content, k=2) if content else []
    shuffler.shuffle(again)
    while again:
        size = shuffler.randint(1, 6)
        chunked.append(rows(*again[:size]))
        del again[:size]
    if compacted:
        chunked.compact(target_rows=shuffler.randint(1, 12))
    assert chunked.read().equals(whole.read())
    assert chunked.ids().equals(whole.ids())
    assert chunked.fingerprint() == whole.fingerprint() == fingerprint_rows(whole.read())


@given(contents, st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_sorting_in_windows_equals_sorting_at_once(content: list[dict], window: int) -> None:
    from fusion.store.rows import sort_by

    whole = rows(*content)
    assert sort_by(whole, "id", window_bytes=window).equals(sort_by(whole, "id"))


# --- killed, and several at once ---------------------------------------------------------------


def say(writer: subprocess.Popen[str]) -> None:
    writer.stdin.write("go\n")
    writer.stdin.flush()


def appended(storage: Location) -> Table:
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), ("text", pa.string())])
    return Table(storage, schema, "id")


def test_reader_never_sees_half_a_part_of_a_writer_that_is_killed(storage: Location, start) -> None:
    table = appended(storage)
    for delay_ms in (3, 9, 15):
        writer = start(APPEND, storage / f"killed-after-{delay_ms}-ms")
        for part in range(3):
            say(writer)
            for _ in range(3):
                assert table.read().num_rows % 500 == 0
            assert writer.stdout.readline() == f"{part}\n"
        say(writer)
        time.sleep(delay_ms / 1000)
        writer.kill()
        writer.wait()
        counts = [footer.num_rows for footer in files.read_footers(storage, _parts(table))]
        assert set(counts) == {500} and len(counts) >= 3
        storage.delete()


def test_temporary_file_of_a_killed_writer_is_not_a_part(tmp_path: Path, start) -> None:
    table = appended(Location.of(tmp_path))
    writer = start(APPEND, tmp_path, 2)
    for _ in range(3):
        say(writer)
    assert writer.wait(timeout=60) == -signal.SIGKILL
    assert len([name for name in os.listdir(tmp_path) if name.endswith(".tmp")]) == 1
    assert table.read().num_rows == 1000
    table.append(pa.table({"id": ["z"], "text": ["t"]}))
    table.compact()
    assert table.num_rows == 1001


@pytest.mark.parametrize("deletions", [0, 7])
def test_compaction_killed_in_between_changes_nothing_that_is_read(
    table: Table, start, deletions: int
) -> None:
    for number in range(10):
        table.append(numbered(*range(number * 5, number * 5 + 5)))
    table.partition("key").append(numbered(100))
    before, fingerprint = table.read(), table.fingerprint()
    compaction = start(COMPACT, pickle.dumps(table).hex(), deletions)
    assert compaction.wait(timeout=60) == -signal.SIGKILL
    assert len(part_names(table)) > 3  # old parts stand beside merged ones
    live, replaced = files.split_replaced(table.location, _parts(table))
    assert replaced and _num_stored(table, live) == 51
    assert table.read().equals(before) and table.fingerprint() == fingerprint
    table.compact(target_rows=25)
    assert len(part_names(table)) == 3
    assert table.read().equals(before) and table.fingerprint() == fingerprint


def test_compaction_leaves_large_parts_alone_and_settles(table: Table) -> None:
    large = table.append(numbered(*range(100, 150)))
    for number in range(7):
        table.append(numbered(number))
    table.compact(target_rows=3)
    settled = part_names(table)
    assert large in settled and len(settled) == 4
    table.compact(target_rows=3)
    assert part_names(table) == settled


def test_nothing_committed_is_ever_out_of_sight_while_others_append_and_compact(
    table: Table,
) -> None:
    committed: list[str] = []
    compactions: list[float] = []
    stop = threading.Event()
    errors: list[BaseException] = []

    def repeat(act) -> None:
        try:
            while not stop.is_set():
                act()
        except BaseException as error:
            errors.append(error)

    def append() -> None:
        number = len(committed)
        table.append(numbered(number))
        committed.append(f"{number:04}")

    def compact() -> None:
        # Few enough that a reader which each of them makes start again gets through in the end.
        if len(compactions) < COMPACTIONS:
            table.compact(target_rows=20)
            compactions.append(time.monotonic())
        time.sleep(0.3)

    threads = [threading.Thread(target=repeat, args=[act]) for act in (append, compact, compact)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 60
        while len(compactions) < COMPACTIONS and time.monotonic() < end and not errors:
            known = list(committed)
            assert table.missing(known).to_pylist() == []
            assert set(known) <= set(table.read(["id"])["id"].to_pylist())
            table.fingerprint()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == [] and len(committed) > 10 and len(compactions) >= COMPACTIONS
    assert table.read().equals(numbered(*range(len(committed))))


def test_listing_that_overlaps_a_compaction_is_not_believed(
    storage: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, merged = [files.Part(f"part-{n}.parquet", 1) for n in range(3)], files.Part("m.parquet", 1)
    # The first missed the merged part and one that was deleted already.
    listings = iter([tuple(old[:2]), (merged, old[0]), (merged,), (merged,)])
    monkeypatch.setattr(files, "_list_once", lambda location: next(listings))
    assert files.list_parts(storage) == (merged,)


def test_merged_part_says_what_it_replaces(table: Table) -> None:
    names = [table.append(numbered(number)) for number in range(3)]
    table.compact()
    (merged,) = part_names(table)
    notes = pq.read_metadata(
        (table.location / merged).path, filesystem=table.location.filesystem
    ).metadata
    assert json.loads(notes[b"crucible.replaces"]) == sorted(names)


def _parts(table: Table) -> tuple[files.Part, ...]:
    return files.list_parts(table.location)


def _num_stored(table: Table, parts: tuple[files.Part, ...]) -> int:
    return sum(footer.num_rows for footer in files.read_footers(table.location, parts))
