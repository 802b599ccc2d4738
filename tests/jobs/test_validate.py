"""What validate finds wrong, what it finds right, and what it leaves to a hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion.errors import BadInputError
from fusion.models import known_engine_options
from fusion.recipe import Recipe
from fusion.recipe_file import load_recipe
from jobs.validate import check_templates, validate

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted((ROOT / "recipes" / "fusechat-3.0").glob("*.yaml"))
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SaveModel = Callable[..., str]
MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> SaveModel:
    """A folder with a configuration, a byte-level tokenizer and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def save(template: str = CHATML) -> str:
        folder = tmp_path_factory.mktemp("model")
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
        fast.chat_template = template
        fast.save_pretrained(folder)
        config = {"model_type": "llama", "max_position_embeddings": 8192}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"")
        return str(folder)

    return save


@pytest.fixture(scope="module")
def model(save_model: SaveModel) -> str:
    return save_model()


@pytest.fixture
def make_recipe(tmp_path: Path, model: str) -> MakeRecipe:
    """A recipe that is right in all, with changes to its sections."""
    lines = [json.dumps({"q": f"prompt {i}", "a": i}) for i in range(30)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))

    def make(**sections: Any) -> Recipe:
        fields = {"prompt": "q", "gold": "a"}
        dataset = {"name": "d", "path": str(tmp_path / "d.jsonl"), "domain": "instruction"}
        source = {"name": "one", "model": model}
        parts: dict[str, Any] = {
            "name": "small",
            "storage": str(tmp_path / "runs"),
            "target": {"model": model, **sections.pop("target", {})},
            "reward": {"model": model, **sections.pop("reward", {})},
            "sources": [{**source, **sections.pop("source", {})}],
            "datasets": [{**dataset, "fields": fields, **sections.pop("dataset", {})}],
        }
        return Recipe.model_validate({**parts, **sections})

    return make


def test_right_recipe_is_checked_whole(make_recipe: MakeRecipe) -> None:
    report = validate(make_recipe())
    assert any("20 of its first 20 rows" in line for line in report.checked)
    assert sum("chat template fits" in line for line in report.checked) == 3
    without_vllm = known_engine_options() is None
    assert len(report.not_checked) == (2 if without_vllm else 0)


def test_what_needs_the_hub_is_listed_and_no_error(make_recipe: MakeRecipe) -> None:
    hub = {"model": "owner/name", "revision": "main"}
    report = validate(
        make_recipe(
            source=hub,
            target=hub,
            reward=hub,
            dataset={"path": "hf://owner/data", "revision": "abc"},
        )
    )
    for part in ("the data set d", "the source one", "the target", "the reward"):
        assert any(line.startswith(part) for line in report.not_checked), part


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"source": {"model": "owner/name"}}, "Source one: owner/name is neither a local path"),
        ({"target": {"model": "/no/such"}}, "target: /no/such is neither a local path nor a hub"),
        ({"dataset": {"path": "/no/such.jsonl"}}, "There is no file /no/such.jsonl"),
        ({"dataset": {"path": "hf://owner/data"}}, "has no revision"),
        ({"dataset": {"fields": {"prompt": "question"}}}, "has a value in the field question"),
        ({"dataset": {"fields": {"prompt": "a"}}}, "wrong_type"),
        ({"dataset": {"fields": {"prompt": "q["}}}, "is not a path"),
        ({"source": {"engine": {"max_modl_len": 5}}}, "did you mean max_model_len"),
        ({"source": {"engine": {"max_num_batched_tokens": "x"}}}, "'x', where vLLM takes int"),
        ({"source": {"engine": {"max_model_len": 99999}}}, "was made for 8192 tokens"),
        ({"source": {"sampling": {"max_tokens": 8192}}}, "leaves none for the prompt"),
        (
            {"source": {"engine": {"max_model_len": 30}, "sampling": {"max_tokens": 8}}},
            "None of the first 20 prompts of the data set d can be asked of the source one: it has",
        ),
        ({"evaluation": {"engine": {"max_model_len": 512}}}, "evaluation has sampling.max_tokens"),
        ({"sft": {"data": "/no/such"}}, "There is no file /no/such"),
        ({"cluster": {"grows_to": "many"}}, "The cluster 'many' is not understood"),
    ],
)
def test_mistake_is_one_sentence(
    make_recipe: MakeRecipe, sections: dict[str, Any], sentence: str
) -> None:
    if ("did you mean" in sentence or "vLLM takes" in sentence) and known_engine_options() is None:
        pytest.skip("vLLM is not installed, so its engine options cannot be read")
    with pytest.raises(BadInputError) as error:
        validate(make_recipe(**sections))
    assert sentence.lower() in str(error.value).lower()
    assert "\n" not in str(error.value)


