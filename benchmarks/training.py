"""DPO training: ours over stock `trl.DPOTrainer`, on the same pairs, model, precision and device.

    python benchmarks/training.py [--pairs N] [--threads N] [--only peer|workers|batching]

Prompts and replies have lengths as in chat data, a long tail: log-normal, prompts with a median of
120 tokens (sigma 0.8), replies with a median of 220 (sigma 0.9), pairs beyond 2,048 tokens left
out. TRL runs with its own defaults (8 pairs a forward pass, gradient checkpointing, a live
reference model), but for max_length, which would cut at 1,024. Ours has the recipe's defaults and 8
pairs a step. Tokens are counted without padding. Both run one thread by default, and seconds are
the CPU's for the process, so that others on the machine count little; wall-clock seconds stand in
the context. Peak memory is that of the process.

Two workers over one: tokens a second by the wall clock, from the end of the first step to the end
of the last, the same pairs a step. Two trainings side by side that share nothing are timed as well,
as a machine's cores may slow each other. Both also by CPU seconds, of each step the slowest
worker's, which others on the machine disturb less.

Batching: how much faster rows end to end are than padded ones that go by length, with these prompts
and with ones of a median of 1,000 tokens.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

MODEL = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
PAIRS_A_STEP, MAX_LENGTH, BETA = 8, 2048, 10.0
PARTS = ("peer", "workers", "batching")
PROMPT_TOKENS, LONG_PROMPTS = 120, 1000  # medians


def main() -> None:
    """Run ours and the peer, each alone, and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=PARTS, help="Leave the others out.")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    context: dict[str, Any] = {"threads": options.threads, "pairs": options.pairs}
    with tempfile.TemporaryDirectory() as folder:
        context["data"] = _alone(_make, folder, options.pairs)
        if options.only in (None, "peer"):
            _compare_with_peer(folder, options.threads, figures, context)
        if options.only in (None, "workers"):
            _compare_workers(folder, figures, context)
        if options.only in (None, "batching"):
            context["packed_over_bucketed"] = _compare_batching(folder, options.threads)
    for name, row in figures.items():
        cells = f"{row['ours']:>10.1f}{row['peer']:>10.1f}{row['ratio']:>7.2f}"
        print(f"{name:<22}{cells}  {row['unit']:<9} target {row['target']:<4} met {row['met']}")
    print(json.dumps({"name": "training", "figures": figures, "context": context}))


def _compare_with_peer(
    folder: str, threads: int, figures: dict[str, Any], context: dict[str, Any]
) -> None:
    ours = context["ours"] = _alone(_run_ours, folder, threads)
    peer = context["trl"] = _alone(_run_peer, folder, threads)
    tokens, peers = ours["tokens"], ours["tokens"] / peer["seconds"]
    whole = tokens / (ours["seconds"] + ours["reference_seconds"])
    figures["with_reference"] = _figure(whole, peers, "tokens/s", 1.5)
    figures["without_reference"] = _figure(tokens / ours["seconds"], peers, "tokens/s", 2.0)
    figures["peak_memory"] = _figure(ours["peak_mib"], peer["peak_mib"], "MiB", 1.0, most=True)


def _compare_workers(folder: str, figures: dict[str, Any], context: dict[str, Any]) -> None:
    one, two = (_pace(folder, number, share=True) for number in (1, 2))
    apart = _pace(folder, 2, share=False)
    figures["two_workers_over_one"] = _figure(two.rate, one.rate, "tokens/s", 1.7)
    context["workers_by_cpu_seconds"] = round(two.cpu_rate / one.cpu_rate, 2)
    context["two_trainings_over_one"] = round(apart.rate / one.rate, 2)
    context["two_trainings_by_cpu_seconds"] = round(apart.cpu_rate / one.cpu_rate, 2)


def _compare_batching(folder: str, threads: int) -> dict[str, float]:
    """How much faster rows end to end are, with prompts as they are and with long ones."""
    made = {}
    for prompts in (PROMPT_TOKENS, LONG_PROMPTS):
        _alone(_make, folder, 2 * PAIRS_A_STEP, prompts)
        packed, bucketed = (
            _alone(_run_ours, folder, threads, batching) for batching in ("packed", "bucketed")
        )
        made[f"prompts of {prompts} tokens"] = round(bucketed["seconds"] / packed["seconds"], 2)
    return made


