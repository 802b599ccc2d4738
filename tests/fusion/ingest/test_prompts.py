"""Rows of data sets to prompts: mapping, drops, quarantine, limits."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.errors import BadInputError
from fusion.identity import prompt_id
from fusion.ingest import ingest_datasets, ingest_key
from fusion.recipe import Recipe
from fusion.records import PROMPTS, QUARANTINE

WriteLines = Callable[[str, Iterable[Any]], str]
MakeRecipe = Callable[..., Recipe]


def test_row_becomes_a_prompt(write_lines: WriteLines, make_recipe: MakeRecipe) -> None:
    path = write_lines("a.jsonl", [{"q": {"text": "2+3?"}, "a": 5.0, "key": 17}])
    recipe = make_recipe(
        {
            "name": "sums",
            "path": path,
            "verifier": "math",
            "language": "de",
            "fields": {"prompt": "Rechne: {q.text}", "gold": "a", "id": "key"},
        }
    )
    prompts = ingest_datasets(recipe).prompts
    assert prompts.schema == PROMPTS
    messages = [{"role": "user", "content": "Rechne: 2+3?"}]
    (row,) = prompts.to_pylist()
    assert row.pop("dedupe_key")
    assert row == {
        "prompt_id": prompt_id(messages),
        "dataset": "sums",
        "domain": "math",
        "split": "train",
        "language": "de",
        "messages": messages,
        "verifier": "math",
        "gold": "5",
        "tests": None,
        "entry_point": None,
        "origin": "sums:17",
    }


def test_origin_is_the_line_where_no_id_is_mapped(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    path = write_lines("a.jsonl", [{"q": "one"}, "", {"q": "two"}])
    prompts = ingest_datasets(make_recipe({"name": "d", "path": path})).prompts
    assert prompts["origin"].to_pylist() == ["d:1", "d:3"]


def test_list_of_tests_becomes_lines(write_lines: WriteLines, make_recipe: MakeRecipe) -> None:
    path = write_lines("a.jsonl", [{"q": "f", "tests": ["assert f(1)", "assert f(2)"]}])
    recipe = make_recipe(
        {"name": "d", "path": path, "fields": {"prompt": "q", "tests": "tests"}, "verifier": "code"}
    )
    tests = ingest_datasets(recipe).prompts["tests"].to_pylist()
    assert tests == ["assert f(1)\nassert f(2)"]


def test_given_history_and_marked_turns_are_kept(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    given = write_lines("given.jsonl", [{"chat": history}])
    marked = write_lines("marked.jsonl", [{"q": "a\n<m>Assistant\nb\n<m>User\nc"}])
    for dataset in (
        {"name": "d", "path": given, "fields": {"messages": "chat"}},
        {"name": "d", "path": marked, "turn_marker": "<m>"},
    ):
        prompts = ingest_datasets(make_recipe(dataset)).prompts
        assert prompts["messages"].to_pylist() == [history]


def test_prompt_of_two_data_sets_stays_with_the_first(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    first = write_lines("a.jsonl", [{"q": "Same"}, {"q": "one"}])
    second = write_lines("b.jsonl", [{"q": "  SAME "}, {"q": "two"}, {"q": "two"}])
    ingested = ingest_datasets(
        make_recipe({"name": "a", "path": first}, {"name": "b", "path": second})
    )
    assert ingested.prompts["origin"].to_pylist() == ["a:1", "a:2", "b:2"]
    assert ingested.by_dataset["a"].dropped == {}
    assert ingested.by_dataset["b"].dropped == {"duplicate": 2}


@pytest.mark.parametrize("test_first", [True, False])
def test_train_prompt_that_is_a_test_prompt_is_dropped_from_train(
    write_lines: WriteLines, make_recipe: MakeRecipe, test_first: bool
) -> None:
    train = {"name": "train", "path": write_lines("a.jsonl", [{"q": "x"}, {"q": "y"}])}
    test = {"name": "test", "path": write_lines("b.jsonl", [{"q": "X"}]), "split": "test"}
    order = [test, train] if test_first else [train, test]
    ingested = ingest_datasets(make_recipe(*order))
    assert sorted(ingested.prompts["origin"].to_pylist()) == ["test:1", "train:2"]
    assert ingested.by_dataset["train"].dropped == {"held_out": 1}
    assert list(ingested.by_dataset) == [dataset["name"] for dataset in order]


def test_excluded_values_leave_a_row_out(write_lines: WriteLines, make_recipe: MakeRecipe) -> None:
    path = write_lines(
        "a.jsonl", [{"q": "a", "kind": "Math"}, {"q": "b", "kind": "Chat"}, {"q": "c"}]
    )
    recipe = make_recipe({"name": "d", "path": path, "exclude": {"kind": ["Math"]}})
    ingested = ingest_datasets(recipe)
    assert ingested.prompts["origin"].to_pylist() == ["d:2", "d:3"]
    assert ingested.by_dataset["d"].dropped == {"excluded": 1}


def test_a_number_that_is_not_finite_can_be_excluded(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    scores = [float("nan"), float("inf"), -float("inf"), 2.0, 3]
    path = write_lines("a.jsonl", [{"q": f"{n}", "score": n} for n in scores])
    for values, left in ((["nan"], [2, 3, 4, 5]), (["inf", "-inf", "2"], [1, 5])):
        recipe = make_recipe({"name": "d", "path": path, "exclude": {"score": values}})
        origins = ingest_datasets(recipe).prompts["origin"].to_pylist()
        assert origins == [f"d:{number}" for number in left]


STORY = (
    "Write a short story about a lighthouse keeper who finds a letter in a bottle on the beach, "
    "reads it aloud to the gulls, and decides to answer the stranger who wrote it many years ago."
)


def test_excluded_topics_leave_prompts_out_each_by_its_rule(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    asked = ["Write a Python function that adds.", "Solve for x: 3x + 5 = 20", STORY]
    dataset = {"name": "d", "path": write_lines("a.jsonl", [{"q": text} for text in asked])}
    for topics, kept in ((["math"], ["d:1", "d:3"]), (["code", "math"], ["d:3"])):
        ingested = ingest_datasets(make_recipe({**dataset, "exclude_topics": topics}))
        assert ingested.prompts["origin"].to_pylist() == kept
    assert ingested.by_dataset["d"].dropped == {"code_prompt": 1, "math_prompt": 1}


def test_topic_of_any_turn_of_the_user_counts(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    texts = ["Write a Python function that adds.", "def add(a, b): return a + b", "Thanks. Why?"]
    roles = ["user", "assistant", "user"]
    chat = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    path = write_lines("a.jsonl", [{"q": chat}, {"q": [{**chat[1], "role": "user"}]}])
    dataset = {"name": "d", "path": path, "fields": {"messages": "q"}, "exclude_topics": ["code"]}
    counts = ingest_datasets(make_recipe(dataset)).by_dataset["d"]
    assert (counts.results, counts.dropped) == (0, {"code_prompt": 2})


def test_every_row_that_a_rule_left_out_is_told_with_what_the_rule_found(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    rows = [
        {"q": "Write a Python function that adds.", "kind": "Chat", "n": "one"},
        {"q": "Hello", "kind": "Math", "n": "two"},
        {"q": "Hello", "kind": "Chat", "n": "three"},
        {"q": "hello ", "kind": "Chat", "n": "four"},
        {"q": "Good day", "kind": "Chat", "n": "five"},
    ]
    train = {
        "name": "train",
        "path": write_lines("a.jsonl", rows),
        "fields": {"prompt": "q", "id": "n"},
        "exclude": {"kind": ["Math"]},
        "exclude_topics": ["code"],
    }
    test = {"name": "test", "path": write_lines("b.jsonl", [{"q": "good day"}]), "split": "test"}
    ingested = ingest_datasets(make_recipe(train, test))
    assert [(d.dataset, d.row, d.rule, d.dropped, d.kept, d.text) for d in ingested.drops] == [
        ("train", 1, "code_prompt", "train:one", None, "write a python function"),
        ("train", 2, "excluded", None, None, "kind: Math"),
        ("train", 4, "duplicate", "train:four", "train:three", None),
        ("train", 5, "held_out", "train:five", "test:1", None),
    ]
    dropped = ingested.by_dataset["train"].dropped
    assert dropped == {"excluded": 1, "code_prompt": 1, "duplicate": 1, "held_out": 1}


def near_and_quoting(write_lines: WriteLines) -> list[dict[str, Any]]:
    """Train data with a near duplicate, a quote of a test prompt, and one nearly a test prompt."""
    riddle = "Three sailors share one boat and two oars; tell me who rows when the wind is down."
    haiku = "Compose a haiku about winter mornings, coffee and the silence of a snowed-in village"
    first = [{"q": STORY}, {"q": f"Answer shortly. {riddle}"}]
    second = [{"q": STORY.replace("many", "some")}, {"q": f"{haiku} today."}]
    test = [{"q": riddle}, {"q": f"{haiku}."}]
    return [
        {"name": "first", "path": write_lines("a.jsonl", first)},
        {"name": "second", "path": write_lines("b.jsonl", second)},
        {"name": "test", "path": write_lines("c.jsonl", test), "split": "test"},
    ]


def test_likeness_is_counted_by_rule_and_reported_with_its_text(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    datasets = near_and_quoting(write_lines)
    ingested = ingest_datasets(make_recipe(*datasets))
    assert ingested.prompts["origin"].to_pylist() == ["first:1", "test:1", "test:2"]
    found = [(drop.dropped, drop.kept, drop.rule) for drop in ingested.drops]
    assert found == [
        ("first:2", "test:1", "contaminated"),
        ("second:1", "first:1", "near_duplicate"),
        ("second:2", "test:2", "contaminated"),
    ]
    assert str(ingested.drops[0].text).startswith("Three sailors share")
    assert ingested.by_dataset["first"].dropped == {"contaminated": 1}
    assert ingested.by_dataset["second"].dropped == {"contaminated": 1, "near_duplicate": 1}


def test_each_likeness_can_be_switched_off(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    datasets = near_and_quoting(write_lines)
    for off, left in (
        ({"overlap_words": None}, {"near_duplicate": 1, "near_held_out": 1}),
        ({"near_duplicates": None}, {"contaminated": 1}),
        ({"near_duplicates": None, "overlap_words": None}, {}),
    ):
        ingested = ingest_datasets(make_recipe(*datasets, ingest=off))
        assert ingested.by_dataset["second"].dropped == left


def test_contaminated_prompt_takes_no_other_with_it(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    quote = "the stranger who wrote it many years ago and the keeper of the northern lighthouse"
    train = [{"q": f"{STORY} Mention {quote}."}, {"q": f"{STORY} Mention {quote[:40]}, thanks."}]
    recipe = make_recipe(
        {"name": "train", "path": write_lines("a.jsonl", train)},
        {"name": "test", "path": write_lines("b.jsonl", [{"q": quote}]), "split": "test"},
        ingest={"near_duplicates": 0.5},
    )
    assert ingest_datasets(recipe).prompts["origin"].to_pylist() == ["train:2", "test:1"]


def test_same_files_give_the_same_bytes(write_lines: WriteLines, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(*near_and_quoting(write_lines))
    one, other = ingest_datasets(recipe), ingest_datasets(recipe)
    assert one.prompts.equals(other.prompts) and one.drops == other.drops


@pytest.mark.parametrize(
    ("keys", "row", "reason"),
    [
        ({"verifier": "math", "fields": {"prompt": "q", "gold": "a"}}, {"a": "x+"}, "bad_gold"),
        ({"verifier": "math", "fields": {"prompt": "q", "gold": "a"}}, {"a": "####"}, "bad_gold"),
        (
            {"verifier": "math", "fields": {"prompt": "q", "gold": "a"}},
            {"a": "nan"},
            "bad_gold",
        ),
        (
            {"verifier": "math", "fields": {"prompt": "q", "gold": "a"}},
            {"a": float("nan")},
            "wrong_type",
        ),
        (
            {"verifier": "math", "fields": {"prompt": "q", "gold": "a"}},
            {"a": "The capital of this country is Paris."},
            "bad_gold",
        ),
        ({"verifier": "choice", "fields": {"prompt": "q", "gold": "a"}}, {"a": "42"}, "bad_gold"),
        ({"verifier": "exact", "fields": {"prompt": "q", "gold": "a"}}, {"a": " "}, "bad_gold"),
        ({"verifier": "code", "fields": {"prompt": "q", "tests": "a"}}, {"a": "f("}, "bad_tests"),
        (
            {"verifier": "code", "fields": {"prompt": "q", "tests": "a"}},
            {"a": "def check(candidate): pass"},
            "bad_tests",
        ),
        ({"verifier": "code", "fields": {"prompt": "q", "tests": "a"}}, {"a": "42"}, "bad_tests"),
        ({}, {"q": "x" * 10_000_000}, "too_long"),
    ],
)
def test_prompt_that_no_answer_can_meet_goes_to_quarantine_with_its_line(
    write_lines: WriteLines,
    make_recipe: MakeRecipe,
    keys: dict[str, Any],
    row: dict[str, str | float],
    reason: str,
) -> None:
    good = {"code": "assert f(1)", "choice": "B"}.get(keys.get("verifier", ""), "4")
    path = write_lines("a.jsonl", [{"q": "good", "a": good}, {"q": "bad", **row}])
    ingested = ingest_datasets(make_recipe({"name": "d", "path": path, **keys}, malformed_limit=1))
    (quarantined,) = ingested.quarantined.to_pylist()
    assert (quarantined["id"], quarantined["reason"]) == ("d:2", reason)
    assert quarantined["detail"].startswith("row 2: ")
    assert ingested.prompts["origin"].to_pylist() == ["d:1"]


def test_row_with_an_unusable_gold_does_not_displace_its_good_duplicate(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    path = write_lines("a.jsonl", [{"q": "same", "a": "x+"}, {"q": "same", "a": "x+1"}])
    keys = {"verifier": "math", "fields": {"prompt": "q", "gold": "a"}}
    ingested = ingest_datasets(make_recipe({"name": "d", "path": path, **keys}, malformed_limit=1))
    assert ingested.prompts["origin"].to_pylist() == ["d:2"]


def test_limit_takes_the_first_rows(write_lines: WriteLines, make_recipe: MakeRecipe) -> None:
    path = write_lines("a.jsonl", [{"q": "a"}, {"q": "b"}, "not json"])
    ingested = ingest_datasets(make_recipe({"name": "d", "path": path, "limit": 2}))
    assert (ingested.by_dataset["d"].entered, ingested.by_dataset["d"].results) == (2, 2)


def test_malformed_rows_go_to_quarantine_with_line_and_reason(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    path = write_lines(
        "a.jsonl",
        [{"q": "a"}, "{", {"x": 1}, {"q": 5}, {"q": " "}, '{"q": "\\ud800"}'],
    )
    ingested = ingest_datasets(make_recipe({"name": "d", "path": path}, malformed_limit=1))
    assert ingested.quarantined.schema == QUARANTINE
    found = [(r["id"], r["reason"]) for r in ingested.quarantined.to_pylist()]
    assert found == [
        ("d:2", "invalid_json"),
        ("d:3", "missing_field"),
        ("d:4", "wrong_type"),
        ("d:5", "empty_prompt"),
        ("d:6", "invalid_unicode"),
    ]
    assert all("row " in r["detail"] for r in ingested.quarantined.to_pylist())


def test_column_that_no_table_can_name_is_one_row_in_quarantine(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    path = write_lines("a.jsonl", [{"q": "a"}, '{"\\ud800": 1}'])
    ingested = ingest_datasets(make_recipe({"name": "d", "path": path}, malformed_limit=1))
    (quarantined,) = ingested.quarantined.to_pylist()
    assert (quarantined["id"], quarantined["reason"]) == ("d:2", "missing_field")
    assert "its columns are \\ud800" in quarantined["detail"]


def test_more_malformed_rows_than_allowed_stop_with_count_and_examples(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    path = write_lines("a.jsonl", [{"q": f"prompt {i}"} for i in range(96)] + ["{"] * 4)
    with pytest.raises(BadInputError) as error:
        ingest_datasets(make_recipe({"name": "d", "path": path}, malformed_limit=0.03))
    sentence = str(error.value)
    assert "4 malformed of 100 rows" in sentence
    assert sentence.count("invalid_json") == 3
    recipe = make_recipe({"name": "d", "path": path}, malformed_limit=0.04)
    assert ingest_datasets(recipe).by_dataset["d"].quarantined == {"invalid_json": 4}


@pytest.mark.parametrize(
    "keys",
    [
        {"fields": {"prompt": "prompt"}},
        {"fields": {"prompt": "{q} {c}"}},
        {"exclude": {"c": ["x"]}},
    ],
)
def test_path_that_no_row_has_names_file_field_and_columns(
    write_lines: WriteLines, make_recipe: MakeRecipe, keys: dict[str, Any]
) -> None:
    path = write_lines("a.jsonl", [{"q": "a", "answer": "b"}] * 2)
    with pytest.raises(BadInputError) as error:
        ingest_datasets(make_recipe({"name": "d", "path": path, **keys}, malformed_limit=1))
    assert path in str(error.value)
    assert "columns are q, answer" in str(error.value)


def test_empty_data_set_is_refused(write_lines: WriteLines, make_recipe: MakeRecipe) -> None:
    path = write_lines("a.jsonl", [])
    with pytest.raises(BadInputError, match="has no rows"):
        ingest_datasets(make_recipe({"name": "d", "path": path}))


def test_key_follows_what_shapes_prompts_and_nothing_else(
    write_lines: WriteLines, make_recipe: MakeRecipe
) -> None:
    path = write_lines("a.jsonl", [{"q": "a"}])
    dataset = {"name": "d", "path": path}
    key = ingest_key(make_recipe(dataset))
    assert ingest_key(make_recipe({**dataset, "samples": 9}, name="other")) == key
    assert ingest_key(make_recipe({**dataset, "domain": "code"})) != key
    assert ingest_key(make_recipe({**dataset, "exclude": {"q": ["a"]}})) != key
    assert ingest_key(make_recipe({**dataset, "exclude_topics": ["code"]})) != key
    assert ingest_key(make_recipe(dataset, ingest={"overlap_words": 8})) != key
    write_lines("a.jsonl", [{"q": "b"}])
    assert ingest_key(make_recipe(dataset)) != key


ROWS = st.one_of(
    st.fixed_dictionaries({"q": st.sampled_from(["a", "A", "b", " c", "", 7, None])}),
    st.sampled_from(["{", "[]", "1"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(train=st.lists(ROWS, min_size=1), test=st.lists(ROWS, min_size=1))
def test_every_row_leaves_as_prompt_drop_or_quarantine(
    write_lines: WriteLines, make_recipe: MakeRecipe, train: list[Any], test: list[Any]
) -> None:
    good = {"q": "good"}
    recipe = make_recipe(
        {"name": "train", "path": write_lines("a.jsonl", [*train, good])},
        {"name": "test", "path": write_lines("b.jsonl", [*test, good]), "split": "test"},
        malformed_limit=1,
    )
    ingested = ingest_datasets(recipe)
    for name, rows in (("train", train), ("test", test)):
        counts = ingested.by_dataset[name]
        left = counts.results + sum(counts.dropped.values()) + sum(counts.quarantined.values())
        assert counts.entered == left == len(rows) + 1
    ids = ingested.prompts["dedupe_key"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert ingested.by_dataset["train"].dropped["held_out"] >= 1