def test_existing_training_data_must_have_trls_columns(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    turns = [{"role": role, "content": "text"} for role in ("user", "assistant")]
    (tmp_path / "t.jsonl").write_text(json.dumps({"messages": turns}))
    data = str(tmp_path / "t.jsonl")
    assert any("sft.data" in line for line in validate(make_recipe(sft={"data": data})).checked)
    with pytest.raises(BadInputError, match="lacks prompt, chosen, rejected"):
        validate(make_recipe(dpo={"data": data}))
    (tmp_path / "t.jsonl").write_text("")
    with pytest.raises(BadInputError, match=r"of sft\.data has no rows"):
        validate(make_recipe(sft={"data": data}))


def test_storage_that_cannot_be_written_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="cannot be written"):
        validate(make_recipe(storage=str(tmp_path / "file" / "runs")))


def test_template_must_be_fit_to_train_only_for_the_target(
    make_recipe: MakeRecipe, save_model: SaveModel
) -> None:
    unfit = {"model": save_model("{{ messages|length }}" + CHATML)}
    validate(make_recipe(source=unfit, reward=unfit))
    with pytest.raises(BadInputError, match="differently from the prompt alone"):
        validate(make_recipe(target=unfit))


def test_prompts_that_the_source_s_template_refuses_are_found(
    make_recipe: MakeRecipe, save_model: SaveModel
) -> None:
    short = "{% if messages[0].content == 'prompt 0' %}{{ raise_exception('no') }}{% endif %}"
    report = validate(make_recipe(source={"model": save_model(short + CHATML)}))
    assert "one can be asked 19 of 20 prompts" in report.checked
    refuses = "{% if 'prompt' in messages[0].content %}{{ raise_exception('no') }}{% endif %}"
    with pytest.raises(BadInputError, match="None of the first 20 prompts"):
        validate(make_recipe(source={"model": save_model(refuses + CHATML)}))


def test_imported_answers_are_mapped(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps([{"of": 1, "out": "a"}]))
    imported = {
        "name": "gpt-4",
        "kind": "imported",
        "path": str(answers),
        "fields": {"id": "of", "text": "out"},
        "dataset": "d",
    }
    assert any("gpt-4: 1 of" in line for line in validate(make_recipe(sources=[imported])).checked)
    wrong = {**imported, "fields": {"id": "of", "text": "output"}}
    with pytest.raises(BadInputError, match="field output that the source gpt-4 names"):
        validate(make_recipe(sources=[wrong]))


@pytest.mark.parametrize("path", [p for p in PUBLISHED if p.stem != "base"], ids=lambda p: p.stem)
def test_published_recipes_are_valid_without_the_hub(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path).model_copy(update={"storage": str(tmp_path)})
    report = validate(recipe)
    assert sum(line.startswith("the data set") for line in report.not_checked) == 10
    assert not any("template fits" in line for line in report.checked)


def test_published_recipes_share_everything_but_target_and_rates() -> None:
    recipes = [load_recipe(path) for path in PUBLISHED if path.stem != "base"]
    assert len(recipes) == 5
    assert all(recipe.sources == recipes[0].sources for recipe in recipes)
    assert all(recipe.datasets == recipes[0].datasets for recipe in recipes)
    assert len({recipe.name for recipe in recipes}) == 5
    rates = {
        recipe.name.removeprefix("fusechat-3.0-"): (
            recipe.sft.learning_rate,
            recipe.dpo.learning_rate,
            recipe.dpo.beta,
            recipe.dpo.loss,
        )
        for recipe in recipes
    }
    assert rates == {  # FuseChat-3.0's README, sections "SFT" and "DPO"
        "llama-3.1-8b": (5e-6, 8e-7, 10, "ln_dpo"),
        "qwen-2.5-7b": (2e-6, 3e-7, 0.01, "dpo"),
        "gemma-2-9b": (2e-6, 5e-7, 0.01, "dpo"),
        "llama-3.2-3b": (5e-6, 1e-6, 10, "ln_dpo"),
        "llama-3.2-1b": (5e-6, 1e-6, 10, "ln_dpo"),
    }


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"dataset": {"domain": "math"}}, "has no verifier and its judge is verdict"),
        ({"without_reward": True}, "has no verifier and there is no reward model"),
    ],
)
def test_a_data_set_whose_answers_nothing_can_judge_is_refused(
    make_recipe: MakeRecipe, sections: dict[str, Any], sentence: str
) -> None:
    without_reward = sections.pop("without_reward", False)
    recipe = make_recipe(**sections)
    if without_reward:
        recipe = recipe.model_copy(update={"reward": None})
    with pytest.raises(BadInputError, match=sentence):
        validate(recipe)


