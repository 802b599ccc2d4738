"""The rules once more as plain loops, and what must hold whatever hypothesis draws."""

import dataclasses
import hashlib
import math
import random
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

DOMAINS = ("instruction", "math", "code", "chinese")
REWARDS = (None, math.nan, 0.0, 0.01, 0.02, 0.1, 0.11, 0.12, 0.3)
TEXTS = ("", " ", "a", "b", " a", "bb", "ccc", "dddd")

SOURCES = ("alpha", "beta", "gamma")
NUM_PROMPTS = 30

policies = st.fixed_dictionaries(
    {},
    optional={
        "split": st.sampled_from(("share", "pairs_first", "overlap")),
        "sft_share": st.sampled_from((0.0, 0.29, 0.4, 0.5, 1.0)),
        "keep_unpaired": st.booleans(),
        "margin": st.one_of(st.booleans(), st.just({"low": 0.0, "high": 0.2})),
    },
)
selections = st.fixed_dictionaries(
    {},
    optional={
        "domains": st.dictionaries(st.sampled_from(DOMAINS), policies),
        "pair_source": st.sampled_from(("best_chosen", "max_margin", "random")),
        "rejected": st.sampled_from(("lowest", "lowest_in_range")),
        "pairs_from": st.sampled_from((("alpha",), ("beta", "gamma"))),
        "drop_truncated": st.booleans(),
        "seed": st.integers(0, 3),
    },
)
seeds = st.integers(0, 1 << 32)
lavish = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="session")
def grown(world, answer):
    """A world by seed: some prompts with flawless answers, some with any, some with none."""

    def build(seed, /, **options):
        rng, answers, ids = random.Random(seed), [], []
        for number in range(rng.randint(1, NUM_PROMPTS)):
            ids.append(f"{rng.choice(DOMAINS)}/{number}")
            flaws = rng.choice((0.0, 0.0, 0.3, 1.0))
            for source in SOURCES:
                for index in range(rng.choice((0, 1, 3, 4))):
                    answers.append(draw_answer(answer(ids[-1], source, index), rng, flaws))
        rng.shuffle(answers)
        return world(answers, prompts=ids, datasets=DOMAINS, **options), answers

    return build


def draw_answer(answer, rng, flaws):
    sound = answer._replace(
        text=rng.choice("abcdefg") * rng.randint(1, 4),
        reward=rng.choice((0.3, 0.31, 0.32, 0.4)),
        verdict=rng.choice(("correct", "wrong")),
    )
    if rng.random() >= flaws:
        return sound
    return answer._replace(
        text=rng.choice(TEXTS),
        reward=rng.choice(REWARDS),
        verdict=rng.choice((None, "correct", "wrong")),
        finish_reason=rng.choice(("stop", "stop", "length")),
    )


def usable_answers(answers, judge, recipe):
    usable, seen = [], set()
    for a in sorted(answers, key=lambda a: (a.source, a.index)):
        reward = a.reward if a.reward is not None and math.isfinite(a.reward) else None
        reward = reward if recipe.reward else None
        if not a.text.strip():
            continue
        if a.finish_reason == "length" and recipe.selection.drop_truncated:
            continue
        if recipe.reward and judge != "none" and reward is None:
            continue
        if judge == "verdict" and a.verdict is None:
            continue
        if (a.source, a.text) in seen:
            continue
        seen.add((a.source, a.text))
        usable.append(a._replace(reward=reward))
    return usable


def best_key(a, judge, order):
    if judge == "none" and a.reward is None:
        return (1, 0, 0, 0, order[a.source], a.index)
    reward = 0.0 if a.reward is None else -a.reward
    return (0, reward, len(a.text), a.index, order[a.source], 0)


def worst_key(a):
    return (0.0 if a.reward is None else a.reward, len(a.text), a.index)


def source_pair(answers, judge, band, mode):
    """Chosen, rejected and margin of one source, or None."""
    if len(answers) < 2:
        return None
    order = {a.source: 0 for a in answers}
    winners = [a for a in answers if judge != "verdict" or a.verdict == "correct"]
    losers = [a for a in answers if judge != "verdict" or a.verdict == "wrong"]
    if not winners or not losers:
        return None
    chosen = min(winners, key=lambda a: best_key(a, judge, order))

    def margin_to(a):
        return None if chosen.reward is None else chosen.reward - a.reward

    def is_inside(a):
        if band is None or margin_to(a) is None:
            return True
        return band.low - 1e-9 <= margin_to(a) <= band.high + 1e-9

    inside = [a for a in losers if is_inside(a)]
    pool = inside if mode == "lowest_in_range" and inside else losers
    rejected = min(pool, key=worst_key)
    if chosen.text.strip() == rejected.text.strip() or not is_inside(rejected):
        return None
    return chosen, rejected, margin_to(rejected)


def hash_of(seed, text):
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()[:16]


def pick(pairs, selection, order, prompt):
    def key(pair):
        chosen, _, margin = pair
        if selection.pair_source == "random":
            return (hash_of(selection.seed, f"{prompt}/{chosen.source}"),)
        figures = [-(chosen.reward or 0.0), -(margin or 0.0)]
        if selection.pair_source == "max_margin":
            figures.reverse()
        return (*figures, order[chosen.source])

    return min(pairs, key=key, default=None)


