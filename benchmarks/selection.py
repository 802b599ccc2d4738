"""Selection at the published size: 158,667 prompts, 4 sources, 5 answers each (3.17 M answers).

Ours is the stage select on a store of that size, with all that it reads and writes. The peer, the
core of the same rules as one DuckDB statement, reads the same Parquet files; each is in a process
of its own, and seconds and peak memory include the reading. Ours also counts the yields, sees that
verdicts were given on the gold of today and fingerprints and writes the data set with its card.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from fusion.recipe import Recipe
from fusion.run import Run
from fusion.selection.answers import REFUSAL
from fusion.store import Table
from fusion.wanted import wanted_verdicts
from jobs.select import run_select

# FuseChat-3.0's data sets (arXiv 2503.04222, table 1).
DATASETS = {
    "ultrafeedback": ("instruction", 51_098),
    "magpie-pro": ("instruction", 20_374),
    "helpsteer2": ("instruction", 9_435),
    "openmathinstruct-2": ("math", 51_803),
    "leetcode": ("code", 3_113),
    "self-oss-instruct": ("code", 12_892),
    "alpaca-gpt4-zh": ("chinese", 2_471),
    "magpie-qwen2-zh": ("chinese", 7_481),
}
SOURCES = ("gemma", "mistral", "qwen", "llama")
SAMPLES = 5
REWARD, VERIFIER = "reward-1", "verifier-1"
PART_ROWS = 50_000  # as the store compacts them
CHECK = ["prompt_id", "gold", "tests", "entry_point"]
TARGET_S, TARGET_GIB = 90.0, 6.0
# DuckDB 2.0.0 cannot finish the statement in the 6 GiB that are ours: out of memory.
PEER_GIB = 12

# The same rules and options (the recipe's defaults), and like ours it chooses without the texts.
PEER = """
with judged as (
  select p.dataset, p.prompt_id, r.response_id, r.source, r.sample_index, s.reward,
    v.verdict, length(r.text) as length, hash(r.text) as text_key,
    hash(trim(r.text)) as stripped_key,
    case when p.domain = 'instruction' then 'reward' when p.domain = 'chinese' then 'none'
      else 'verdict' end as judge,
    p.domain in ('instruction', 'math') as has_margin, p.domain <> 'chinese' as makes_pairs,
    case p.domain when 'instruction' then 'share' when 'code' then 'overlap'
      else 'pairs_first' end as split,
    array_position(['gemma', 'mistral', 'qwen', 'llama'], r.source) as source_rank
  from '{folder}/store/responses/*/*.parquet' r
  join '{folder}/store/prompts/all/*.parquet' p using (prompt_id)
  left join '{folder}/store/scores/{reward}/*.parquet' s using (response_id)
  left join '{folder}/store/scores/{verifier}/*.parquet' v using (response_id)
  where trim(r.text) <> '' and r.finish_reason <> 'length'
    and not regexp_matches(substr(r.text, 1, 200), '{refusal}')
), sound as (
  select *, if(judge = 'none' and reward is null, 0, length) as tie_length,
    if(judge = 'none' and reward is null, 0, sample_index) as tie_index
  from judged
  where (judge = 'none' or (reward is not null and not isnan(reward)))
    and (judge <> 'verdict' or verdict is not null)
), usable as (
  select * from sound
  qualify (judge = 'none' or count(*) over (partition by prompt_id) = 1
      or min(text_key) over (partition by prompt_id) <> max(text_key) over (partition by prompt_id))
    and row_number() over (
    partition by prompt_id, source, text_key order by sample_index) = 1
), best_by_source as (
  select * from usable where judge <> 'verdict' or verdict = 'correct'
  qualify row_number() over (partition by prompt_id, source
    order by reward desc nulls last, tie_length, sample_index) = 1
), worst_by_source as (
  select * from usable where judge = 'reward' or (judge = 'verdict' and verdict = 'wrong')
  qualify row_number() over (partition by prompt_id, source
    order by reward, length, sample_index) = 1
), best as (
  select * from best_by_source qualify row_number() over (partition by prompt_id
    order by reward desc nulls last, tie_length, tie_index, source_rank) = 1
), pairs as (
  select c.prompt_id, c.dataset, c.split, c.source, c.response_id as chosen,
    w.response_id as rejected, c.reward - w.reward as margin
  from best_by_source c join worst_by_source w using (prompt_id, source)
  where c.makes_pairs and c.stripped_key <> w.stripped_key
    and (not c.has_margin or c.reward - w.reward between 0.01 - 1e-9 and 0.1 + 1e-9)
  qualify row_number() over (partition by prompt_id
    order by c.reward desc, c.reward - w.reward desc, c.source_rank) = 1
), shared as (
  select prompt_id, split, row_number() over (partition by dataset, split
      order by sha256('42/' || prompt_id)[:16]) <= floor(
        0.4::decimal(9, 3) * count(*) over (partition by dataset, split)) and split = 'share'
      as is_in_share
  from pairs
), sft as (
  select b.prompt_id, b.response_id from best b left join shared h using (prompt_id)
  where case b.split when 'share' then coalesce(h.is_in_share, false)
    when 'overlap' then true else h.prompt_id is null end
), preferences as (
  select prompt_id, chosen, rejected from pairs join shared using (prompt_id)
  where not is_in_share
), picked as (
  select response_id from sft union select chosen from preferences
  union select rejected from preferences
), texts as materialized (
  select response_id, text from '{folder}/store/responses/*/*.parquet'
  semi join picked using (response_id)
)
select 'sft' as table_name, s.prompt_id, p.messages, c.text as chosen_text, null as rejected_text
from sft s join '{folder}/store/prompts/all/*.parquet' p using (prompt_id)
join texts c using (response_id)
union all
select 'preferences', f.prompt_id, p.messages, c.text, r.text
from preferences f join '{folder}/store/prompts/all/*.parquet' p using (prompt_id)
join texts c on c.response_id = f.chosen join texts r on r.response_id = f.rejected
order by 1, 2
"""


def main() -> None:
    """Make the data, run ours and the peer, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the published prompts.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        answers = _in_process(_generate, folder, options.scale)["answers"]
        ours = _in_process(_run_ours, folder)
        print(f"ours: {ours}", flush=True)
        peer = _in_process(_run_peer, folder)
        same = (Path(folder) / "ours.txt").read_text() == (Path(folder) / "peer.txt").read_text()
    figures = {
        "seconds": _figure(ours["seconds"], peer["seconds"], "s", TARGET_S),
        "peak_memory": _figure(ours["gib"], peer["gib"], "GiB", TARGET_GIB),
    }
    print(f"{'figure':<14}{'ours':>9}{'DuckDB':>9}{'ratio':>7}  unit  target  met")
    for name, f in figures.items():
        cells = f"{f['ours']:>9.2f}{f['peer']:>9.2f}{f['ratio']:>7.2f}"
        print(f"{name:<14}{cells}  {f['unit']:<4}  {f['target']:<6}  {f['met']}")
    context = {
        "answers": answers,
        "sft": ours["sft"],
        "preferences": ours["preferences"],
        "same_rows_as_peer": same,
        "cpu_seconds": {"ours": round(ours["cpu_s"], 1), "peer": round(peer["cpu_s"], 1)},
        "written_and_accounted_for": {"ours": True, "peer": False},
    }
    print(json.dumps({"name": "selection", "figures": figures, "context": context}))


