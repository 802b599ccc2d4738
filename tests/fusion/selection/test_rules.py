"""Each rule by its name, at its edge."""

import dataclasses

import polars as pl
import pytest

from fusion.recipe import Selection


def pair(selected):
    """The one pair of the selection: source, texts, margin."""
    (row,) = selected.preferences.to_dicts()
    return row["source"], row["chosen"][0]["content"], row["rejected"][0]["content"]


def best(selected):
    (row,) = selected.sft.to_dicts()
    return row["source"], row["messages"][-1]["content"]


def lost(selected, source="alpha"):
    """The rules at which a source's answers and pairs were lost."""
    (row,) = [row for row in selected.yields.sources if row.source == source]
    return row.answers_dropped, row.pairs_dropped


PAIRS = {"domains": {"instruction": {"sft_share": 0.0}}}
SFT = {"domains": {"instruction": {"sft_share": 1.0}}}


@pytest.fixture
def two(answer):
    """Two answers of one source with the given rewards."""

    def build(low, high, **changes):
        return [
            answer("instruction/1", index=0, text="poor", reward=low),
            answer("instruction/1", index=1, text="good", reward=high, **changes),
        ]

    return build


def test_pair_is_the_highest_against_the_lowest_of_one_source(world, answer):
    answers = [
        answer("instruction/1", "alpha", i, f"alpha {i}", r)
        for i, r in enumerate([0.1, 0.12, 0.15])
    ] + [answer("instruction/1", "beta", 0, "beta", 0.9)]
    assert pair(world(answers, **PAIRS).select()) == ("alpha", "alpha 2", "alpha 0")


def test_best_reply_is_the_highest_of_all_sources(world, two, answer):
    answers = [*two(0.1, 0.15), answer("instruction/1", "beta", 0, "beta", 0.9)]
    assert best(world(answers, **SFT).select()) == ("beta", "beta")


@pytest.mark.parametrize(
    ("low", "high", "rule"),
    [
        (0.1, 0.11, None),
        (0.2, 0.30000000000000004, None),
        (0.3, 0.4, None),
        (0.1, 0.1099, "margin_low"),
        (0.1, 0.2001, "margin_high"),
    ],
)
def test_margin_is_inclusive_at_both_bounds(world, two, low, high, rule):
    selected = world(two(low, high), **PAIRS).select()
    assert lost(selected)[1] == ({rule: 1} if rule else {})
    assert selected.preferences.height == (0 if rule else 1)


@pytest.mark.parametrize(("high", "rule"), [(0.11, "margin_low"), (0.2, "margin_high")])
def test_margin_may_leave_its_bounds_out(world, two, high, rule):
    selected = world(two(0.1, high), margin={"inclusive": False}, **PAIRS).select()
    assert lost(selected)[1] == {rule: 1}


@pytest.mark.parametrize(
    ("margin", "rule"),
    [({"low": None}, None), ({"low": -1.0}, None), ({"low": 0.0, "high": None}, "margin_low")],
)
def test_a_bound_may_be_left_open(world, answer, margin, rule):
    """The correct answer has the lower reward."""
    answers = math(answer, "alpha", (0.1, "correct"), (0.4, "wrong"))
    selected = world(answers, datasets=("math",), margin=margin).select()
    assert lost(selected)[1] == ({rule: 1} if rule else {})


def test_margin_slack_covers_rounding_and_no_more(world, two):
    assert 0.7 - 0.6 < 0.1 < 0.8 - 0.7
    assert world(two(0.7, 0.8), **PAIRS).select().preferences.height == 1
    assert world(two(0.7, 0.8 + 1e-8), **PAIRS).select().preferences.height == 0


def test_margin_may_be_given_as_quantiles(world, answer):
    answers = []
    for number in range(11):
        prompt = f"instruction/{number:02}"
        answers.append(answer(prompt, index=0, text="poor", reward=0.0))
        answers.append(answer(prompt, index=1, text="good", reward=float(number + 1)))
    selected = world(
        answers, margin={"low": 0.1, "high": 0.9, "unit": "quantile"}, **PAIRS
    ).select()
    assert selected.yields.margins == {"instruction": (2.0, 10.0)}
    assert selected.preferences["margin"].to_list() == [float(m) for m in range(2, 11)]


