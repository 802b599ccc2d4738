"""What every way of scoring shares: ids through Ray Data workers into the scores table."""

from collections.abc import Iterable
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from cluster.ray_data import quiet_ray_data
from fusion.records import SCORES
from fusion.run import Run
from jobs.contents import Contents
from jobs.datasink import SMALL_CPUS, TableSink, commit
from jobs.score import STAGE

ROWS_PER_CALL = 256
ROWS_PER_BLOCK = 4096

IDS = ["score_id", "response_id", "prompt_id", "source_key", "scorer", "partition"]
_OUTPUT = pa.schema(
    [*SCORES, ("partition", pa.string()), ("failure", pa.string()), ("detail", pa.string())]
)


def score_rows(
    run: Run,
    wanted: pl.DataFrame,
    worker: type,
    *,
    concurrency: int,
    has_others: bool = False,
    **options: Any,
) -> None:
    """Have workers score the answers wanted, and commit the `score_table`s that they make.

    Only ids leave the driver; what the workers get is `Contents.read` on the way to them.
    """
    quiet_ray_data()
    contents = Contents.of(run, has_others=has_others)
    ids = wanted.select(IDS).sort(contents.order)
    blocks = [part.to_arrow() for part in ids.iter_slices(ROWS_PER_BLOCK)]
    read = ray.data.from_arrow(blocks).map_batches(
        contents.read, batch_size=None, batch_format="pyarrow", num_cpus=SMALL_CPUS
    )
    dataset = read.map_batches(
        worker,
        batch_size=ROWS_PER_CALL,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=concurrency),
        **options,
    )
    commit(dataset, TableSink(run.shared("scores"), run.quarantine(STAGE), STAGE))


def commit_scores(run: Run, scores: pa.Table) -> None:
    """Commit a `score_table` that this process made."""
    TableSink(run.shared("scores"), run.quarantine(STAGE), STAGE).write([scores], None)


def score_identity(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that say which score this is."""
    return {
        "score_id": row["score_id"],
        "response_id": row["response_id"],
        "scorer": row["scorer"],
        "scorer_key": row["partition"],
        "partition": row["partition"],
    }


def score_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows of the scores table, with the failure of those that have no score."""
    return pa.Table.from_pylist(list(rows), schema=_OUTPUT)
