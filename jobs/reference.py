"""The stage reference: log-probs of every reply under the frozen fine-tuned target, once."""

from typing import Any

import polars as pl
import pyarrow as pa
import ray

from cluster.connection import Holdings
from cluster.ray_data import quiet_ray_data
from fusion.checkpoints import local_copy
from fusion.errors import CrucibleError
from fusion.recipe import Dpo
from fusion.records import REFERENCE
from fusion.run import Run
from fusion.store import Counts, Manifest, is_current
from fusion.training_rows import TokenRows
from jobs.conversations import tokenised_pairs, training_source
from jobs.datasink import TableSink, commit
from jobs.select import check_selected
from jobs.sft import sft_checkpoint
from jobs.stage import StageClock, write_manifest

STAGE = "reference"
REPLIES_PER_BATCH = 64
REPLIES_PER_BLOCK = 2048

_OUTPUT = pa.schema(
    [*REFERENCE, ("partition", pa.string()), ("failure", pa.string()), ("detail", pa.string())]
)


def reference_key(run: Run) -> str:
    """Key of the frozen model: the fine-tuned target and the arithmetic it runs in."""
    return f"{sft_checkpoint(run).name}-{run.recipe.dpo.arithmetic}"


def tokenised_preferences(run: Run) -> TokenRows:
    """The run's preference pairs as token rows, with the ids of their replies' log-probs."""
    dpo = run.recipe.dpo
    return tokenised_pairs(
        training_source(run.preferences(), dpo),
        str(sft_checkpoint(run)),
        None,
        dpo,
        reference_key(run),
    )


def reference_inputs(run: Run) -> dict[str, str]:
    """Fingerprints of all that the reference log-probs depend on."""
    dpo = run.recipe.dpo
    return {
        "model": reference_key(run),
        "data": training_source(run.preferences(), dpo).fingerprint(),
        "max_length": f"{dpo.max_length} {dpo.too_long}",
        "needed": str(dpo.needs_reference),
    }


def run_reference(run: Run, holdings: Holdings) -> Manifest:
    """Compute the log-probs that are missing, on Ray Data, and commit them to the store."""
    check_selected(run, run.recipe.dpo)
    inputs = reference_inputs(run)
    done = Manifest.read(run.manifest(STAGE))
    if done and is_current(done, inputs):
        return done
    clock = StageClock()
    made = tokenised_preferences(run)
    replies = unique_replies(made.rows)
    if not run.recipe.dpo.needs_reference:
        replies = replies.clear()
    table = run.shared("reference").partition(reference_key(run))
    stored = pl.Series(table.ids().to_pylist(), dtype=pl.String)
    missing = replies.filter(~pl.col("reply_id").is_in(stored.implode()))
    if not missing.is_empty():
        _compute(run, missing, holdings)
    return write_manifest(
        run,
        STAGE,
        clock,
        inputs=inputs,
        counts=Counts(entered=replies.height, results=replies.height, unit="replies"),
        tokens={
            "forward": int(missing["prompt_ids"].list.len().sum())
            + int(missing["reply_ids"].list.len().sum())
        },
    )


def unique_replies(rows: pa.Table) -> pl.DataFrame:
    """Every reply of the pairs once: reply_id, prompt_ids, reply_ids."""
    pairs = pl.DataFrame(rows)
    sides = [
        pairs.select(reply_id=f"{side}_reply_id", prompt_ids="prompt_ids", reply_ids=f"{side}_ids")
        for side in ("chosen", "rejected")
    ]
    return pl.concat(sides).unique("reply_id", maintain_order=True)


def _compute(run: Run, missing: pl.DataFrame, holdings: Holdings) -> None:
    quiet_ray_data()
    lengths = pl.col("prompt_ids").list.len() + pl.col("reply_ids").list.len()
    labelled = missing.sort(lengths, "reply_id").with_columns(partition=pl.lit(reference_key(run)))
    blocks = [part.to_arrow() for part in labelled.iter_slices(REPLIES_PER_BLOCK)]
    on_gpu = holdings.gpus > 0
    workers = max(1, min(len(blocks), _most_workers(run, holdings)))
    threads = None if on_gpu else max(1, holdings.cores // workers)
    dataset = ray.data.from_arrow(blocks).map_batches(
        ReferenceModel,
        fn_constructor_args=[str(sft_checkpoint(run)), run.recipe.dpo, on_gpu, threads],
        batch_size=REPLIES_PER_BATCH,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if on_gpu else 0,
    )
    commit(dataset, TableSink(run.shared("reference"), run.quarantine(STAGE), STAGE))


def _most_workers(run: Run, holdings: Holdings) -> int:
    """A GPU each; without GPUs as many as train, where a CPU is left to write."""
    if holdings.gpus > 0:
        return int(holdings.gpus)
    return min(run.recipe.dpo.workers, int(holdings.cpus) - 1)


class ReferenceModel:
    """Holds the frozen model and sums the log-probs of reply tokens; its threads are torch's own
    choice unless told."""

    def __init__(self, model: str, training: Dpo, on_gpu: bool, threads: int | None) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from fusion.attention import BY_SPAN, separates_sequences
        from fusion.logprobs import add_reply_head

        if threads:
            torch.set_num_threads(threads)
        dtype = torch.bfloat16 if training.arithmetic == "bf16" else torch.float32
        self._device = torch.device("cuda" if on_gpu else "cpu")
        loaded = AutoModelForCausalLM.from_pretrained(local_copy(model), dtype=dtype)
        if separates_sequences(loaded):
            loaded.set_attn_implementation(BY_SPAN)
        add_reply_head(loaded)
        self._model = loaded.eval().to(self._device)
        self._tokens = training.micro_batch_tokens
        self._mixed = training.arithmetic == "mixed"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The reference rows of a batch of replies."""
        import torch

        from fusion.logprobs import reply_logprobs

        rows = batch.to_pylist()
        replies = [(row["prompt_ids"], [row["reply_ids"]]) for row in rows]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._mixed):
            sums = reply_logprobs(self._model, replies, tokens=self._tokens, device=self._device)
        return pa.Table.from_pylist(
            [
                {
                    "reply_id": row["reply_id"],
                    "logprob_sum": total,
                    "num_tokens": len(row["reply_ids"]),
                    "partition": row["partition"],
                }
                for row, total in zip(rows, sums, strict=True)
            ],
            schema=_OUTPUT,
        )


def with_reference(rows: pa.Table, run: Run) -> pa.Table:
    """Pair token rows with the stored reference log-probs; as they are where the loss needs none.

    Raises:
        CrucibleError: log-probs of some reply were not computed yet.
    """
    if not run.recipe.dpo.needs_reference:
        return rows
    stored: Any = pl.from_arrow(
        run.shared("reference").partition(reference_key(run)).read(["reply_id", "logprob_sum"])
    )
    pairs = pl.DataFrame(rows)
    for side in ("chosen", "rejected"):
        named = stored.rename({"reply_id": f"{side}_reply_id", "logprob_sum": f"ref_{side}_logps"})
        pairs = pairs.join(named, on=f"{side}_reply_id", maintain_order="left")
    if pairs.height < rows.num_rows:
        raise CrucibleError(
            f"{rows.num_rows - pairs.height} of {rows.num_rows} pairs have no reference log-probs; "
            "run the stage reference first."
        )
    columns = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")
    return pairs.select(columns).to_arrow()