def oracle(recipe, ids, answers):
    """{prompt: best answer} and {prompt: (chosen, rejected, margin)}."""
    selection, order = recipe.selection, {s.name: i for i, s in enumerate(recipe.sources)}
    best, pairs, sft, preferences = {}, {}, {}, {}
    for prompt in ids:
        policy = selection.policy(prompt.split("/")[0])
        judge = policy.judge
        if judge == "reward" and recipe.reward is None:
            judge = "verdict"
        usable = usable_answers([a for a in answers if a.prompt == prompt], judge, recipe)
        winners = [a for a in usable if judge != "verdict" or a.verdict == "correct"]
        if winners:
            best[prompt] = min(winners, key=lambda a: best_key(a, judge, order))
        if not policy.pairs:
            continue
        found = []
        for source in selection.pairs_from or order:
            mine = [a for a in usable if a.source == source]
            band = selection.bounds(prompt.split("/")[0])
            pair = source_pair(mine, judge, band, selection.rejected)
            found += [pair] if pair else []
        if found:
            pairs[prompt] = pick(found, selection, order, prompt)
    for domain in DOMAINS:
        policy = selection.policy(domain)
        mine = [p for p in ids if p.startswith(f"{domain}/") and p in best]
        paired = sorted((p for p in mine if p in pairs), key=lambda p: hash_of(selection.seed, p))
        quota = math.floor(Fraction(str(policy.sft_share)) * len(paired))
        for prompt in mine:
            if prompt not in pairs:
                unpaired = policy.split != "share" or policy.keep_unpaired or not policy.pairs
                to_sft, to_pairs = unpaired, False
            elif policy.split == "share":
                to_sft = paired.index(prompt) < quota
                to_pairs = not to_sft
            else:
                to_sft, to_pairs = policy.split == "overlap", True
            if to_sft:
                sft[prompt] = best[prompt]
            if to_pairs:
                preferences[prompt] = pairs[prompt]
    return sft, preferences


@lavish
@given(seed=seeds, selection=selections, has_reward=st.booleans())
def test_the_rules_equal_plain_loops(grown, seed, selection, has_reward):
    built, answers = grown(seed, has_reward=has_reward, **selection)
    selected = built.select()
    sft, preferences = oracle(built.recipe, built.prompts["prompt_id"].to_list(), answers)
    assert {
        row["prompt_id"]: (row["source"], row["messages"][-1]["content"], row["reward"])
        for row in selected.sft.to_dicts()
    } == {prompt: (a.source, a.text, a.reward) for prompt, a in sft.items()}
    assert {
        row["prompt_id"]: (
            row["source"],
            row["chosen"][0]["content"],
            row["rejected"][0]["content"],
            row["margin"],
        )
        for row in selected.preferences.to_dicts()
    } == {
        prompt: (chosen.source, chosen.text, rejected.text, margin)
        for prompt, (chosen, rejected, margin) in preferences.items()
    }


@lavish
@given(seed=seeds, selection=selections)
def test_order_and_sharding_change_nothing(grown, seed, selection):
    built, _ = grown(seed, **selection)
    expected = built.select()
    frames = {
        name: reshard(getattr(built, name), random.Random(seed))
        for name in ("prompts", "responses", "scores")
    }
    selected = dataclasses.replace(built, **frames).select()
    assert_frame_equal(selected.sft, expected.sft)
    assert_frame_equal(selected.preferences, expected.preferences)
    assert selected.yields == expected.yields


def reshard(frame, rng):
    order = list(range(frame.height))
    rng.shuffle(order)
    shuffled = frame[order] if order else frame
    cut = rng.randint(0, frame.height)
    return pl.concat([shuffled[:cut], shuffled[cut:]], rechunk=False)


@lavish
@given(seed=seeds, selection=selections)
def test_yields_balance(grown, seed, selection):
    built, answers = grown(seed, **selection)
    selected = built.select()
    for row in selected.yields.prompts:
        assert row.prompts == row.sft + row.pairs - row.both + sum(row.dropped.values())
    for row in selected.yields.sources:
        assert row.prompts == row.pairs + sum(row.pairs_dropped.values())
        assert 0 <= sum(row.answers_dropped.values()) <= row.answers
    assert sum(row.answers for row in selected.yields.sources) == len(answers)
    assert sum(row.prompts for row in selected.yields.prompts) == built.prompts.height
    for name, table in (("sft", selected.sft), ("pairs", selected.preferences)):
        assert sum(getattr(row, name) for row in selected.yields.prompts) == table.height
        assert sum(getattr(row, name) for row in selected.yields.sources) == table.height


@lavish
@given(seed=seeds, selection=selections)
def test_a_prompt_has_one_record_a_table_and_one_in_all_unless_they_overlap(grown, seed, selection):
    built, _ = grown(seed, **selection)
    selected = built.select()
    sft, preferences = (
        table["prompt_id"].to_list() for table in (selected.sft, selected.preferences)
    )
    assert len(set(sft)) == len(sft)
    assert len(set(preferences)) == len(preferences)
    for prompt in set(sft) & set(preferences):
        assert built.recipe.selection.policy(prompt.split("/")[0]).split == "overlap"


@pytest.mark.parametrize(("share", "num_prompts"), [(0.4, 1023), (0.29, 100), (0.0, 7), (1.0, 7)])
def test_share_is_the_floor_and_pairs_get_the_rest(world, answer, share, num_prompts):
    answers = [
        answer(f"instruction/{number}", index=i, text=f"{i}", reward=0.1 + i / 20)
        for number in range(num_prompts)
        for i in (0, 1)
    ]
    answers += [answer(f"instruction/unpaired {i}", reward=0.5) for i in range(10)]
    selected = world(answers, domains={"instruction": {"sft_share": share}}).select()
    floor = math.floor(Fraction(str(share)) * num_prompts)
    assert (selected.sft.height, selected.preferences.height) == (floor, num_prompts - floor)
    (row,) = selected.yields.prompts
    assert row.dropped == {"single_answer": 10}
