"""Answers sampled elsewhere."""

from collections.abc import Callable, Iterable
from typing import Any

import polars as pl
import pytest

from fusion.errors import BadInputError
from fusion.identity import response_id
from fusion.ingest import import_answers, ingest_datasets
from fusion.recipe import Recipe, Source
from fusion.records import RESPONSES
from fusion.run import source_key

WriteLines = Callable[[str, Iterable[Any]], str]
MakeRecipe = Callable[..., Recipe]
KEY = "gpt-4-abc"


@pytest.fixture
def prompts(write_lines: WriteLines, make_recipe: MakeRecipe) -> pl.DataFrame:
    path = write_lines("p.jsonl", [{"q": "one", "id": 1}, {"q": "two", "id": 2}])
    fields = {"prompt": "Q: {q}", "id": "id"}
    other = write_lines("o.jsonl", [{"q": "three"}])
    recipe = make_recipe(
        {"name": "d", "path": path, "fields": fields},
        {"name": "o", "path": other, "domain": "chinese"},
    )
    frame = pl.from_arrow(ingest_datasets(recipe).prompts)
    assert isinstance(frame, pl.DataFrame)
    return frame


def imported(path: str, **keys: Any) -> Source:
    return Source.model_validate({"name": "gpt-4", "kind": "imported", "path": path, **keys})


def test_answers_join_by_id_and_are_numbered_in_file_order(
    write_lines: WriteLines, prompts: pl.DataFrame
) -> None:
    rows = [{"of": "1", "out": "a"}, {"of": 2, "out": "b"}, {"of": 1, "out": "c"}]
    source = imported(write_lines("a.jsonl", rows), fields={"id": "of", "text": "out"}, dataset="d")
    answers = import_answers(source, KEY, prompts, malformed_limit=0)
    assert answers.responses.schema == RESPONSES
    one, two, again = answers.responses.to_pylist()
    assert [one["text"], two["text"], again["text"]] == ["a", "b", "c"]
    assert [one["sample_index"], two["sample_index"], again["sample_index"]] == [0, 0, 1]
    assert again["response_id"] == response_id(one["prompt_id"], KEY, 1)
    assert (one["finish_reason"], one["completion_tokens"], one["seed"]) == ("stop", None, None)


def test_answers_join_by_the_prompt_mapped_as_the_data_set_does(
    write_lines: WriteLines, prompts: pl.DataFrame
) -> None:
    path = write_lines("a.jsonl", [{"ask": "two", "out": "b"}])
    source = imported(path, fields={"prompt": "Q: {ask}", "text": "out"})
    answers = import_answers(source, KEY, prompts, malformed_limit=0)
    wanted = prompts.filter(pl.col("origin") == "d:2")["prompt_id"].to_list()
    assert answers.responses["prompt_id"].to_pylist() == wanted


