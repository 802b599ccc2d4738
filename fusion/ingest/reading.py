"""Rows of a data set: Parquet, JSONL, JSON or CSV, local, on S3, or from the hub.

What is wrong with one row is yielded as `Malformed`; what is wrong with a whole file is raised.
"""

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fusion.errors import BadInputError, one_line
from fusion.identity import content_hash, file_fingerprint
from fusion.ingest.rows import Malformed, Row
from fusion.recipe import Dataset, Source
from fusion.store import Location, StorageError, is_passing

HUB = "hf://"
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
Read = Iterator[Row | Malformed]
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# The first bytes of compressed files (RFC 1952, RFC 8878, the .xz file format).
_PACKINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz"}
_BATCH_ROWS = 1024
_HEAD_BYTES = 1024
_READ_BYTES = 4 << 20  # on S3 each read is a request


@dataclass(frozen=True)
class DataPath:
    """A file, or a split of a hub data set."""

    path: str
    revision: str | None = None
    subset: str | None = None
    hub_split: str = "train"

    @classmethod
    def of(cls, section: Dataset | Source) -> "DataPath":
        """Where a recipe's data set, or a source's file of answers, lies."""
        path = str(section.path)
        return cls(path, section.revision, section.subset, section.hub_split)

    @property
    def on_hub(self) -> bool:
        """Whether it is a data set of the hub."""
        return self.path.startswith(HUB)

    def fingerprint(self) -> str:
        """Identity of the content: of a local file its bytes, of a remote one what is known of it.

        An object on S3 is known by size and time of change, a hub data set by its revision.
        """
        if self.on_hub:
            return content_hash([self.path, self.revision, self.subset, self.hub_split])
        location = Location.of(self.path)
        info = _file_info(location, self.path)
        if location.scheme == "file":
            return file_fingerprint(Path(location.path))
        return content_hash([str(location), info.size, info.mtime_ns])


def check_data_path(data: DataPath) -> None:
    """See that a file is there and of a known kind, or that a hub data set has a revision.

    Raises:
        BadInputError: what was given, what is expected.
    """
    if data.on_hub:
        name = data.path.removeprefix(HUB)
        if name.count("/") != 1 or not all(name.split("/")):
            raise BadInputError(f"{data.path} names no hub data set; expected hf://owner/name.")
        if not data.revision:
            raise BadInputError(f"{data.path} has no revision; add the key revision: a commit.")
        return
    location = Location.of(data.path)
    _file_info(location, data.path)
    _suffix(location)


def _file_info(location: Location, path: str) -> pafs.FileInfo:
    try:
        info = location.filesystem.get_file_info(location.path)
    except OSError as error:
        raise BadInputError(
            f"{path} cannot be reached ({one_line(error)}); expected a file that this user may "
            "read: correct its path, its permissions or the S3 endpoint and keys."
        ) from error
    if info.type == pafs.FileType.Directory:
        raise BadInputError(f"{path} is a folder; expected one file, so name a file in it.")
    if not info.is_file and any(sign in location.path for sign in "*?["):
        raise BadInputError(f"There is no file {path}; expected one file, not a pattern of names.")
    if not info.is_file:
        raise BadInputError(f"There is no file {path}; correct its path.")
    return info


def read_rows(data: DataPath) -> Read:
    """The rows of a data set in their order, lazily.

    Raises:
        BadInputError: there is no such file, its kind is unknown, or it is damaged as a whole.
        StorageError: the storage or the hub fails before the last row.
    """
    check_data_path(data)
    return _to_the_end(data)


def _to_the_end(data: DataPath) -> Read:
    """The rows; what keeps them from being read to the end becomes one sentence."""
    number = 0
    try:
        for row in _read(data):
            number = row.number
            yield row
    except (OSError, ValueError, pa.ArrowException, httpx.HTTPError) as error:
        reason = " ".join(str(error).split())
        failure = f"{data.path} could not be read beyond row {number} ({reason})"
        if is_passing(error) or isinstance(error, httpx.HTTPError):
            advice = "expected to read it to its end: start the same command again"
            raise StorageError(f"{failure}; {advice}") from error
        raise BadInputError(f"{failure}; mend the file or give another copy as path.") from error


def _read(data: DataPath) -> Read:
    if data.on_hub:
        return _read_hub(data)
    location = Location.of(data.path)
    if _suffix(location) == ".parquet":
        return _read_parquet(location, data.path)
    # Compression (.gz, .zst) is found by the file's name.
    stream = io.BufferedReader(
        location.filesystem.open_input_stream(location.path), buffer_size=_READ_BYTES
    )
    head = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    _check_content(head, data.path)
    if _suffix(location) == ".csv":
        return _read_csv(stream, data.path)
    if _suffix(location) == ".json" and not _starts_with_object(head):
        return _read_json_list(stream, data.path)
    if _goes_over_lines(head):
        raise BadInputError(
            f"{data.path} holds JSON that goes over several lines; expected one object a line, or "
            "under a name that ends in .json a list of objects: write the rows in one of these."
        )
    return _read_json_lines(stream)


def _check_content(head: bytes, path: str) -> None:
    """See by its first bytes that what is to be read is not (still) compressed, and no UTF-16."""
    for mark, packing in _PACKINGS.items():
        if head.startswith(mark):
            raise BadInputError(
                f"{path} is compressed with {packing}; unpack it, or if it is gzip or zstd and no "
                "Parquet let its name end in .gz or .zst."
            )
    if head.startswith(_UTF16_MARKS):
        raise BadInputError(f"{path} is UTF-16; expected UTF-8: convert it.")


