"""Identities: equal for equal content, different for different content."""

from hypothesis import given
from hypothesis import strategies as st

from fusion.identity import (
    content_hash,
    dedupe_key,
    file_fingerprint,
    folder_fingerprint,
    prompt_id,
    response_id,
    sampling_seed,
)

_texts = st.text(max_size=20)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
)


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@given(st.dictionaries(_texts, _values))
def test_order_of_keys_does_not_matter(value):
    assert content_hash(value) == content_hash(dict(reversed(value.items())))


@given(_texts, _texts)
def test_prompts_are_one_when_their_messages_are(left, right):
    assert (prompt_id(_user(left)) == prompt_id(_user(right))) == (left == right)


def test_dedupe_key_ignores_case_width_and_white_space_alone():
    assert dedupe_key(_user("Ｈello  World\n")) == dedupe_key(_user("hello world"))
    assert dedupe_key(_user("hello world")) != dedupe_key(_user("hello word"))


def test_response_ids_differ_by_prompt_source_and_index():
    ids = {response_id(p, s, i) for p in ("a", "b") for s in ("x", "y") for i in range(3)}
    assert len(ids) == 12


@given(st.text(min_size=1))
def test_seed_is_what_an_engine_accepts(text):
    assert 0 <= sampling_seed(content_hash(text)) < 2**31


def test_folder_fingerprint_follows_content_and_name_not_time(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    assert folder_fingerprint(one) == folder_fingerprint(two)
    (two / "config.json").write_text("{ }")
    assert folder_fingerprint(one) != folder_fingerprint(two)


def test_large_shard_of_a_model_is_told_by_size_and_edges(tmp_path):
    shard = tmp_path / "model.safetensors"
    with shard.open("wb") as file:
        file.truncate(65 << 20)
    before = folder_fingerprint(tmp_path)
    with shard.open("r+b") as file:
        file.write(b"header")
    assert folder_fingerprint(tmp_path) != before


def test_fingerprint_of_a_large_file_follows_a_change_in_its_middle(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    before = file_fingerprint(path)
    assert file_fingerprint(path) == before
    with path.open("r+b") as file:
        file.seek(32 << 20)
        file.write(b"7")
    assert file_fingerprint(path) != before