def _figure(ours: float, peer: float, unit: str, target: float) -> dict[str, Any]:
    rounded = {"ours": round(ours, 2), "peer": round(peer, 2), "ratio": round(ours / peer, 2)}
    return {**rounded, "unit": unit, "target": target, "met": ours <= target}


def _in_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run it alone, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _generate(folder: str, scale: float) -> dict[str, Any]:
    """A store with prompts, answers, rewards and verdicts; the same every time."""
    prompts = pl.concat(
        pl.DataFrame({"number": range(round(size * scale))}).with_columns(
            dataset=pl.lit(name), domain=pl.lit(domain)
        )
        for name, (domain, size) in DATASETS.items()
    )
    prompts = prompts.with_columns(
        prompt_id=_hex(pl.concat_str("dataset", "number")),
        gold=pl.col("number").cast(pl.String),
        tests=pl.lit(None, pl.String),
        entry_point=pl.lit(None, pl.String),
        messages=pl.concat_list(
            pl.struct(role=pl.lit("user"), content=pl.lit("Question ").add(pl.col("dataset")))
        ),
        dedupe_key=pl.col("number").cast(pl.String),
        split=pl.lit("train"),
        language=pl.lit("en"),
        origin=pl.lit("generated"),
    )
    run = Run(_recipe(folder))
    _store(run.shared("prompts").partition("all"), prompts)
    for source in SOURCES:
        answers = _answers(prompts, source)
        _store(run.shared("responses").partition(source), answers)
        _store(run.shared("scores").partition(REWARD), _rewards(answers))
        checked = answers.join(prompts.select(CHECK), on="prompt_id")
        _store(run.shared("scores").partition(VERIFIER), _verdicts(checked))
    return {"answers": prompts.height * len(SOURCES) * SAMPLES}


def _store(table: Table, rows: pl.DataFrame) -> None:
    """Parts of a table, null in the columns that the rows lack."""
    missing = {name: pl.lit(None) for name in table.schema.names if name not in rows.columns}
    whole = rows.with_columns(**missing).select(table.schema.names)
    for part in whole.iter_slices(PART_ROWS):
        table.append(part.to_arrow().cast(table.schema))


