"""One recipe describes one fusion. These models are its grammar: every key, bound and default.

Reading a file (inheritance, paths, the nearest known key) is `fusion.recipe_file`'s affair.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Domain = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
VerifierName = Literal["math", "code", "exact", "choice"]


class Section(BaseModel):
    """A part of a recipe: immutable, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Section):
    """A model by local path or by hub id and revision."""

    model: str = Field(min_length=1, description="A local folder, or a hub id as owner/name.")
    revision: str | None = Field(None, description="A commit or tag; needed for a hub id.")


class Sampling(Section):
    """How answers are drawn; the defaults are FuseChat-3.0's (method.md 1.3)."""

    temperature: float = Field(0.8, ge=0, le=2, description="0 takes the likeliest token.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus: the mass of tokens kept.")
    top_k: int = Field(0, ge=0, description="The number of likeliest tokens kept; 0 keeps all.")
    min_p: Share = Field(0.0, description="Least probability, relative to the likeliest token's.")
    repetition_penalty: float = Field(1.0, gt=0, le=2, description="Above 1 discourages repeats.")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Added once a token was used.")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="Added per use of a token.")
    max_tokens: PositiveInt = Field(4096, description="Longest answer, in tokens.")
    stop: tuple[str, ...] = Field((), description="Texts that end an answer.")


class Greedy(Sampling):
    """How held-out prompts are answered, unless the recipe says otherwise: the likeliest token."""

    temperature: float = Field(0.0, ge=0, le=2, description="0 takes the likeliest token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus: the mass of tokens kept.")


class Engine(BaseModel):
    """Options of the vLLM engine; those not named here pass through if vLLM knows them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Number format of weights and activations."
    )
    max_model_len: PositiveInt | None = Field(None, description="Longest prompt and answer.")
    max_num_seqs: PositiveInt = Field(256, description="Answers decoded at the same time.")
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs that share each layer.")
    pipeline_parallel_size: PositiveInt = Field(1, description="Groups of layers on other GPUs.")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory.")
    quantization: str | None = Field(None, description="A quantisation method of vLLM.")
    kv_cache_memory_bytes: PositiveInt | None = Field(
        None, description="Size of the KV cache; on CPU 512 MiB unless given."
    )
    enforce_eager: bool = Field(False, description="Skip graph capture and compilation.")

    def options(self) -> dict[str, Any]:
        """All options that are set, as vLLM's engine arguments."""
        return self.model_dump(exclude_none=True)


class Source(Section):
    """A model that answers prompts, or answers that were sampled elsewhere."""

    name: Name = Field(description="Names the source in tables, reports and the endpoint.")
    kind: Literal["model", "imported"] = Field("model", description="Sampled here, or a file.")
    model: str | None = Field(None, description="For kind model: local folder or hub id.")
    revision: str | None = Field(None, description="A commit or tag; needed for a hub id.")
    path: str | None = Field(
        None, description="For kind imported: the answers, a file or hub data set (hf://)."
    )
    subset: str | None = Field(None, description="A configuration of a hub data set of answers.")
    hub_split: str = Field("train", description="The split read from a hub data set of answers.")
    fields: dict[str, str] = Field(
        {},
        description="For kind imported: where text stands in a row, and what it answers: prompt "
        "(or messages) as the data set maps it, or id, the data set's own.",
    )
    dataset: Name | None = Field(None, description="With fields.id: whose ids these are.")
    domains: tuple[Domain, ...] | None = Field(None, description="Domains asked; all by default.")
    samples: dict[Domain, Annotated[int, Field(ge=0)]] = Field(
        {}, description="Answers a prompt by domain, over the data set's own number."
    )
    sampling: Sampling = Sampling()
    engine: Engine = Engine()
    replicas: PositiveInt = Field(1, description="Engines that share this source's prompts.")

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> "Source":
        if self.kind == "model" and not self.model:
            raise ValueError("a source of kind model needs the key model")
        if self.kind == "imported":
            self._check_imported()
        return self

    def _check_imported(self) -> None:
        if not self.path:
            raise ValueError("a source of kind imported needs the key path")
        known = {"text", "prompt", "messages", "id"}
        if unknown := set(self.fields) - known:
            raise ValueError(f"fields knows {sorted(known)}, not {sorted(unknown)}")
        if "text" not in self.fields or len(self.fields) != 2:
            raise ValueError("fields needs text, and one of prompt, messages and id")
        if ("id" in self.fields) != (self.dataset is not None):
            raise ValueError("fields.id and the key dataset need each other")

    def asks(self, domain: str) -> bool:
        """Whether this source is asked prompts of a domain."""
        return self.domains is None or domain in self.domains


