"""Verification on all cores at once: answers in mathematics, and HumanEval programs in sandboxes.

Ours is the whole of `Verifiers.verify`, its pool of processes started before the clock. The peer of
mathematics is math-verify called directly on the same replies, one process a core; the peer of
code is the same programs as plain subprocesses of Python, with no sandbox at all.

The data are GSM8K's and HumanEval's published files (--data, or CRUCIBLE_DATA). Formulas are
generated: 60 golds as contests have them, 8 replies each, of which 4 are written as the gold, 2
otherwise, 2 are wrong.
"""

import argparse
import json
import logging
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
    with Verifiers(Limits(workers=CORES)) as verifiers:
        _rate(verifiers, [*formulas[:8], programs[0]])  # starts the processes
        ours = {
            name: _rate(verifiers, tasks)
            for name, tasks in (
                ("maths_numbers", numbers),
                ("maths_formulas", formulas),
                ("code", programs),
            )
        }
    peer = {
        "maths_numbers": _peer_rate(_math_verify, numbers),
        "maths_formulas": _peer_rate(_math_verify, formulas),
        "code": _plain_rate(programs),
    }
    figures = {
        "maths_numbers": _figure(ours, peer, "maths_numbers", CORES, MATH_TARGET),
        "maths_formulas": _figure(ours, peer, "maths_formulas", CORES, MATH_TARGET),
        "code": _figure(ours, peer, "code", 1, CODE_TARGET),
    }
    print(f"{'figure':<16}{'ours':>9}{'peer':>9}{'ratio':>7}  unit              target  met")
    for name, f in figures.items():
        cells = f"{f['ours']:>9.1f}{f['peer']:>9.1f}{f['ratio']:>7.2f}"
        print(f"{name:<16}{cells}  {f['unit']:<16}  {f['target']:<6}  {f['met']}")
    context = {
        "cores": CORES,
        "rows": {"numbers": len(numbers), "formulas": len(formulas), "programs": len(programs)},
        "correct": {name: rate["correct"] for name, rate in ours.items()},
        "cpu_ms_a_row": {name: rate["cpu_ms"] for name, rate in ours.items()},
    }
    print(json.dumps({"name": "verify", "figures": figures, "context": context}))


def _figure(
    ours: dict[str, Any], peer: dict[str, float], name: str, cores: int, target: float
) -> dict[str, Any]:
    mine, theirs = ours[name]["rate"] / cores, peer[name] / cores
    unit = "programs/s" if name == "code" else "answers/s a core"
    rounded = {"ours": round(mine, 1), "peer": round(theirs, 1), "ratio": round(mine / theirs, 2)}
    return {**rounded, "unit": unit, "target": target, "met": mine >= target}


def _rate(verifiers: Verifiers, tasks: Sequence[Task]) -> dict[str, Any]:
    """Tasks a second, how many of them are right, and the processor time of one."""
    started, busy = time.perf_counter(), _children_s()
    verdicts = verifiers.verify(tasks)
    seconds = time.perf_counter() - started
    correct = sum(isinstance(verdict, Verdict) and verdict.correct for verdict in verdicts)
    cpu_ms = round(1000 * (_children_s() - busy) / len(tasks), 2)
    return {"rate": len(tasks) / seconds, "correct": correct, "cpu_ms": cpu_ms}


def _children_s() -> float:
    """Processor time of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _gsm8k(folder: Path) -> list[Task]:
    """Each worked answer as a reply to its own question, and the next question's as a wrong one."""
    golds = [row["answer"] for row in _rows(folder / "gsm8k_test.jsonl")]
    replies = [*golds, *golds[1:], golds[0]]
    return [Task("math", reply, gold) for reply, gold in zip(replies, golds * 2, strict=True)]


def _formulas() -> list[Task]:
    tasks = []
    for number in range(2, 62):
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


def _peer_rate(judge: Callable[[Task], bool], tasks: Sequence[Task]) -> float:
    """Tasks a second in one process a core."""
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        pool.map(judge, tasks[: 8 * CORES], chunksize=4)  # imports sympy
        started = time.perf_counter()
        pool.map(judge, tasks, chunksize=16)
        return len(tasks) / (time.perf_counter() - started)


def _math_verify(task: Task) -> bool:
    """What math-verify's own documentation does."""
    from math_verify import parse, verify

    logging.disable(logging.WARNING)
    gold = str(task.gold).rpartition("####")[2].strip()
    return bool(verify(parse(f"${gold}$"), parse(task.response)))


def _plain_rate(programs: Sequence[Task]) -> float:
    """Programs a second without any sandbox, two at a time on two cores."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CORES) as threads:
        endings = list(threads.map(_run_plain, programs))
    assert not any(endings)
    return len(programs) / (time.perf_counter() - started)


def _run_plain(task: Task) -> int:
    code = task.response.removeprefix("```python\n").removesuffix("\n```")
    source = f"{code}\n{task.tests}\ncheck({task.entry_point})\n"
    command = [sys.executable, "-I", "-S", "-c", source]
    return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode


if __name__ == "__main__":
    main()
