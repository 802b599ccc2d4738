"""The Ray Data sink that commits every block to a table of the store, atomically."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from ray.data import Dataset, Datasink

from cluster.ray_data import own_words
from fusion.store import Table

# Of a write, and of a worker whose rows wait for it: little, so that there is room for both
# when nodes are lost and those left have all the workers.
SMALL_CPUS = 0.1


class TableSink(Datasink[None]):
    """Appends rows to the table's partitions; the column `partition` names a row's partition.

    Rows whose column `failure` is set go to the quarantine table instead.
    """

    def __init__(self, table: Table, quarantine: Table, stage: str) -> None:
        self._table = table
        self._quarantine = quarantine
        self._stage = stage

    def write(self, blocks: Iterable[Any], ctx: Any) -> None:
        """Commit the blocks: one part for each partition among them."""
        for block in blocks:
            if block.num_rows:
                self._commit(pa.table(block))

    def _commit(self, rows: pa.Table) -> None:
        failed = pa.compute.is_valid(rows["failure"])
        self._quarantine.append(self._quarantine_rows(rows.filter(failed)))
        good = rows.filter(pa.compute.invert(failed))
        for key in pa.compute.unique(good["partition"]).to_pylist():
            part = good.filter(pa.compute.equal(good["partition"], key))
            self._table.partition(key).append(part.select(self._table.schema.names))

    def _quarantine_rows(self, rows: pa.Table) -> pa.Table:
        size = rows.num_rows
        return pa.table(
            {
                "stage": pa.array([self._stage] * size, pa.string()),
                "id": rows[self._table.id_column],
                "reason": rows["failure"],
                "detail": rows["detail"],
                "attempts": pa.array([1] * size, pa.int32()),
            },
            schema=self._quarantine.schema,
        )

    @property
    def min_rows_per_write(self) -> int:
        """Parts of a few hundred rows, so that a crash loses little."""
        return 256


def commit(dataset: Dataset, sink: TableSink) -> None:
    """Run a data set's pipeline and commit what comes out of it.

    Raises:
        CrucibleError: a worker or the storage failed, in the words of where it did.
    """
    with own_words():
        dataset.write_datasink(sink, ray_remote_args={"num_cpus": SMALL_CPUS})