class Dataset(Section):
    """A file or hub data set of prompts, and how its rows become prompts."""

    name: Name = Field(description="Names the data set in tables and reports.")
    path: str = Field(description="A local file (Parquet, JSONL, JSON, CSV), s3://, or hf://.")
    revision: str | None = Field(None, description="A commit or tag; needed for hf://.")
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
        description="What stands in a prompt before User or Assistant, where a prompt holds "
        "several turns in one text, as <extra_id_1> in HelpSteer2.",
    )
    samples: PositiveInt = Field(4, description="Answers a prompt and source.")
    exclude: dict[str, tuple[str, ...]] = Field(
        {}, description="Values of a row's fields that leave the row out, by path."
    )
    limit: PositiveInt | None = Field(None, description="Take only the first so many rows.")

    @model_validator(mode="after")
    def _has_a_prompt(self) -> "Dataset":
        known = {"prompt", "messages", "gold", "tests", "entry_point", "id"}
        if unknown := set(self.fields) - known:
            raise ValueError(f"fields knows {sorted(known)}, not {sorted(unknown)}")
        if ("prompt" in self.fields) == ("messages" in self.fields):
            raise ValueError("fields needs either prompt or messages")
        if self.turn_marker and "prompt" not in self.fields:
            raise ValueError("turn_marker needs fields.prompt")
        if self.verifier == "code" and "tests" not in self.fields:
            raise ValueError("the verifier code needs fields.tests")
        if self.verifier in ("math", "exact", "choice") and "gold" not in self.fields:
            raise ValueError(f"the verifier {self.verifier} needs fields.gold")
        return self


class Reward(Model):
    """The reward model: one score for a whole conversation."""

    kind: Literal["classifier", "armorm"] = Field(
        "classifier", description="A sequence classifier with one output, or ArmoRM."
    )
    max_length: PositiveInt = Field(4096, description="Longer conversations go to quarantine.")
    batch_size: PositiveInt = Field(16, description="Conversations a forward pass.")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="Number format of the weights."
    )
    replicas: PositiveInt = Field(1, description="Copies of the reward model, one GPU each.")


class CodeVerification(Section):
    """Limits of one program in the sandbox."""

    timeout_s: PositiveFloat = Field(10.0, description="Wall-clock time of one program.")
    memory_mib: PositiveInt = Field(
        512, description="Memory of each process and of a program's whole tree."
    )
    processes: PositiveInt = Field(16, description="Processes and threads of one program.")
    output_kib: PositiveInt = Field(64, description="Output kept; more is cut off.")
    file_mib: PositiveInt = Field(
        16, description="Largest file a program may write, and all of them together."
    )


class MathVerification(Section):
    """Limits of one comparison of mathematics."""

    timeout_s: PositiveInt = Field(5, description="Time to parse and compare one answer.")


class Verification(Section):
    """How answers are checked."""

    code: CodeVerification = CodeVerification()
    math: MathVerification = MathVerification()
    workers: PositiveInt = Field(2, description="Answers checked at the same time on a node.")


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


class Training(Section):
    """What fine-tuning and preference optimisation share."""

    data: str | None = Field(None, description="An existing data set in TRL's format instead.")
    data_revision: str | None = Field(None, description="A commit or tag; needed for hf://.")
    epochs: PositiveFloat = Field(1.0, description="Passes over the rows.")
    batch_size: PositiveInt = Field(128, description="Rows a step, over all workers.")
    micro_batch_size: PositiveInt = Field(2, description="Rows a forward pass of one worker.")
    max_length: PositiveInt = Field(2048, description="Longest conversation, in tokens.")
    learning_rate: PositiveFloat = Field(5e-6, description="Highest rate; it falls along a cosine.")
    warmup_ratio: Share = Field(0.1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="Of the optimiser.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Longer gradients are clipped.")
    seed: int = Field(42, description="Order of the rows.")
    workers: PositiveInt = Field(1, description="Ray Train workers.")
    strategy: Literal["ddp", "zero2", "zero3"] = Field(
        "ddp", description="How workers share the model: whole, or by DeepSpeed's ZeRO."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto takes bf16 on a GPU that has it and fp32 elsewhere."
    )
    gradient_checkpointing: bool = Field(True, description="Less memory for more time.")
    save_steps: PositiveInt = Field(
        100, description="Steps between checkpoints from which a killed training goes on."
    )

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        at_once = self.micro_batch_size * self.workers
        if self.batch_size % at_once:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size times workers, "
                f"{at_once}; choose one that is"
            )
        return self


