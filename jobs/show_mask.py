"""What training learns of a row, and what not: `crucible show-mask`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusion.chat import Message, load_tokenizer
from fusion.checkpoints import local_copy
from fusion.errors import BadInputError
from fusion.run import Run
from fusion.training_rows import split_reply
from jobs.conversations import source_rows, training_source

STAGE_COLUMNS = {"sft": ("messages",), "dpo": ("prompt", "chosen", "rejected")}


@dataclass(frozen=True)
class Mask:
    """One token sequence of a row: what comes before the reply, and the reply that is learned."""

    name: str
    prompt: str
    reply: str
    prompt_tokens: int
    reply_tokens: int
    max_length: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole sequence."""
        return self.prompt_tokens + self.reply_tokens

    @property
    def too_long(self) -> int:
        """Tokens beyond the longest conversation that the recipe trains on."""
        return max(0, self.num_tokens - self.max_length)


def masks_of_row(run: Run, row_id: str) -> list[Mask]:
    """The masks of the rows with this prompt_id in the run's tables.

    Where a section names an existing data set, the id is the number of a row, from 1.

    Raises:
        BadInputError: no row has this id.
    """
    target = run.recipe.target
    tokenizer = load_tokenizer(local_copy(target.model), target.revision)
    masks = [
        mask
        for stage, row in _rows(run, row_id)
        for mask in _masks(tokenizer, stage, row, getattr(run.recipe, stage).max_length)
    ]
    if not masks:
        raise BadInputError(
            f"No training row of {run.recipe.name} has the id {row_id}; give a prompt_id of its "
            "tables sft or preferences, or the number of a row of sft.data or dpo.data, from 1."
        )
    return masks


def _rows(run: Run, row_id: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    tables = {"sft": run.sft(), "dpo": run.preferences()}
    for stage, columns in STAGE_COLUMNS.items():
        source = training_source(tables[stage], getattr(run.recipe, stage))
        own = source is tables[stage]
        names = ("prompt_id", *columns) if own else columns
        for number, row in enumerate(source_rows(source, names), start=1):
            if row_id == (row["prompt_id"] if own else str(number)):
                yield stage, row


def _masks(tokenizer: Any, stage: str, row: Mapping[str, Any], max_length: int) -> Iterator[Mask]:
    sides: dict[str, tuple[Sequence[Message], Message]] = (
        {"sft": (row["messages"][:-1], row["messages"][-1])}
        if stage == "sft"
        else {f"dpo {s}": (row["prompt"], row[s][0]) for s in ("chosen", "rejected")}
    )
    for name, (prompt, reply) in sides.items():
        before, learned = split_reply(tokenizer, prompt, reply)
        texts = (tokenizer.decode(before), tokenizer.decode(learned))
        yield Mask(name, *texts, len(before), len(learned), max_length)
