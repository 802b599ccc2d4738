"""What sft and dpo learn from: the run's own tables, or an existing data set in TRL's format."""

from collections.abc import Callable, Iterator
from typing import Any

import ray

from fusion.chat import load_tokenizer
from fusion.checkpoints import local_copy
from fusion.ingest import DataPath, read_training_rows
from fusion.recipe import Training
from fusion.store import Table
from fusion.training_rows import TokenRows, pair_rows, sft_rows

Source = Table | DataPath


def training_source(own: Table, training: Training) -> Source:
    """The run's own table, unless the recipe names an existing data set."""
    return DataPath(training.data, training.data_revision) if training.data else own


def tokenised_conversations(
    source: Source, model: str, revision: str | None, training: Training
) -> TokenRows:
    """SFT token rows of every conversation, made in a task of the cluster."""

    def make() -> TokenRows:
        tokenizer = load_tokenizer(local_copy(model), revision)
        messages = (row["messages"] for row in source_rows(source, ("messages",)))
        return sft_rows(
            tokenizer, messages, max_length=training.max_length, too_long=training.too_long
        )

    return _on_cluster(make)


def tokenised_pairs(
    source: Source, model: str, revision: str | None, training: Training, reference: str
) -> TokenRows:
    """Pair token rows of every preference pair, made in a task of the cluster."""

    def make() -> TokenRows:
        tokenizer = load_tokenizer(local_copy(model), revision)
        pairs = source_rows(source, ("prompt", "chosen", "rejected"))
        return pair_rows(
            tokenizer,
            pairs,
            max_length=training.max_length,
            too_long=training.too_long,
            reference=reference,
        )

    return _on_cluster(make)


def _on_cluster(make: Callable[[], TokenRows]) -> TokenRows:
    made: TokenRows = ray.get(ray.remote(num_cpus=1)(make).remote())
    return made


def source_rows(source: Source, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """These columns of a training source, row by row.

    Raises:
        BadInputError: a row of an existing data set is not in TRL's conversational format.
    """
    if isinstance(source, Table):
        yield from source.read(columns).to_pylist()
    else:
        yield from read_training_rows(source, columns)
