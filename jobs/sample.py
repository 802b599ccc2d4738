"""The stage sample: prompts to answers, by the models that are up now."""

import contextlib
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from cluster.ray_data import quiet_ray_data
from fusion.errors import CrucibleError
from fusion.failures import exceeds, is_by_machine, is_settled
from fusion.recipe import Sampling
from fusion.run import Run
from fusion.store import Table
from fusion.wanted import sample_requests, wanted_responses
from jobs.asking import Asker, Source
from jobs.committing import STAGE
from services.applications import source_application_name
from services.source import Served

PROMPTS_PER_BLOCK = 1024
# While the last answers of one block are on their way, the next one fills the engine.
BLOCKS_AT_ONCE = 2


@dataclass(frozen=True)
class Asking:
    """A model, the prompts it is to answer, and how; of a run's, no two have one key."""

    served: Served
    source_key: str
    sampling: Sampling
    prompts: pl.DataFrame
    samples: dict[str, int]

    def wanted(self) -> pl.DataFrame:
        """Every answer wanted, stored or not: prompt_id, sample_index, response_id."""
        return wanted_responses(self.prompts, self.source_key, self.samples)


def missing_requests(run: Run, asking: Asking) -> pl.DataFrame:
    """What is still to be asked: wanted answers that are neither stored nor settled otherwise."""
    wanted = asking.wanted()
    stored = run.shared("responses").partition(asking.source_key).ids()
    settled = pl.concat([pl.Series(stored, dtype=pl.String), settled_failures(run)["id"]])
    missing = wanted.filter(~pl.col("response_id").is_in(settled.implode()))
    return sample_requests(missing, asking.prompts)


def settled_failures(run: Run) -> pl.DataFrame:
    """id, reason and detail of the answers in quarantine that are not to be tried again."""
    rows = pl.DataFrame(run.quarantine(STAGE).read(["id", "reason", "detail", "attempts"]))
    kept = [is_settled(*row) for row in rows.select("reason", "attempts").iter_rows()]
    return rows.filter(pl.Series(kept, dtype=pl.Boolean)).drop("attempts")


def release_failures(run: Run, askings: Sequence[Asking]) -> int:
    """Take from quarantine what the machine failed at, where too much failed for sampling to end.

    For the start after such a stop: what it was stopped for is mended, or will stop it again.
    Returns how many answers are to be tried once more.
    """
    settled = settled_failures(run)
    limit = run.recipe.failures.limit
    lacking = [_lacking(run, asking) for asking in askings]
    failed = [settled.filter(pl.col("id").is_in(ids.implode())) for ids, _ in lacking]
    if not any(
        exceeds(rows.height, num_stored + rows.height, limit)
        for rows, (_, num_stored) in zip(failed, lacking, strict=True)
    ):
        return 0
    rows = pl.concat(failed)
    released = rows.filter(pl.col("reason").map_elements(is_by_machine, return_dtype=pl.Boolean))
    _keep_others(run.quarantine(STAGE), released["id"])
    return released.height


def _lacking(run: Run, asking: Asking) -> tuple[pl.Series, int]:
    """The ids of the answers that are not stored, and how many are."""
    wanted = asking.wanted()["response_id"]
    stored = run.shared("responses").partition(asking.source_key)
    missing = pl.Series(stored.missing(wanted.to_arrow()), dtype=pl.String)
    return missing, len(wanted) - len(missing)


def _keep_others(quarantine: Table, ids: pl.Series) -> None:
    """The rows of a quarantine but these; they are committed anew before the old parts go."""
    old = quarantine.location.list()
    rows = pl.DataFrame(quarantine.read()).filter(~pl.col("id").is_in(ids.implode()))
    quarantine.append(rows.to_arrow())
    for part in old:
        (quarantine.location / part.name).delete()


def num_missing(run: Run, asking: Asking) -> int:
    """How many answers are still to be asked for."""
    return int(missing_requests(run, asking)["sample_indexes"].list.len().sum())


def sample(run: Run, askings: Sequence[Asking]) -> None:
    """Ask what is missing of models that are up, and commit the answers as they come.

    Raises:
        CrucibleError: too many answers fail, a source dies and stays away, or the storage does.
    """
    by_name: dict[str, list[Asking]] = defaultdict(list)
    for asking in askings:
        by_name[asking.served.name].append(asking)
    quiet_ray_data()
    parts = [part for members in by_name.values() if (part := _answered(run, members))]
    if not parts:
        return
    first, *others = parts
    dataset = first.union(*others) if others else first
    with contextlib.closing(_faults(dataset)) as faults:  # Ray Data's actors end with it
        if fault := next(faults, None):
            raise CrucibleError(fault)


def _faults(outcomes: ray.data.Dataset) -> Generator[str, None, None]:
    """Why sampling has to stop, as soon as an actor says so; nothing where all goes well."""
    batches: Iterable[Any] = outcomes.iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=0
    )
    for batch in batches:
        yield from batch["fault"].drop_null().to_pylist()


def _answered(run: Run, askings: Sequence[Asking]) -> ray.data.Dataset | None:
    """The outcomes of the blocks of one model; they are asked when this is read."""
    model = askings[0].served
    blocks = [block for asking in askings for block in request_blocks(run, asking)]
    if not blocks:
        return None
    name = source_application_name(run.recipe.name, model.name)
    tables = run.shared("responses"), run.quarantine(STAGE)
    return ray.data.from_arrow(blocks).map_batches(
        Asker,
        fn_constructor_args=[Source(model.name, name, *tables, run.recipe.failures)],
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(
            size=min(model.replicas, len(blocks)),
            max_concurrent_calls_per_actor=BLOCKS_AT_ONCE,
            max_tasks_in_flight_per_actor=BLOCKS_AT_ONCE,
        ),
    )


def request_blocks(run: Run, asking: Asking) -> list[pa.Table]:
    """The missing requests in random order, in blocks enough for every engine.

    Answers to held-out prompts measure the model, so that empty and looping ones are answers as
    well: a block keeps all, or none of these.
    """
    requests = missing_requests(run, asking).sample(fraction=1, shuffle=True, seed=0)
    splits = asking.prompts.select("prompt_id", keeps_all=pl.col("split") == "test")
    labelled = requests.join(splits, on="prompt_id", maintain_order="left").with_columns(
        source_key=pl.lit(asking.source_key),
        sampling=pl.lit(asking.sampling.model_dump_json()),
    )
    share = ceil(labelled.height / (BLOCKS_AT_ONCE * asking.served.replicas))
    size = max(1, min(PROMPTS_PER_BLOCK, share))
    groups = labelled.partition_by("keeps_all")
    return [part.to_arrow() for group in groups for part in group.iter_slices(size)]
