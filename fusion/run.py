"""Where things lie: the shared store and one run's own folder.

storage/store/{prompts,responses,scores,reference}/KEY/part-*.parquet
storage/NAME/{recipe.yaml,dataset/,evaluation/,quarantine/,checkpoints/,manifests/,logs/,leases/,
result.json,report.html}
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fusion.identity import KEY_LENGTH, content_hash, model_fingerprint
from fusion.ingest import DataPath
from fusion.recipe import Engine, Recipe, Sampling, Source
from fusion.records import TABLES
from fusion.store import Location, Table

# Options of vLLM that touch its speed, memory, loading, place or logging alone; others may change
# answers.
_NOT_ANSWERS = {
    "async_scheduling", "max_num_batched_tokens", "scheduling_policy", "enable_chunked_prefill",
    "enable_prefix_caching", "prefix_caching_hash_algo", "block_size", "num_gpu_blocks_override",
    "cpu_offload_gb", "cpu_offload_params", "offload_backend", "offload_params",
    "offload_group_size", "offload_num_in_group", "offload_prefetch_step", "kv_offloading_size",
    "kv_offloading_backend", "max_num_queued_reqs", "max_num_queued_tokens",
    "compilation_config", "cudagraph_capture_sizes", "max_cudagraph_capture_size",
    "data_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size",
    "distributed_executor_backend", "disable_custom_all_reduce", "enable_expert_parallel",
    "master_addr", "master_port", "nnodes", "node_rank", "numa_bind", "numa_bind_cpus",
    "numa_bind_nodes", "device_ids",
    "download_dir", "hf_token", "max_parallel_loading_workers", "safetensors_load_strategy",
    "trust_remote_code", "use_tqdm_on_load", "enable_sleep_mode", "stream_interval",
    "shutdown_timeout", "aggregate_engine_logging", "disable_log_stats", "enable_log_requests",
    "otlp_traces_endpoint", "collect_detailed_traces", "cudagraph_metrics", "kv_cache_metrics",
    "kv_cache_metrics_sample", "enable_mfu_metrics", "enable_logging_iteration_details",
    "show_hidden_metrics_for_version", "per_request_spec_decode_metrics",
}  # fmt: skip

STAGES = ("ingest", "sample", "score", "select", "sft", "reference", "dpo", "evaluate", "report")


@dataclass(frozen=True)
class Run:
    """A recipe and the places its tables and files have under its storage."""

    recipe: Recipe

    @cached_property
    def storage(self) -> Location:
        """The root that every recipe with this storage shares."""
        return Location.of(self.recipe.storage)

    @cached_property
    def folder(self) -> Location:
        """This run's own folder."""
        return self.storage / self.recipe.name

    def shared(self, table: str) -> Table:
        """A table of the store: prompts, responses, scores or reference, with a part a key."""
        return _table(self.storage / "store" / table, table)

    def sft(self) -> Table:
        """The training conversations selected for this run."""
        return _table(self.folder / "dataset" / "sft", "sft")

    def preferences(self) -> Table:
        """The preference pairs selected for this run."""
        return _table(self.folder / "dataset" / "preferences", "preferences")

    def results(self) -> Table:
        """One row an answer to a held-out prompt: every source, and base, sft and dpo."""
        return _table(self.folder / "evaluation" / "results", "results")

    def quarantine(self, stage: str) -> Table:
        """The rows of a stage that could not be processed."""
        return _table(self.folder / "quarantine" / stage, "quarantine")

    def manifest(self, stage: str) -> Location:
        """The manifest a stage writes last."""
        return self.folder / "manifests" / f"{stage}.json"

    @property
    def ingest_log(self) -> Location:
        """JSON lines, one a row of a data set that a rule left out."""
        return self.folder / "logs" / "ingest.jsonl"

    def training_log(self, stage: str) -> Location:
        """JSON lines, one a logged training step of sft or dpo."""
        return self.folder / "logs" / f"{stage}.jsonl"


def _table(location: Location, name: str) -> Table:
    kind = TABLES[name]
    return Table(location, kind.schema, kind.id_column)


def source_key(source: Source, sampling: Sampling) -> str:
    """A source's name and a hash of all that shapes its answers.

    That is: model, revision and files (chat template included), sampling parameters, and the
    engine settings that may change answers. An imported source is its file and how it is read.
    """
    if source.kind == "imported":
        joined_by = [key for key in (source.dataset, source.turn_marker) if key]
        shape: list[Any] = [DataPath.of(source).fingerprint(), source.fields, *joined_by]
    else:
        model = model_fingerprint(str(source.model), source.revision)
        shape = [model, sampling.model_dump(mode="json"), _shape(source.engine)]
    return f"{source.name}-{content_hash(shape, length=KEY_LENGTH)}"


def _shape(engine: Engine) -> list[Any]:
    """What of an engine's settings may change answers; options passed through only if any do."""
    named = [engine.dtype, engine.quantization, engine.max_model_len]
    names = set(engine.model_extra or ()) - _NOT_ANSWERS
    passed = engine.model_dump(mode="json", exclude_none=True, include=names)
    return [*named, passed] if passed else named
