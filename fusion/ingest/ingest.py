"""All prompts of a recipe, each once, every row of its data sets accounted for."""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fusion.identity import content_hash
from fusion.ingest.matches import Drop, Match
from fusion.ingest.near_duplicates import find_near_duplicates
from fusion.ingest.overlap import find_contaminated
from fusion.ingest.prompts import PromptMapping, map_rows
from fusion.ingest.reading import DataPath, read_rows
from fusion.ingest.rows import (
    DatasetCounts,
    Dropped,
    Malformed,
    Mapped,
    check_share,
    quarantine_rows,
)
from fusion.ingest.unusable import unusable_answers
from fusion.recipe import Dataset, Recipe
from fusion.records import PROMPTS

# Goes up when the same files would give other prompts.
VERSION = 3
_SHAPING_KEYS = {
    "name", "domain", "verifier", "split", "language", "fields", "turn_marker", "exclude",
    "exclude_topics", "limit",
}  # fmt: skip


@dataclass(frozen=True)
class Ingested:
    """The prompts of a recipe, and what became of every row that entered."""

    prompts: pa.Table
    quarantined: pa.Table
    by_dataset: dict[str, DatasetCounts]
    drops: list[Drop]
    """Every row that a rule left out, by data set and row."""


@dataclass
class _Intake:
    """One data set's rows on their way in."""

    dataset: Dataset
    rows: list[Mapped] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)

    @property
    def prompts(self) -> list[dict[str, Any]]:
        return [row.prompt for row in self.rows]

    @property
    def counts(self) -> DatasetCounts:
        left = len(self.malformed) + len(self.drops)
        rules = Counter(drop.rule for drop in self.drops)
        reasons = Counter(row.reason for row in self.malformed)
        return DatasetCounts(len(self.rows) + left, len(self.rows), dict(rules), dict(reasons))

    def drop(self, number: int, rule: str, prompt: dict[str, Any] | None, **found: Any) -> None:
        """Note that a rule left a row out, and what it found."""
        ids = {"prompt_id": prompt["prompt_id"], "dropped": prompt["origin"]} if prompt else {}
        self.drops.append(Drop(self.dataset.name, number, rule, **ids, **found))


def ingest_key(recipe: Recipe) -> str:
    """Identity of a recipe's prompts: what shapes them, and the content of its data sets."""
    sections = [
        [dataset.model_dump(mode="json", include=_SHAPING_KEYS), DataPath.of(dataset).fingerprint()]
        for dataset in recipe.datasets
    ]
    return content_hash([VERSION, recipe.ingest.model_dump(mode="json"), sections])


def ingest_datasets(recipe: Recipe) -> Ingested:
    """All prompts of a recipe, each once; of two that are alike the first data set's stays.

    Test prompts stay before train prompts and whatever the recipe's order. A row is dropped by the
    rule `excluded`, `code_prompt` or `math_prompt` as its data set says; `duplicate` or `held_out`
    where a train or test prompt is equal, case, width of characters and white space aside;
    `near_duplicate` or `near_held_out` where one is nearly equal; `contaminated` where a train
    prompt shares a run of words with a test prompt.

    Raises:
        BadInputError: a file cannot be read, has no rows, lacks a mapped column, or has more
            malformed rows than the recipe allows.
    """
    intakes = [_take_in(dataset, recipe.malformed_limit) for dataset in recipe.datasets]
    test_first = sorted(intakes, key=lambda intake: intake.dataset.split != "test")
    _drop_equal(test_first)
    if recipe.ingest.overlap_words is not None:
        train, test = _by_split(test_first)
        _drop_matched(intakes, find_contaminated(train, test, recipe.ingest.overlap_words))
    if recipe.ingest.near_duplicates is not None:
        train, test = _by_split(test_first)
        near = find_near_duplicates([*test, *train], recipe.ingest.near_duplicates)
        _drop_matched(intakes, near)
    return Ingested(
        prompts=pa.concat_tables(
            pa.Table.from_pylist(intake.prompts, schema=PROMPTS) for intake in intakes
        ),
        quarantined=pa.concat_tables(
            quarantine_rows("ingest", intake.dataset.name, intake.malformed) for intake in intakes
        ),
        by_dataset={intake.dataset.name: intake.counts for intake in intakes},
        drops=[
            drop for intake in intakes for drop in sorted(intake.drops, key=lambda drop: drop.row)
        ],
    )


def _take_in(dataset: Dataset, malformed_limit: float) -> _Intake:
    """Read a data set and map its rows, each by itself."""
    intake = _Intake(dataset)
    mapped: list[Mapped] = []
    rows = itertools.islice(read_rows(DataPath.of(dataset)), dataset.limit)
    for outcome in map_rows(PromptMapping(dataset), rows):
        if isinstance(outcome, Malformed):
            intake.malformed.append(outcome)
        elif isinstance(outcome, Dropped):
            intake.drop(outcome.number, outcome.rule, outcome.prompt, text=outcome.text)
        else:
            mapped.append(outcome)
    unusable = unusable_answers([row.prompt for row in mapped])
    for position, row in enumerate(mapped):
        if error := unusable.get(position):
            intake.malformed.append(Malformed(row.number, error.reason, error.detail))
        else:
            intake.rows.append(row)
    intake.malformed.sort(key=lambda row: row.number)
    what, entered = f"The data set {dataset.name}", intake.counts.entered
    check_share(what, dataset.path, entered, intake.malformed, malformed_limit)
    return intake


def _drop_equal(test_first: Iterable[_Intake]) -> None:
    """Leave the first of equal prompts, and no train prompt that is a test prompt."""
    seen: dict[str, dict[str, Any]] = {}
    for intake in test_first:
        left = []
        for row in intake.rows:
            kept = seen.setdefault(row.prompt["dedupe_key"], row.prompt)
            if kept is row.prompt:
                left.append(row)
            else:
                rule = "duplicate" if kept["split"] == row.prompt["split"] else "held_out"
                intake.drop(row.number, rule, row.prompt, kept=kept["origin"])
        intake.rows = left


def _by_split(test_first: Iterable[_Intake]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The train prompts and the test prompts."""
    prompts = [prompt for intake in test_first for prompt in intake.prompts]
    train = [prompt for prompt in prompts if prompt["split"] == "train"]
    return train, [prompt for prompt in prompts if prompt["split"] == "test"]


def _drop_matched(intakes: Iterable[_Intake], matches: Iterable[Match]) -> None:
    by_id = {match.prompt_id: match for match in matches}
    for intake in intakes:
        left = []
        for row in intake.rows:
            if match := by_id.get(row.prompt["prompt_id"]):
                found = {"similarity": match.similarity, "text": match.text}
                intake.drop(row.number, match.rule, row.prompt, kept=match.kept, **found)
            else:
                left.append(row)
        intake.rows = left
