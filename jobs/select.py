"""The stage select: from the store's answers and scores to this run's sft and preferences tables.

It reads one source at a time and keeps no text but that of the answers it chose. It needs no
cluster: equal prompts, answers and scores give the same files, byte for byte.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from fusion.cards import dataset_card
from fusion.chat import load_tokenizer
from fusion.entries import Entries
from fusion.errors import BadInputError
from fusion.identity import content_hash, model_fingerprint
from fusion.recipe import Recipe, Training
from fusion.run import Run
from fusion.selection import Choice, Room, Selected, choose, describe, fill, longest_row
from fusion.store import Counts, Manifest, Table, fingerprint_rows
from fusion.wanted import scores_in_force
from jobs.stage import StageClock, write_manifest

STAGE = "select"

# Arrow's `string` holds 2 GiB a column and part; at 5 kB a row this stays well under it.
PART_ROWS = 200_000

_ANSWER = ["response_id", "prompt_id", "source", "sample_index", "text", "finish_reason"]
_CHECKED_AGAINST = ["prompt_id", "gold", "tests", "entry_point"]
_NO_SCORES = pl.DataFrame(
    schema={
        "score_id": pl.String,
        "response_id": pl.String,
        "scorer": pl.String,
        "reward": pl.Float64,
        "verdict": pl.String,
    }
)


def run_select(
    run: Run,
    prompts: pl.DataFrame,
    source_keys: Mapping[str, str],
    scorer_keys: Sequence[str],
) -> Manifest:
    """Select this run's training rows, replace its data set and card, and write the manifest.

    `prompts` has the columns of `records.PROMPTS`; those held out (split test) take no part.
    `source_keys` names each source's partition of the responses, `scorer_keys` the partitions of
    the scores that count.

    Raises:
        BadInputError: no source has answered under this recipe's settings; nothing is replaced.
    """
    clock = StageClock()
    prompts = prompts.filter(pl.col("split") == "train")
    inputs = select_inputs(run, prompts, source_keys, scorer_keys)
    chosen = _choose(run, prompts, source_keys, scorer_keys)
    selected = fill(chosen, prompts, _texts(run, chosen.response_ids(), source_keys))
    run.manifest(STAGE).delete()  # until it is there again the data set may be half another one
    _write(run, selected, inputs["rules"])
    return write_manifest(
        run,
        STAGE,
        clock,
        inputs=inputs,
        counts=count_prompts(selected),
        yields=selected.yields.as_json(),
        extra=_num_rows(selected),
    )


def select_inputs(
    run: Run,
    prompts: pl.DataFrame,
    source_keys: Mapping[str, str],
    scorer_keys: Sequence[str],
) -> dict[str, str]:
    """Fingerprints of all that the outcome depends on: rules, prompts, answers and scores.

    And with `drop_too_long` the target, by whose tokens lengths are counted.
    """
    recipe = run.recipe
    inputs = {
        "rules": _rules(recipe),
        "prompts": fingerprint_rows(prompts.filter(pl.col("split") == "train").to_arrow()),
    }
    if recipe.selection.drop_too_long:
        target = model_fingerprint(recipe.target.model, recipe.target.revision)
        inputs["target"] = content_hash([target, longest_row(recipe)])
    for table, keys in (("responses", source_keys.values()), ("scores", scorer_keys)):
        for key in keys:
            inputs[f"{table}/{key}"] = run.shared(table).partition(key).fingerprint()
    return inputs


def is_current_selection(run: Run) -> bool:
    """Whether the run's data set was made by the recipe's rules, after all else that the run made.

    What it was made of is not looked at again: what the run made later has a later manifest, and
    rows stay what they are where a verifier has another version by now or a model is away.
    """
    done = Manifest.read(run.manifest(STAGE))
    if done is None or done.inputs.get("rules") != _rules(run.recipe):
        return False
    before = (Manifest.read(run.manifest(stage)) for stage in ("ingest", "sample", "score"))
    return all(m is None or m.finished_at <= done.finished_at for m in before)


def check_selected(run: Run, training: Training) -> None:
    """See that the run's own rows are those of one selection, where `training` learns from them.

    Raises:
        BadInputError: the stage select is to do, or was stopped while it replaced the rows.
    """
    if training.data is None and not run.manifest(STAGE).exists():
        raise BadInputError(
            f"Run {run.recipe.name} has no finished selection to learn from; run the stage select "
            "first, or name an existing data set as sft.data and dpo.data."
        )


def _rules(recipe: Recipe) -> str:
    order = {"sources", "datasets", "selection", "reward", "scorers"}
    return content_hash(recipe.model_dump(mode="json", include=order))


def count_prompts(selected: Selected) -> Counts:
    """Every prompt once: a row of sft or preferences (or of both), or dropped by a named rule."""
    dropped: dict[str, int] = {}
    for row in selected.yields.prompts:
        for rule, count in row.dropped.items():
            dropped[rule] = dropped.get(rule, 0) + count
    used = pl.concat([selected.sft["prompt_id"], selected.preferences["prompt_id"]]).n_unique()
    entered = sum(row.prompts for row in selected.yields.prompts)
    return Counts(entered=entered, results=used, dropped=dropped, unit="prompts")


def _choose(
    run: Run, prompts: pl.DataFrame, source_keys: Mapping[str, str], scorer_keys: Sequence[str]
) -> Choice:
    described = pl.concat(_described(run, prompts, source_keys))
    if described.is_empty():
        raise BadInputError(
            f"The store {run.shared('responses').location} has no answers of "
            f"{', '.join(source_keys)} as the recipe has them sampled; run the stages sample and "
            "score, or leave models and sampling as they were."
        )
    answers = described.select("response_id", "prompt_id")
    answers = answers.join(prompts.select(_CHECKED_AGAINST), on="prompt_id")
    scores = [_NO_SCORES]
    for key in scorer_keys:
        judged = _read(run.shared("scores").partition(key), _NO_SCORES.columns, None)
        scores.append(scores_in_force(judged, answers, key))
    return choose(run.recipe, prompts, described, pl.concat(scores))


def _described(
    run: Run, prompts: pl.DataFrame, source_keys: Mapping[str, str]
) -> Iterator[pl.DataFrame]:
    is_wanted = pc.field("prompt_id").isin(prompts["prompt_id"].to_arrow().cast(pa.string()))
    room = _room(run)
    for name, key in source_keys.items():
        answers = _read(run.shared("responses").partition(key), _ANSWER, is_wanted)
        too_long = room.too_long(answers, prompts) if room else None
        yield _first_samples(run, name, prompts, describe(answers, too_long))


def _room(run: Run) -> Room | None:
    """What tells answers that are too long to train on, where they are to be left out."""
    if not run.recipe.selection.drop_too_long:
        return None
    target = run.recipe.target
    return Room(load_tokenizer(target.model, target.revision), longest_row(run.recipe))


def _first_samples(
    run: Run, name: str, prompts: pl.DataFrame, answers: pl.DataFrame
) -> pl.DataFrame:
    """As many answers a prompt as this recipe asks for; others may have asked for more."""
    source = run.recipe.source(name)
    if source.kind == "imported":
        return answers
    samples = {dataset.name: run.recipe.samples(source, dataset) for dataset in run.recipe.datasets}
    num_samples = pl.col("dataset").replace_strict(samples, return_dtype=pl.Int32)
    limits = prompts.select("prompt_id", num_samples=num_samples)
    wanted = answers.join(limits, on="prompt_id").filter(
        pl.col("sample_index") < pl.col("num_samples")
    )
    return wanted.drop("num_samples")


def _texts(run: Run, response_ids: pl.Series, source_keys: Mapping[str, str]) -> pl.DataFrame:
    is_wanted = pc.field("response_id").isin(response_ids.to_arrow().cast(pa.string()))
    responses = run.shared("responses")
    return pl.concat(
        _read(responses.partition(key), ["response_id", "text"], is_wanted)
        for key in source_keys.values()
    )


def _read(table: Table, columns: list[str], is_wanted: Any) -> pl.DataFrame:
    return pl.DataFrame(table.read(columns, is_wanted))


def _write(run: Run, selected: Selected, rules: str) -> None:
    _replace(run.sft(), selected.sft)
    _replace(run.preferences(), selected.preferences)
    hashes = dataset_hashes(run, rules)
    card = dataset_card(
        run.recipe, selected.yields, _num_rows(selected), hashes, entries=counted_entries(run)
    )
    (run.folder / "dataset" / "README.md").write_text(card)


def counted_entries(run: Run) -> Entries:
    """What entered this run, as far as it read and sampled by itself."""
    stages = ("ingest", "sample")
    return Entries.of(run.recipe, {stage: Manifest.read(run.manifest(stage)) for stage in stages})


def dataset_hashes(run: Run, rules: str) -> dict[str, str]:
    """What the card of the data set is to name it by: its rules, and its tables' content."""
    tables = {"sft": run.sft(), "preferences": run.preferences()}
    return {"rules": rules, **{name: table.fingerprint() for name, table in tables.items()}}


def _replace(table: Table, rows: pl.DataFrame) -> None:
    """New parts first, then the old ones go; the manifest, written last, says that all is well.

    A part is named by its content, so that equal rows make equal files.
    """
    old = {entry.name for entry in table.location.list()}
    for number, part in enumerate(rows.iter_slices(PART_ROWS)):
        content = part.to_arrow()
        name = f"part-{number:05}-{fingerprint_rows(content)}.parquet"
        table.append(content, name=name)
        old.discard(name)
    for name in old:
        (table.location / name).delete()


def _num_rows(selected: Selected) -> dict[str, int]:
    return {"sft": selected.sft.height, "preferences": selected.preferences.height}