@pytest.mark.parametrize(("margin", "pairs"), [({"low": 0.5, "high": 1}, 1), (False, 1), (True, 0)])
def test_a_domain_may_have_a_margin_of_its_own_or_none(world, two, margin, pairs):
    domains = {"instruction": {"sft_share": 0.0, "margin": margin}}
    assert world(two(0.0, 0.7), domains=domains).select().preferences.height == pairs


def test_a_domain_s_margin_takes_the_bound_it_leaves_open_from_the_selection():
    selection = Selection.model_validate(
        {"margin": {"low": 0.2, "high": 3.0}, "domains": {"math": {"margin": {"low": 0.5}}}}
    )
    assert (selection.bounds("math").low, selection.bounds("math").high) == (0.5, 3.0)
    assert Selection.model_validate(selection.model_dump(mode="json")) == selection


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        ({"margin": {"unit": "quantile"}}, "needs low and high"),
        ({"margin": {"low": 0.5}}, "low 0.5 is above high 0.1"),
        ({"margin": {"low": 0, "high": 2, "unit": "quantile"}}, "from 0 to 1"),
        ({"domains": {"math": {"margin": {"low": 0, "unit": "quantile"}}}}, "low and high of its"),
        ({"min_answers": 1}, "greater than or equal to 2"),
    ],
)
def test_margins_that_make_no_sense_are_refused(selection, sentence):
    with pytest.raises(ValueError, match=sentence):
        Selection.model_validate(selection)


def test_a_policy_changes_its_preset_and_survives_a_dump():
    selection = Selection.model_validate({"domains": {"math": {"keep_unpaired": True}}})
    assert (selection.policy("math").judge, selection.policy("math").split) == (
        "verdict",
        "pairs_first",
    )
    assert Selection.model_validate(selection.model_dump(mode="json")) == selection


def test_judge_none_with_pairs_is_refused():
    with pytest.raises(ValueError, match="add pairs: false"):
        Selection.model_validate({"domains": {"instruction": {"judge": "none"}}})


def test_ties_go_to_the_shorter_text_then_the_lower_index(world, answer):
    def of(*answers):
        return best(world([answer("instruction/1", *a) for a in answers], **SFT).select())

    worst = ("alpha", 9, "worst", 0.1)
    assert of(worst, ("alpha", 0, "long", 0.2), ("alpha", 1, "bit", 0.2)) == ("alpha", "bit")
    assert of(worst, ("alpha", 1, "one", 0.2), ("alpha", 0, "two", 0.2)) == ("alpha", "two")
    assert of(worst, ("beta", 0, "one", 0.2), ("alpha", 0, "two", 0.2)) == ("alpha", "two")
    assert of(worst, ("beta", 0, "one", 0.2), ("alpha", 1, "two", 0.2)) == ("beta", "one")


def test_ties_may_pass_over_length(world, answer):
    answers = [answer("instruction/1", "alpha", i, text, 0.2) for i, text in enumerate(("ab", "c"))]
    answers.append(answer("instruction/1", "alpha", 2, "worst", 0.1))
    assert best(world(answers, **SFT).select()) == ("alpha", "c")
    assert best(world(answers, ties="first", **SFT).select()) == ("alpha", "ab")


def test_ties_of_rejected_go_to_the_shorter_text_then_the_lower_index(world, answer):
    def of(*answers):
        built = [answer("instruction/1", "alpha", 9, "best", 0.2)]
        built += [answer("instruction/1", "alpha", i, text, 0.15) for i, text in answers]
        return pair(world(built, **PAIRS).select())[2]

    assert of((0, "long"), (1, "bit")) == "bit"
    assert of((1, "one"), (0, "two")) == "two"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"text": " \n"}, "empty"),
        ({"finish_reason": "length"}, "truncated"),
        ({"finish_reason": "abort"}, "truncated"),
        ({"reward": None}, "no_reward"),
        ({"reward": float("nan")}, "no_reward"),
        ({"reward": float("inf")}, "no_reward"),
    ],
)
def test_unusable_answers_are_left_out_and_counted(world, answer, changes, rule):
    bad = answer("instruction/1", index=1, text="good", reward=0.15)._replace(**changes)
    selected = world([answer("instruction/1", text="poor", reward=0.1), bad], **PAIRS).select()
    assert lost(selected) == ({rule: 1}, {"single_answer": 1})


