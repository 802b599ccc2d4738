"""Recipes: what is accepted, what is refused and in which words."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fusion.errors import BadInputError
from fusion.models import check_model
from fusion.recipe import Dpo, Policy
from fusion.recipe_file import dump_recipe, load_recipe, merge, parse_recipe, recipe_hash

SMALL = {
    "name": "small",
    "target": {"model": "org/target", "revision": "abc"},
    "sources": [{"name": "one", "model": "org/one", "revision": "abc"}],
    "datasets": [
        {"name": "d", "path": "d.jsonl", "domain": "instruction", "fields": {"prompt": "q"}}
    ],
}


def _write(folder: Path, name: str, raw: dict) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(raw))
    return path


def _refusal(raw: dict) -> str:
    with pytest.raises(BadInputError) as refused:
        parse_recipe(raw)
    return str(refused.value)


def test_unknown_key_is_refused_with_the_nearest_known_one():
    assert "did you mean sources?" in _refusal({**SMALL, "soruces": []})


def test_unknown_key_deep_in_a_list_is_refused_with_its_place():
    source = {**SMALL["sources"][0], "sampling": {"temprature": 1}}
    said = _refusal({**SMALL, "sources": [source]})
    assert "sources.one.sampling has no key temprature; did you mean temperature?" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sources": "one"}, 'sources is "one"; it should be a list.'),
        ({"sources": ["one"]}, 'sources.0 is "one"; it should be keys with values.'),
        ({"target": None}, "target is null; it should be keys with values."),
        ({"storage": 3}, "storage is 3; it should be text: put it in quotes."),
        ({"sft": {"workers": "two"}}, 'sft.workers is "two"; it should be a whole number.'),
        (
            {"sft": {"held_out": 0.9}},
            "sft.held_out is 0.9; it should be less than or equal to 0.5.",
        ),
        ({"dpo": {"loss": "kto"}}, "dpo.loss is \"kto\"; it should be 'ln_dpo', 'dpo', 'ipo',"),
        ({"selection": {"margin": {"low": float("nan")}}}, "low is NaN; it should be a finite"),
        (
            {"selection": {"domains": {"instruction": {"margin": {"lo": 0}}}}},
            "margin has no key lo",
        ),
        (
            {"selection": {"domains": {"instruction": {"margin": {"low": 2, "high": 1}}}}},
            "selection.domains.instruction.margin: low 2.0 is above high 1.0",
        ),
        ({"selection": {"ranked_by": "judge"}}, "which is no scorer; there are reward."),
        ({1: 2}, "the recipe has no key 1"),
        ({"": 2}, "the recipe has no key ''"),
        ({"\u200b": 2}, "the recipe has no key '\\u200b'"),
        ({"storage": ""}, 'storage is ""; it should have at least 1 character'),
        ({"name": "store"}, "a recipe may not be named store"),
        ({"sft": {"seed": 2**63}}, "sft.seed is 9223372036854775808; it should"),
        ({"sft": {"seed": -1}}, "sft.seed is -1; it should be greater than or equal to 0"),
        ({"selection": {"pairs_from": []}}, "selection: pairs_from names no source"),
        ({"datasets": [SMALL["datasets"][0] | {"samples": 2**63}]}, "datasets.d.samples is"),
        (
            {"sources": [SMALL["sources"][0] | {"samples": {"instruction": 10**9}}]},
            "sources.one.samples.instruction is 1000000000; it should",
        ),
        (
            {"datasets": [SMALL["datasets"][0] | {"turn_marker": ""}]},
            'datasets.d.turn_marker is ""; it should have at least 1 character',
        ),
        (
            {"sources": [SMALL["sources"][0] | {"turn_marker": ""}]},
            'sources.one.turn_marker is ""; it should have at least 1 character',
        ),
        (
            {"reward": {"model": "org/reward", "revision": "abc", "turn_marker": ""}},
            'reward.turn_marker is ""; it should have at least 1 character',
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_in_the_words_of_a_recipe(changes, sentence):
    assert sentence in _refusal({**SMALL, **changes})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_the_seed_of_selection_is_any_whole_number(seed):
    recipe = parse_recipe({**SMALL, "selection": {"seed": seed}})
    assert recipe.selection.seed == seed


@pytest.mark.parametrize(
    ("section", "changes", "key"),
    [
        ("sources", {"path": "answers.jsonl"}, "path is for kind imported"),
        ("sources", {"kind": "imported", "path": "answers.jsonl"}, "model is for kind model"),
    ],
)
def test_a_key_that_only_another_kind_reads_is_refused(section, changes, key):
    assert key in _refusal({**SMALL, section: [{**SMALL[section][0], **changes}]})


def test_a_reward_s_key_that_only_another_kind_reads_is_refused():
    reward = {"model": "org/reward", "revision": "abc", "path": "scores.jsonl"}
    assert "path is for kind imported" in _refusal({**SMALL, "reward": reward})


@pytest.mark.parametrize("section", ["sources", "datasets"])
def test_empty_and_missing_lists_are_refused(section):
    assert section in _refusal({**SMALL, section: []})
    assert section in _refusal({k: v for k, v in SMALL.items() if k != section})


def test_two_sources_of_one_name_are_refused():
    assert "sources has one twice" in _refusal({**SMALL, "sources": SMALL["sources"] * 2})


@pytest.mark.parametrize(
    "changes",
    [
        {"selection": {"domains": {"maths": {"pairs": False}}}},
        {"sources": [{**SMALL["sources"][0], "domains": ["maths"]}]},
        {"sources": [{**SMALL["sources"][0], "samples": {"maths": 8}}]},
    ],
)
def test_a_domain_that_no_data_set_has_is_refused(changes):
    said = _refusal({**SMALL, **changes})
    assert "names the domain maths, which no data set has; they have instruction" in said


def _with_a_domain(domain, *, reward=True, domains=None, **dataset):
    dataset = {**SMALL["datasets"][0], "domain": domain, **dataset}
    changes = {"datasets": [dataset], "selection": {"domains": domains or {}}}
    if reward:
        changes["reward"] = {"model": "org/reward", "revision": "v1"}
    return SMALL | changes


CHECKED = {"verifier": "math", "fields": {"prompt": "q", "gold": "a"}}


@pytest.mark.parametrize(
    ("domain", "dataset", "said"),
    [
        ("maths", {}, "the domain maths, which has no policy.* did you mean math\\?"),
        ("maths", {"split": "test"}, "did you mean math\\?"),
        ("instructions", {}, "did you mean instruction\\?"),
        ("numbers", CHECKED, "verifier math chooses nothing; did you mean math\\?"),
        (
            "science",
            CHECKED | {"verifier": "exact"},
            "nothing; say under selection.domains.science",
        ),
    ],
)
def test_a_domain_that_would_follow_instruction_by_a_slip_is_refused(domain, dataset, said):
    assert re.search(said, _refusal(_with_a_domain(domain, **dataset)))
    parse_recipe(_with_a_domain(domain, domains={domain: {}}, **dataset))


@pytest.mark.parametrize("dataset", [{}, CHECKED | {"split": "test"}, CHECKED | {"reward": False}])
def test_a_domain_of_another_name_follows_instruction(dataset):
    recipe = parse_recipe(_with_a_domain("medicine", **dataset))
    assert recipe.selection.policy("medicine") == Policy()


def test_margin_upside_down_is_refused():
    said = _refusal({**SMALL, "selection": {"margin": {"low": 0.2, "high": 0.1}}})
    assert "low 0.2 is above high 0.1" in said


@pytest.mark.parametrize(("key", "value"), [("temperature", 9), ("top_p", 0), ("max_tokens", 0)])
def test_sampling_value_out_of_range_is_refused(key, value):
    source = {**SMALL["sources"][0], "sampling": {key: value}}
    assert f"sources.one.sampling.{key}" in _refusal({**SMALL, "sources": [source]})


@pytest.mark.parametrize(("key", "kind"), [("throughput", "source"), ("prompts", "data set")])
def test_cluster_figures_of_what_is_not_in_the_recipe_are_refused(key, kind):
    said = _refusal({**SMALL, "cluster": {key: {"none": 5}}})
    assert f"cluster.{key} names none, which is no {kind}" in said


@pytest.mark.parametrize("name", ["base", "sft", "dpo"])
def test_a_source_may_not_take_a_checkpoint_s_name(name):
    source = {**SMALL["sources"][0], "name": name}
    assert name in _refusal({**SMALL, "sources": [source]})


@pytest.mark.parametrize(
    ("stage", "keys", "said"),
    [
        ("dpo", {"beta": 0}, "dpo.beta"),
        ("dpo", {"beta": 1e6}, "dpo.beta"),
        ("sft", {"learning_rate": 2}, "sft.learning_rate"),
        ("dpo", {"loss": "kto"}, "dpo.loss"),
        ("sft", {"batch_size": 2, "workers": 4}, "less than a row each"),
        ("dpo", {"lora": {"rank": 8}, "strategy": "zero3"}, "choose ddp or zero2"),
        ("sft", {"workers": 2, "min_workers": 3}, "above workers 2"),
        ("dpo", {"workers": 2, "min_workers": 1, "strategy": "zero2"}, "choose ddp or fsdp2"),
    ],
)
def test_training_that_cannot_go_well_is_refused(stage, keys, said):
    assert said in _refusal({**SMALL, stage: keys})


def test_what_only_decides_the_pace_does_not_shape_the_model():
    one, other = (
        Dpo(),
        Dpo(workers=8, min_workers=2, micro_batch_tokens=512, batching="packed", restarts=0),
    )
    assert one.shaping() == other.shaping()
    assert one.shaping() != Dpo(loss="ipo").shaping()


def test_child_recipe_changes_one_source_by_name_and_keeps_the_rest(tmp_path):
    _write(tmp_path, "base.yaml", SMALL)
    child = {"extends": "base.yaml", "sources": [{"name": "one", "replicas": 3}]}
    recipe = load_recipe(_write(tmp_path, "child.yaml", child))
    assert recipe.sources[0].replicas == 3
    assert recipe.sources[0].model == "org/one"
    assert recipe.name == "small"


def test_a_recipe_that_extends_itself_is_refused(tmp_path):
    path = _write(tmp_path, "round.yaml", {**SMALL, "extends": "round.yaml"})
    with pytest.raises(BadInputError, match="extends itself"):
        load_recipe(path)


def test_relative_paths_are_relative_to_the_file_that_says_them(tmp_path):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    raw = {**SMALL, "target": {"model": "models/tiny"}}
    recipe = load_recipe(_write(tmp_path, "r.yaml", raw))
    assert recipe.target.model == str(tmp_path / "models" / "tiny")
    assert recipe.sources[0].model == "org/one"


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    base = tmp_path / "home" / "base.yaml"
    base.parent.mkdir()
    base.write_text(yaml.safe_dump(SMALL))
    data = {"datasets": [{"name": "d", "path": "~/x.jsonl"}], "endpoint": {"keys": "~/keys.json"}}
    recipe = load_recipe(_write(tmp_path, "r.yaml", {"extends": "~/base.yaml", **data}))
    assert recipe.datasets[0].path == str(tmp_path / "home" / "x.jsonl")
    assert recipe.endpoint.keys == str(tmp_path / "home" / "keys.json")


LONG = "x" * 300


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": {"model": LONG}}, "300 characters, too many for a path"),
        ({"datasets": [SMALL["datasets"][0] | {"path": f"{LONG}.jsonl"}]}, "306 characters"),
        ({"extends": LONG}, "There is no recipe"),
        ({"extends": "~nobody-here/base.yaml"}, "no such user"),
        ({"target": {"model": "~nobody-here/model"}}, "begins with ~nobody-here"),
        ({"endpoint": {"keys": "~nobody-here/keys"}}, "begins with ~nobody-here"),
    ],
)
def test_a_path_that_cannot_be_is_refused(tmp_path, changes, said):
    with pytest.raises(BadInputError, match=said):
        load_recipe(_write(tmp_path, "r.yaml", {**SMALL, **changes}))


def test_links_in_a_circle_are_told_as_a_file_that_is_not_there(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    recipe = load_recipe(_write(tmp_path, "r.yaml", {**SMALL, "target": {"model": "loop"}}))
    with pytest.raises(BadInputError, match="neither a local path nor"):
        check_model(recipe.target.model, None)
    for path in (tmp_path / "loop", _write(tmp_path, "s.yaml", {**SMALL, "extends": "loop"})):
        with pytest.raises(BadInputError, match="There is no recipe"):
            load_recipe(path)


def test_parameter_is_filled_and_a_missing_one_is_named(tmp_path):
    raw = {**SMALL, "storage": "${where}/runs"}
    path = _write(tmp_path, "r.yaml", raw)
    assert load_recipe(path, {"where": "here"}).storage == "here/runs"
    with pytest.raises(BadInputError, match="--set where="):
        load_recipe(path)


@pytest.mark.parametrize(
    "text",
    ["- a list", "name: [", "just words", "", "extends: 5", "extends: [a.yaml]", "[" * 2000],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError) as refused:
        load_recipe(path)
    assert "\n" not in str(refused.value)


def test_dumped_recipe_is_the_same_recipe(tmp_path):
    recipe = parse_recipe(SMALL)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    again = load_recipe(tmp_path / "again.yaml")
    assert recipe_hash(again.model_copy(update={"datasets": recipe.datasets})) == recipe_hash(
        recipe
    )


_trees = st.recursive(
    st.integers(), lambda leaf: st.dictionaries(st.sampled_from("abc"), leaf), max_leaves=8
)


@given(st.dictionaries(st.sampled_from("abc"), _trees))
def test_merging_a_recipe_with_itself_changes_nothing(raw):
    assert merge(raw, raw) == raw


def test_an_endpoint_that_others_reach_needs_keys(tmp_path):
    open_ = {**SMALL, "endpoint": {"host": "0.0.0.0"}}
    assert "set keys to one made by crucible keys create" in _refusal(open_)
    parse_recipe({**SMALL, "endpoint": {"host": "0.0.0.0", "keys": "keys.json"}})


def test_a_certificate_needs_its_key():
    assert "need each other" in _refusal({**SMALL, "endpoint": {"tls_key": "key.pem"}})


def test_files_of_the_endpoint_stand_beside_the_recipe_and_links_stay_links(tmp_path):
    (tmp_path / "version-1").mkdir()
    (tmp_path / "current").symlink_to("version-1")
    files = {"keys": "current/keys.json", "audit": "a/b", "tls_key": "k", "tls_certificate": "c"}
    endpoint = load_recipe(_write(tmp_path, "r.yaml", {**SMALL, "endpoint": files})).endpoint
    assert endpoint.keys == str(tmp_path / "current" / "keys.json")
    assert endpoint.audit == str(tmp_path / "a" / "b")
    remote = {**SMALL, "endpoint": {"keys": "s3://bucket/keys.json"}}
    assert load_recipe(_write(tmp_path, "s.yaml", remote)).endpoint.keys == "s3://bucket/keys.json"


def test_a_value_that_no_file_asks_for_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: ${name}\n")
    with pytest.raises(BadInputError, match="for --set other;"):
        load_recipe(path, {"name": "mine", "other": "x"})
