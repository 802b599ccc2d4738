from dataclasses import replace

import polars as pl
import pytest

from fusion.report.accuracy import measure_accuracy, read_verdicts
from fusion.report.comparison import compare
from fusion.report.headline import best_source, write_headline
from tests.fusion.report.sample import SOURCES, empty_data, sample_data


@pytest.fixture(scope="module")
def data():
    return sample_data(num_train=4, num_test=60)


def headline_of(data):
    verdicts = read_verdicts(data.results)
    return write_headline(data, measure_accuracy(verdicts, data.models), verdicts)


def verdict_rows(ours, theirs, domain="math"):
    models = {"dpo": ours, "base": theirs}
    return pl.DataFrame(
        [
            {"prompt_id": f"{domain}-{i}", "domain": domain, "model": model, "is_correct": correct}
            for model, verdicts in models.items()
            for i, correct in enumerate(verdicts)
        ]
    )


def test_headline_sets_fused_against_base_and_best_source(data):
    headline = headline_of(data)
    assert headline.sentence.startswith("Fusion takes the target from ")
    assert "the best source, coder, has " in headline.sentence
    assert [c.other for c in headline.comparisons] == ["the target before fusion", "coder"]
    assert headline.comparisons[0].tone == "better"
    assert [c.overlap for c in headline.comparisons] == ["lie apart", "overlap"]


def test_sft_is_the_fused_model_where_dpo_did_not_run(data):
    without_dpo = replace(data, results=data.results.filter(pl.col("model") != "dpo"))
    assert headline_of(without_dpo).sentence != headline_of(data).sentence
    assert headline_of(without_dpo).sentence.startswith("Fusion takes")


def test_a_source_that_was_not_asked_in_every_domain_is_not_the_best(data):
    is_left_out = (pl.col("model") == "coder") & (pl.col("domain") == "math")
    verdicts = read_verdicts(data.results.filter(~is_left_out))
    accuracy = measure_accuracy(verdicts, data.models)
    assert accuracy["coder"]["average"].value > accuracy["mathilda"]["average"].value
    assert best_source(accuracy, "dpo", SOURCES) == "mathilda"


def test_headline_without_checked_answers_counts_the_rows(data):
    unchecked = replace(data, results=data.results.with_columns(verdict=pl.lit(None, pl.String)))
    headline = headline_of(unchecked)
    assert "preference pairs from 3 sources" in headline.sentence
    assert "no accuracy" in headline.explanation
    assert headline.comparisons == ()


def test_headline_of_an_empty_run_says_so():
    assert headline_of(empty_data()).sentence == "Nothing has been selected yet."


def test_paired_difference_agrees_with_the_published_example():
    # Newcombe 1998, 50 pairs as 36, 12, 2, 0; score interval: 0.2000 (0.0569 to 0.3404).
    both, ours, theirs, neither = 36, 12, 2, 0
    first = [True] * (both + ours) + [False] * (theirs + neither)
    second = [True] * both + [False] * ours + [True] * theirs + [False] * neither
    difference = compare(verdict_rows(first, second), "dpo", "base")
    assert difference.value == pytest.approx(0.2)
    assert difference.low == pytest.approx(0.0569, abs=0.0002)
    assert difference.high == pytest.approx(0.3404, abs=0.0002)


def test_equal_models_have_no_clear_difference():
    verdicts = [True, False] * 10
    difference = compare(verdict_rows(verdicts, verdicts), "dpo", "base")
    assert difference.value == 0
    assert not difference.is_clear


def test_a_few_prompts_are_not_proof_even_if_all_agree():
    difference = compare(verdict_rows([True, True], [False, False]), "dpo", "base")
    assert difference.value == 1
    assert difference.low < 0.5


def test_models_without_a_common_prompt_are_not_compared():
    apart = pl.concat([verdict_rows([True], []), verdict_rows([], [True], "code")])
    assert compare(apart, "dpo", "base") is None