def test_truncated_answers_stay_where_the_recipe_keeps_them(world, two):
    answers = two(0.1, 0.15, finish_reason="length")
    assert world(answers, drop_truncated=False, **PAIRS).select().preferences.height == 1


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "Sorry, I am unable to do that.",
        "As an AI language model, I cannot do that.",
        "很抱歉，我无法回答这个问题。",
    ],
)
def test_refusals_are_left_out_unless_the_recipe_keeps_them(world, answer, text):
    answers = [answer("instruction/1", text=text, reward=0.1)]
    assert lost(world(answers).select())[0] == {"refused": 1}
    assert lost(world(answers, drop_refusals=False).select())[0] == {}


@pytest.mark.parametrize("text", ["I cannot recommend it enough.", "A sorry sight. It can't be."])
def test_an_answer_is_no_refusal_for_its_words_alone(world, answer, text):
    answers = [answer("instruction/1", text=text, reward=0.1)]
    assert lost(world(answers, drop_refusals=True).select())[0] == {}


def test_missing_or_contradictory_verdict_is_left_out(world, answer):
    built = world(
        [
            answer("math/1", index=i, text=f"{i}", reward=0.1, verdict=v)
            for i, v in enumerate([None, "correct", "wrong"])
        ],
        datasets=("math",),
    )
    assert lost(built.select())[0] == {"no_verdict": 1}
    recheck = built.scores.filter(pl.col("verdict") == "wrong").with_columns(
        verdict=pl.lit("correct")
    )
    twice = dataclasses.replace(built, scores=pl.concat([built.scores, recheck]))
    assert lost(twice.select())[0] == {"no_verdict": 2}


def test_duplicates_of_one_source_are_left_out_and_of_another_kept(world, answer):
    answers = [
        answer("instruction/1", source, index, "same", 0.1)
        for source in ("alpha", "beta")
        for index in (0, 1)
    ]
    answers.append(answer("instruction/1", "gamma", 0, "another", 0.1))
    selected = world(answers, **SFT).select()
    assert lost(selected, "alpha")[0] == lost(selected, "beta")[0] == {"duplicate": 1}
    kept = world(answers, drop_duplicates=False, **SFT).select()
    assert lost(kept, "alpha")[0] == lost(kept, "beta")[0] == {}


def test_a_prompt_whose_answers_are_all_one_text_is_dropped(world, answer):
    answers = [
        answer("math/1", source, 0, "4", 0.1, "correct") for source in ("alpha", "beta", "gamma")
    ]
    (prompts,) = world(answers, datasets=("math",)).select().yields.prompts
    assert prompts.dropped == {"identical": 1}
    kept = world(answers, datasets=("math",), domains={"math": {"drop_identical": False}}).select()
    assert best(kept) == ("alpha", "4")


def test_one_answer_alone_is_not_identical(world, answer):
    answers = [
        answer("math/1", "alpha", 0, "4", 0.1, "correct"),
        answer("math/1", "beta", 0, "4", None, "correct"),
    ]
    assert best(world(answers, datasets=("math",)).select()) == ("alpha", "4")


def test_a_duplicate_of_an_unusable_answer_stays(world, answer):
    answers = [
        answer("instruction/1", index=0, text="same", reward=None),
        answer("instruction/1", index=1, text="same", reward=0.1),
    ]
    assert lost(world(answers).select())[0] == {"no_reward": 1}


def test_pair_of_equal_texts_but_for_white_space_is_dropped(world, answer):
    answers = [
        answer("instruction/1", index=0, text="same", reward=0.1),
        answer("instruction/1", index=1, text=" same\n", reward=0.15),
    ]
    assert lost(world(answers, **PAIRS).select())[1] == {"same_text": 1}
    kept = world(answers, drop_same_text=False, **PAIRS).select()
    assert pair(kept) == ("alpha", " same\n", "same")


def test_an_answer_is_never_paired_with_itself(world, answer):
    answers = [answer("instruction/1", index=i, text=t, reward=0.1) for i, t in enumerate("ab")]
    domains = {"instruction": {"margin": False, "sft_share": 0.0}}
    selected = world(answers, drop_same_text=False, domains=domains).select()
    assert lost(selected)[1] == {"same_text": 1}


def math(answer, source, *rewards_and_verdicts):
    return [
        answer("math/1", source, i, f"{source} {i}", r, v)
        for i, (r, v) in enumerate(rewards_and_verdicts)
    ]


def test_verdict_chooses_among_correct_and_rejects_among_wrong(world, answer):
    answers = math(
        answer, "alpha", (0.9, "wrong"), (0.15, "correct"), (0.1, "wrong"), (0.01, "correct")
    )
    selected = world(answers, datasets=("math",)).select()
    assert pair(selected) == ("alpha", "alpha 1", "alpha 2")
    assert selected.sft.is_empty()


