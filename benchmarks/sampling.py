"""Output tokens a second of the whole stage sample, against raw offline vLLM and Ray's processor.

    python benchmarks/sampling.py [--model wide|rehearsal] [--seconds 120] [--without-processor]

All three answer the same prompts four times with the same sampling, engine settings and threads,
each in processes of its own and after the same warm-up, raw and ours in turn, as a machine's speed
drifts. Counted is from the first request to the last answer: for ours that includes Ray Data's
start, the stage's tail and every commit. The peer is `vllm.LLM.generate` with its worker in its own
process (VLLM_ENABLE_V1_MULTIPROCESSING=0), at the niceness that Ray gives its workers: else other
programs on the machine would slow ours alone. `wide` is a random-weights Llama on which raw vLLM
makes thousands of tokens a second on two cores, its answers of many lengths, as answers are; the
rehearsal's own model is so small that it shows little but overhead.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LLAMA = ROOT / "rehearsal" / "models" / "llama"
RAY_NICENESS = 15
SAMPLES, MAX_TOKENS, WARM_PROMPTS, TARGET = 4, 256, 32, 0.8
MEAN_TOKENS = 100  # of an answer of the wide model, were there no most
ENGINE = {"dtype": "bfloat16", "max_model_len": 512, "max_num_seqs": 64, "enforce_eager": True}
WIDE = {
    "hidden_size": 384,
    "intermediate_size": 1152,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 64,
}
# Raw vLLM answers so many prompts, then up to so many times as many, until they take this share of
# the time; that tells how many all three are given to fill it.
FIRST_PROMPTS, FIRST_GROWTH, FIRST_SHARE, MOST_PROMPTS = 128, 16, 0.1, 30_000
ROUNDS = 2
MODELS = ("wide", "rehearsal")
SYSTEMS = ("raw", "ours", "processor")


@dataclass(frozen=True)
class Work:
    """What every system is given: a model's folder, and prompts in a file of JSON lines."""

    model: Path
    prompts: Path
    count: int
    """Prompts after the warm-up."""

    @property
    def texts(self) -> list[str]:
        """The prompts of the warm-up, then `count` others."""
        lines = self.prompts.read_text().splitlines()
        return [json.loads(line)["prompt"] for line in lines[: WARM_PROMPTS + self.count]]


def main() -> None:
    """Run every system on the models and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default=None, help="One alone.")
    parser.add_argument("--seconds", type=float, default=120.0, help="About as long for each.")
    parser.add_argument("--without-processor", action="store_true", help="Only against raw vLLM.")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        system, model, prompts, count = options.run
        work = Work(Path(model), Path(prompts), int(count))
        print(json.dumps(RUN[system](work)))
        return
    models = [options.model] if options.model else MODELS
    systems = SYSTEMS[:-1] if options.without_processor else SYSTEMS
    _report({model: _rates(model, options.seconds, systems) for model in models})


def _rates(model: str, seconds: float, systems: tuple[str, ...]) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        work = _filling(_prepare(Path(folder), model), seconds)
        turns = [*systems[:2] * ROUNDS, *systems[2:]]
        runs = [(system, _in_process(system, work)) for system in turns]
        return {name: _together([run for of, run in runs if of == name]) for name in systems}


def _filling(work: Work, seconds: float) -> Work:
    """The work with as many prompts as take raw vLLM so many seconds."""
    most = MOST_PROMPTS - WARM_PROMPTS
    while True:
        took = _in_process("raw", work)["seconds"]
        enough = min(int(seconds / took * work.count), most)
        if took >= FIRST_SHARE * seconds or work.count == most:
            return replace(work, count=enough)
        work = replace(work, count=min(enough, FIRST_GROWTH * work.count))


def _together(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The figures of several runs of one system as of one long run."""
    tokens, seconds, answers = (
        sum(r[key] for r in runs) for key in ("tokens", "seconds", "answers")
    )
    rates = {f"rate_{number}": run["rate"] for number, run in enumerate(runs, 1)}
    return {"rate": tokens / seconds, "seconds": seconds, "answers": answers} | rates


def _prepare(folder: Path, model: str) -> Work:
    files = sorted((ROOT / "rehearsal" / "prompts").glob("*-train.jsonl"))
    texts = [json.loads(row)["prompt"] for file in files for row in file.read_text().splitlines()]
    prompts = folder / "prompts.jsonl"
    with prompts.open("w") as file:
        for number in range(MOST_PROMPTS):
            text = f"{number}. {texts[number % len(texts)]}"
            file.write(json.dumps({"prompt": text}) + "\n")
    weights = _wide_model(folder / "wide") if model == "wide" else LLAMA
    return Work(weights, prompts, FIRST_PROMPTS)


