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
TEXTS = ("", " ", "a", "b", " a", "bb", "ccc", "dddd", "I cannot help.")

SOURCES = ("alpha", "beta", "gamma")
NUM_PROMPTS = 30

policies = st.fixed_dictionaries(
    {},
    optional={
        "split": st.sampled_from(("share", "pairs_first", "overlap")),
        "sft_share": st.sampled_from((0.0, 0.29, 0.4, 0.5, 1.0)),
        "share_of": st.sampled_from(("paired", "answered")),
        "keep_unpaired": st.booleans(),
        "drop_identical": st.booleans(),
        "margin": st.one_of(
            st.booleans(), st.just({"low": 0.0, "high": 0.2}), st.just({"low": None})
        ),
    },
)
selections = st.fixed_dictionaries(
    {},
    optional={
        "domains": st.dictionaries(st.sampled_from(DOMAINS), policies),
        "margin": st.sampled_from(
            (
                {"inclusive": False},
                {"low": 0.0, "high": None},
                {"low": 0.02, "high": 0.11, "inclusive": False},
            )
        ),
        "pair_scope": st.sampled_from(("same_source", "cross_source", "pooled")),
        "pair_source": st.sampled_from(("best_chosen", "max_margin", "random", "all")),
        "rejected": st.sampled_from(("lowest", "lowest_in_range")),
        "ties": st.sampled_from(("shorter", "first")),
        "pairs_from": st.sampled_from((("alpha",), ("beta", "gamma"))),
        "min_answers": st.sampled_from((2, 3)),
        "drop_truncated": st.booleans(),
        "drop_refusals": st.booleans(),
        "drop_duplicates": st.booleans(),
        "drop_same_text": st.booleans(),
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


def usable_answers(answers, judge, recipe, policy):
    """Those that may be picked, duplicates gone; none where all are one text."""
    sound = [*sound_answers(answers, judge, recipe)]
    if policy.drop_identical and len(sound) > 1 and len({a.text for a in sound}) == 1:
        return []
    if not recipe.selection.drop_duplicates:
        return sound
    first = {}
    for a in sound:
        first.setdefault((a.source, a.text), a)
    return [*first.values()]


def sound_answers(answers, judge, recipe):
    for a in sorted(answers, key=lambda a: (a.source, a.index)):
        reward = a.reward if a.reward is not None and math.isfinite(a.reward) else None
        reward = reward if recipe.reward else None
        if not a.text.strip():
            continue
        if a.finish_reason == "length" and recipe.selection.drop_truncated:
            continue
        if a.text.startswith("I cannot help") and recipe.selection.drop_refusals:
            continue
        if recipe.reward and judge != "none" and reward is None:
            continue
        if judge == "verdict" and a.verdict is None:
            continue
        yield a._replace(reward=reward)


def length_of(a, selection):
    return 0 if selection.ties == "first" else len(a.text)


def best_key(a, judge, order, selection):
    if judge == "none" and a.reward is None:
        return (1, 0, 0, 0, order[a.source], a.index)
    reward = 0.0 if a.reward is None else -a.reward
    return (0, reward, length_of(a, selection), a.index, order[a.source], 0)


def worst_key(a, order, selection):
    reward = 0.0 if a.reward is None else a.reward
    return (reward, length_of(a, selection), a.index, order[a.source])


def scope_of(source, usable, selection, allowed):
    """The answers that one source's best may be paired with."""
    if selection.pair_scope == "same_source":
        return [a for a in usable if a.source == source]
    others = [a for a in usable if a.source in allowed]
    if selection.pair_scope == "cross_source":
        return [a for a in others if a.source != source]
    return others


def source_pair(source, usable, judge, band, selection, order):
    """Chosen, rejected and margin of one source, or None."""
    allowed = selection.pairs_from or tuple(order)
    own = [a for a in usable if a.source == source]
    scope = scope_of(source, usable, selection, allowed)
    counted = own if selection.pair_scope == "same_source" else usable
    if len([a for a in counted if a.source in allowed]) < selection.min_answers:
        return None
    winners = [a for a in own if judge != "verdict" or a.verdict == "correct"]
    losers = [a for a in scope if judge != "verdict" or a.verdict == "wrong"]
    if not winners or not losers:
        return None
    chosen = min(winners, key=lambda a: best_key(a, judge, order, selection))

    def margin_to(a):
        return None if chosen.reward is None else chosen.reward - a.reward

    def is_inside(a):
        if band is None or margin_to(a) is None:
            return True
        slack = 1e-9 if band.inclusive else -1e-9
        is_far = band.high is not None and margin_to(a) > band.high + slack
        is_near = band.low is not None and margin_to(a) < band.low - slack
        return not is_far and not is_near

    inside = [a for a in losers if is_inside(a)]
    pool = inside if selection.rejected == "lowest_in_range" and inside else losers
    rejected = min(pool, key=lambda a: worst_key(a, order, selection))
    is_alike = chosen.text.strip() == rejected.text.strip() and selection.drop_same_text
    if is_alike or chosen == rejected or not is_inside(rejected):
        return None
    return chosen, rejected, margin_to(rejected)


def hash_of(seed, text):
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()[:16]


def pick(pairs, selection, order, prompt):
    """The prompt's pairs, one unless all are wanted."""

    def key(pair):
        chosen, _, margin = pair
        if selection.pair_source == "random":
            return (hash_of(selection.seed, f"{prompt}/{chosen.source}"),)
        figures = [-(chosen.reward or 0.0), -(margin or 0.0)]
        if selection.pair_source == "max_margin":
            figures.reverse()
        return (*figures, order[chosen.source])

    return pairs if selection.pair_source == "all" else [min(pairs, key=key)]


def oracle(recipe, ids, answers):
    """{prompt: best answer} and {prompt: its pairs as (chosen, rejected, margin)}."""
    selection, order = recipe.selection, {s.name: i for i, s in enumerate(recipe.sources)}
    best, pairs, sft, preferences = {}, {}, {}, {}
    for prompt in ids:
        policy = selection.policy(prompt.split("/")[0])
        judge = policy.judge
        if judge == "reward" and recipe.reward is None:
            judge = "verdict"
        mine = [a for a in answers if a.prompt == prompt]
        usable = usable_answers(mine, judge, recipe, policy)
        winners = [a for a in usable if judge != "verdict" or a.verdict == "correct"]
        if winners:
            best[prompt] = min(winners, key=lambda a: best_key(a, judge, order, selection))
        if not policy.pairs:
            continue
        found = []
        for source in selection.pairs_from or order:
            band = selection.bounds(prompt.split("/")[0])
            pair = source_pair(source, usable, judge, band, selection, order)
            found += [pair] if pair else []
        if found:
            pairs[prompt] = pick(found, selection, order, prompt)
    for domain in DOMAINS:
        policy = selection.policy(domain)
        mine = [p for p in ids if p.startswith(f"{domain}/") and p in best]
        shared = [p for p in mine if p in pairs or policy.share_of == "answered"]
        shared.sort(key=lambda p: hash_of(selection.seed, p))
        quota = math.floor(Fraction(str(policy.sft_share)) * len(shared))
        for prompt in mine:
            if policy.split == "share" and prompt in shared[:quota]:
                to_sft, to_pairs = True, False
            elif prompt not in pairs:
                unpaired = policy.split != "share" or policy.keep_unpaired or not policy.pairs
                to_sft, to_pairs = unpaired, False
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
        (
            row["prompt_id"],
            row["source"],
            row["rejected_source"],
            row["chosen"][0]["content"],
            row["rejected"][0]["content"],
            row["margin"],
        )
        for row in selected.preferences.to_dicts()
    } == {
        (prompt, chosen.source, rejected.source, chosen.text, rejected.text, margin)
        for prompt, pairs in preferences.items()
        for chosen, rejected, margin in pairs
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
        num_prompts = table["prompt_id"].n_unique()
        assert sum(getattr(row, name) for row in selected.yields.prompts) == num_prompts
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
    assert selected.preferences["pair_id"].is_unique().all()
    if built.recipe.selection.pair_source != "all":
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
