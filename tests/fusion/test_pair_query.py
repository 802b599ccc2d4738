import polars as pl
import pyarrow as pa
import pytest
from pydantic import ValidationError

from fusion.pair_query import PairQuery, find_pairs
from fusion.records import PREFERENCES


def reply(text):
    return [{"role": "assistant", "content": text}]


def pair(number, **changes):
    row = {
        "pair_id": f"{number:04d}",
        "prompt_id": f"{number:04d}",
        "dataset": "sums",
        "domain": "math",
        "source": "llama",
        "rejected_source": "llama",
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "chosen": reply(f"right {number}"),
        "rejected": reply(f"wrong {number}"),
        "chosen_reward": 1.0,
        "rejected_reward": 0.0,
        "margin": float(number),
    }
    return {**row, **changes}


def table(rows):
    return pl.from_arrow(pa.Table.from_pylist(rows, schema=PREFERENCES))


def indexes(found):
    return [row["index"] for row in found.rows]


@pytest.fixture
def preferences():
    return table(
        [
            pair(0),
            pair(1, source="gemma", domain="code", dataset="programs"),
            pair(2, source="gemma", margin=None),
            pair(3, chosen=reply("Der Fluß rundet 石头 (a+b)?")),
            pair(4, prompt=[{"role": "system", "content": "Be BRIEF"}, *pair(4)["prompt"]]),
        ]
    )


def test_every_pair_is_found_without_conditions(preferences):
    found = find_pairs(preferences, PairQuery())
    assert (found.total, indexes(found)) == (5, [0, 1, 2, 3, 4])
    assert set(found.rows[0]) == {*PREFERENCES.names, "index"}
    assert found.rows[0]["prompt"] == [{"role": "user", "content": "question 0"}]


def test_facets_cover_all_pairs_whatever_is_asked(preferences):
    facets = find_pairs(preferences, PairQuery(source="llama")).facets
    assert facets.sources == ["gemma", "llama"]
    assert facets.domains == ["code", "math"]
    assert facets.datasets == ["programs", "sums"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"source": "gemma"}, [1, 2]),
        ({"source": "gemma", "domain": "math"}, [2]),
        ({"dataset": "programs"}, [1]),
        ({"dataset": "unknown"}, []),
        ({"min_margin": 1}, [1, 3, 4]),
        ({"max_margin": 1}, [0, 1]),
        ({"min_margin": 3, "max_margin": 3}, [3]),
        ({"min_margin": 4, "max_margin": 3}, []),
    ],
)
def test_conditions_hold_together(preferences, query, expected):
    assert indexes(find_pairs(preferences, PairQuery(**query))) == expected


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("QUESTION 2", [2]),
        ("wrong 1", [1]),
        ("right", [0, 1, 2, 4]),
        ("be brief", [4]),
        ("石头", [3]),
        ("FLUß", [3]),
        ("(a+b)?", [3]),
        (".*", []),
        ("assistant", []),
    ],
)
def test_search_finds_literal_text_of_all_messages_in_any_case(preferences, search, expected):
    assert indexes(find_pairs(preferences, PairQuery(search=search))) == expected


def test_a_stretch_is_cut_from_what_was_found():
    preferences = table([pair(number, source="ab"[number % 2]) for number in range(20)])
    found = find_pairs(preferences, PairQuery(source="b", offset=3, limit=2))
    assert (found.total, indexes(found)) == (10, [7, 9])
    assert [row["prompt_id"] for row in found.rows] == ["0007", "0009"]
    assert find_pairs(preferences, PairQuery(offset=20)).rows == []


def test_an_empty_table_has_no_pairs():
    found = find_pairs(table([]), PairQuery(search="x"))
    assert (found.total, found.rows, found.facets.sources) == (0, [], [])


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 201},
        {"offset": -1},
        {"min_margin": "nan"},
        {"max_margin": "inf"},
        {"search": "x" * 401},
        {"colour": "red"},
    ],
)
def test_what_no_query_can_be_is_refused(query):
    with pytest.raises(ValidationError):
        PairQuery(**query)
