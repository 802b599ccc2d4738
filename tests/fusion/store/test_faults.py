"""Storage that fails: a full disk, an S3 server with errors, resets and answers cut in half."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest

from fusion.errors import CrucibleError
from fusion.store import Lease, Location, StorageError, Table, faults
from tests.fusion.store.conftest import BUCKET, Start
from tests.fusion.store.flaky import FlakyWay

SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), ("text", pa.string())])
FAULTS = ["error", "reset", "cut"]

FILL = """
import json, os, resource, sys
from fusion.errors import CrucibleError
from fusion.store import Location, Table
import pyarrow as pa
if sys.argv[2] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
table = Table(Location.of(sys.argv[1]), pa.schema([pa.field("id", pa.string(), nullable=False),
              ("text", pa.string())]), "id")
number = 0
try:
    while number < 2000:
        size = 1_000 * number
        table.append(pa.table({"id": [str(number)], "text": [os.urandom(size).hex()]}))
        number += 1
except CrucibleError as error:
    print(json.dumps({"committed": number, "error": str(error)}))
"""


def table_at(location: Location) -> Table:
    return Table(location, SCHEMA, "id")


def rows(*ids: str, text: str = "t") -> pa.Table:
    return pa.table({"id": list(ids), "text": [text] * len(ids)}, schema=SCHEMA)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO DISK WAS FILLED: mounting needs root ({done.stderr.strip()})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def check_stopped_whole(output: str, folder: Path, cause: str) -> None:
    """The writer stopped with the cause; what it had committed is all there is, and whole."""
    said = json.loads(output)
    assert cause in said["error"] and "start the same command again" in said["error"]
    assert said["error"].count("\n") == 0
    table = table_at(Location.of(folder))
    assert table.num_rows == said["committed"] > 5
    assert table.read().num_rows == said["committed"]
    assert [name for name in os.listdir(folder) if not name.startswith("part-")] == []


def test_full_disk_stops_with_the_cause_and_what_was_committed_stays(
    small_disk: Path, start: Start
) -> None:
    output, _ = start(FILL, small_disk / "table", 0).communicate(timeout=120)
    check_stopped_whole(output, small_disk / "table", "No space left on device")


def test_limit_on_a_file_s_size_stops_with_the_cause(tmp_path: Path, start: Start) -> None:
    script = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + FILL
    output, _ = start(script, tmp_path / "table", 30_000).communicate(timeout=120)
    check_stopped_whole(output, tmp_path / "table", "File too large")


def test_old_file_stays_when_its_successor_finds_no_room(small_disk: Path) -> None:
    note = Location.of(small_disk / "note.txt")
    note.write_text("old")
    with pytest.raises(StorageError, match=r"No space left on device.*free some space"):
        note.write_bytes(os.urandom(5 << 20))
    assert note.read_text() == "old"
    assert os.listdir(small_disk) == ["note.txt"]


@pytest.fixture
def remote(way: FlakyWay) -> Location:
    """An empty folder behind the flaky way."""
    return Location.of(f"s3://{BUCKET}/{uuid4().hex}?endpoint_override={way.endpoint}")


@pytest.mark.parametrize("fault", FAULTS)
def test_store_waits_for_a_server_that_fails_for_a_while(
    fault: str, way: FlakyWay, remote: Location
) -> None:
    table = table_at(remote)
    table.append(rows("a"))
    way.fail_for(fault, 1)
    table.append(rows("b"))
    assert way.refused > 0
    way.fail_for(fault, 1)
    assert table.read()["id"].to_pylist() == ["a", "b"]


def test_compaction_listing_and_deletion_wait_as_well(way: FlakyWay, remote: Location) -> None:
    table = table_at(remote)
    for name in ("a", "b"):
        table.append(rows(name))
    way.fail_for("error", 1)
    table.compact()
    way.fail_for("error", 1)
    assert len(table.location.list()) == 1
    assert table.ids().to_pylist() == ["a", "b"]
    way.fail_for("error", 1)
    table.location.delete()
    assert not table.location.exists()


@pytest.mark.parametrize("fault", ["error", "reset"])
def test_store_stops_with_the_cause_when_the_server_stays_away(
    fault: str, way: FlakyWay, remote: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "PATIENCE_S", 0.2)
    table = table_at(remote)
    table.append(rows("a"))
    long_text = "".join(map(str, range(3_000_000)))
    with way.failing(fault):
        for act in (lambda: table.append(rows("c", text=long_text)), table.read):
            with pytest.raises(StorageError) as stop:
                act()
            assert "has not answered as it should for 0 s (" in str(stop.value)
            assert "HTTP status 500" in str(stop.value) or "NETWORK" in str(stop.value)
    assert table.read()["id"].to_pylist() == ["a"]
    table.append(rows("b"))
    assert table.ids().to_pylist() == ["a", "b"]


def test_empty_object_of_a_failed_upload_is_no_part(remote: Location) -> None:
    table = table_at(remote)
    table.append(rows("a"))
    with remote.filesystem.open_output_stream((remote / "part-half.parquet").path):
        pass
    assert remote.filesystem.get_file_info((remote / "part-half.parquet").path).is_file
    assert table.read()["id"].to_pylist() == ["a"]
    table.append(rows("b"))
    table.compact()
    assert table.read()["id"].to_pylist() == ["a", "b"]


def test_reader_beside_a_failing_writer_sees_whole_commits_only(
    way: FlakyWay, remote: Location, s3: str
) -> None:
    healthy = table_at(Location.of(f"s3://{remote.path}"))
    failing = table_at(remote)
    done = threading.Event()

    def write() -> None:
        for number in range(5):
            failing.append(rows(*(f"{number}-{part}" for part in range(5)), text="x" * 50_000))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    for turn in range(200):
        if done.is_set():
            break
        way.fail_for(FAULTS[turn % 3], 0.3)
        time.sleep(0.7)
        seen = healthy.read()
        by_commit = [id_.split("-")[0] for id_ in seen["id"].to_pylist()]
        assert all(by_commit.count(commit) == 5 for commit in by_commit)
    writer.join(timeout=60)
    assert healthy.num_rows == 25


def test_what_will_not_pass_is_not_waited_for(s3: str) -> None:
    started = time.monotonic()
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        Location.of("s3://no-such-bucket-here/note.txt").write_text("a")
    with pytest.raises(FileNotFoundError):
        Location.of(f"s3://{BUCKET}/nothing").read_text()
    assert time.monotonic() - started < 5


def test_wrong_endpoint_is_refused_before_the_start_without_waiting() -> None:
    started = time.monotonic()
    with pytest.raises(CrucibleError, match="correct the path"):
        Location.of("s3://bucket/runs?endpoint_override=http://127.0.0.1:9").check_writable()
    assert time.monotonic() - started < 10


def test_lease_outlives_a_storage_that_was_away_for_longer_than_its_ttl(
    way: FlakyWay, remote: Location
) -> None:
    with Lease(remote, "sample", ttl_s=1) as lease:
        with way.failing("error"):
            time.sleep(2.5)
        lease.check()
        time.sleep(1.5)
        lease.check()


def test_lease_that_another_took_while_the_storage_was_away_is_lost(
    way: FlakyWay, remote: Location, s3: str, start: Start
) -> None:
    there = f"s3://{remote.path}"
    script = (
        "import sys, time; from fusion.store import Lease, Location\n"
        "with Lease(Location.of(sys.argv[1]), 'sample', ttl_s=1):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with Lease(remote, "sample", ttl_s=1) as lease:
        with way.failing("error"):
            time.sleep(4)
            assert start(script, there).stdout.readline() == "held\n"
        with pytest.raises(CrucibleError, match="was lost"):
            lease.check()


def test_passing_faults_are_told_from_lasting_ones() -> None:
    assert faults.is_passing(OSError("AWS Error SLOW_DOWN during PutObject operation: wait"))
    assert faults.is_passing(OSError("AWS Error UNKNOWN (HTTP status 503) during X operation"))
    for error in (
        OSError("AWS Error ACCESS_DENIED during PutObject operation: no"),
        OSError(28, "No space left on device"),
        StorageError("AWS Error SLOW_DOWN"),
        ValueError("AWS Error SLOW_DOWN"),
    ):
        assert not faults.is_passing(error)
