"""The recipe's data sets of prompts, and what of them is left out."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from fusion.recipe.section import MOST_SAMPLES, Domain, Name, Section, VerifierName


class Dataset(Section):
    """A file or hub data set of prompts, and how its rows become prompts."""

    name: Name = Field(description="Names the data set in tables and reports.")
    path: str = Field(description="A local file (Parquet, JSONL, JSON, CSV), s3://, or hf://.")
    revision: str | None = Field(None, description="A commit or tag; needed for hf://.")
    license: str | None = Field(
        None, description="Its licence, for the cards; by default what its own card says."
    )
    subset: str | None = Field(None, description="A configuration of a hub data set.")
    hub_split: str = Field("train", description="The split read from a hub data set.")
    domain: Domain = Field(description="Chooses the policy for its answers.")
    verifier: VerifierName | None = Field(None, description="What can check its answers.")
    split: Literal["train", "test"] = Field("train", description="test holds it out of training.")
    language: str = Field(
        "en", description="Stands in the prompts table and on the data set's card."
    )
    fields: dict[str, str] = Field(
        description="Where prompt (or messages), gold, tests, entry_point, id stand: a "
        "path like turns[0].content, or a text with {paths} in it."
    )
    turn_marker: str | None = Field(
        None,
        min_length=1,
        description="What stands in a prompt before User or Assistant, where a prompt holds "
        "several turns in one text, as <extra_id_1> in HelpSteer2.",
    )
    samples: PositiveInt = Field(4, le=MOST_SAMPLES, description="Answers a prompt and source.")
    exclude: dict[str, tuple[str, ...]] = Field(
        {}, description="Values of a row's fields that leave the row out, by path."
    )
    exclude_topics: tuple[Literal["code", "math"], ...] = Field(
        (), description="Topics that leave a prompt out, told by rules from what the user wrote."
    )
    limit: PositiveInt | None = Field(None, description="Take only the first so many rows.")

    @model_validator(mode="after")
    def _has_a_prompt(self) -> "Dataset":
        known = {"prompt", "messages", "gold", "tests", "entry_point", "id"}
        if unknown := set(self.fields) - known:
            raise ValueError(
                f"fields has no {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}"
            )
        if ("prompt" in self.fields) == ("messages" in self.fields):
            raise ValueError("fields needs either prompt or messages")
        if self.turn_marker and "prompt" not in self.fields:
            raise ValueError("turn_marker needs fields.prompt")
        if self.verifier == "code" and "tests" not in self.fields:
            raise ValueError("the verifier code needs fields.tests")
        if self.verifier in ("math", "exact", "choice") and "gold" not in self.fields:
            raise ValueError(f"the verifier {self.verifier} needs fields.gold")
        return self


class Ingest(Section):
    """What makes two prompts too alike to keep both."""

    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.8,
        description="Share of equal shingles from which a train prompt is left out as nearly "
        "equal to a test prompt or to one before it; null keeps such prompts.",
    )
    overlap_words: PositiveInt | None = Field(
        13,
        description="A train prompt that shares so many words in a row with a test prompt is "
        "left out as contaminated; null keeps such prompts.",
    )
