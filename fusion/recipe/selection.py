"""The rules that turn judged answers into training rows (method.md 1.5)."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fusion.recipe.section import Domain, Name, Section, Share


class Margin(Section):
    """Bounds, both inclusive, on the reward of chosen less the reward of rejected."""

    low: float = Field(0.01, description="Pairs closer than this are dropped.")
    high: float = Field(0.1, description="Pairs further apart than this are dropped.")
    unit: Literal["reward", "quantile"] = Field(
        "reward",
        description="reward: in the reward model's own scale; quantile: shares, from 0 to 1, of "
        "the best-against-worst pairs of a domain, for a reward model of another scale.",
    )

    @model_validator(mode="after")
    def _is_a_band(self) -> "Margin":
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} is above high {self.high}; swap them")
        if self.unit == "quantile" and not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"quantiles lie from 0 to 1, not from {self.low} to {self.high}")
        return self


class Policy(Section):
    """How one domain's answers become training rows (method.md 1.5)."""

    judge: Literal["reward", "verdict", "none"] = Field(
        "reward",
        description="verdict: only correct answers are chosen and only wrong ones rejected.",
    )
    pairs: bool = Field(True, description="Whether preference pairs are made.")
    margin: bool | Margin = Field(
        True, description="true: the selection's bounds; false: none; or bounds of its own."
    )
    split: Literal["share", "pairs_first", "overlap"] = Field(
        "share",
        description="share: floor(sft_share * N) prompts with a pair go to sft, the rest to pairs; "
        "pairs_first: prompts with a pair go there, others to sft; overlap: both.",
    )
    sft_share: Share = Field(0.4, description="For split share: the part that becomes sft rows.")
    keep_unpaired: bool = Field(
        False, description="For split share: prompts without a pair become sft rows as well."
    )

    @model_validator(mode="after")
    def _pairs_need_a_judge(self) -> "Policy":
        if self.judge == "none" and self.pairs:
            raise ValueError("judge none cannot tell chosen from rejected; add pairs: false")
        return self


DOMAIN_PRESETS: dict[str, Policy] = {
    "instruction": Policy(),
    "math": Policy(judge="verdict", split="pairs_first"),
    "code": Policy(judge="verdict", split="overlap", margin=False),
    "chinese": Policy(judge="none", pairs=False, split="pairs_first"),
}


def _preset(domain: str) -> Policy:
    return DOMAIN_PRESETS.get(domain, DOMAIN_PRESETS["instruction"])


class Selection(Section):
    """The rules that turn scored answers into the sft and preferences tables."""

    margin: Margin = Margin()
    ranked_by: Name = Field(
        "reward", description="Whose rewards rank answers and make margins: reward, or a scorer."
    )
    domains: dict[Domain, Policy] = Field(
        {},
        description="Changes to a domain's preset (instruction, math, code, chinese); a domain "
        "of another name starts from that of instruction.",
    )
    pair_source: Literal["best_chosen", "max_margin", "random"] = Field(
        "best_chosen", description="Which source gives the pair when several have a valid one."
    )
    rejected: Literal["lowest", "lowest_in_range"] = Field(
        "lowest", description="Look for another rejected answer inside the margin, or drop."
    )
    pairs_from: tuple[Name, ...] | None = Field(
        None, description="Sources whose answers may form pairs; others give positives only."
    )
    drop_truncated: bool = Field(True, description="Leave out answers that hit max_tokens.")
    drop_refusals: bool = Field(
        False, description="Leave out answers that begin by declining, in English or Chinese."
    )
    seed: int = Field(42, description="Which prompts go to sft, and what pair_source random takes.")

    @field_validator("domains", mode="before")
    @classmethod
    def _change_presets(cls, domains: Any) -> Any:
        """Fill what a policy leaves open from its domain's preset, not from Policy's defaults."""
        if not isinstance(domains, dict):
            return domains
        return {
            domain: {**_preset(domain).model_dump(), **given} if isinstance(given, dict) else given
            for domain, given in domains.items()
        }

    def policy(self, domain: str) -> Policy:
        """The recipe's policy for a domain, else its preset, else that of instruction."""
        return self.domains.get(domain, _preset(domain))

    def bounds(self, domain: str) -> Margin | None:
        """The margin that pairs of a domain keep to, None where there is none."""
        margin = self.policy(domain).margin
        if isinstance(margin, Margin):
            return margin
        return self.margin if margin else None
