"""The models of a recipe: the target, and the sources with how they sample and their engines."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from fusion.recipe.section import (
    MOST_SAMPLES,
    Domain,
    Name,
    Section,
    Share,
    check_keys_of_kind,
)


class Model(Section):
    """A model by local path or by hub id and revision."""

    model: str = Field(min_length=1, description="A local folder, or a hub id as owner/name.")
    revision: str | None = Field(None, description="A commit or tag; needed for a hub id.")


class Target(Model):
    """The model that learns."""

    license: str | None = Field(
        None, description="Its licence, for the cards; by default what its own card says."
    )


class Sampling(Section):
    """How answers are drawn; the defaults are FuseChat-3.0's (arXiv 2503.04222)."""

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

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Number format of weights and activations."
    )
    max_model_len: PositiveInt | None = Field(None, description="Longest prompt and answer.")
    max_num_seqs: PositiveInt = Field(256, description="Answers decoded at the same time.")
    tensor_parallel_size: PositiveInt | None = Field(
        None, description="GPUs that share each layer; by default as few as the model fits well."
    )
    pipeline_parallel_size: PositiveInt | None = Field(
        None, description="Groups of layers on other GPUs; by default 1, if need be more."
    )
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory.")
    quantization: str | None = Field(None, description="A quantisation method of vLLM.")
    kv_cache_memory_bytes: PositiveInt | None = Field(
        None, description="Size of the KV cache; on CPU 512 MiB unless given."
    )
    enforce_eager: bool = Field(False, description="Skip graph capture and compilation.")

    @property
    def gpus(self) -> int:
        """GPUs that hold one engine."""
        return (self.tensor_parallel_size or 1) * (self.pipeline_parallel_size or 1)

    def options(self) -> dict[str, Any]:
        """All options that are set, as vLLM's engine arguments."""
        return self.model_dump(exclude_none=True)


class Source(Section):
    """A model that answers prompts, or answers that were sampled elsewhere."""

    name: Name = Field(description="Names the source in tables, reports and the endpoint.")
    kind: Literal["model", "imported"] = Field("model", description="Sampled here, or a file.")
    model: str | None = Field(None, description="For kind model: local folder or hub id.")
    revision: str | None = Field(None, description="A commit or tag; needed for a hub id.")
    license: str | None = Field(
        None, description="Its licence, for the cards; by default what its own card says."
    )
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
    turn_marker: str | None = Field(
        None, min_length=1, description="With fields.prompt: the data set's own, if it has one."
    )
    dataset: Name | None = Field(None, description="With fields.id: whose ids these are.")
    domains: tuple[Domain, ...] | None = Field(None, description="Domains asked; all by default.")
    samples: dict[Domain, Annotated[int, Field(ge=0, le=MOST_SAMPLES)]] = Field(
        {}, description="Answers a prompt by domain, over the data set's own number."
    )
    sampling: Sampling = Sampling()
    engine: Engine = Engine()
    replicas: PositiveInt | None = Field(
        None,
        description="Engines that share this source's prompts; by default as many as its wave "
        "has GPUs left for, one on CPU.",
    )

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> "Source":
        imported = dict.fromkeys(("path", "dataset", "turn_marker"), "imported")
        check_keys_of_kind(self, {"model": "model", **imported})
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
            raise ValueError(
                f"fields has no {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}"
            )
        if "text" not in self.fields or len(self.fields) != 2:
            raise ValueError("fields needs text, and one of prompt, messages and id")
        if ("id" in self.fields) != (self.dataset is not None):
            raise ValueError("fields.id and the key dataset need each other")
        if self.turn_marker and "prompt" not in self.fields:
            raise ValueError("turn_marker needs fields.prompt")

    def asks(self, domain: str) -> bool:
        """Whether this source is asked prompts of a domain."""
        return self.domains is None or domain in self.domains