def test_prompt_without_a_pair_becomes_sft_in_math(world, answer):
    answers = math(answer, "alpha", (0.1, "correct"), (0.2, "correct"))
    selected = world(answers, datasets=("math",)).select()
    assert best(selected) == ("alpha", "alpha 1")
    assert lost(selected)[1] == {"no_wrong": 1}


def test_prompt_that_nobody_solves_is_dropped(world, answer):
    selected = world(math(answer, "alpha", (0.1, "wrong"), (0.2, "wrong")), datasets=("math",))
    (prompts,) = selected.select().yields.prompts
    assert prompts.dropped == {"no_correct_answer": 1}


def test_code_has_no_margin_and_its_tables_overlap(world, answer):
    answers = [
        answer("code/1", index=0, text="right", reward=0.0, verdict="correct"),
        answer("code/1", index=1, text="broken", reward=0.9, verdict="wrong"),
    ]
    selected = world(answers, datasets=("code",)).select()
    assert pair(selected) == ("alpha", "right", "broken")
    assert best(selected) == ("alpha", "right")
    assert selected.yields.prompts[0].both == 1


def test_without_a_reward_model_verdicts_judge_and_ties_go_by_length(world, answer):
    answers = [
        answer("math/1", index=0, text="long answer", verdict="correct"),
        answer("math/1", index=1, text="short", verdict="correct"),
        answer("math/1", index=2, text="a wrong one", verdict="wrong"),
        answer("math/1", index=3, text="wrong", verdict="wrong"),
    ]
    assert pair(world(answers, datasets=("math",), has_reward=False).select()) == (
        "alpha",
        "short",
        "wrong",
    )


def test_unjudged_answers_go_by_source_then_index_not_by_length(world, answer):
    answers = [
        answer("chinese/1", "beta", 0, "x"),
        answer("chinese/1", "alpha", 2, "a short one"),
        answer("chinese/1", "alpha", 1, "a longer one than that"),
    ]
    built = world(answers, datasets=("chinese",))
    assert best(built.select()) == ("alpha", "a longer one than that")
    answers[0] = answers[0]._replace(reward=0.1)
    assert best(world(answers, datasets=("chinese",)).select()) == ("beta", "x")


SPREAD = [
    ("alpha", 0.50, 0.48),
    ("beta", 0.40, 0.35),
    ("gamma", 0.50, 0.46),
]


@pytest.fixture
def three(answer):
    """A valid pair of every source; alpha and gamma tie in the highest reward."""
    return [
        answer("instruction/1", source, index, f"{source} {index}", reward)
        for source, *rewards in SPREAD
        for index, reward in enumerate(rewards)
    ]


def test_pair_source_best_chosen_breaks_ties_by_margin(world, three):
    selected = world(three, **PAIRS).select()
    assert pair(selected)[0] == "gamma"
    assert lost(selected, "alpha")[1] == lost(selected, "beta")[1] == {"other_source": 1}


def test_pair_source_max_margin(world, three):
    assert pair(world(three, pair_source="max_margin", **PAIRS).select())[0] == "beta"


def test_pair_source_random_belongs_to_seed_and_prompt(world, three):
    picks = [
        pair(world(three, pair_source="random", seed=seed, **PAIRS).select())[0]
        for seed in range(12)
    ]
    assert set(picks) == {"alpha", "beta", "gamma"}
    again = [
        pair(world(three[::-1], pair_source="random", seed=seed, **PAIRS).select())[0]
        for seed in range(12)
    ]
    assert picks == again


def test_pair_source_all_gives_a_pair_of_every_source(world, three):
    selected = world(three, pair_source="all", **PAIRS).select()
    assert selected.preferences["source"].to_list() == ["alpha", "beta", "gamma"]
    assert selected.preferences["pair_id"].n_unique() == 3
    (prompts,) = selected.yields.prompts
    assert (prompts.pairs, [source.pairs for source in selected.yields.sources]) == (1, [1, 1, 1])


def pairs_of(selected):
    rows = selected.preferences.to_dicts()
    return [(row["source"], row["rejected_source"], row["rejected"][0]["content"]) for row in rows]


WIDE = {"margin": {"low": 0.01, "high": 1.0}, **PAIRS}