def _answers(prompts: pl.DataFrame, source: str) -> pl.DataFrame:
    """Texts of 100 to 1,500 characters; 1 % repeat another, 2 % are cut off, 0.5 % are empty.

    0.2 % decline, and to 0.1 % of the prompts all answers are the same.
    """
    samples = pl.DataFrame({"sample_index": range(SAMPLES)}, {"sample_index": pl.Int32})
    crossed = prompts.select("prompt_id", "domain").join(samples, how="cross")
    key = pl.concat_str("prompt_id", pl.lit(source), "sample_index")
    answers = crossed.with_columns(
        source=pl.lit(source), source_key=pl.lit(source), response_id=_hex(key), draw=key.hash()
    )
    filler = pl.lit("All work and no play makes a model a dull answerer of questions. " * 40)
    kind = pl.col("draw") % 1000
    own = pl.col("response_id") + filler.str.slice(
        (pl.col("draw") // 1000) % 1000, 70 + (pl.col("draw") // 1_000_000) % 1400
    )
    is_agreed = pl.col("prompt_id").hash() % 1000 == 0
    text = (
        pl.when(is_agreed | kind.is_between(5, 14))
        .then(pl.lit("Same."))
        .when(kind < 5)
        .then(pl.lit(" "))
        .when(kind < 17)
        .then(pl.lit("I cannot help with this request."))
        .otherwise(own)
    )
    return answers.with_columns(
        text=text,
        finish_reason=pl.when(kind > 980).then(pl.lit("length")).otherwise(pl.lit("stop")),
    )


def _rewards(answers: pl.DataFrame) -> pl.DataFrame:
    """Rewards of every domain but Chinese, between 0 and 0.2; 0.1 % are missing."""
    step = (pl.col("draw") // 7) % 10_000
    scored = answers.filter((pl.col("domain") != "chinese") & (step <= 9_989))
    score_id = _hex(pl.concat_str("response_id", pl.lit(REWARD)))
    by = {"scorer": pl.lit("reward"), "scorer_key": pl.lit(REWARD)}
    return scored.select("response_id", score_id=score_id, reward=0.05 + step / 100_000, **by)


def _verdicts(answers: pl.DataFrame) -> pl.DataFrame:
    is_right = (pl.col("draw") // 13) % 100 < 60
    verdict = pl.when(is_right).then(pl.lit("correct")).otherwise(pl.lit("wrong"))
    checked = answers.filter(pl.col("domain").is_in(["math", "code"]))
    by = {"scorer": pl.lit("math"), "scorer_key": pl.lit(VERIFIER)}
    wanted = wanted_verdicts(checked, VERIFIER)
    return wanted.select("score_id", "response_id", verdict=verdict, **by)


def _hex(key: pl.Expr) -> pl.Expr:
    """32 hexadecimal digits, as ids have; drawn, not SHA-256, to keep the set-up short."""
    words = [key.hash(seed) for seed in (1, 2)]
    return pl.format("{}{}", *(word.cast(pl.String).str.zfill(20).str.slice(4) for word in words))


def _run_ours(folder: str) -> dict[str, Any]:
    run = Run(_recipe(folder))
    started = time.perf_counter()
    prompts = pl.DataFrame(run.shared("prompts").partition("all").read())
    done = run_select(run, prompts, dict(zip(SOURCES, SOURCES, strict=True)), [REWARD, VERIFIER])
    seconds = time.perf_counter() - started
    figures = {"seconds": seconds, "cpu_s": time.process_time(), "gib": _peak_gib()}
    figures |= done.extra
    sft, preferences = (pl.DataFrame(t.read()) for t in (run.sft(), run.preferences()))
    lines = [
        f"sft {row['prompt_id']} {row['messages'][-1]['content']}"
        for row in sft.iter_rows(named=True)
    ]
    lines += [
        f"preferences {row['prompt_id']} {row['chosen'][0]['content']} "
        f"{row['rejected'][0]['content']}"
        for row in preferences.iter_rows(named=True)
    ]
    _write_lines(Path(folder) / "ours.txt", lines)
    return figures


def _run_peer(folder: str) -> dict[str, Any]:
    import duckdb

    started = time.perf_counter()
    connection = duckdb.connect(f"{folder}/peer.duckdb")
    connection.execute(f"set memory_limit = '{PEER_GIB}GiB'")
    connection.execute("set preserve_insertion_order = false")
    rows = connection.sql(_statement(folder)).to_arrow_table()
    seconds = time.perf_counter() - started
    figures = {"seconds": seconds, "cpu_s": time.process_time(), "gib": _peak_gib()}
    lines = [
        " ".join([row["table_name"], row["prompt_id"], row["chosen_text"]])
        + (f" {row['rejected_text']}" if row["rejected_text"] is not None else "")
        for row in rows.to_pylist()
    ]
    _write_lines(Path(folder) / "peer.txt", lines)
    return figures


def _statement(folder: str) -> str:
    return PEER.format(folder=folder, refusal=REFUSAL, reward=REWARD, verifier=VERIFIER)


def _write_lines(path: Path, lines: list[str]) -> None:
    """What was picked, so that both can be held against each other."""
    path.write_text("\n".join(sorted(lines)))


def _recipe(folder: str) -> Recipe:
    asked = {"path": "p", "fields": {"prompt": "prompt"}, "samples": SAMPLES}
    return Recipe.model_validate(
        {
            "name": "benchmark",
            "storage": folder,
            "target": {"model": "target"},
            "sources": [{"name": name, "model": name} for name in SOURCES],
            "datasets": [
                {"name": name, "domain": domain} | asked for name, (domain, _) in DATASETS.items()
            ],
            "reward": {"model": "reward"},
        }
    )


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