def test_a_scorer_that_could_rank_is_named_as_a_cure(make_recipe: MakeRecipe, model: str) -> None:
    scorers = {"armo": {"model": model}}
    recipe = make_recipe(scorers=scorers).model_copy(update={"reward": None})
    with pytest.raises(BadInputError, match=r"a verifier, set selection\.ranked_by: armo, or set"):
        validate(recipe)
    validate(make_recipe(scorers=scorers, selection={"ranked_by": "armo"}))


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"source": {"domains": []}}, "no source is asked a prompt"),
        ({"dataset": {"samples": 1}}, "a pair needs 2 answers"),
    ],
)
def test_a_recipe_that_can_give_no_row_is_refused_where_it_is_to_select(
    make_recipe: MakeRecipe, tmp_path: Path, sections: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInputError, match=f"can give no row of sft or preferences: {sentence}"):
        validate(make_recipe(**sections))
    validate(make_recipe(**sections), {"ingest", "sample", "evaluate"})
    turns = [{"role": role, "content": "text"} for role in ("user", "assistant")]
    (tmp_path / "t.jsonl").write_text(json.dumps({"messages": turns}))
    validate(make_recipe(**sections, sft={"data": str(tmp_path / "t.jsonl")}))


def test_a_data_set_that_is_held_out_or_not_judged_needs_no_verifier(
    make_recipe: MakeRecipe,
) -> None:
    judged_by_reward = {"domains": {"math": {"judge": "reward"}}}
    for dataset, selection in (
        ({"domain": "math"}, judged_by_reward),
        ({"domain": "chinese"}, {}),
        ({"domain": "math", "split": "test"}, {}),
    ):
        assert validate(make_recipe(dataset=dataset, selection=selection)).checked


@pytest.mark.parametrize("section", ["target", "source"])
def test_a_model_that_writes_no_text_is_refused(make_recipe: MakeRecipe, section: str) -> None:
    reward = str(ROOT / "rehearsal" / "models" / "reward")
    with pytest.raises(BadInputError, match="does not write text"):
        validate(make_recipe(**{section: {"model": reward}}))


def test_a_reward_model_that_gives_no_score_is_refused(make_recipe: MakeRecipe) -> None:
    llama = str(ROOT / "rehearsal" / "models" / "llama")
    with pytest.raises(BadInputError, match=r"The reward: .* is a LlamaForCausalLM, which gives"):
        validate(make_recipe(reward={"model": llama}))


def test_adapters_for_layers_that_the_target_lacks_are_refused(make_recipe: MakeRecipe) -> None:
    target = {"model": str(ROOT / "rehearsal" / "models" / "target")}
    short = {"target": target, "evaluation": {"sampling": {"max_tokens": 64}}}
    for names in (["q_proj"], ["self_attn.q_proj", "down_proj"]):
        validate(make_recipe(**short, sft={"lora": {"modules": names}}))
    with pytest.raises(BadInputError, match=r"dpo\.lora\.modules: .* has no layer proj; .*q_proj"):
        validate(make_recipe(**short, dpo={"lora": {"modules": ["q_proj", "proj"]}}))


def test_imported_rewards_are_mapped(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    file = tmp_path / "rewards.jsonl"
    file.write_text(json.dumps({"answer": "r1", "points": 3}))
    reward = {"kind": "imported", "path": str(file), "model": None}
    fields = {"response_id": "answer", "reward": "points"}
    right = make_recipe(reward={**reward, "fields": fields})
    assert "the reward: 1 of its first 1 rows map" in validate(right).checked
    wrong = make_recipe(reward={**reward, "fields": {**fields, "reward": "score"}})
    with pytest.raises(BadInputError, match="field score that the reward names"):
        validate(wrong)


def test_imported_rewards_of_the_hub_are_taken_at_their_revision(make_recipe: MakeRecipe) -> None:
    fields = {"response_id": "answer", "reward": "points"}
    reward = {"kind": "imported", "path": "hf://owner/scores", "model": None, "fields": fields}
    report = validate(make_recipe(reward={**reward, "revision": "v1"}))
    assert "the reward: the fields of hf://owner/scores at v1" in report.not_checked
    with pytest.raises(BadInputError, match="hf://owner/scores has no revision"):
        validate(make_recipe(reward=reward))


def test_a_tracker_that_is_not_installed_is_refused(make_recipe: MakeRecipe) -> None:
    with pytest.raises(BadInputError, match="wandb, which is not installed"):
        validate(make_recipe(dpo={"trackers": ["wandb"]}))


@pytest.mark.parametrize(
    ("section", "stages", "what"),
    [
        ("source", {"sample"}, "The source one"),
        ("target", {"sft"}, "The target"),
        ("target", {"evaluate"}, "The target"),
        ("reward", {"score"}, "The reward"),
    ],
)
def test_a_run_checks_the_templates_of_the_models_it_brings_up(
    make_recipe: MakeRecipe, save_model: SaveModel, section: str, stages: set[str], what: str
) -> None:
    broken = save_model("{{ raise_exception('no') }}")
    recipe = make_recipe(**{section: {"model": broken}})
    with pytest.raises(BadInputError, match=f"{what}: The chat template of {broken} failed"):
        check_templates(recipe, stages)
    check_templates(recipe, {"ingest", "select", "report"})
    check_templates(make_recipe(), stages)
