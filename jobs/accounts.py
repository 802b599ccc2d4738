"""What sampling and scoring came to: every wanted row stored, or left out with its reason."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from fusion.entries import AnswersAsked
from fusion.errors import CrucibleError
from fusion.failures import Failure, exceeds, say_excess
from fusion.ingest import DatasetCounts
from fusion.run import Run
from fusion.store import Counts, Location, Manifest, add_counts, is_current
from jobs.sample import Asking, release_failures, settled_failures
from jobs.score import not_stored, reward_key, reward_wants, stored_answers, verdict_wants
from jobs.stage import StageClock, write_manifest

_NO_ANSWERS = pl.DataFrame(
    schema={
        "response_id": pl.String,
        "source": pl.String,
        "prompt_tokens": pl.Int32,
        "completion_tokens": pl.Int32,
    }
)
_NO_WANTS = pl.DataFrame(
    schema={"response_id": pl.String, "dataset": pl.String, "source": pl.String}
)


def add_seconds(run: Run, stage: str, seconds: float) -> None:
    """Add to the time a stage took over all starts of this run."""
    _seconds_file(run, stage).write_text(f"{total_seconds(run, stage) + seconds:.3f}\n")


def total_seconds(run: Run, stage: str) -> float:
    """Seconds a stage took over all starts of this run."""
    file = _seconds_file(run, stage)
    return float(file.read_text()) if file.exists() else 0.0


def _seconds_file(run: Run, stage: str) -> Location:
    return run.folder / "logs" / f"{stage}.seconds"


def release_after_stop(run: Run, askings: Sequence[Asking]) -> int:
    """Have answers asked again that a start before this one was stopped for.

    Where sampling ended well, what it left in quarantine stays there. Returns their number.
    """
    done = Manifest.read(run.manifest("sample"))
    return 0 if is_current(done, _sample_inputs(askings)) else release_failures(run, askings)


def sample_manifest(
    run: Run, askings: Sequence[Asking], imported: Sequence[DatasetCounts]
) -> Manifest:
    """Write the manifest of sample: answers of models by source, and those imported.

    Raises:
        CrucibleError: a larger share of them failed than the recipe allows.
    """
    wanted = pl.concat([_NO_WANTS, *(_wanted(asking) for asking in askings)])
    parts = [_NO_ANSWERS]
    for asking in askings:
        table = run.shared("responses").partition(asking.source_key)
        parts.append(pl.DataFrame(table.read(_NO_ANSWERS.columns)))
    stored = pl.concat(parts).join(wanted, on="response_id", how="semi")
    failed = wanted.join(stored, on="response_id", how="anti")
    _check_share(run, failed["response_id"], wanted.height)
    quarantined = _quarantined(run, "sample", failed["response_id"])
    asked = [*_asked(run, wanted, failed), *_imported(run, imported)]
    tokens = stored.group_by("source").agg(pl.col("completion_tokens").sum()).sort("source")
    return _write(
        run,
        "sample",
        inputs=_sample_inputs(askings),
        counts=_with_imported(wanted.height, stored.height, quarantined, imported),
        tokens={
            "prompt": int(stored["prompt_tokens"].sum()),
            "completion": int(stored["completion_tokens"].sum()),
        },
        yields={
            "asked": [asdict(row) for row in asked],
            "completion_tokens": dict(tokens.iter_rows()),
        },
    )


def _wanted(asking: Asking) -> pl.DataFrame:
    """The answers wanted of a source, with the data set of each."""
    wanted = asking.wanted().join(asking.prompts.select("prompt_id", "dataset"), on="prompt_id")
    return wanted.select("response_id", "dataset", source=pl.lit(asking.served.name))


def _asked(run: Run, wanted: pl.DataFrame, failed: pl.DataFrame) -> Iterator[AnswersAsked]:
    """What each source was asked of each data set, and what of it failed by reason."""
    quarantine = pl.DataFrame(run.quarantine("sample").read(["id", "reason"]))
    group = ["source", "dataset"]
    lost = failed.join(quarantine, left_on="response_id", right_on="id").group_by(*group, "reason")
    reasons: dict[tuple[str, str], dict[str, int]] = {}
    for source, dataset, reason, count in lost.len().sort(*group, "reason").iter_rows():
        reasons.setdefault((source, dataset), {})[reason] = count
    for source, dataset, asked in wanted.group_by(group, maintain_order=True).len().iter_rows():
        why = reasons.get((source, dataset), {})
        domain = run.recipe.dataset(dataset).domain
        yield AnswersAsked(dataset, domain, source, asked, asked - sum(why.values()), why)


def _imported(run: Run, imported: Sequence[DatasetCounts]) -> Iterator[AnswersAsked]:
    names = [source.name for source in run.recipe.sources if source.kind == "imported"]
    for name, counts in zip(names, imported, strict=True):
        left_out = {**counts.dropped, **counts.quarantined}
        yield AnswersAsked("", "", name, counts.entered, counts.results, left_out)


def _sample_inputs(askings: Sequence[Asking]) -> dict[str, str]:
    return {a.source_key: str(a.wanted().height) for a in askings}


def _check_share(run: Run, failed: pl.Series, asked: int) -> None:
    limit = run.recipe.failures.limit
    if exceeds(len(failed), asked, limit):
        rows = settled_failures(run).filter(pl.col("id").is_in(failed.implode())).head(3)
        examples = [Failure(*row) for row in rows.select("id", "reason", "detail").iter_rows()]
        run.manifest("sample").delete()  # under another limit the stage may have passed
        raise CrucibleError(say_excess("the sources", len(failed), asked, limit, examples))


def score_manifest(run: Run, prompts: pl.DataFrame, source_keys: Sequence[str]) -> Manifest:
    """Write the manifest of score: rewards and verdicts of all answers, rewards by source."""
    answers = stored_answers(run, prompts, source_keys)
    rewards, verdicts = reward_wants(run.recipe, answers), verdict_wants(run.recipe, answers)
    wanted = pl.concat(w.select("score_id", "partition") for w in (rewards, verdicts))
    failed = not_stored(run, wanted)["score_id"]
    malformed = _malformed_rewards(run)
    by_scorer = wanted.group_by("partition").len().sort("partition")
    return _write(
        run,
        "score",
        inputs={key: str(count) for key, count in by_scorer.iter_rows()},
        counts=Counts(
            entered=wanted.height + len(malformed),
            results=wanted.height - len(failed),
            quarantined=_quarantined(run, "score", pl.concat([failed, malformed])),
            unit="scores",
        ),
        yields=_reward_statistics(run, rewards),
    )


def _malformed_rewards(run: Run) -> pl.Series:
    """The ids of rows in quarantine that are of the files of imported rewards as they are now."""
    rewards = run.recipe.rewards.items()
    keys = [reward_key(name, reward) for name, reward in rewards if reward.kind == "imported"]
    ids = pl.DataFrame(run.quarantine("score").read(["id"]))["id"]
    return ids.filter(ids.str.split(":").list.first().is_in(keys))


def _reward_statistics(run: Run, wanted: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Number, mean, deviation and quantiles of the rewards, by scorer and source."""
    parts = [pl.DataFrame(schema={"score_id": pl.String, "reward": pl.Float64})]
    for key in wanted["partition"].unique():
        parts.append(pl.DataFrame(run.shared("scores").partition(key).read(parts[0].columns)))
    reward = pl.col("reward")
    statistics = (
        wanted.join(pl.concat(parts), on="score_id")
        .group_by("scorer", "source")
        .agg(
            reward.count().alias("rewards"),
            reward.mean().alias("mean"),
            reward.std().alias("deviation"),
            reward.quantile(0.05).alias("low"),
            reward.median().alias("median"),
            reward.quantile(0.95).alias("high"),
        )
        .sort("scorer", "source")
    )
    return {f"{row['scorer']} of {row['source']}": row for row in statistics.to_dicts()}


def _write(
    run: Run, stage: str, *, inputs: dict[str, str], counts: Counts, **more: Any
) -> Manifest:
    done = Manifest.read(run.manifest(stage))
    if done and is_current(done, inputs) and done.counts == counts:
        return done
    seconds = total_seconds(run, stage)
    return write_manifest(
        run, stage, StageClock(), seconds=seconds, inputs=inputs, counts=counts, **more
    )


def _with_imported(
    wanted: int, stored: int, quarantined: dict[str, int], imported: Sequence[DatasetCounts]
) -> Counts:
    return Counts(
        entered=wanted + sum(c.entered for c in imported),
        results=stored + sum(c.results for c in imported),
        dropped=add_counts(c.dropped for c in imported),
        quarantined=add_counts([quarantined, *(c.quarantined for c in imported)]),
        unit="answers",
    )


def _quarantined(run: Run, stage: str, ids: pl.Series) -> dict[str, int]:
    rows = pl.DataFrame(run.quarantine(stage).read(["id", "reason"]))
    wanted = rows.filter(pl.col("id").is_in(ids.implode()))
    return dict(sorted(wanted["reason"].value_counts().iter_rows()))
