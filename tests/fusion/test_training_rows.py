"""Token rows: what is learned, and that nothing is cut."""

from pathlib import Path

import pytest

from fusion.chat import load_tokenizer, render_conversation
from fusion.training_rows import pair_rows, sft_rows, split_reply

TARGET = Path(__file__).parents[2] / "rehearsal" / "models" / "target"
PROMPT = [{"role": "user", "content": "Which word comes third: lamp fire night star"}]
REPLY = {"role": "assistant", "content": "night"}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(TARGET))


def test_labels_cover_the_reply_and_its_end_of_turn_once(tokenizer):
    made = sft_rows(tokenizer, [[*PROMPT, REPLY]], max_length=256)
    row = made.rows.to_pylist()[0]
    learned = row["reply_ids"]
    text = tokenizer.decode(learned)
    assert text.startswith("night")
    assert learned.count(tokenizer.eos_token_id) == 1
    assert "lamp" not in text


def test_prompt_and_reply_together_are_the_whole_conversation(tokenizer):
    prompt, reply = split_reply(tokenizer, PROMPT, REPLY)
    assert prompt + reply == render_conversation(tokenizer, [*PROMPT, REPLY])


def test_a_conversation_beyond_max_length_is_dropped_and_counted_not_cut(tokenizer):
    long = {"role": "assistant", "content": "night " * 200}
    made = sft_rows(tokenizer, [[*PROMPT, REPLY], [*PROMPT, long]], max_length=100)
    assert (made.entered, made.rows.num_rows, made.dropped) == (2, 1, {"too_long": 1})


def test_a_pair_is_dropped_when_either_side_is_too_long(tokenizer):
    long = {"role": "assistant", "content": "night " * 200}
    pairs = [
        {"prompt": PROMPT, "chosen": [REPLY], "rejected": [long]},
        {"prompt": PROMPT, "chosen": [long], "rejected": [REPLY]},
    ]
    made = pair_rows(tokenizer, pairs, max_length=100, reference="r")
    assert made.rows.num_rows == 0
    assert made.dropped == {"too_long": 2}


def test_a_long_reply_is_cut_at_its_end_where_the_recipe_says_so_and_counted(tokenizer):
    long = {"role": "assistant", "content": "night " * 200}
    made = sft_rows(tokenizer, [[*PROMPT, REPLY], [*PROMPT, long]], max_length=100, too_long="cut")
    row = made.rows.to_pylist()[1]
    assert (made.rows.num_rows, made.cut, made.dropped) == (2, 1, {})
    assert len(row["prompt_ids"]) + len(row["reply_ids"]) == 100


def test_a_prompt_that_fills_max_length_is_dropped_even_so(tokenizer):
    made = sft_rows(tokenizer, [[*PROMPT, REPLY]], max_length=5, too_long="cut")
    assert (made.rows.num_rows, made.dropped) == (0, {"too_long": 1})


def test_a_pair_of_equal_replies_is_dropped_and_counted(tokenizer):
    pair = {"prompt": PROMPT, "chosen": [REPLY], "rejected": [REPLY]}
    made = pair_rows(tokenizer, [pair], max_length=100, reference="r")
    assert (made.rows.num_rows, made.dropped) == (0, {"same_text": 1})


def test_reply_ids_follow_tokens_and_model(tokenizer):
    pair = {"prompt": PROMPT, "chosen": [REPLY], "rejected": [{**REPLY, "content": "star"}]}
    one = pair_rows(tokenizer, [pair], max_length=100, reference="one").rows.to_pylist()[0]
    two = pair_rows(tokenizer, [pair], max_length=100, reference="two").rows.to_pylist()[0]
    ids = {r[f"{side}_reply_id"] for r in (one, two) for side in ("chosen", "rejected")}
    assert len(ids) == 4