def _starts_with_object(head: bytes) -> bool:
    """Whether a .json file is JSON lines by another name, as on the hub it often is."""
    return head.removeprefix(_UTF8_MARK).lstrip()[:1] == b"{"


def _goes_over_lines(head: bytes) -> bool:
    """Whether a line ends between the first bracket of a JSON text and what stands in it."""
    text = head.removeprefix(_UTF8_MARK).lstrip()
    within = text[1:].lstrip()
    space = text[1 : len(text) - len(within)]
    return b"\n" in space and text[:1] + within[:1] in (b'{"', b"[{")


def _suffix(location: Location) -> str:
    suffixes = [suffix.lower() for suffix in PurePosixPath(location.name).suffixes]
    known = [suffix for suffix in suffixes if suffix in SUFFIXES]
    if not known:
        raise BadInputError(
            f"{location} is of unknown kind; expected one of {', '.join(SUFFIXES)}."
        )
    return known[-1]


def _read_json_lines(stream: io.BufferedReader) -> Read:
    for number, line in enumerate(stream, start=1):
        text = line.removeprefix(_UTF8_MARK) if number == 1 else line
        if text.strip():
            yield _json_row(number, text)


def _json_row(number: int, line: bytes) -> Row | Malformed:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Malformed(number, "invalid_utf8", f"byte {error.start} is not UTF-8")
    except (ValueError, RecursionError) as error:
        return Malformed(number, "invalid_json", str(error))
    return _object_row(number, value)


def _object_row(number: int, value: Any) -> Row | Malformed:
    if not isinstance(value, dict):
        return Malformed(number, "not_an_object", f"it is {type(value).__name__}, not an object")
    return Row(number, value)


def _read_json_list(stream: io.BufferedReader, path: str) -> Read:
    try:
        values = json.loads(stream.read().removeprefix(_UTF8_MARK).decode())
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not JSON: {error}; mend the file.") from None
    if not isinstance(values, list):
        raise BadInputError(f"{path} holds {type(values).__name__}; expected a list of objects.")
    for number, value in enumerate(values, start=1):
        yield _object_row(number, value)


def _read_csv(stream: io.BufferedReader, path: str) -> Read:
    # The default limit of 128 KiB a field is below what prompts with documents in them need.
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise BadInputError(f"{path} has no header that is CSV ({error}); mend it.") from None
    if header is None:
        return
    _check_names(header, path)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield from _lost_lines(number, reader.line_num, "invalid_csv", str(error))
            continue
        if cells is None:
            return
        if cells and len(cells) != len(header):
            detail = f"it has {len(cells)} cells, the header {len(header)}"
            yield from _lost_lines(number, reader.line_num, "wrong_columns", detail)
        elif cells:
            yield _csv_row(number, header, cells)


def _check_names(names: list[str], path: str) -> None:
    if len(set(names)) < len(names):
        raise BadInputError(f"{path} names a column twice in {names}; give each its own name.")


def _lost_lines(first: int, last: int, reason: str, detail: str) -> Iterator[Malformed]:
    """Every line of a CSV row that is none: an open quote takes in the rows that follow it."""
    if last > first and reason == "wrong_columns":
        detail = f"{detail}: its quoted text goes from line {first} to line {last}"
    elif last > first:
        detail = f"{detail}: a quote that opens in line {first} is not closed before line {last}"
    for number in range(first, last + 1):
        yield Malformed(number, reason, detail)


def _csv_row(number: int, header: list[str], cells: list[str]) -> Row | Malformed:
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return Malformed(number, "invalid_utf8", "a cell is not UTF-8")
    return Row(number, dict(zip(header, cells, strict=True)))


def _read_parquet(location: Location, path: str) -> Read:
    try:
        with location.filesystem.open_input_file(location.path) as file:
            numbers = itertools.count(1)
            _check_content(file.read(8), path)
            parquet = pq.ParquetFile(file)
            _check_names(parquet.schema_arrow.names, path)
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
                for position in range(batch.num_rows):
                    yield _arrow_row(next(numbers), batch.slice(position, 1))
    except pa.ArrowException as error:
        raise BadInputError(f"{path} is not readable as Parquet: {error}; mend the file.") from None


def _arrow_row(number: int, row: pa.RecordBatch | pa.Table) -> Row | Malformed:
    columns: dict[str, Any] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            columns[name] = column[0].as_py()
        except UnicodeDecodeError as error:
            detail = f"byte {error.start} of a text in {name} is not UTF-8"
            return Malformed(number, "invalid_utf8", detail)
        except (OverflowError, ValueError, pa.ArrowException) as error:
            return Malformed(number, "invalid_value", f"{name} cannot be read: {one_line(error)}")
    return Row(number, columns)


def _read_hub(data: DataPath) -> Read:
    import datasets  # takes seconds to import, and local files need none of it

    name = data.path.removeprefix(HUB)
    try:
        rows = datasets.load_dataset(
            name, data.subset, split=data.hub_split, revision=data.revision, streaming=True
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadInputError(
            f"{data.path} at {data.revision} cannot be read from the hub ({reason}); check its "
            "name, revision, subset and hub_split, or give a local copy as path."
        ) from None
    numbers = itertools.count(1)
    for batch in rows.with_format("arrow").iter(batch_size=_BATCH_ROWS):
        for position in range(batch.num_rows):
            yield _arrow_row(next(numbers), batch.slice(position, 1))
