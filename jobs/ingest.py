"""The stage ingest: the recipe's data sets to the prompts table."""

import json
from dataclasses import asdict

import polars as pl

from fusion.errors import BadInputError
from fusion.ingest import DatasetCounts, Ingested, ingest_datasets, ingest_key
from fusion.run import Run
from fusion.store import Counts, Manifest, Table, add_counts, is_current
from jobs.stage import StageClock, write_manifest

STAGE = "ingest"


def run_ingest(run: Run) -> Manifest:
    """Write the recipe's prompts, unless they are there already for the same data sets.

    Raises:
        BadInputError: a data set cannot be read or has too many malformed rows, or no train prompt
            is left.
    """
    key = ingest_key(run.recipe)
    inputs = {"datasets": key}
    table = run.shared("prompts").partition(key)
    done = Manifest.read(run.manifest(STAGE))
    if done is not None and is_current(done, inputs) and table.num_rows == done.counts.results:
        return done
    clock = StageClock()
    ingested = ingest_datasets(run.recipe)
    _write_left_out(run, ingested)
    _check_train(run, ingested)
    # One part for all prompts, so that another recipe with these data sets sees all or none.
    if len(table.missing(ingested.prompts["prompt_id"])):
        table.append(ingested.prompts)
    yields = {"datasets": {name: asdict(c) for name, c in ingested.by_dataset.items()}}
    counts = _total(ingested.by_dataset)
    return write_manifest(run, STAGE, clock, inputs=inputs, counts=counts, yields=yields)


def load_prompts(run: Run) -> pl.DataFrame:
    """The prompts of a run, in ascending order of prompt_id."""
    return pl.DataFrame(prompts_table(run).read())


def prompts_table(run: Run) -> Table:
    """Where the prompts of a run lie, and those of every recipe with the same data sets."""
    return run.shared("prompts").partition(ingest_key(run.recipe))


def _write_left_out(run: Run, ingested: Ingested) -> None:
    """The rows that became no prompt: quarantine and log."""
    quarantine = run.quarantine(STAGE)
    quarantine.location.delete()  # rows of earlier inputs
    quarantine.append(ingested.quarantined)
    lines = [json.dumps(vars(drop), ensure_ascii=False) + "\n" for drop in ingested.drops]
    run.ingest_log.write_text("".join(lines))


def _check_train(run: Run, ingested: Ingested) -> None:
    """See that a train prompt is left where there are train data sets.

    Raises:
        BadInputError: none is; it names what took them.
    """
    names = [dataset.name for dataset in run.recipe.datasets if dataset.split == "train"]
    counts = _total({name: ingested.by_dataset[name] for name in names})
    if counts.results or not names:
        return
    run.manifest(STAGE).delete()  # of earlier inputs, whose quarantine is gone
    gone = {**counts.dropped, **counts.quarantined}
    raise BadInputError(
        f"None of the {counts.entered:,} train rows is left as a prompt: left out were "
        f"{', '.join(f'{name} {count:,}' for name, count in gone.items())}; {run.ingest_log} and "
        f"{run.quarantine(STAGE).location} have each row: correct the data sets, or the rules of "
        "theirs and of ingest."
    )


def _total(by_dataset: dict[str, DatasetCounts]) -> Counts:
    counts = by_dataset.values()
    return Counts(
        entered=sum(c.entered for c in counts),
        results=sum(c.results for c in counts),
        dropped=add_counts(c.dropped for c in counts),
        quarantined=add_counts(c.quarantined for c in counts),
    )
