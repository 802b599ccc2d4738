"""Which answers are too long to train on: as training itself counts, and bytes spare the work."""

import polars as pl
import pytest

from fusion.chat import load_tokenizer, render_conversation
from fusion.selection.fitting import Room
from tests.training_data import TARGET

LIMIT = 64
SYSTEM = {"role": "system", "content": "Be brief."}
PROMPTS_OF = {
    "short": [{"role": "user", "content": "What is 2 + 3?"}],
    "chat": [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "What is 2 + 3?"},
    ],
    "system": [SYSTEM, {"role": "user", "content": "Hi"}],
    "long": [{"role": "user", "content": "word " * LIMIT}],
}
TEXTS = ["", "five", "five " * 12, "五" * 40, "five " * 30, "x" * 200]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(TARGET))


@pytest.fixture(scope="module")
def prompts():
    return pl.DataFrame({"prompt_id": PROMPTS_OF.keys(), "messages": PROMPTS_OF.values()})


def answers():
    rows = [{"prompt_id": name, "text": text} for text in TEXTS for name in PROMPTS_OF]
    return pl.DataFrame(rows)


def test_an_answer_is_too_long_exactly_when_training_would_drop_it(tokenizer, prompts):
    given = answers()
    found = Room(tokenizer, LIMIT).too_long(given, prompts).to_list()
    counted = [
        len(
            render_conversation(
                tokenizer,
                [*PROMPTS_OF[row["prompt_id"]], {"role": "assistant", "content": row["text"]}],
            )
        )
        for row in given.iter_rows(named=True)
    ]
    assert found == [tokens > LIMIT for tokens in counted]
    assert 6 < sum(found) < len(found) - 6


def test_answers_that_fit_by_their_bytes_are_not_rendered(tokenizer, prompts, monkeypatch):
    rendered = []
    monkeypatch.setattr(
        "fusion.selection.fitting.render_conversation", lambda *given: rendered.append(given) or []
    )
    assert not Room(tokenizer, 100_000).too_long(answers(), prompts).any()
    assert rendered == []


def test_no_answers_give_no_verdicts(tokenizer, prompts):
    found = Room(tokenizer, LIMIT).too_long(answers().clear(), prompts)
    assert (found.len(), found.dtype) == (0, pl.Boolean)
