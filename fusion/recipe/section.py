"""What every part of a recipe is made of."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Domain = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
# As numpy, which transformers seeds, takes them.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
# Numbers of answers are 32 bits wide in the tables, and a wanted answer takes memory.
MOST_SAMPLES = 100_000
VerifierName = Literal["math", "code", "exact", "choice"]


class Section(BaseModel):
    """A part of a recipe: immutable, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def check_keys_of_kind(section: Any, owners: Mapping[str, str]) -> None:
    """See that a section with a `kind` has no key that only another kind reads.

    Raises:
        ValueError: it has one, which would change nothing, silently.
    """
    for key, kind in owners.items():
        if section.kind != kind and getattr(section, key) is not None:
            raise ValueError(
                f"{key} is for kind {kind}, and this is of kind {section.kind}; "
                "leave it out or correct kind"
            )