class Sft(Training):
    """Supervised fine-tuning of the target on the best answers (method.md 1.6)."""

    epochs: PositiveFloat = Field(3.0, description="Passes over the rows.")


class Dpo(Training):
    """Preference optimisation from the fine-tuned target (method.md 1.7)."""

    learning_rate: PositiveFloat = Field(8e-7, description="Highest rate; it falls along a cosine.")
    length_normalised: bool = Field(
        True, description="Mean instead of summed log-ratios, so that length wins nothing."
    )
    beta: PositiveFloat = Field(
        10.0, description="How strongly the policy is held to the reference."
    )
    sft_weight: float = Field(0.0, ge=0, description="Weight of a supervised term on chosen.")


class Evaluation(Section):
    """How held-out prompts are answered."""

    sampling: Greedy = Greedy()
    engine: Engine = Field(Engine(), description="Engine options of the target's checkpoints.")


class Endpoint(Section):
    """The HTTP endpoint for ad-hoc questions to the sources."""

    host: str = Field("127.0.0.1", description="Address that crucible serve listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port that it listens on.")
    sources: tuple[Name, ...] | None = Field(None, description="Sources up; all by default.")


class Cluster(Section):
    """What the recipe asks of the machine or cluster."""

    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto takes GPUs where the cluster has any."
    )
    sources_at_once: PositiveInt | None = Field(
        None, description="Most sources in a wave; by default as many as fit."
    )


class Recipe(Section):
    """One fusion, from prompts to a fused model."""

    name: Name = Field(description="Names the run's folder.")
    storage: str = Field("runs", description="A local path or s3:// under which all is kept.")
    target: Model
    sources: tuple[Source, ...] = Field(min_length=1)
    datasets: tuple[Dataset, ...] = Field(min_length=1)
    reward: Reward | None = Field(None, description="Without one, only verdicts judge answers.")
    verification: Verification = Verification()
    selection: Selection = Selection()
    sft: Sft = Sft()
    dpo: Dpo = Dpo()
    evaluation: Evaluation = Evaluation()
    endpoint: Endpoint = Endpoint()
    cluster: Cluster = Cluster()
    malformed_limit: Share = Field(
        0.01, description="Share of a data set's rows that may be malformed before a run stops."
    )

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> "Recipe":
        for what, names in (
            ("sources", [s.name for s in self.sources]),
            ("datasets", [d.name for d in self.datasets]),
        ):
            if twice := sorted({n for n in names if names.count(n) > 1}):
                raise ValueError(f"{what} has {', '.join(twice)} twice; give each its own name")
        reserved = {"base", "sft", "dpo"} & {s.name for s in self.sources}
        if reserved:
            raise ValueError(f"a source may not be named {sorted(reserved)[0]}: the target's is")
        known = {s.name for s in self.sources}
        for where, listed in (
            ("selection.pairs_from", self.selection.pairs_from),
            ("endpoint.sources", self.endpoint.sources),
        ):
            if unknown := sorted(set(listed or ()) - known):
                raise ValueError(f"{where} names {', '.join(unknown)}, which is no source")
        named = {d.name for d in self.datasets}
        for source in self.sources:
            if source.dataset is not None and source.dataset not in named:
                raise ValueError(
                    f"source {source.name} names {source.dataset}, which is no data set"
                )
        return self

    def source(self, name: str) -> Source:
        """The source of that name."""
        return next(s for s in self.sources if s.name == name)

    def dataset(self, name: str) -> Dataset:
        """The data set of that name."""
        return next(d for d in self.datasets if d.name == name)

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
