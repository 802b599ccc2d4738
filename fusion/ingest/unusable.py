"""Prompts whose gold or tests no answer could meet: found before an answer is paid for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fusion.ingest.rows import RowError
from fusion.verification import Limits, Malformed, Task, Verifiers
from fusion.verification.code.program import compile_tests

# Five words and neither digit nor LaTeX: "no real solutions exist" is an answer yet, this is none.
_PROSE = re.compile(r"(?=[^\d\\$=]*\Z)\s*(?:[^\W\d_]+[\s,;.'’-]+){4,}[^\W\d_]+.*", re.DOTALL)


def unusable_answers(prompts: Sequence[Mapping[str, Any]]) -> dict[int, RowError]:
    """By their positions, the prompts that their verifier can judge no answer to, and why not.

    `prompts` are rows of the prompts table; nothing untrusted is run.
    """
    found: dict[int, RowError] = {}
    to_parse: dict[int, Task] = {}
    for number, prompt in enumerate(prompts):
        if prompt["verifier"] == "code":
            tests = compile_tests(prompt["tests"], prompt["entry_point"])
            if isinstance(tests, Malformed):
                found[number] = RowError("bad_tests", tests.detail)
        elif prompt["verifier"] == "math" and _PROSE.fullmatch(prompt["gold"]):
            detail = f"gold {prompt['gold'][:80]!r} is a sentence, no number or formula"
            found[number] = RowError("bad_gold", detail)
        elif prompt["verifier"] is not None:
            to_parse[number] = Task(prompt["verifier"], "", prompt["gold"])
    return found | _unparsable(to_parse)


def _unparsable(tasks: Mapping[int, Task]) -> dict[int, RowError]:
    """To an empty reply every verifier says wrong, unless the gold itself is unusable."""
    distinct = list(dict.fromkeys(tasks.values()))
    with Verifiers(Limits()) as verifiers:
        verdicts = dict(zip(distinct, verifiers.verify(distinct), strict=True))
    return {
        number: RowError("bad_gold", verdict.detail)
        for number, task in tasks.items()
        if isinstance(verdict := verdicts[task], Malformed)
    }
