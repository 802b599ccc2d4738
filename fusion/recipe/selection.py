"""FuseChat-3.0's rules that turn judged answers into training rows (arXiv 2503.04222)."""

from typing import Any, Literal

from pydantic import Field, model_validator

from fusion.recipe.section import Domain, Name, Section, Share


class Margin(Section):
    """Bounds on the reward of chosen less the reward of rejected."""

    low: float | None = Field(
        0.01, description="Pairs closer than this are dropped; null: no lower bound."
    )
    high: float | None = Field(
        0.1, description="Pairs further apart than this are dropped; null: no upper bound."
    )
    unit: Literal["reward", "quantile"] = Field(
        "reward",
        description="reward: in the reward model's own scale; quantile: shares, from 0 to 1, of "
        "the best-against-worst pairs of a domain, for a reward model of another scale.",
    )
    inclusive: bool = Field(True, description="Whether a pair right at a bound is kept.")

    @model_validator(mode="after")
    def _is_a_band(self) -> "Margin":
        given = [bound for bound in (self.low, self.high) if bound is not None]
        if given != sorted(given):
            raise ValueError(f"low {self.low} is above high {self.high}; give both bounds")
        if self.unit == "quantile" and not {"low", "high"} <= self.model_fields_set:
            raise ValueError("unit quantile needs low and high, as shares from 0 to 1")
        if self.unit == "quantile" and not all(0 <= bound <= 1 for bound in given):
            raise ValueError(f"quantiles lie from 0 to 1, not from {self.low} to {self.high}")
        return self


class Policy(Section):
    """How one domain's answers become training rows."""

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
    share_of: Literal["paired", "answered"] = Field(
        "paired",
        description="For split share: of the prompts with a pair (filter, then split), or of all "
        "with a best answer (split, then filter).",
    )
    keep_unpaired: bool = Field(
        False, description="For split share: prompts without a pair become sft rows as well."
    )
    drop_identical: bool = Field(
        True, description="Drop a prompt whose answers, at least two, are all the same text."
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
    # Where no pairs are wanted, sources that agree are no reason to drop a prompt.
    "chinese": Policy(judge="none", pairs=False, split="pairs_first", drop_identical=False),
}


def _preset(domain: str) -> Policy:
    return DOMAIN_PRESETS.get(domain, DOMAIN_PRESETS["instruction"])


def _fill_policy(domain: str, given: dict[str, Any], shared: Any) -> dict[str, Any]:
    policy = {**_preset(domain).model_dump(), **given}
    own = policy["margin"]
    if isinstance(own, dict) and isinstance(shared, dict):
        policy["margin"] = _fill_margin(domain, own, shared)
    return policy


def _fill_margin(domain: str, own: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """A domain's bounds over the selection's; those of another unit would mean something else."""
    units = [margin.get("unit", "reward") for margin in (shared, shared | own)]
    if units[0] == units[1]:
        return shared | own
    if not {"low", "high"} <= own.keys():
        raise ValueError(
            f"the margin of {domain} is in unit {units[1]}, that of the selection in {units[0]}; "
            "give it low and high of its own"
        )
    return own


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
    pair_scope: Literal["same_source", "cross_source", "pooled"] = Field(
        "same_source",
        description="Whose answers a source's best one may be paired with: its own, those of "
        "other sources, or all.",
    )
    pair_source: Literal["best_chosen", "max_margin", "random", "all"] = Field(
        "best_chosen",
        description="Which source gives the chosen answer when several have a valid pair; all: "
        "each gives a pair.",
    )
    rejected: Literal["lowest", "lowest_in_range"] = Field(
        "lowest", description="Look for another rejected answer inside the margin, or drop."
    )
    ties: Literal["shorter", "first"] = Field(
        "shorter", description="Of equal rewards the shorter answer, or the lower sample index."
    )
    pairs_from: tuple[Name, ...] | None = Field(
        None, description="Sources whose answers may form pairs; others give positives only."
    )
    min_answers: int = Field(
        2, ge=2, description="Usable answers that a pair's scope needs; with fewer it gives none."
    )
    drop_truncated: bool = Field(True, description="Leave out answers that hit max_tokens.")
    drop_refusals: bool = Field(
        True, description="Leave out answers that begin by declining, in English or Chinese."
    )
    drop_too_long: bool = Field(
        False,
        description="Leave out answers that with their prompt exceed every training's max_length, "
        "so that a shorter one may take their place; costs the counting of long answers' tokens.",
    )
    drop_duplicates: bool = Field(
        True, description="Leave out answers that their source gave to the prompt before."
    )
    drop_same_text: bool = Field(
        True, description="Drop pairs whose texts differ in outer white space alone."
    )
    seed: int = Field(42, description="Which prompts go to sft, and what pair_source random takes.")

    @model_validator(mode="after")
    def _some_source_may_form_pairs(self) -> "Selection":
        if self.pairs_from == ():
            raise ValueError(
                "pairs_from names no source; name some, leave it out for all, or set pairs: false "
                "for the domains under selection.domains"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_domains(cls, given: Any) -> Any:
        """What a domain leaves open: keys from its preset, bounds from the selection's margin."""
        if not (isinstance(given, dict) and isinstance(given.get("domains"), dict)):
            return given
        margin = given.get("margin", {})
        shared = margin.model_dump() if isinstance(margin, Margin) else margin
        domains = {
            domain: _fill_policy(domain, policy, shared) if isinstance(policy, dict) else policy
            for domain, policy in given["domains"].items()
        }
        return {**given, "domains": domains}

    def policy(self, domain: str) -> Policy:
        """The recipe's policy for a domain, else its preset, else that of instruction."""
        return self.domains.get(domain, _preset(domain))

    def bounds(self, domain: str) -> Margin | None:
        """The margin that pairs of a domain keep to, None where there is none."""
        margin = self.policy(domain).margin
        if isinstance(margin, Margin):
            return margin
        return self.margin if margin else None