def test_answers_to_a_conversation_in_one_text_join_by_the_data_sets_turn_marker(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    turns = "one<extra_id_1>Assistant\nhi<extra_id_1>User\nand two"
    path = write_lines("p.jsonl", [{"q": turns, "a": "three"}])
    recipe = make_recipe({"name": "d", "path": path, "turn_marker": "<extra_id_1>"})
    prompts = pl.DataFrame(ingest_datasets(recipe).prompts)
    fields = {"prompt": "q", "text": "a"}
    source = imported(path, fields=fields, turn_marker="<extra_id_1>")
    answers = import_answers(source, KEY, prompts, malformed_limit=0)
    assert answers.responses["prompt_id"].to_pylist() == prompts["prompt_id"].to_list()


def test_key_of_imported_answers_follows_how_they_are_joined(write_lines: WriteLines) -> None:
    path = write_lines("a.jsonl", [{"q": "one", "a": "b"}])
    by_id, by_prompt = {"id": "q", "text": "a"}, {"prompt": "q", "text": "a"}
    sources = [
        imported(path, fields=by_prompt),
        imported(path, fields=by_prompt, turn_marker="<turn>"),
        imported(path, fields=by_id, dataset="d"),
        imported(path, fields=by_id, dataset="e"),
    ]
    assert len({source_key(source, source.sampling) for source in sources}) == len(sources)


def test_answers_that_cannot_be_used_are_counted(
    write_lines: WriteLines, prompts: pl.DataFrame
) -> None:
    rows = [
        {"ask": "Q: one", "out": "a"},
        {"ask": "Q: unknown", "out": "a"},
        {"ask": "three", "out": "a"},
        {"ask": "Q: two", "out": " "},
        {"ask": "Q: two", "out": 7},
        {"ask": "Q: two"},
        "{",
    ]
    source = imported(
        write_lines("a.jsonl", rows), fields={"prompt": "ask", "text": "out"}, domains=["math"]
    )
    answers = import_answers(source, KEY, prompts, malformed_limit=1)
    assert answers.counts.entered == len(rows)
    assert answers.counts.results == 1
    assert answers.counts.dropped == {"no_prompt": 1, "not_asked": 1, "empty": 1}
    assert answers.counts.quarantined == {
        "wrong_type": 1,
        "missing_field": 1,
        "invalid_json": 1,
    }
    assert answers.quarantined["id"].to_pylist() == ["gpt-4:5", "gpt-4:6", "gpt-4:7"]
    with pytest.raises(BadInputError, match="3 malformed of 7"):
        import_answers(source, KEY, prompts, malformed_limit=0.1)


def test_answer_to_an_id_of_two_prompts_is_malformed(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    asked = [{"q": "apple", "id": "x"}, {"q": "river", "id": "x"}, {"q": "stone", "id": "y"}]
    path = write_lines("p.jsonl", asked)
    recipe = make_recipe({"name": "d", "path": path, "fields": {"prompt": "q", "id": "id"}})
    prompts = pl.DataFrame(ingest_datasets(recipe).prompts)
    rows = [{"of": "x", "out": "to which?"}, {"of": "y", "out": "to stone"}]
    source = imported(write_lines("a.jsonl", rows), fields={"id": "of", "text": "out"}, dataset="d")
    answers = import_answers(source, KEY, prompts, malformed_limit=0.5)
    assert answers.responses["text"].to_pylist() == ["to stone"]
    assert answers.counts.quarantined == {"ambiguous_id": 1}
    assert "have the id x" in answers.quarantined["detail"][0].as_py()


def test_answers_to_no_prompt_at_all_are_refused(
    write_lines: WriteLines, prompts: pl.DataFrame
) -> None:
    path = write_lines("a.jsonl", [{"ask": "one", "out": "a"}])
    source = imported(path, fields={"prompt": "ask", "text": "out"})
    with pytest.raises(BadInputError, match="must map its fields as the data set does"):
        import_answers(source, KEY, prompts, malformed_limit=0)


def test_column_that_is_not_there_is_named(write_lines: WriteLines, prompts: pl.DataFrame) -> None:
    path = write_lines("a.jsonl", [{"ask": "Q: one", "out": "a"}])
    source = imported(path, fields={"prompt": "ask", "text": "output"})
    with pytest.raises(BadInputError, match="field output that the source gpt-4 names"):
        import_answers(source, KEY, prompts, malformed_limit=1)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"fields": {"text": "out"}}, "fields needs text"),
        ({"fields": {"text": "out", "id": "of"}}, "need each other"),
        ({"fields": {"text": "out", "prompt": "ask"}, "dataset": "d"}, "need each other"),
        ({"fields": {"text": "out", "answer": "ask"}}, "fields has no"),
        (
            {"fields": {"text": "out", "messages": "ask"}, "turn_marker": "<turn>"},
            "needs fields.prompt",
        ),
    ],
)
def test_recipe_says_what_an_imported_source_lacks(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        imported("a.jsonl", **keys)