def _wide_model(folder: Path) -> Path:
    """A Llama of random weights with the rehearsal's tokenizer and template, whose answers end.

    Random weights alone would never end one. All answers would be of one length, and raw vLLM,
    which has all prompts at once, would take a whole batch in and out in step: no model does that.
    So the first dimension is one for every token and no layer changes it; of the output's rows only
    that of the end reads it, by as much as makes one token in `MEAN_TOKENS` the end.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(LLAMA)
    config.update({**WIDE, "tie_word_embeddings": False})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = model.lm_head.weight[config.eos_token_id] = 0.0
        ids = torch.randint(config.vocab_size, (8, 64))
        carried = model.model(ids).last_hidden_state[..., 0].mean()
        wanted = _sampling().temperature * math.log(config.vocab_size / MEAN_TOKENS)
        model.lm_head.weight[config.eos_token_id, 0] = wanted / carried
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(LLAMA / name, folder / name)
    return folder


def _in_process(system: str, work: Work) -> dict[str, float]:
    from cluster.settings import engine_environment

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--run", system]
    command += [str(work.model), str(work.prompts), str(work.count)]
    if system == "raw":
        command = ["nice", "-n", str(RAY_NICENESS), *command]
        threads = len(os.sched_getaffinity(0))
        environment |= engine_environment(on_cpu=True, threads=threads)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{system} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{system}: {figures}", flush=True)
    return figures


def _run_raw(work: Work) -> dict[str, float]:
    from vllm import LLM

    from fusion.chat import load_tokenizer, render_prompt
    from services.engine import sampling_params
    from services.source import engine_arguments

    tokenizer = load_tokenizer(str(work.model))
    messages = [[{"role": "user", "content": text}] for text in work.texts]
    inputs = [{"prompt_token_ids": render_prompt(tokenizer, m)} for m in messages]
    options = engine_arguments(_served(work), on_cpu=True)
    options |= {"disable_log_stats": True, "distributed_executor_backend": "uni"}
    llm = LLM(str(work.model), **options)
    params = [sampling_params(_sampling(), seed=n, room=MAX_TOKENS) for n in range(len(inputs))]
    for of_one in params:
        of_one.n = SAMPLES

    def answer(part: slice) -> tuple[list[int], float]:
        started = time.monotonic()
        outputs = llm.generate(inputs[part], params[part], use_tqdm=False)
        seconds = time.monotonic() - started
        return [len(o.token_ids) for output in outputs for o in output.outputs], seconds

    answer(slice(WARM_PROMPTS))
    return _figures(*answer(slice(WARM_PROMPTS, WARM_PROMPTS + work.count)))


def _run_ours(work: Work) -> dict[str, float]:
    import polars as pl

    from cluster.connection import connected
    from fusion.recipe import Recipe
    from fusion.run import Run
    from jobs.ingest import load_prompts, run_ingest
    from jobs.models import run_askings, source_applications
    from jobs.sample import sample
    from services.applications import serving, start_serve

    with tempfile.TemporaryDirectory() as storage, connected() as holdings:
        run = Run(Recipe.model_validate(_recipe(work, storage)))
        run_ingest(run)
        (asking,) = run_askings(run, load_prompts(run))
        warm, timed = (
            _of(asking, part) for part in (work.texts[:WARM_PROMPTS], work.texts[WARM_PROMPTS:])
        )
        start_serve()
        with serving(source_applications(run.recipe, [asking.served], holdings)):
            sample(run, [warm])
            started = time.monotonic()
            sample(run, [timed])
            seconds = time.monotonic() - started
        table = run.shared("responses").partition(asking.source_key)
        rows = pl.DataFrame(table.read(["response_id", "completion_tokens"]))
        tokens = timed.wanted().join(rows, on="response_id")["completion_tokens"].to_list()
    return _figures(tokens, seconds)


def _of(asking: Any, texts: list[str]) -> Any:
    """The part of an asking that has these prompts."""
    kept = asking.prompts["messages"].list.first().struct.field("content").is_in(texts)
    return replace(asking, prompts=asking.prompts.filter(kept))


def _run_processor(work: Work) -> dict[str, float]:
    """Ray's own way: one request a prompt to a stock `ray.serve.llm` deployment."""
    import ray
    from ray import serve
    from ray.data.llm import ServeDeploymentProcessorConfig, build_processor
    from ray.serve.llm import LLMConfig, build_llm_deployment
    from ray.serve.llm.openai_api_models import CompletionRequest

    from cluster.connection import connected
    from cluster.ray_data import quiet_ray_data
    from cluster.settings import engine_environment
    from fusion.chat import load_tokenizer, render_prompt
    from services.applications import start_serve
    from services.source import engine_arguments

    tokenizer = load_tokenizer(str(work.model))
    prompts = [render_prompt(tokenizer, [{"role": "user", "content": t}]) for t in work.texts]
    threads = len(os.sched_getaffinity(0))
    environment = engine_environment(on_cpu=True, threads=threads)
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"  # as ray.serve.llm expects it
    config = LLMConfig(
        model_loading_config={"model_id": "m", "model_source": str(work.model)},
        engine_kwargs=engine_arguments(_served(work), on_cpu=True),
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": environment},
        log_engine_metrics=False,
    )
    asked = _sampling().model_dump(include={"temperature", "top_p"})
    asked |= {"max_tokens": MAX_TOKENS, "n": SAMPLES, "model": "m"}

    def request(row: dict[str, Any]) -> dict[str, Any]:
        body = asked | {"prompt": [int(i) for i in row["ids"]], "seed": int(row["number"])}
        return {"method": "completions", "dtype": "CompletionRequest", "request_kwargs": body}

    processor = build_processor(
        ServeDeploymentProcessorConfig(
            deployment_name="LLMServer:m",
            app_name="m",
            dtype_mapping={"CompletionRequest": CompletionRequest},
            batch_size=32,
            concurrency=1,
        ),
        preprocess=request,
        postprocess=lambda row: {"tokens": row["usage"]["completion_tokens"]},
    )
    with connected():
        start_serve()
        deployment = build_llm_deployment(config)
        serve.run(deployment, name="m", route_prefix=None)
        quiet_ray_data()
        tokens: list[int] = []
        seconds = 0.0
        for part in (prompts[:WARM_PROMPTS], prompts[WARM_PROMPTS:]):
            rows = [{"ids": ids, "number": number} for number, ids in enumerate(part)]
            started = time.monotonic()
            done = processor(ray.data.from_items(rows, override_num_blocks=4)).take_all()
            seconds = time.monotonic() - started
            tokens = [row["tokens"] for row in done]
        serve.shutdown()
    return _figures(tokens, seconds)