class Pace(NamedTuple):
    """Tokens a second by the wall clock, and by the CPU seconds of each step's slowest worker."""

    rate: float
    cpu_rate: float


def _figure(
    ours: float, peer: float, unit: str, target: float, *, most: bool = False
) -> dict[str, Any]:
    ratio = ours / peer
    row = {"ours": round(ours, 1), "peer": round(peer, 1), "ratio": round(ratio, 2)}
    return {**row, "unit": unit, "target": target, "met": (ratio <= target) == most}


def _alone(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run it in a process of its own, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        made = pool.apply(work, arguments)
    print(f"{work.__name__.strip('_')}: {json.dumps(made)}", flush=True)
    return made


def _make(folder: str, num_pairs: int, prompt_tokens: int = PROMPT_TOKENS) -> dict[str, Any]:
    """The model with random weights, and pairs of random tokens; the same every time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from fusion.chat import load_tokenizer
    from fusion.training_rows import PAIR_ROWS

    torch.manual_seed(0)
    target = Path(__file__).resolve().parent.parent / "rehearsal" / "models" / "target"
    LlamaForCausalLM(LlamaConfig(**MODEL)).save_pretrained(f"{folder}/model")
    load_tokenizer(str(target)).save_pretrained(f"{folder}/model")
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    while len(rows) < num_pairs:
        prompt = max(8, round(draw.lognormvariate(math.log(prompt_tokens), 0.8)))
        replies = [max(4, round(draw.lognormvariate(5.39, 0.9))) for _ in range(2)]
        if prompt + max(replies) > MAX_LENGTH:
            continue
        ids = [[draw.randrange(8, 4096) for _ in range(n)] for n in (prompt, *replies)]
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        made = dict(zip(names, ids, strict=True))
        number = len(rows)
        reply_ids = {f"{s}_reply_id": f"{s}-{number}" for s in ("chosen", "rejected")}
        rows.append({**made, **reply_ids})
    table = pa.Table.from_pylist(rows, schema=PAIR_ROWS)
    pq.write_table(table, f"{folder}/pairs.parquet")
    lengths = [len(row["prompt_ids"]) + len(row[s]) for row in rows for s in names[1:]]
    mean = sum(lengths) / len(lengths)
    return {"mean_tokens": round(mean), "longest": max(lengths)}


def _run_ours(folder: str, threads: int, batching: str = "auto") -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    table = pq.read_table(f"{folder}/pairs.parquet")
    table, reference_seconds = _with_reference(folder, table)
    trainer = _trainer(folder, table, workers=1, batching=batching)
    seconds, wall = _timed(trainer.train)
    assert trainer.stopped is None, trainer.stopped
    log = [row for row in trainer.state.log_history if "padding" in row]
    return {
        "tokens": _tokens(table),
        "seconds": round(seconds, 2),
        "wall_seconds": round(wall, 2),
        "reference_seconds": round(reference_seconds, 2),
        "peak_mib": _peak_mib(),
        "padding": round(sum(row["padding"] for row in log) / len(log), 3),
    }


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds of this process, and seconds on the wall clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def _with_reference(folder: str, table: pa.Table) -> tuple[pa.Table, float]:
    """What the stage reference computes, by its own code, and its CPU seconds without loading."""
    from fusion.recipe import Dpo
    from jobs.reference import ReferenceModel, unique_replies

    model = ReferenceModel(f"{folder}/model", Dpo(precision="fp32"), False, None)
    replies = unique_replies(table).to_arrow()
    partition = pa.array(["benchmark"] * len(replies))
    started = time.process_time()
    found = model(replies.append_column("partition", partition)).to_pylist()
    seconds = time.process_time() - started
    sums = {row["reply_id"]: row["logprob_sum"] for row in found}
    for side in ("chosen", "rejected"):
        column = [sums[i] for i in table[f"{side}_reply_id"].to_pylist()]
        table = table.append_column(f"ref_{side}_logps", [column])
    return table, seconds


def _trainer(folder: str, table: pa.Table, *, workers: int, batching: Any = "auto") -> Any:
    from fusion.recipe import Dpo
    from fusion.store import Location
    from jobs.step_keeper import StepKeeper
    from jobs.trainer_setup import build_trainer
    from jobs.training_worker import WorkerConfig

    section = Dpo(
        batch_size=PAIRS_A_STEP,
        beta=BETA,
        max_length=MAX_LENGTH,
        precision="fp32",
        workers=workers,
        batching=batching,
    )
    here = Location.of(f"{folder}/checkpoint")
    config = WorkerConfig(
        name="benchmark",
        model=f"{folder}/model",
        revision=None,
        training=section,
        lineage={},
        checkpoint=here,
        log=here / "log.jsonl",
        on_gpu=False,
        cores=1,
    )
    trainer = build_trainer(config, table, None, None)
    trainer.args.save_strategy = "no"
    trainer.remove_callback(StepKeeper)
    return trainer


def _run_peer(folder: str, threads: int) -> dict[str, Any]:
    """TRL's DPO trainer; only its tokenising is left out, as the pairs are tokens already."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class TokenTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    from fusion.chat import load_tokenizer

    torch.set_num_threads(threads)
    table = pq.read_table(f"{folder}/pairs.parquet")
    arguments = DPOConfig(
        output_dir=f"{folder}/trl",
        loss_type=["sigmoid_norm"],
        beta=BETA,
        max_length=MAX_LENGTH,
        num_train_epochs=1,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        model_init_kwargs={"dtype": torch.float32},
    )
    trainer = TokenTrainer(
        f"{folder}/model",
        args=arguments,
        train_dataset=Dataset(table.select(["prompt_ids", "chosen_ids", "rejected_ids"])),
        processing_class=load_tokenizer(f"{folder}/model"),
    )
    seconds, wall = _timed(trainer.train)
    return {
        "seconds": round(seconds, 2),
        "wall_seconds": round(wall, 2),
        "peak_mib": _peak_mib(),
    }


def _pace(folder: str, processes: int, *, share: bool) -> Pace:
    """Processes of one thread each, without the reference, from the end of the first step to the
    end of the last: workers that share one training, or each a training of its own.
    """
    table = pq.read_table(f"{folder}/pairs.parquet")
    for side in ("chosen", "rejected"):  # about what a model of random weights gives
        sums = [-math.log(MODEL["vocab_size"]) * len(i) for i in table[f"{side}_ids"].to_pylist()]
        table = table.append_column(f"ref_{side}_logps", [sums])
    context = multiprocessing.get_context("spawn")
    ends = context.Queue()
    number = range(processes)
    places = [(rank, processes, 29731) if share else (0, 1, 29731 + rank) for rank in number]
    started = [
        context.Process(target=_run_worker, args=(folder, table, *place, ends)) for place in places
    ]
    for process in started:
        process.start()
    found = [ends.get(timeout=600) for _ in started]
    for process in started:
        process.join()
    tokens = _tokens(table) - _tokens(table.take(_first_rows(table.num_rows)))
    tokens *= 1 if share else processes
    wall = max(clock[-1].wall - clock[0].wall for clock in found)
    steps = [[b.cpu - a.cpu for a, b in pairwise(clock)] for clock in found]
    pace = Pace(tokens / wall, tokens / sum(map(max, zip(*steps, strict=True))))
    print(f"{processes} processes, one training {share}: {pace}", flush=True)
    return pace


def _first_rows(num_pairs: int) -> list[int]:
    """The rows of the first step; lengths do not matter for that."""
    from fusion.batching import Shape, steps_of_epoch
    from fusion.recipe import Dpo

    alone = Shape(PAIRS_A_STEP, 1, MAX_LENGTH, "padded")
    return list(next(steps_of_epoch([[1]] * num_pairs, alone, seed=Dpo().seed, epoch=0)).rows)


class Moment(NamedTuple):
    """Seconds on the wall clock, and of this process's CPU."""

    wall: float
    cpu: float


def _run_worker(
    folder: str, table: pa.Table, rank: int, workers: int, port: int, ends: Any
) -> None:
    """Put the moments at which steps ended."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ends: list[Moment] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ends.append(Moment(time.perf_counter(), time.process_time()))

    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    threads = {"OMP_NUM_THREADS": "1"}  # else accelerate takes all cores, for each of the workers
    os.environ.update(group | place | threads)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    trainer = _trainer(folder, table, workers=workers)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    assert trainer.stopped is None, trainer.stopped
    ends.put(clock.ends)
    torch.distributed.barrier()


def _tokens(table: pa.Table) -> int:
    columns = ("prompt_ids", "prompt_ids", "chosen_ids", "rejected_ids")
    return sum(len(ids) for column in columns for ids in table[column].to_pylist())


def _peak_mib() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
