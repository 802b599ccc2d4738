"""Which recipes can give no row, whatever is answered, and which only look so."""

import pytest

from fusion.recipe import Recipe
from fusion.selection import why_no_rows

SOURCE = {"name": "one", "model": "owner/one", "revision": "v1"}
OTHER = SOURCE | {"name": "two"}
IMPORTED = {
    "name": "two",
    "kind": "imported",
    "path": "a.jsonl",
    "fields": {"text": "t", "prompt": "q"},
}
HIGH = {"low": None, "high": -1}
CROSS = {"pair_scope": "cross_source"}


def _why(*, sources=(SOURCE,), domains=None, reward=True, selection=None, **dataset):
    """Why a recipe of one data set gives no row; its domain is instruction unless said."""
    chat = {"name": "chat", "path": "p", "domain": "instruction", "fields": {"prompt": "q"}}
    return why_no_rows(
        Recipe.model_validate(
            {
                "name": "small",
                "target": {"model": "owner/target", "revision": "v1"},
                "sources": list(sources),
                "datasets": [chat | dataset],
                "reward": {"model": "owner/reward", "revision": "v1"} if reward else None,
                "selection": {"domains": domains or {}, **(selection or {})},
            }
        )
    )


def _policy(**keys):
    return {"instruction": keys}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sources": [SOURCE | {"domains": []}]}, "no source is asked"),
        ({"sources": [SOURCE | {"samples": {"instruction": 0}}]}, "no source is asked"),
        ({"samples": 1}, "a pair needs 2 answers .* same_source, and at most 1 are asked for"),
        ({"samples": 1, "sources": [SOURCE, OTHER]}, "at most 1 are"),
        ({"selection": {"min_answers": 5}}, "a pair needs 5 answers .* at most 4"),
        ({"selection": CROSS}, "cross_source needs two sources"),
        ({"selection": CROSS | {"pairs_from": ["one"]}, "sources": [SOURCE, OTHER]}, "needs two"),
        ({"selection": {"margin": HIGH}}, "high is -1, and chosen is never worse"),
        ({"domains": _policy(margin=HIGH)}, "high is -1"),
        ({"samples": 1, "domains": _policy(share_of="answered", sft_share=0)}, "at most 1"),
    ],
)
def test_no_row_is_possible(keys, said):
    why = _why(**keys)
    assert why is not None
    for part in said.split(" .* "):
        assert part in why


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"split": "test"},
        {"domains": _policy(sft_share=0)},
        {"domains": _policy(sft_share=1)},
        {"domains": _policy(pairs=False), "samples": 1},
        {"domains": _policy(keep_unpaired=True), "samples": 1},
        {"domains": _policy(share_of="answered"), "samples": 1},
        {"domains": _policy(split="overlap"), "samples": 1},
        {"domain": "math", "samples": 1},
        {"domain": "chinese", "samples": 1},
        {"selection": {"min_answers": 4}},
        {"selection": {"margin": {"low": 0, "high": 0}}},
        {"selection": {"margin": HIGH}, "reward": False},
        {"selection": {"margin": HIGH, **CROSS}, "sources": [SOURCE, OTHER]},
        {"selection": {"margin": HIGH}, "domains": _policy(margin=False)},
        {"selection": {"margin": HIGH}, "domains": _policy(judge="verdict")},
        {"selection": {"pair_scope": "pooled"}, "samples": 1, "sources": [SOURCE, OTHER]},
        {"selection": CROSS, "samples": 1, "sources": [SOURCE, OTHER]},
        {"sources": [SOURCE, IMPORTED], "samples": 1},
        {"sources": [IMPORTED], "selection": {"min_answers": 50}},
        {"sources": [SOURCE | {"samples": {"instruction": 2}}], "samples": 1},
    ],
)
def test_a_row_is_possible(keys):
    assert _why(**keys) is None


def test_one_data_set_that_can_give_a_row_is_enough():
    raw = {"name": "other", "path": "p", "domain": "chinese", "fields": {"prompt": "q"}}
    chat = raw | {"name": "chat", "domain": "instruction", "samples": 1}
    sections = {"name": "small", "target": {"model": "owner/t", "revision": "v1"}}
    sections |= {"sources": [SOURCE], "datasets": [chat, raw]}
    assert why_no_rows(Recipe.model_validate(sections)) is None
