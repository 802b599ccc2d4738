"""The stage sample: prompts to answers, by the models that are up now."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from cluster.ray_data import quiet_ray_data
from fusion.recipe import Sampling
from fusion.records import RESPONSES
from fusion.run import Run
from fusion.wanted import sample_requests, wanted_responses
from jobs.datasink import TableSink
from services.answers import Answer, SampleRequest
from services.applications import handle, source_application_name
from services.source import Served

STAGE = "sample"
PROMPTS_PER_CALL = 32
PROMPTS_PER_BLOCK = 1024

_OUTPUT = pa.schema(
    [*RESPONSES, ("partition", pa.string()), ("failure", pa.string()), ("detail", pa.string())]
)


@dataclass(frozen=True)
class Asking:
    """A model, the prompts it is to answer, and how."""

    served: Served
    source_key: str
    sampling: Sampling
    prompts: pl.DataFrame
    samples: dict[str, int]

    def wanted(self) -> pl.DataFrame:
        """Every answer wanted, stored or not: prompt_id, sample_index, response_id."""
        return wanted_responses(self.prompts, self.source_key, self.samples)


def missing_requests(run: Run, asking: Asking) -> pl.DataFrame:
    """What is still to be asked: wanted answers that are neither stored nor in quarantine."""
    wanted = asking.wanted()
    stored = run.shared("responses").partition(asking.source_key).ids()
    settled = [*stored.to_pylist(), *run.quarantine(STAGE).ids().to_pylist()]
    missing = wanted.filter(
        ~pl.col("response_id").is_in(pl.Series(settled, dtype=pl.String).implode())
    )
    return sample_requests(missing, asking.prompts)


def sample(run: Run, askings: Sequence[Asking]) -> None:
    """Ask what is missing of models that are up, and commit the answers as they come."""
    blocks = [block for asking in askings for block in _blocks(run, asking)]
    if not blocks:
        return
    quiet_ray_data()
    engines = sum({a.served.name: a.served.replicas for a in askings}.values())
    dataset = ray.data.from_arrow(blocks).map_batches(
        _Ask,
        batch_size=PROMPTS_PER_CALL,
        batch_format="pyarrow",
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=min(engines, len(blocks))),
    )
    sink = TableSink(run.shared("responses"), run.quarantine(STAGE), STAGE)
    dataset.write_datasink(sink)


def _blocks(run: Run, asking: Asking) -> list[pa.Table]:
    requests = missing_requests(run, asking).sample(fraction=1, shuffle=True, seed=0)
    labelled = requests.with_columns(
        application=pl.lit(source_application_name(run.recipe.name, asking.served.name)),
        source=pl.lit(asking.served.name),
        source_key=pl.lit(asking.source_key),
        sampling=pl.lit(asking.sampling.model_dump_json()),
    )
    return [part.to_arrow() for part in labelled.iter_slices(PROMPTS_PER_BLOCK)]


class _Ask:
    """Calls the batched method of the source a batch belongs to."""

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        groups = batch.to_pylist()
        by_key: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in groups:
            by_key.setdefault((row["source_key"], row["sampling"]), []).append(row)
        for answers in await asyncio.gather(*map(self._ask, by_key.values())):
            yield answers

    async def _ask(self, rows: list[dict[str, Any]]) -> pa.Table:
        first = rows[0]
        requests = [
            SampleRequest(row["prompt_id"], row["messages"], row["sample_indexes"]) for row in rows
        ]
        sampling = Sampling.model_validate_json(first["sampling"])
        sources = handle(first["application"])
        answers = await sources.sample.remote(requests, first["source_key"], sampling)
        return _rows(answers, first["source"], first["source_key"])


def _rows(answers: Iterable[Answer], source: str, source_key: str) -> pa.Table:
    labels = {"source": source, "source_key": source_key, "partition": source_key}
    return pa.Table.from_pylist([asdict(a) | labels for a in answers], schema=_OUTPUT)
