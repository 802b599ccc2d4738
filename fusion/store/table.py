"""A table: a folder of Parquet parts that many may append to and read at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fusion.errors import CrucibleError
from fusion.store import parts as files
from fusion.store import rows as rules
from fusion.store.faults import StorageError, is_passing, patiently
from fusion.store.location import Location
from fusion.store.parts import Footer, Part

R = TypeVar("R")

# Each retry means that a compaction deleted parts under the reader; one costs one or two.
READ_ATTEMPTS = 10


@dataclass(frozen=True)
class Table:
    """Rows under one schema, each with an id; append only.

    The folder holds Parquet and nothing else, and may hold one level of partitions (folders named
    by a key, each a table of its own); a table reads its own parts and those of its partitions.
    A folder that is missing is an empty table. Readers never see half a part, and of rows with
    the same id they keep the one with the smallest content digest.
    """

    location: Location
    schema: pa.Schema
    id_column: str

    def partition(self, key: str) -> Table:
        """The table of one key, in the folder `key` below this one."""
        if not key or "/" in key or key.startswith("."):
            raise ValueError(f"partition key {key!r} is not the name of a visible folder")
        return Table(self.location / key, self.schema, self.id_column)

    def append(self, rows: pa.Table | pa.RecordBatch, *, name: str | None = None) -> str | None:
        """Commit `rows` (Table or RecordBatch) as one new part, whole or not at all.

        Returns the part's name, None where there were no rows to write. See `rows.conform` for
        what is accepted. A `name` given replaces the part that has it.

        Raises:
            CrucibleError: the rows do not fit the schema.
        """
        fitting = rules.conform(rows, self.schema, self.id_column)
        if fitting.num_rows == 0:
            return None
        return files.write_part(self.location, fitting, name=name)

    def ids(self) -> pa.Array:
        """The distinct ids in ascending order, as a `pa.Array`; reads no other column."""
        stored = self._over_parts(lambda live: _scan_ids(self._dataset(live), self.id_column))
        distinct = pc.unique(stored)
        return distinct.take(pc.sort_indices(distinct))

    @property
    def num_rows(self) -> int:
        """How many distinct ids there are; reads the id column."""
        return len(self.ids())

    def missing(self, wanted_ids: pa.Array | pa.ChunkedArray | Sequence[Any]) -> pa.Array:
        """The wanted ids that are not stored, in the order they were given, as a `pa.Array`."""
        id_type = self.schema.field(self.id_column).type
        wanted = wanted_ids
        if not isinstance(wanted, pa.Array | pa.ChunkedArray):
            wanted = pa.array(wanted, id_type)
        left = wanted.filter(pc.invert(pc.is_in(wanted, value_set=self.ids().cast(wanted.type))))
        return left.combine_chunks() if isinstance(left, pa.ChunkedArray) else left

    def read(
        self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
    ) -> pa.Table:
        """The rows in ascending order of their ids, each id once, as a `pa.Table`.

        `filter` is a `pyarrow.compute.Expression`; it applies after the choice between rows with
        the same id, and like `columns` it has no influence on that choice.
        """
        names = list(self.schema.names if columns is None else columns)
        return self._over_parts(lambda live: self._read(live, names, filter))

    def fingerprint(self) -> str:
        """Content identity: equal for equal rows, whatever their order, parts and repetitions.

        It is a hash over the number of rows and the sum (modulo 2**256) of every row's SHA-256.
        Each part carries its own sum in its footer, so this reads footers and ids, not the rows.
        """
        return self._over_parts(self._fingerprint)

    def compact(self, *, target_rows: int = 50_000) -> None:
        """Merge parts of fewer than `target_rows` rows into larger ones, partition by partition.

        A merged part names the parts that it replaces, and readers ignore those from the moment it
        appears; when all are written, the old ones are deleted. So it may be killed anywhere and
        started again, and appends, readers and other compactions may go on meanwhile.
        """
        live, replaced = self._over_parts(
            lambda _: files.split_replaced(self.location, files.list_parts(self.location))
        )
        self._delete(replaced)
        folders: dict[str, list[Part]] = defaultdict(list)
        for part in live:
            folders[part.folder].append(part)
        # Deleted together at the end: each deletion makes those who read meanwhile start again.
        self._delete(
            [
                part
                for folder, members in folders.items()
                for group in self._merge_folder(folder, members, target_rows)
                for part in group
            ]
        )

    def _merge_folder(
        self, folder: str, members: Sequence[Part], target_rows: int
    ) -> Iterator[list[Part]]:
        """Write the merged parts of one folder; yields the parts that each of them replaces."""
        location = self.location / folder if folder else self.location
        location.delete_abandoned()
        try:
            for group in _groups(self._mergeable(members), target_rows):
                read = patiently(self._dataset(group).to_table, location)
                rows = rules.keep_one(read, self.id_column)
                files.write_part(location, rows, replaces=group)
                yield group
        except (pa.ArrowException, OSError) as error:
            if is_passing(error) or isinstance(error, StorageError):
                raise
            if self._has_lost(members):
                return  # another compaction was faster and does this folder
            files.check_readable(self.location, members, self.schema)
            raise

    def _mergeable(self, parts: Sequence[Part]) -> list[tuple[Part, Footer]]:
        """Parts with no other columns than the schema's; merging would lose a later version's."""
        footers = files.read_footers(self.location, parts)
        known = set(self.schema.names)
        return [pair for pair in zip(parts, footers, strict=True) if pair[1].columns <= known]

    def _delete(self, parts: Sequence[Part]) -> None:
        files.in_parallel(lambda part: (self.location / part.name).delete(), parts)

    def _read(
        self, live: Sequence[Part], names: list[str], filter: pc.Expression | None
    ) -> pa.Table:
        dataset = self._dataset(live)
        repeated = rules.repeated_ids(_scan_ids(dataset, self.id_column))
        with_id = list(dict.fromkeys([*names, self.id_column]))
        if not len(repeated):
            rows = dataset.to_table(columns=with_id, filter=filter)
        else:
            is_repeated = pc.field(self.id_column).isin(repeated)
            single = ~is_repeated if filter is None else ~is_repeated & filter
            chosen = rules.keep_one(dataset.to_table(filter=is_repeated), self.id_column)
            chosen = chosen if filter is None else chosen.filter(filter)
            rows = pa.concat_tables(
                [dataset.to_table(columns=with_id, filter=single), chosen.select(with_id)]
            )
        return rules.sort_by(rows, self.id_column).select(names)

    def _fingerprint(self, live: Sequence[Part]) -> str:
        dataset = self._dataset(live)
        repeated = rules.repeated_ids(_scan_ids(dataset, self.id_column))
        footers = files.read_footers(self.location, live)
        num_rows = sum(footer.num_rows for footer in footers)
        total = sum(self._part_digest(*pair) for pair in zip(live, footers, strict=True))
        if len(repeated):
            several = dataset.to_table(filter=pc.field(self.id_column).isin(repeated))
            chosen = rules.keep_one(several, self.id_column)
            num_rows += chosen.num_rows - several.num_rows
            total += sum(rules.row_digests(chosen)) - sum(rules.row_digests(several))
        return rules.fingerprint(num_rows, rules.digest_sum([total]))

    def _part_digest(self, part: Part, footer: Footer) -> int:
        if footer.digest is not None:
            return footer.digest
        return rules.digest_sum(rules.row_digests(self._dataset([part]).to_table()))

    def _dataset(self, parts: Sequence[Part]) -> ds.Dataset:
        return files.dataset_of(self.location, parts, self.schema)

    def _over_parts(self, act: Callable[[tuple[Part, ...]], R]) -> R:
        """`act` on the live parts, again when a compaction deleted some of them meanwhile."""
        return patiently(lambda: self._over_parts_once(act), self.location)

    def _over_parts_once(self, act: Callable[[tuple[Part, ...]], R]) -> R:
        for _ in range(READ_ATTEMPTS):
            listed = files.list_parts(self.location)
            try:
                return act(files.split_replaced(self.location, listed)[0])
            except (pa.ArrowException, OSError) as error:
                if is_passing(error) or isinstance(error, StorageError):
                    raise
                if self._has_lost(listed):
                    continue
                files.check_readable(self.location, listed, self.schema)
                raise
        raise CrucibleError(
            f"{self.location} changed under each of {READ_ATTEMPTS} attempts to read it; expected "
            "at most one compaction at a time: stop the others and start again"
        )

    def _has_lost(self, listed: Sequence[Part]) -> bool:
        now = {part.name for part in files.list_parts(self.location)}
        return not {part.name for part in listed} <= now


def _scan_ids(dataset: ds.Dataset, id_column: str) -> pa.ChunkedArray:
    return dataset.to_table(columns=[id_column])[id_column]


def _groups(parts: Sequence[tuple[Part, Footer]], target_rows: int) -> Iterator[list[Part]]:
    """Runs of small parts that together reach `target_rows`; the last run may fall short."""
    group: list[Part] = []
    num_rows = 0
    for part, footer in parts:
        if footer.num_rows >= target_rows:
            continue
        group.append(part)
        num_rows += footer.num_rows
        if num_rows >= target_rows:
            yield group
            group, num_rows = [], 0
    if len(group) > 1:
        yield group
