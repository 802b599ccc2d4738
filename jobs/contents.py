"""What is scored: the text of answers with their prompts, read where they are scored.

The driver knows answers by their ids. A data set of millions has more text than one machine holds.
"""

from dataclasses import dataclass
from typing import Self

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from fusion.run import Run
from fusion.store import Table
from jobs.ingest import prompts_table

_PROMPT = ["prompt_id", "messages", "verifier", "gold", "tests", "entry_point"]
_ANSWER = ["response_id", "prompt_id", "source_key", "text"]


@dataclass(frozen=True)
class Contents:
    """Where prompts and answers lie; little enough to travel to every worker.

    `has_others` says whether an answer comes with the others of its source, as comparing takes.
    """

    prompts: Table
    responses: Table
    has_others: bool = False

    @classmethod
    def of(cls, run: Run, *, has_others: bool = False) -> Self:
        """The contents of a run."""
        return cls(prompts_table(run), run.shared("responses"), has_others)

    @property
    def order(self) -> list[str]:
        """How rows are sorted so that neighbours are read together."""
        return ["source_key", "prompt_id" if self.has_others else "response_id"]

    def read(self, ids: pa.Table) -> pa.Table:
        """Rows with response_id, prompt_id and source_key, joined with text and prompt.

        Equal answers to one prompt are side by side, so that a batch judges them once.
        """
        rows = pl.DataFrame(ids)
        answers = pl.concat(self._answers(part) for _, part in rows.group_by("source_key"))
        asked = self.prompts.read(_PROMPT, _among("prompt_id", rows))
        joined = rows.join(answers.select("response_id", "text"), on="response_id").join(
            pl.DataFrame(asked), on="prompt_id"
        )
        if self.has_others:
            joined = with_others(joined, answers)
        return joined.sort("prompt_id", "text").to_arrow()

    def _answers(self, rows: pl.DataFrame) -> pl.DataFrame:
        of_key = self.responses.partition(rows["source_key"][0])
        return pl.DataFrame(of_key.read(_ANSWER, _among(self.order[-1], rows)))


def with_others(rows: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """The rows with `others`: what else their source answered to the prompt, other texts only."""
    whose = ["prompt_id", "source_key"]
    texts = answers.group_by(whose).agg(pl.col("text").unique().alias("others"))
    joined = rows.join(texts, on=whose, how="left")
    own = pl.concat_list("text")
    return joined.with_columns(pl.col("others").list.set_difference(own).list.sort())


def _among(column: str, rows: pl.DataFrame) -> pc.Expression:
    """Whether a column's value is one of the rows'; their range spares row groups the reading."""
    ids, field = rows[column].unique(), pc.field(column)
    in_range = (field >= ids.min()) & (field <= ids.max())
    return in_range & field.isin(ids.to_arrow().cast(pa.string()))
