import json
from dataclasses import replace

import polars as pl
import pytest

from fusion.report import build_result
from fusion.statistics import mean_of_shares, wilson
from tests.fusion.report.sample import SOURCES, empty_data, sample_data


@pytest.fixture(scope="module")
def data():
    return sample_data(num_train=4, num_test=30)


def test_result_has_the_shape_that_the_design_promises(data):
    result = json.loads(json.dumps(build_result(data), allow_nan=False))
    assert set(result) == {"accuracy", "counts", "seconds", "tokens_per_second"}
    assert list(result["accuracy"]) == ["base", "sft", "dpo", *SOURCES]
    for domains in result["accuracy"].values():
        assert set(domains) == {"math", "code", "average"}
        for interval in domains.values():
            assert set(interval) == {"value", "low", "high", "n"}
            assert interval["low"] <= interval["value"] <= interval["high"]


def test_accuracy_is_the_share_of_correct_verdicts_with_its_wilson_interval(data):
    rows = data.results.filter(pl.col("model") == "dpo", pl.col("domain") == "math")
    correct = (rows["verdict"] == "correct").sum()
    assert 0 < correct < rows.height
    expected = wilson(correct, rows.height)
    assert build_result(data)["accuracy"]["dpo"]["math"] == {
        "value": expected.value,
        "low": expected.low,
        "high": expected.high,
        "n": 30,
    }


def test_average_weighs_domains_alike_whatever_their_number_of_prompts(data):
    is_left_out = (pl.col("domain") == "math") & (pl.col("prompt_id") > "8")
    uneven = replace(data, results=data.results.filter(~is_left_out))
    accuracy = build_result(uneven)["accuracy"]["mathilda"]
    assert accuracy["math"]["n"] < accuracy["code"]["n"]
    shares = [
        wilson(round(accuracy[d]["value"] * accuracy[d]["n"]), accuracy[d]["n"])
        for d in ("code", "math")
    ]
    assert accuracy["average"]["value"] == pytest.approx(mean_of_shares(shares).value)
    assert accuracy["average"]["n"] == accuracy["math"]["n"] + accuracy["code"]["n"]


def test_answers_without_a_verdict_do_not_count(data):
    no_verdict = pl.when(pl.col("domain") != "code").then("verdict").alias("verdict")
    domains = build_result(replace(data, results=data.results.with_columns(no_verdict)))["accuracy"]
    assert set(domains["base"]) == {"math", "average"}


def test_rates_are_tokens_over_seconds_of_the_stages_that_count_tokens(data):
    result = build_result(data)
    sample = data.manifests["sample"]
    assert set(result["tokens_per_second"]) == {"sample", "evaluate"}
    rate = sum(sample.tokens.values()) / sample.seconds
    assert result["tokens_per_second"]["sample"] == pytest.approx(rate)
    assert result["seconds"]["sft"] == data.manifests["sft"].seconds
    assert result["counts"]["select"]["entered"] == data.manifests["select"].counts.entered


def test_the_order_of_the_results_changes_nothing(data):
    shuffled = replace(data, results=data.results.sample(fraction=1, shuffle=True, seed=3))
    assert json.dumps(build_result(shuffled)) == json.dumps(build_result(data))


def test_an_empty_run_has_an_empty_result():
    empty = {"accuracy": {}, "counts": {}, "seconds": {}, "tokens_per_second": {}}
    assert build_result(empty_data()) == empty
