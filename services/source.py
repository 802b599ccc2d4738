"""A source model as a Serve application: vLLM behind OpenAI methods and a streaming `sample`."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve

from cluster.plan import CPU_KV_CACHE_BYTES
from cluster.settings import engine_environment
from fusion.checkpoints import local_copy
from fusion.recipe import Engine, Source
from services.answers import Finished, Manner, Reply, SampleRequest
from services.orphans import end_children_with_us


@dataclass(frozen=True)
class Served:
    """A model to be served: a source of the recipe or a checkpoint of the target."""

    name: str
    model: str
    revision: str | None
    engine: Engine
    replicas: int = 1
    may_grow: bool = False
    """Whether the plan may add replicas where GPUs are left."""

    @classmethod
    def of(cls, source: Source) -> "Served":
        """What Serve needs to know of a source of kind model."""
        return cls(
            source.name,
            str(source.model),
            source.revision,
            source.engine,
            replicas=source.replicas or 1,
            may_grow=source.replicas is None,
        )


class SourceReplica:
    """A shell around `services.engine.SourceServer`, so that only its own process imports vLLM."""

    async def __init__(self, config: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        """Start the engine described by the fields of an `LLMConfig`."""
        from ray.serve.llm import LLMConfig

        from services.engine import SourceServer

        loading = config["model_loading_config"]
        loading["model_source"] = local_copy(loading["model_source"])
        self._server = SourceServer.sync_init(LLMConfig(**config))
        await self._server.start()
        end_children_with_us()

    async def sample(
        self, requests: Sequence[SampleRequest], manner: Manner
    ) -> AsyncIterator[Finished]:
        """Answer all that is wanted, handing out answers as they finish; see `SourceServer`."""
        async for finished in self._server.sample(requests, manner):
            yield finished

    async def openai(
        self, method: str, body: dict[str, Any], longest: int
    ) -> AsyncIterator[Reply | list[str]]:
        """Answer OpenAI's chat or completions: one reply, or the events of a stream."""
        from services.dialect import replies

        async for part in replies(self._server, method, body, longest):
            yield part

    async def check_health(self) -> None:
        """Raises when the engine is dead, so that Serve replaces this replica."""
        await self._server.check_health()


def source_application(
    served: Served, *, on_cpu: bool, threads: int, name: str = "Source"
) -> serve.Application:
    """The Serve application of one model.

    Args:
        served: What to serve.
        on_cpu: Whether the engine runs on CPU.
        threads: OpenMP threads of a CPU engine.
        name: The deployment's name.
    """
    environment = {"env_vars": engine_environment(on_cpu=on_cpu, threads=threads)}
    bundles = _bundles(served.engine, on_cpu=on_cpu)
    config = {
        "model_loading_config": {"model_id": served.name, "model_source": served.model},
        "engine_kwargs": engine_arguments(served, on_cpu=on_cpu),
        "placement_group_config": {"bundles": bundles},
        "runtime_env": environment,
        "log_engine_metrics": not on_cpu,
    }
    deployment = serve.deployment(
        SourceReplica,
        name=name,
        num_replicas=served.replicas,
        max_ongoing_requests=256,  # the endpoint bounds what people ask, the batch itself
        health_check_timeout_s=120,
        graceful_shutdown_timeout_s=5,
        ray_actor_options={"num_cpus": 1, "runtime_env": environment},
        placement_group_bundles=[{**bundles[0], "CPU": bundles[0]["CPU"] + 1}, *bundles[1:]],
        placement_group_strategy=_strategy(served.engine),
    )
    return deployment.bind(config)


def engine_arguments(served: Served, *, on_cpu: bool) -> dict[str, Any]:
    """What vLLM is given to start the engine of a model."""
    engine = served.engine.options()
    engine.setdefault("scheduling_policy", "priority")  # what people ask goes before the batch
    engine["generation_config"] = "vllm"  # else a model's file changes what we asked for
    engine["disable_log_stats"] = False  # the window of answers in flight follows them
    if served.revision:
        engine["revision"] = served.revision
    if on_cpu:
        engine.pop("gpu_memory_utilization")
        engine.setdefault("kv_cache_memory_bytes", CPU_KV_CACHE_BYTES)
        # a chunk of a prompt rewinds the request's seeded generator, which torch's CPU one cannot
        engine.setdefault("enable_chunked_prefill", False)
    return engine


def _strategy(engine: Engine) -> str:
    """A layer is shared within a node, as the plan says; only groups of layers may be apart."""
    return "STRICT_PACK" if (engine.pipeline_parallel_size or 1) == 1 else "PACK"


def _bundles(engine: Engine, *, on_cpu: bool) -> list[dict[str, float]]:
    """Resources of each worker of one engine; the replica itself sits with the first."""
    if on_cpu:
        return [{"CPU": 1}]
    return [{"CPU": 1, "GPU": 1} for _ in range(engine.gpus)]
