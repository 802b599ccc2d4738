"""The whole of a recipe, and what its parts must agree on."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import get_args

from pydantic import Field, model_validator

from fusion.recipe.datasets import Dataset, Ingest
from fusion.recipe.judging import Reward, Verification
from fusion.recipe.running import Cluster, Endpoint, Evaluation, Failures
from fusion.recipe.section import Name, Section, Share, VerifierName
from fusion.recipe.selection import DOMAIN_PRESETS, Selection
from fusion.recipe.sources import Source, Target
from fusion.recipe.training import Dpo, Sft


class Recipe(Section):
    """One fusion, from prompts to a fused model."""

    name: Name = Field(description="Names the run's folder.")
    storage: str = Field(
        "runs", min_length=1, description="A local path or s3:// under which all is kept."
    )
    target: Target
    sources: tuple[Source, ...] = Field(min_length=1)
    datasets: tuple[Dataset, ...] = Field(min_length=1)
    ingest: Ingest = Ingest()
    reward: Reward | None = Field(None, description="Without one, only verdicts judge answers.")
    scorers: dict[Name, Reward] = Field(
        {},
        description="More rewards of every answer, kept beside reward; selection may rank by one.",
    )
    verification: Verification = Verification()
    selection: Selection = Selection()
    sft: Sft = Sft()
    dpo: Dpo = Dpo()
    evaluation: Evaluation = Evaluation()
    failures: Failures = Failures()
    endpoint: Endpoint = Endpoint()
    cluster: Cluster = Cluster()
    malformed_limit: Share = Field(
        0.01, description="Share of a data set's rows that may be malformed before a run stops."
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Recipe":
        for what, names in (
            ("sources", [s.name for s in self.sources]),
            ("datasets", [d.name for d in self.datasets]),
        ):
            if twice := sorted({n for n in names if names.count(n) > 1}):
                raise ValueError(f"{what} has {', '.join(twice)} twice; give each its own name")
        if self.name == "store":
            raise ValueError(
                "a recipe may not be named store, as the folder is that all recipes of a storage "
                "share; choose another name"
            )
        if reserved := sorted({"base", "sft", "dpo"} & {s.name for s in self.sources}):
            raise ValueError(
                f"a source may not be named {reserved[0]}, as the target is; choose another name"
            )
        if taken := sorted({"reward", *get_args(VerifierName)} & self.scorers.keys()):
            raise ValueError(
                f"a scorer may not be named {taken[0]}, as another judge is; choose another name"
            )
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> "Recipe":
        sources, datasets = ([item.name for item in part] for part in (self.sources, self.datasets))
        _check_known("selection.pairs_from", self.selection.pairs_from, "source", sources)
        _check_known("endpoint.sources", self.endpoint.sources, "source", sources)
        _check_known("cluster.throughput", self.cluster.throughput, "source", sources)
        _check_known("cluster.prompts", self.cluster.prompts, "data set", datasets)
        for source in self.sources:
            asked = [source.dataset] if source.dataset is not None else []
            _check_known(f"source {source.name}", asked, "data set", datasets)
        scorers = ["reward", *self.scorers]
        _check_known("selection.ranked_by", [self.selection.ranked_by], "scorer", scorers)
        return self

    @model_validator(mode="after")
    def _too_long_answers_are_dropped_or_cut(self) -> "Recipe":
        for stage, training in (("sft", self.sft), ("dpo", self.dpo)):
            if self.selection.drop_too_long and training.too_long == "cut":
                raise ValueError(
                    f"selection.drop_too_long leaves out what {stage}.too_long would cut; "
                    "take one of them"
                )
        return self

    @model_validator(mode="after")
    def _domains_are_known(self) -> "Recipe":
        """A domain that no data set has is a slip that would change nothing, silently."""
        known = {d.domain for d in self.datasets}
        named = {"selection.domains": set(self.selection.domains)}
        for source in self.sources:
            named[f"source {source.name}"] = {*(source.domains or ()), *source.samples}
        for where, domains in named.items():
            if unknown := sorted(domains - known):
                raise ValueError(
                    f"{where} names the domain {unknown[0]}, which no data set has; "
                    f"they have {', '.join(sorted(known))}"
                )
        return self

    @model_validator(mode="after")
    def _policies_are_meant(self) -> "Recipe":
        """A domain without preset and section follows instruction, which a slip would hide."""
        for dataset in self.datasets:
            domain = dataset.domain
            if domain in DOMAIN_PRESETS or domain in self.selection.domains:
                continue
            nearest = next(iter(get_close_matches(domain, DOMAIN_PRESETS, n=1, cutoff=0.8)), None)
            is_checked = dataset.split == "train" and bool(dataset.verifier and self.ranking)
            if nearest or is_checked:
                if nearest is None and dataset.verifier in DOMAIN_PRESETS:
                    nearest = dataset.verifier
                raise ValueError(_say_unmeant(dataset, nearest, is_checked=is_checked))
        return self

    def source(self, name: str) -> Source:
        """The source of that name."""
        return next(s for s in self.sources if s.name == name)

    def dataset(self, name: str) -> Dataset:
        """The data set of that name."""
        return next(d for d in self.datasets if d.name == name)

    @property
    def rewards(self) -> dict[str, Reward]:
        """Everything that gives answers a reward, by name; the recipe's own is `reward`."""
        own = {"reward": self.reward} if self.reward else {}
        return own | self.scorers

    @property
    def ranking(self) -> Reward | None:
        """The reward that selection ranks answers by, None where only verdicts judge."""
        return self.rewards.get(self.selection.ranked_by)

    @property
    def model_sources(self) -> tuple[Source, ...]:
        """The sources that are sampled here."""
        return tuple(s for s in self.sources if s.kind == "model")

    def samples(self, source: Source, dataset: Dataset) -> int:
        """Answers a prompt of this data set gets from this source; one for a held-out prompt."""
        if not source.asks(dataset.domain):
            return 0
        if dataset.split == "test":
            return 1
        return source.samples.get(dataset.domain, dataset.samples)


def _say_unmeant(dataset: Dataset, nearest: str | None, *, is_checked: bool) -> str:
    why = f", where its verifier {dataset.verifier} chooses nothing" if is_checked else ""
    meant = f"did you mean {nearest}? If not, " if nearest else ""
    return (
        f"data set {dataset.name} has the domain {dataset.domain}, which has no policy of its own "
        f"and would follow that of instruction{why}; {meant}say under "
        f"selection.domains.{dataset.domain} how its answers are chosen ({{}} for instruction's)"
    )


def _check_known(
    where: str, named: Iterable[str] | None, what: str, known: Collection[str]
) -> None:
    if unknown := sorted(set(named or ()) - set(known)):
        raise ValueError(
            f"{where} names {', '.join(unknown)}, which is no {what}; there are {', '.join(known)}"
        )