def test_cross_source_pairs_with_the_lowest_of_the_others(world, three):
    selected = world(three, pair_scope="cross_source", pair_source="all", **WIDE).select()
    assert pairs_of(selected) == [("alpha", "beta", "beta 1"), ("gamma", "beta", "beta 1")]
    # the best of beta is lower than the lowest of the others
    assert lost(selected, "beta")[1] == {"margin_low": 1}


def test_pooled_pairs_with_the_lowest_of_all(world, three):
    selected = world(three, pair_scope="pooled", **WIDE).select()
    assert pairs_of(selected) == [("alpha", "beta", "beta 1")]


def test_cross_source_makes_pairs_of_single_answers(world, answer):
    answers = [
        answer("instruction/1", source, 0, source, reward)
        for source, reward in (("alpha", 0.1), ("beta", 0.15))
    ]
    assert lost(world(answers, **PAIRS).select())[1] == {"single_answer": 1}
    selected = world(answers, pair_scope="cross_source", **PAIRS).select()
    assert pairs_of(selected) == [("beta", "alpha", "alpha")]


def test_cross_source_needs_another_source(world, two):
    selected = world(two(0.1, 0.15), pair_scope="cross_source", **PAIRS).select()
    assert lost(selected)[1] == {"no_rival": 1}


def test_sources_without_pairs_are_not_rejected_either(world, three):
    options = {"pair_scope": "pooled", "pairs_from": ("alpha", "gamma"), **WIDE}
    assert pairs_of(world(three, **options).select()) == [("alpha", "gamma", "gamma 1")]


def test_rejected_lowest_in_range_looks_over_the_whole_scope(world, three):
    options = {"pair_scope": "pooled", "rejected": "lowest_in_range", **PAIRS}
    selected = world(three, margin={"low": 0.01, "high": 0.05}, **options).select()
    assert pairs_of(selected) == [("alpha", "gamma", "gamma 1")]


def test_min_answers_asks_more_of_a_pair(world, two):
    assert lost(world(two(0.1, 0.15), min_answers=3, **PAIRS).select())[1] == {"single_answer": 1}


def test_share_of_answered_splits_before_it_filters(world, answer):
    answers = [
        answer(f"instruction/{number}", index=i, text=f"{i}", reward=reward)
        for number in range(10)
        for i, reward in enumerate((0.1, 0.15 if number < 5 else 0.9))
    ]
    domains = {"instruction": {"share_of": "answered"}}
    (prompts,) = world(answers, domains=domains).select().yields.prompts
    # floor(0.4 * 10) of all, and of the six others those with a pair
    assert prompts.sft == 4
    assert prompts.pairs + prompts.dropped["margin_high"] == 6
    (filtered,) = world(answers).select().yields.prompts
    assert (filtered.sft, filtered.pairs, filtered.dropped) == (2, 3, {"margin_high": 5})


def test_pairs_from_limits_pairs_and_not_the_best_reply(world, three):
    selected = world(three, pairs_from=("beta",), **PAIRS).select()
    assert pair(selected)[0] == "beta"
    assert lost(selected, "gamma")[1] == {"source_without_pairs": 1}
    assert best(world(three, pairs_from=("beta",), **SFT).select())[0] == "alpha"


def test_rejected_lowest_in_range_looks_for_another(world, answer):
    answers = [
        answer("instruction/1", index=i, text=f"{i}", reward=r)
        for i, r in enumerate([0.5, 0.495, 0.45, 0.42, 0.1])
    ]
    assert lost(world(answers, **PAIRS).select())[1] == {"margin_high": 1}
    selected = world(answers, rejected="lowest_in_range", **PAIRS).select()
    assert pair(selected) == ("alpha", "0", "3")


def test_prompts_of_unknown_data_sets_and_answers_of_unknown_sources_are_errors(world, answer):
    built = world([answer("instruction/1", reward=0.1)])
    with pytest.raises(ValueError, match="data sets"):
        dataclasses.replace(built, prompts=built.prompts.with_columns(dataset=pl.lit("x"))).select()
    with pytest.raises(ValueError, match="sources"):
        dataclasses.replace(
            built, responses=built.responses.with_columns(source=pl.lit("x"))
        ).select()


def test_unanswered_prompts_are_counted(world, answer):
    built = world([answer("instruction/1", reward=None)], prompts=["instruction/2"])
    (prompts,) = built.select().yields.prompts
    assert prompts.dropped == {"unanswered": 1, "no_usable_answer": 1}
