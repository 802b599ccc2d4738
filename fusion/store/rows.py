"""Pure rules over rows in memory: conform to a schema, identify by content, keep one of an id."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fusion.errors import CrucibleError

DIGEST_MODULUS = 2**256

# Arrow addresses the text of one `string` array with 32 bits; half of that leaves room for
# windows of rows that are longer than the average.
WINDOW_BYTES = 2**30


def conform(rows: pa.Table | pa.RecordBatch, schema: pa.Schema, id_column: str) -> pa.Table:
    """`rows` (Table or RecordBatch) as a Table of exactly `schema`.

    Columns may come in any order and in another width of the same kind (int32 for int64,
    large_string for string); nothing is parsed, rounded or made up.

    Raises:
        CrucibleError: a column is missing, unknown or of another kind, a value does not fit, or
            null stands where the schema forbids it or in the id column.
    """
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    _check_names(table.column_names, schema.names)
    columns = [_conform_column(table[field.name], field) for field in schema]
    for field, column in zip(schema, columns, strict=True):
        if column.null_count and (not field.nullable or field.name == id_column):
            raise CrucibleError(
                f"column {field.name!r} has {column.null_count} nulls; expected a value in every "
                "row: drop or quarantine such rows first"
            )
    return pa.Table.from_arrays(columns, schema=schema)


def digest_sum(digests: Iterable[int]) -> int:
    """One number for a bag of rows, whatever their order (a sum modulo 2**256)."""
    return sum(digests) % DIGEST_MODULUS


def row_digests(rows: pa.Table) -> Iterator[int]:
    """SHA-256 of each row's content as canonical JSON.

    Column order, integer and string widths and null columns do not matter, so a row keeps its
    digest when the schema gains a column.
    """
    for batch in rows.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield int.from_bytes(sha256(_canonical(row)).digest(), "big")


def fingerprint(num_rows: int, total: int) -> str:
    """The name of a bag of rows with this count and this `digest_sum`; 32 hex digits."""
    return sha256(f"{num_rows}:{total:064x}".encode()).hexdigest()[:32]


def fingerprint_rows(rows: pa.Table) -> str:
    """Content identity of rows in memory: equal to `Table.fingerprint()` for `Table.read()`."""
    return fingerprint(rows.num_rows, digest_sum(row_digests(rows)))


def repeated_ids(ids: pa.ChunkedArray) -> pa.Array:
    """The ids that occur more than once."""
    if len(ids) == pc.count_distinct(ids).as_py():
        return pa.array([], ids.type)
    counted = pc.value_counts(ids)
    return counted.field("values").filter(pc.greater(counted.field("counts"), 1))


def keep_one(rows: pa.Table, id_column: str) -> pa.Table:
    """`rows` sorted by id, each id once.

    Of rows with the same id the one with the smallest content digest stays, so the choice does
    not depend on which was written first or into which part. Needs all columns.
    """
    repeated = repeated_ids(rows[id_column])
    if len(repeated):
        is_repeated = pc.is_in(rows[id_column], value_set=repeated)
        chosen = _smallest(rows.filter(is_repeated), id_column)
        rows = pa.concat_tables([rows.filter(pc.invert(is_repeated)), chosen])
    return sort_by(rows, id_column)


def sort_by(rows: pa.Table, column: str, *, window_bytes: int = WINDOW_BYTES) -> pa.Table:
    """`rows` in ascending order of one column, also where a column's text exceeds 2 GiB."""
    order = pc.sort_indices(rows[column])
    if rows.nbytes < window_bytes:
        return rows.take(order)
    wide = rows.cast(pa.schema([field.with_type(_widened(field.type)) for field in rows.schema]))
    wide = wide.combine_chunks()  # once; else each take below would do it again
    window = max(1, rows.num_rows * window_bytes // rows.nbytes)
    windows = [
        wide.take(order.slice(start, window)).cast(rows.schema)
        for start in range(0, rows.num_rows, window)
    ]
    return pa.concat_tables(windows)


def _check_names(given: list[str], expected: list[str]) -> None:
    if sorted(given) == sorted(expected):
        return
    missing = sorted(set(expected) - set(given))
    unknown = sorted(set(given) - set(expected))
    raise CrucibleError(
        f"rows have the columns {given}; expected each of {expected} once "
        f"(missing: {missing}, unknown: {unknown})"
    )


def _conform_column(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if not _is_same_kind(column.type, field.type):
        raise CrucibleError(
            f"column {field.name!r} is {column.type}; expected {field.type}: convert it first"
        )
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise CrucibleError(
            f"column {field.name!r} does not fit {field.type}: {error}; convert it first"
        ) from error


def _is_same_kind(given: pa.DataType, expected: pa.DataType) -> bool:
    kinds = pa.types
    if given == expected or kinds.is_null(given):
        return True
    if kinds.is_dictionary(given):
        return _is_same_kind(given.value_type, expected)
    if _is_any_list(given) and _is_any_list(expected):
        return _is_same_kind(given.value_type, expected.value_type)
    if kinds.is_struct(given) and kinds.is_struct(expected):
        return _is_same_struct(given, expected)
    if kinds.is_floating(expected):
        return bool(kinds.is_floating(given) or kinds.is_integer(given))
    same = (kinds.is_integer, _is_any_string, _is_any_binary, kinds.is_timestamp)
    return any(is_kind(given) and is_kind(expected) for is_kind in same)


def _is_same_struct(given: pa.DataType, expected: pa.DataType) -> bool:
    names = [field.name for field in expected]
    return [field.name for field in given] == names and all(
        _is_same_kind(given.field(name).type, expected.field(name).type) for name in names
    )


def _is_any_string(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _is_any_binary(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _is_any_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_))


def _canonical(row: dict[str, Any]) -> bytes:
    present = {name: value for name, value in row.items() if value is not None}
    return json.dumps(present, sort_keys=True, separators=(",", ":"), default=str).encode()


def _smallest(rows: pa.Table, id_column: str) -> pa.Table:
    best: dict[Any, tuple[int, int]] = {}
    ids = rows[id_column].to_pylist()
    for position, (id_, digest) in enumerate(zip(ids, row_digests(rows), strict=True)):
        best[id_] = min(best.get(id_, (digest, position)), (digest, position))
    kept = {position for _, position in best.values()}
    return rows.filter(pa.array([position in kept for position in range(len(ids))], pa.bool_()))


def _widened(type_: pa.DataType) -> pa.DataType:
    kinds = pa.types
    if kinds.is_string(type_):
        return pa.large_string()
    if kinds.is_binary(type_):
        return pa.large_binary()
    if kinds.is_list(type_) or kinds.is_large_list(type_):
        return pa.large_list(type_.value_field.with_type(_widened(type_.value_type)))
    if kinds.is_struct(type_):
        return pa.struct([field.with_type(_widened(field.type)) for field in type_])
    return type_
