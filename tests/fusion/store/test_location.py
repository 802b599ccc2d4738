"""Location: URIs, atomic writes, listing, and the check before a stage."""

import os
import pickle
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from fusion.errors import CrucibleError
from fusion.store import Location


def test_what_was_written_is_read_and_replaced_whole(storage: Location) -> None:
    file = storage / "deep" / "er" / "note.txt"
    assert not file.exists()
    file.write_text("first, and longer than the second")
    file.write_text("zweite Fassung é")
    assert file.exists()
    assert file.read_text() == "zweite Fassung é"


def test_reader_of_a_file_that_is_being_replaced_sees_one_version_whole(storage: Location) -> None:
    file = storage / "note.txt"
    versions = ["0"]
    file.write_text(versions[0])
    seen: set[str] = set()
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            number = len(versions)
            versions.append(f"{number}" * (50_000 if number % 2 else 1))
            file.write_text(versions[-1])
            time.sleep(0.01)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(60):
            # A writer without a pause may change an object under every attempt: refused, not torn.
            with nullcontext() if storage.scheme == "file" else suppress(OSError):
                seen.add(file.read_text())
    finally:
        stop.set()
        writer.join()
    assert seen and seen <= set(versions)


def test_reading_what_is_not_there_raises_file_not_found(storage: Location) -> None:
    with pytest.raises(FileNotFoundError):
        (storage / "nothing.txt").read_text()


def test_list_names_visible_children_in_order(storage: Location) -> None:
    assert storage.list() == ()
    for name in ("b.txt", "a.txt", ".hidden", "folder/inside.txt", "folder/.x/deeper.txt"):
        (storage / name).write_text("12345")
    assert [entry.name for entry in storage.list()] == ["a.txt", "b.txt", "folder"]
    assert [entry.is_folder for entry in storage.list()] == [False, False, True]
    names = [entry.name for entry in storage.list(recursive=True)]
    assert names == ["a.txt", "b.txt", "folder", "folder/inside.txt"]
    assert storage.list()[0].size == 5


def test_delete_takes_files_and_folders_and_accepts_absence(storage: Location) -> None:
    (storage / "folder" / "a.txt").write_text("a")
    (storage / "b.txt").write_text("b")
    (storage / "b.txt").delete()
    (storage / "folder").delete()
    (storage / "never-there").delete()
    assert not (storage / "folder").exists()
    assert storage.list() == ()


def test_location_survives_its_own_text_and_pickle(storage: Location) -> None:
    place = storage / "a folder" / "ü+%20.txt"
    place.write_text("here")
    assert Location.of(str(place)) == place
    assert pickle.loads(pickle.dumps(place)).read_text() == "here"


def test_another_process_finds_the_endpoint_in_the_pickle_and_its_keys_itself(
    storage: Location, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (storage / "note.txt").write_text("for the worker")
    travelling = pickle.dumps(storage)
    assert b"test-secret" not in travelling and b"test-key" not in travelling
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    script = (
        "import pickle, sys; place = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "print((place / 'note.txt').read_text())"
    )
    output, _ = start(script, travelling.hex()).communicate(timeout=60)
    assert output == "for the worker\n"


def test_relative_path_does_not_depend_on_a_later_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Location.of("runs")
    monkeypatch.chdir("/")
    assert place == Location.of(tmp_path / "runs") == Location.of(f"file://{tmp_path}/runs")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("gs://bucket/runs", "unknown scheme"),
        ("~nobody-here/runs", "no such user"),
        ("runs-\udcff", "half a character"),
        ("runs\0", "NUL"),
        ("s3:///runs", "not a usable S3 URI"),
        ("s3://bucket/runs?endpoint=http://here", "endpoint_override"),
        ("s3://key:secret@bucket/runs", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_unusable_uri_is_refused_in_one_sentence(uri: str, says: str) -> None:
    with pytest.raises(CrucibleError, match=says) as refusal:
        Location.of(uri)
    assert "secret@" not in str(refusal.value)


def test_nothing_has_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert not (Location.of(tmp_path) / ("x" * 300) / "recipe.yaml").exists()


def test_check_writable_leaves_nothing_behind(storage: Location) -> None:
    (storage / "runs").check_writable()
    assert (storage / "runs").list() == ()
    if storage.scheme == "file":
        assert os.listdir(storage.path + "/runs") == []


def test_check_writable_refuses_a_path_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CrucibleError, match=r"cannot be written .*; expected a folder"):
        Location.of(tmp_path / "file" / "runs").check_writable()


def test_check_writable_refuses_a_bucket_that_is_not_there(s3: str) -> None:
    with pytest.raises(CrucibleError, match=r"cannot be written .*; expected a folder or bucket"):
        Location.of("s3://no-such-bucket-here/runs").check_writable()


def test_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Location.of(tmp_path / "note.txt")
    file.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        file.write_text("new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_only_old_temporary_files_are_swept(tmp_path: Path) -> None:
    for name, age_s in (("fresh", 60), ("abandoned", 7200)):
        path = tmp_path / f".part-{name}.parquet.0.tmp"
        path.write_text("half a fi")
        changed = path.stat().st_mtime - age_s
        os.utime(path, (changed, changed))
    Location.of(tmp_path).delete_abandoned()
    assert os.listdir(tmp_path) == [".part-fresh.parquet.0.tmp"]