def _sampling() -> Any:
    from fusion.recipe import Sampling

    return Sampling(max_tokens=MAX_TOKENS)


def _served(work: Work) -> Any:
    from fusion.recipe import Engine
    from services.source import Served

    return Served("m", str(work.model), None, Engine.model_validate(ENGINE))


def _recipe(work: Work, storage: str) -> dict[str, Any]:
    source = {"name": "m", "model": str(work.model), "engine": ENGINE}
    dataset = {"name": "d", "path": str(work.prompts), "domain": "instruction", "samples": SAMPLES}
    limit = WARM_PROMPTS + work.count
    return {
        "name": "benchmark",
        "storage": storage,
        "target": {"model": str(work.model)},
        "sources": [source | {"sampling": {"max_tokens": MAX_TOKENS}}],
        "datasets": [dataset | {"fields": {"prompt": "prompt"}, "limit": limit}],
        "ingest": {"near_duplicates": None, "overlap_words": None},
        "failures": {"limit": 1.0},
    }


def _figures(tokens: list[int], seconds: float) -> dict[str, float]:
    total = sum(tokens)
    return {"rate": total / seconds, "seconds": seconds, "tokens": total, "answers": len(tokens)}


def _report(rates: dict[str, dict[str, dict[str, float]]]) -> None:
    rows: dict[str, dict[str, object]] = {}
    for model, of in rates.items():
        ours = of["ours"]["rate"]
        for peer in sorted(of.keys() - {"ours"}, reverse=True):
            target = TARGET if (model, peer) == ("wide", "raw") else None
            ratio = ours / of[peer]["rate"]
            name = f"{model}, against {'raw vLLM' if peer == 'raw' else 'ServeDeploymentProcessor'}"
            rows[name] = {
                "ours": round(ours),
                "peer": round(of[peer]["rate"]),
                "ratio": round(ratio, 3),
                "unit": "output tokens/s",
                "target": target,
                "met": None if target is None else ratio >= target,
            }
    for name, row in rows.items():
        print(f"{name:46} {row['ours']:>8} {row['peer']:>8}   ratio {row['ratio']}")
    figures = {name: row for name, row in rows.items() if row["target"] is not None}
    context = {name: row for name, row in rows.items() if row["target"] is None}
    print(
        json.dumps({"name": "sampling", "figures": figures, "context": context | {"runs": rates}})
    )


RUN: dict[str, Callable[[Work], dict[str, float]]] = {
    "raw": _run_raw,
    "ours": _run_ours,
    "processor": _run_processor,
}

if __name__ == "__main__":
    main()
