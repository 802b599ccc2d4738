"""What the published counts prove (arXiv 2503.04222, table 1), at their size."""

import polars as pl
import pytest

from fusion.selection import select

PUBLISHED = {
    "ultrafeedback": (51_098, 20_439, 30_659),
    "magpie-pro": (20_374, 8_149, 12_225),
    "helpsteer2": (9_435, 3_774, 5_661),
}


@pytest.fixture(scope="module")
def recipe(world, answer):
    """All defaults, a data set of each published name."""
    small = world([answer("instruction/1", reward=0.1)]).recipe
    (like,) = small.datasets
    datasets = tuple(like.model_copy(update={"name": name}) for name in PUBLISHED)
    return small.model_copy(update={"datasets": datasets})


def numbered(dataset, size):
    """Prompts of which each has a valid pair of one source."""
    message = pl.struct(role=pl.lit("user"), content=pl.lit("question"))
    ids = pl.DataFrame({"prompt_id": [f"{dataset}/{number}" for number in range(size)]})
    return ids.with_columns(
        dataset=pl.lit(dataset), domain=pl.lit("instruction"), messages=pl.concat_list(message)
    )


def answered(prompts):
    """A poor and a good answer to each."""
    samples = pl.DataFrame({"sample_index": [0, 1], "text": ["poor", "good"]})
    crossed = prompts.select("prompt_id").join(samples, how="cross")
    return crossed.with_columns(
        response_id=pl.concat_str("prompt_id", "text", separator="/"),
        source=pl.lit("alpha"),
        finish_reason=pl.lit("stop"),
    )


def scored(responses):
    return responses.select(
        "response_id",
        scorer=pl.lit("reward"),
        reward=0.1 + pl.col("sample_index") / 20,
        verdict=pl.lit(None, pl.String),
    )


def test_published_instruction_counts_come_out_to_the_prompt(recipe):
    prompts = pl.concat(numbered(name, total) for name, (total, _, _) in PUBLISHED.items())
    responses = answered(prompts)
    selected = select(recipe, prompts, responses, scored(responses))
    assert {row.dataset: (row.prompts, row.sft, row.pairs) for row in selected.yields.prompts} == (
        PUBLISHED
    )
    # one record a prompt, and none in both
    used = [*selected.sft["prompt_id"], *selected.preferences["prompt_id"]]
    assert len(used) == len(set(used)) == prompts.height
