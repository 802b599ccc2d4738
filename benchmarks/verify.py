"""Verification on all cores at once: answers in mathematics, and HumanEval programs in sandboxes.

Ours is the whole of `Verifiers.verify`, its pool of processes started before the clock. The peer of
mathematics is math-verify called directly on the same replies, one process a core; the peer of
code is the same programs as plain subprocesses of Python, with no sandbox at all.

Answers a second a core are answers per second of processor time, of all processes together, so
that other work on the machine does not change them; programs a second are by the wall clock.

The data are GSM8K's and HumanEval's published files (--data, or CRUCIBLE_DATA). Formulas are
generated: 300 golds as contests have them, 8 replies each, of which 4 are written as the gold, 2
otherwise, 2 are wrong.
"""

import argparse
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from fusion.verification import Limits, Task, Verdict, Verifiers

MATH_TARGET, CODE_TARGET = 150.0, 25.0
CORES = len(os.sched_getaffinity(0))
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def main() -> None:
    """Run each kind, ours and the peer in turn; print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("CRUCIBLE_DATA", str(_BESIDE)))
    folder = Path(parser.parse_args().data)
    numbers, formulas = _gsm8k(folder), _formulas()
    programs = _humaneval(folder)
    kinds = {"maths_numbers": numbers, "maths_formulas": formulas, "code": programs}
    ours = {}
    with Verifiers(Limits(workers=CORES)) as verifiers:
        verifiers.verify([*formulas[:8], programs[0]])  # starts the processes
        for name, tasks in kinds.items():
            ours[name] = _measure(lambda tasks=tasks: _judge_all(verifiers, tasks), len(tasks))
    peer = {name: _math_verify_all(kinds[name]) for name in ("maths_numbers", "maths_formulas")}
    peer["code"] = _measure(lambda: _run_plain_all(programs), len(programs))
    figures = {name: _figure(name, ours[name], peer[name]) for name in kinds}
    print(f"{'figure':<16}{'ours':>9}{'peer':>9}{'ratio':>7}  unit              target  met")
    for name, f in figures.items():
        cells = f"{f['ours']:>9.1f}{f['peer']:>9.1f}{f['ratio']:>7.2f}"
        print(f"{name:<16}{cells}  {f['unit']:<16}  {f['target']:<6}  {f['met']}")
    context = {
        "cores": CORES,
        "rows": {name: len(tasks) for name, tasks in kinds.items()},
        "correct": {name: measured["correct"] for name, measured in ours.items()},
        "a_second_by_the_clock": {name: round(ours[name]["by_clock"], 1) for name in kinds},
        "peer_a_second_by_the_clock": {name: round(peer[name]["by_clock"], 1) for name in kinds},
        "load_at_the_end": os.getloadavg()[0],
    }
    print(json.dumps({"name": "verify", "figures": figures, "context": context}))


def _figure(name: str, ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    is_code = name == "code"
    rate, unit = ("by_clock", "programs/s") if is_code else ("by_cpu", "answers/s a core")
    target = CODE_TARGET if is_code else MATH_TARGET
    mine, theirs = ours[rate], peer[rate]
    rounded = {"ours": round(mine, 1), "peer": round(theirs, 1), "ratio": round(mine / theirs, 2)}
    return {**rounded, "unit": unit, "target": target, "met": mine >= target}


def _measure(work: Callable[[], int], num_rows: int) -> dict[str, Any]:
    """Rows a second by the clock and by processor time, and what `work` counted."""
    started, busy = time.perf_counter(), _processor_s()
    correct = work()
    seconds, busy = time.perf_counter() - started, _processor_s() - busy
    return {"by_clock": num_rows / seconds, "by_cpu": num_rows / busy, "correct": correct}


def _processor_s() -> float:
    """Processor time of this process, of its children that run and of those that have ended."""
    this = psutil.Process()
    times = [this.cpu_times(), *(child.cpu_times() for child in this.children())]
    ended = times[0].children_user + times[0].children_system
    return ended + sum(each.user + each.system for each in times)


def _judge_all(verifiers: Verifiers, tasks: Sequence[Task]) -> int:
    verdicts = verifiers.verify(tasks)
    return sum(isinstance(verdict, Verdict) and verdict.correct for verdict in verdicts)


def _gsm8k(folder: Path) -> list[Task]:
    """Each worked answer as a reply to its own question, and the next question's as a wrong one."""
    golds = [row["answer"] for row in _rows(folder / "gsm8k_test.jsonl")]
    replies = [*golds, *golds[1:], golds[0]]
    return [Task("math", reply, gold) for reply, gold in zip(replies, golds * 2, strict=True)]


def _formulas() -> list[Task]:
    tasks = []
    for number in range(2, 302):
        gold, same, wrong = _forms(number)
        replies = [gold] * 4 + [same] * 2 + [wrong, f"{wrong}+1"]
        tasks += [Task("math", f"So we get \\boxed{{{reply}}}.", gold) for reply in replies]
    return tasks


def _forms(n: int) -> tuple[str, str, str]:
    """A gold, the same otherwise written, and something else."""
    forms = [
        (f"\\frac{{{n}\\sqrt{{3}}}}{{2}}", f"{n}\\frac{{\\sqrt{{3}}}}{{2}}", f"{n}\\sqrt{{3}}"),
        (f"{n}\\pi", f"\\pi\\cdot {n}", f"{n + 1}\\pi"),
        (f"x^2+{n}x+1", f"1+x^2+{n}x", f"x^2-{n}x+1"),
        (f"[{n},\\infty)", f"[{n}, \\infty)", f"({n},\\infty)"),
        (f"({n},{n + 1})", f"({n}, {n + 1})", f"({n + 1},{n})"),
        (f"\\sqrt{{{4 * n}}}", f"2\\sqrt{{{n}}}", f"\\sqrt{{{n}}}"),
    ]
    return forms[n % len(forms)]


def _humaneval(folder: Path) -> list[Task]:
    return [
        Task(
            "code",
            f"```python\n{row['prompt']}{row['canonical_solution']}\n```",
            tests=row["test"],
            entry_point=row["entry_point"],
        )
        for row in _rows(folder / "humaneval.jsonl")
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _math_verify_all(tasks: Sequence[Task]) -> dict[str, Any]:
    """math-verify in one process a core."""
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        pool.map(_math_verify, tasks[: 8 * CORES], chunksize=4)  # imports sympy
        return _measure(lambda: sum(pool.map(_math_verify, tasks, chunksize=16)), len(tasks))


def _math_verify(task: Task) -> bool:
    """What math-verify's own documentation does."""
    from math_verify import parse, verify

    logging.disable(logging.WARNING)
    gold = str(task.gold).rpartition("####")[2].strip()
    return bool(verify(parse(f"${gold}$"), parse(task.response)))


def _run_plain_all(programs: Sequence[Task]) -> int:
    """Without any sandbox, one program a core at a time; all must end well."""
    with ThreadPoolExecutor(CORES) as threads:
        endings = list(threads.map(_run_plain, programs))
    assert not any(endings)
    return len(endings)


def _run_plain(task: Task) -> int:
    code = task.response.removeprefix("```python\n").removesuffix("\n```")
    source = f"{code}\n{task.tests}\ncheck({task.entry_point})\n"
    command = [sys.executable, "-I", "-S", "-c", source]
    return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode


if __name__ == "__main__":
    main()
