"""How checkpoints are evaluated, what may fail, and what endpoint and cluster are to be like."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fusion.recipe.section import Name, Section, Share
from fusion.recipe.sources import Engine, Greedy


class Evaluation(Section):
    """How held-out prompts are answered."""

    sampling: Greedy = Greedy()
    engine: Engine = Field(Engine(), description="Engine options of the target's checkpoints.")


class Failures(Section):
    """How patient sampling is with answers that fail and sources that die."""

    limit: Share = Field(
        0.1, description="Share of the answers asked that may fail before sampling stops."
    )
    timeout_s: PositiveFloat = Field(
        1800.0, description="Longest time that an engine may take for one answer."
    )
    wait_s: PositiveFloat = Field(
        900.0,
        description="Longest time that a model which died may take to come back, or that one which "
        "is to come up may find no room.",
    )


LOOPBACK = ("127.0.0.1", "localhost", "::1")


class RequestLimits(Section):
    """Bounds of one request to the endpoint, and of all at one source."""

    max_tokens: PositiveInt = Field(4096, description="Longest answer that may be asked for.")
    n: PositiveInt = Field(8, description="Most answers of one source to one request.")
    messages: PositiveInt = Field(128, description="Longest conversation, in messages.")
    body_bytes: PositiveInt = Field(1_048_576, description="Largest body of a request.")
    body_timeout_s: PositiveFloat = Field(10.0, description="Time for a body to arrive.")
    in_flight: PositiveInt = Field(
        128, description="Answers under way or waiting at one source; more are refused with 429."
    )
    timeout_s: PositiveFloat = Field(
        600.0, description="Longest wait for the next part of an answer."
    )


class Endpoint(Section):
    """The HTTP endpoint for ad-hoc questions to the sources."""

    host: str = Field("127.0.0.1", description="Address that crucible serve listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port that it listens on.")
    sources: tuple[Name, ...] | None = Field(None, description="Sources up; all by default.")
    keys: str | None = Field(
        None, description="Keys file, a path or s3://; without one only this machine may ask."
    )
    limits: RequestLimits = RequestLimits()
    cors: tuple[str, ...] = Field((), description="Origins whose pages may call; none by default.")
    tls_certificate: str | None = Field(None, description="PEM file; serves HTTPS with tls_key.")
    tls_key: str | None = Field(None, description="PEM file of the certificate's private key.")
    audit: str | None = Field(
        None,
        description="File for one JSON line an answer; by default logs/audit.jsonl of a run whose "
        "storage is local.",
    )
    audit_text: bool = Field(
        False, description="Whether the audit log keeps questions and answers."
    )

    @model_validator(mode="after")
    def _is_safe(self) -> "Endpoint":
        if self.host not in LOOPBACK and self.keys is None:
            raise ValueError(
                f"host {self.host} is reachable by others and there is no keys file; set keys to "
                "one made by crucible keys create, or leave host at 127.0.0.1"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key need each other")
        return self

    @property
    def address(self) -> str:
        """Where the machine that it runs on reaches it."""
        scheme = "https" if self.tls_certificate else "http"
        host = LOOPBACK[0] if self.host in ("0.0.0.0", "::") else self.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"


class ModelSize(Section):
    """The size of a model whose configuration cannot be read where a run is planned."""

    parameters_b: PositiveFloat = Field(description="Billions of parameters.")
    layers: PositiveInt = Field(description="Hidden layers.")
    attention_heads: PositiveInt = Field(description="Attention heads.")
    kv_heads: PositiveInt = Field(description="Heads of keys and values.")
    head_size: PositiveInt = Field(description="Width of one head.")


class Cluster(Section):
    """What the recipe asks of the machine or cluster, and what a plan is to reckon with."""

    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto takes GPUs where the cluster has any."
    )
    sources_at_once: PositiveInt | None = Field(
        None, description="Most sources in a wave; by default as many as fit."
    )
    grows_to: str | None = Field(
        None,
        description="With an autoscaler: the nodes it may start, as 4x8xH100-80GB; by default "
        "a run reckons with the nodes that are up.",
    )
    throughput: dict[Name, PositiveFloat] = Field(
        {}, description="Measured tokens a second of one engine, by source."
    )
    answer_tokens: PositiveInt = Field(
        512, description="Tokens of an average answer, for a plan made before any is stored."
    )
    prompt_tokens: PositiveInt = Field(
        256, description="Tokens of an average prompt, for a plan made before any is stored."
    )
    prompts: dict[Name, PositiveInt] = Field(
        {}, description="Prompts expected of a data set that cannot be counted where one plans."
    )
    models: dict[str, ModelSize] = Field(
        {}, description="Sizes by hub id, where neither a config.json nor Crucible knows them."
    )
