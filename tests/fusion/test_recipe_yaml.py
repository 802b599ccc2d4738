"""The YAML of recipes: what would mean something else than it says is refused."""

import pytest

from fusion.errors import BadInputError
from fusion.recipe_yaml import read_yaml

MERGED = "x: &base {a: 1, <<: {c: 2}}\ny: {<<: *base, a: 3}\n"


def _refusal(text: str) -> str:
    with pytest.raises(BadInputError) as refused:
        read_yaml(text, "r.yaml")
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3", "b: {\na: 1, a: 1}", "b:\n- a: 1\n  c: &x {}\n  a: *x"]
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(text):
    assert "the key 'a' stands in line" in _refusal(text)


def test_both_lines_of_a_repeated_key_are_named():
    assert _refusal("a: 1\nb: 2\na: 3").startswith("r.yaml, line 3: the key 'a' stands in line 1")


def test_merge_keys_and_anchors_work():
    assert read_yaml(MERGED, "r.yaml") == {"x": {"a": 1, "c": 2}, "y": {"a": 3, "c": 2}}
    assert read_yaml("", "r.yaml") is None


def test_many_aliases_of_aliases_take_no_time():
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 40)]
    assert len(read_yaml("\n".join(["l0: &l0 [x]", *levels]), "r.yaml")) == 40


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: [*a]}", "a: &a {<<: *a}"])
def test_a_value_within_itself_is_refused(text):
    assert "holds itself" in _refusal(text)


@pytest.mark.parametrize("text", ["\\ud800", "a\\0b", "\\udfff"])
def test_a_text_that_nothing_can_store_is_refused(text):
    assert "r.yaml, line 2: " in _refusal(f'a: 1\nb: ["{text}"]')
    assert "r.yaml, line 1: " in _refusal(f'"{text}": 1')


@pytest.mark.parametrize("text", ["q: " + "9" * 5000, "d: 2024-13-45", "a: [", "\x01", "[" * 2000])
def test_what_yaml_cannot_read_is_refused_in_one_sentence(text):
    assert _refusal(text).startswith("r.yaml ")
