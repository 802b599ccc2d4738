"""The Parquet files of a table: which there are, what their footers say, how one is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fusion.errors import CrucibleError
from fusion.store.faults import is_passing
from fusion.store.location import Location
from fusion.store.rows import digest_sum, row_digests

T = TypeVar("T")
R = TypeVar("R")

# Requests in flight at once; pyarrow's own I/O pool for object stores has the same size.
PARALLEL_REQUESTS = 8
ROW_GROUP_ROWS = 10_000
MERGED_PREFIX = "part-merged-"
DIGEST_KEY = b"crucible.digest"
REPLACES_KEY = b"crucible.replaces"

FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


@dataclass(frozen=True)
class Part:
    """One Parquet file of a table; `name` is relative to the table, `key/file` in a partition."""

    name: str
    size: int

    @property
    def folder(self) -> str:
        """The partition it lies in, '' for the table's own folder."""
        return self.name.rpartition("/")[0]

    @property
    def file(self) -> str:
        """The name without its partition."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Footer:
    """What a part says of itself without its rows being read."""

    num_rows: int
    columns: frozenset[str]
    digest: int | None
    """The `digest_sum` of its rows; None in a file that Crucible did not write."""
    replaces: frozenset[str]
    """Names of the parts in the same folder whose rows it holds."""


def list_parts(location: Location) -> tuple[Part, ...]:
    """Every part there is, of the folder and of its partitions, at one moment.

    A listing is no snapshot: one that runs while a compaction writes and deletes can miss the new
    part and the old ones alike. So it counts only if nothing that an earlier listing saw has gone.
    """
    before = _list_once(location)
    while True:
        after = _list_once(location)
        if {part.name for part in before} <= {part.name for part in after}:
            return after
        before = after


def split_replaced(
    location: Location, parts: Sequence[Part]
) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """The parts to read, and those whose rows a merged part beside them holds already."""
    merged = [part for part in parts if part.file.startswith(MERGED_PREFIX)]
    replaced = {
        (part.folder, file)
        for part, footer in zip(merged, read_footers(location, merged), strict=True)
        for file in footer.replaces
    }
    live = tuple(part for part in parts if (part.folder, part.file) not in replaced)
    return live, tuple(part for part in parts if (part.folder, part.file) in replaced)


def read_footers(location: Location, parts: Sequence[Part]) -> list[Footer]:
    """The footers of `parts`, in their order, several requests at a time."""
    filesystem = location.filesystem
    return in_parallel(lambda part: _footer(_fragment(filesystem, location, part)), parts)


def dataset_of(location: Location, parts: Sequence[Part], schema: pa.Schema) -> ds.Dataset:
    """A pyarrow dataset over `parts`; a column that an older part lacks reads as null."""
    filesystem = location.filesystem
    fragments = [_fragment(filesystem, location, part) for part in parts]
    return ds.FileSystemDataset(fragments, schema, FORMAT, filesystem)


def write_part(
    location: Location,
    rows: pa.Table,
    *,
    replaces: Iterable[Part] = (),
    name: str | None = None,
) -> str:
    """Commit `rows` as one part of the folder `location`; returns its name, unique if not given."""
    replaced = sorted(part.file for part in replaces)
    footer = {
        DIGEST_KEY: f"{digest_sum(row_digests(rows)):064x}",
        REPLACES_KEY: json.dumps(replaced),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.replace_schema_metadata({**(rows.schema.metadata or {}), **footer}),
        sink,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        write_page_checksum=True,
    )
    name = name or f"{MERGED_PREFIX if replaced else 'part-'}{uuid4().hex}.parquet"
    (location / name).write_bytes(sink.getvalue())
    return name


def check_readable(location: Location, parts: Sequence[Part], schema: pa.Schema) -> None:
    """Read every part by itself.

    Raises:
        CrucibleError: one of them is not Parquet, is damaged or has columns of other types.
    """
    for part in parts:
        try:
            for _ in dataset_of(location, [part], schema).to_batches():
                pass
        except (pa.ArrowException, OSError) as error:
            if is_passing(error):
                raise
            if not (location / part.name).exists():
                continue  # a compaction deleted it: nobody's fault
            raise CrucibleError(
                f"{location / part.name} cannot be read as a part of this table "
                f"({str(error).splitlines()[0]}); expected whole Parquet with the columns "
                f"{schema.names}: restore the file, or delete it and the stage makes its rows again"
            ) from error


def in_parallel(act: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`act` on every item, in order, with several requests in flight."""
    if len(items) < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        return list(pool.map(act, items))


def _list_once(location: Location) -> tuple[Part, ...]:
    return tuple(
        Part(entry.name, entry.size)
        for entry in location.list(recursive=True)
        if not entry.is_folder
        and entry.name.endswith(".parquet")
        and entry.name.count("/") < 2
        # When a long upload fails, pyarrow leaves an empty object under its name.
        and entry.size
    )


def _fragment(
    filesystem: pafs.FileSystem, location: Location, part: Part
) -> ds.ParquetFileFragment:
    path = (location / part.name).path
    return FORMAT.make_fragment(path, filesystem, file_size=part.size)


def _footer(fragment: ds.ParquetFileFragment) -> Footer:
    notes = fragment.metadata.metadata or {}
    digest = notes.get(DIGEST_KEY)
    return Footer(
        num_rows=fragment.metadata.num_rows,
        columns=frozenset(fragment.physical_schema.names),
        digest=None if digest is None else int(digest, 16),
        replaces=frozenset(json.loads(notes.get(REPLACES_KEY, b"[]"))),
    )
