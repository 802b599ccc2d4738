"""Check what can be checked of a recipe where this runs; nothing is sampled, no model loaded."""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import polars as pl

from cluster.nodes import described_nodes
from fusion.chat import Use, check_template, load_tokenizer, render_prompt
from fusion.errors import BadInputError, CrucibleError
from fusion.ingest import (
    AnswerMapping,
    DataPath,
    PromptMapping,
    check_data_path,
    map_answers,
    map_rewards,
    map_rows,
    read_rows,
    read_training_rows,
)
from fusion.ingest.reading import Read
from fusion.ingest.rows import Malformed, Mapped
from fusion.models import (
    check_generates,
    check_layers,
    check_model,
    check_scores,
    context_length,
    is_local,
    known_engine_options,
    mistyped_engine_options,
    unknown_engine_options,
)
from fusion.recipe import Dataset, Engine, Model, Recipe, Reward, Sampling, Source, Training
from fusion.run import STAGES
from fusion.selection import why_no_rows
from fusion.store import Location

NUM_ROWS = 20
_NO_PROMPTS = pl.DataFrame(schema={"prompt_id": pl.String, "origin": pl.String})


@dataclass(frozen=True)
class Report:
    """What was found right, and what could not be checked here and why."""

    checked: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)


def validate(recipe: Recipe, stages: Collection[str] = STAGES) -> Report:
    """Check storage, data sets, models, templates, engine options and sampling values.

    A recipe of which select is not to run need not give a row.

    Raises:
        BadInputError: the first mistake found.
    """
    report = Report()
    _check_storage(recipe.storage, report)
    _check_growth(recipe)
    prompts = {dataset.name: _check_dataset(dataset, report) for dataset in recipe.datasets}
    _check_judges(recipe)
    if "select" in stages:
        _check_rows(recipe)
    for source in recipe.sources:
        _check_source(source, report)
        _check_asked(recipe, source, prompts, report)
    _check_model("the target", recipe.target, "train", report)
    evaluation = recipe.evaluation
    _check_engine("evaluation", evaluation.engine, report)
    _check_room("evaluation", recipe.target.model, evaluation.sampling, evaluation.engine)
    for name, reward in recipe.rewards.items():
        _check_reward(name, reward, report)
    for what, training in (("sft", recipe.sft), ("dpo", recipe.dpo)):
        _check_trackers(what, training, recipe.storage)
        _check_adapters(what, recipe.target.model, training)
    _check_training_data("sft.data", recipe.sft, ("messages",), report)
    _check_training_data("dpo.data", recipe.dpo, ("prompt", "chosen", "rejected"), report)
    return report


def check_templates(recipe: Recipe, stages: Collection[str]) -> None:
    """See that the chat templates of local models do what these stages need of them.

    A model of the hub is checked where it starts, before its weights are loaded.

    Raises:
        BadInputError: the first that cannot, and why.
    """
    uses: list[tuple[str, Model, Use]] = []
    if "sample" in stages:
        uses += [(f"the source {s.name}", _model(s), "sample") for s in recipe.model_sources]
    if "evaluate" in stages:
        uses.append(("the target", recipe.target, "sample"))
    if {"sft", "reference", "dpo"} & set(stages):
        uses.append(("the target", recipe.target, "train"))
    if {"score", "evaluate"} & set(stages):
        uses += [
            (_name(name), served, "score")
            for name, reward in recipe.rewards.items()
            if (served := reward.served_model)
        ]
    for what, model, use in uses:
        if is_local(model.model):
            _check_model(what, model, use, Report())


def _check_storage(storage: str, report: Report) -> None:
    try:
        Location.of(storage).check_writable()
    except CrucibleError as error:
        raise BadInputError(str(error)) from None
    report.checked.append(f"the storage {storage} can be written")


def _check_growth(recipe: Recipe) -> None:
    if recipe.cluster.grows_to is not None:
        described_nodes(recipe.cluster.grows_to)


def _check_dataset(dataset: Dataset, report: Report) -> list[Any]:
    """The first prompts of a data set that maps; none where it lies on a hub."""
    mapping = PromptMapping(dataset)
    what = f"the data set {dataset.name}"
    rows = _first_rows(what, DataPath.of(dataset), report)
    if rows is None:
        return []
    seen = _check_outcomes(what, dataset.path, map_rows(mapping, rows), report)
    return [outcome.prompt["messages"] for outcome in seen if isinstance(outcome, Mapped)]


def _check_source(source: Source, report: Report) -> None:
    what = f"the source {source.name}"
    if source.kind == "imported":
        mapping = AnswerMapping(source, _NO_PROMPTS)
        rows = _first_rows(what, DataPath.of(source), report)
        if rows is not None:
            _check_outcomes(what, str(source.path), map_answers(mapping, rows), report)
        return
    _check_model(what, _model(source), "sample", report)
    _check_engine(what, source.engine, report)
    _check_room(what, str(source.model), source.sampling, source.engine)


def _check_reward(name: str, reward: Reward, report: Report) -> None:
    what = _name(name)
    if model := reward.served_model:
        _check_model(what, model, "score", report)
    elif reward.kind == "imported":
        rows = _first_rows(what, DataPath(str(reward.path), reward.revision), report)
        if rows is not None:
            _check_outcomes(what, str(reward.path), map_rewards(reward, rows), report)
    elif reward.judge:
        report.not_checked.append(f"{what}: the judge {reward.model} at {reward.judge.url}")


def _model(source: Source) -> Model:
    return Model(model=str(source.model), revision=source.revision)


def _name(scorer: str) -> str:
    return "the reward" if scorer == "reward" else f"the scorer {scorer}"


def _check_asked(
    recipe: Recipe, source: Source, prompts: dict[str, list[Any]], report: Report
) -> None:
    """The source's template renders prompts of each data set, and its context has room for them."""
    if source.kind == "imported" or not is_local(str(source.model)):
        return
    tokenizer = load_tokenizer(str(source.model), source.revision)
    context = source.engine.max_model_len or context_length(str(source.model))
    for dataset in recipe.datasets:
        asked = prompts[dataset.name] if recipe.samples(source, dataset) else []
        unfit = [why for messages in asked if (why := _misfit(tokenizer, messages, context))]
        if asked and len(unfit) == len(asked):
            raise BadInputError(
                f"None of the first {len(asked)} prompts of the data set {dataset.name} can be "
                f"asked of the source {source.name}: {unfit[0]}"
            )
        if asked:
            fit = len(asked) - len(unfit)
            report.checked.append(f"{source.name} can be asked {fit} of {len(asked)} prompts")


def _misfit(tokenizer: Any, messages: Any, context: int | None) -> str | None:
    """Why a source cannot be asked a prompt, None where it can."""
    try:
        length = len(render_prompt(tokenizer, messages))
    except BadInputError as error:
        return str(error)
    if context is not None and length >= context:
        return f"it has {length} tokens, and the context holds {context}; raise max_model_len."
    return None


def _first_rows(what: str, data: DataPath, report: Report) -> Read | None:
    check_data_path(data)
    if data.on_hub:
        report.not_checked.append(f"{what}: the fields of {data.path} at {data.revision}")
        return None
    return itertools.islice(read_rows(data), NUM_ROWS)


def _check_judges(recipe: Recipe) -> None:
    """A data set whose answers nothing can judge would give no row at all."""
    for dataset in recipe.datasets:
        judge = recipe.selection.policy(dataset.domain).judge
        needs_verdicts = judge == "verdict" or (judge == "reward" and recipe.ranking is None)
        if dataset.split == "train" and needs_verdicts and dataset.verifier is None:
            why = "there is no reward model" if judge == "reward" else "its judge is verdict"
            scorers = " or ".join(recipe.scorers) if judge == "reward" else ""
            ranked = f", set selection.ranked_by: {scorers}" if scorers else ""
            raise BadInputError(
                f"The data set {dataset.name}, domain {dataset.domain}, has no verifier and {why}: "
                f"all its answers would be dropped; give it a verifier{ranked}, or set "
                f"selection.domains.{dataset.domain}.judge."
            )


def _check_rows(recipe: Recipe) -> None:
    """See that selection can make a row, unless a training takes its rows from elsewhere."""
    reason = why_no_rows(recipe)
    if reason and not (recipe.sft.data or recipe.dpo.data):
        raise BadInputError(f"The recipe can give no row of sft or preferences: {reason}.")


def _check_outcomes(what: str, path: str, outcomes: Iterator[Any], report: Report) -> list[Any]:
    """What the rows map to, those that are malformed left out."""
    seen = list(outcomes)
    malformed = [outcome for outcome in seen if isinstance(outcome, Malformed)]
    if not seen:
        raise BadInputError(f"{path} of {what} has no rows; give a file with at least one.")
    if len(malformed) == len(seen):
        first = malformed[0]
        raise BadInputError(
            f"None of the first {len(seen)} rows of {path} fits {what} (row {first.number}: "
            f"{first.reason}, {first.detail}); correct its fields."
        )
    report.checked.append(f"{what}: {len(seen) - len(malformed)} of its first {len(seen)} rows map")
    return [outcome for outcome in seen if not isinstance(outcome, Malformed)]


def _check_model(what: str, model: Model, use: Use, report: Report) -> None:
    try:
        check_model(model.model, model.revision)
        if is_local(model.model):
            check_scores(model.model) if use == "score" else check_generates(model.model)
            tokenizer = load_tokenizer(model.model, model.revision)
            check_template(tokenizer, model.model, use)
    except BadInputError as error:
        raise BadInputError(f"{what[0].upper()}{what[1:]}: {error}") from None
    if is_local(model.model):
        report.checked.append(f"{what}: {model.model} is there and its chat template fits")
    else:
        report.not_checked.append(
            f"{what}: files and chat template of {model.model} at {model.revision}"
        )


def _check_engine(what: str, engine: Engine, report: Report) -> None:
    if known_engine_options() is None:
        report.not_checked.append(f"{what}: its engine options, as vLLM is not installed here")
        return
    for name, nearest in unknown_engine_options(engine.options()):
        advice = f"did you mean {nearest}?" if nearest else "remove it."
        raise BadInputError(f"{what} has the engine option {name}, which vLLM lacks; {advice}")
    for name, value, type_ in mistyped_engine_options(engine.options()):
        raise BadInputError(
            f"{what} has engine.{name} {value!r}, where vLLM takes {type_}; mend it."
        )
    report.checked.append(f"{what}: vLLM knows its engine options")


def _check_room(what: str, model: str, sampling: Sampling, engine: Engine) -> None:
    """A context that one answer fills leaves no room for any prompt."""
    longest, limit = engine.max_model_len, context_length(model)
    if longest is not None and limit is not None and longest > limit:
        raise BadInputError(
            f"{what} has engine.max_model_len {longest}, but {model} was made for {limit} tokens; "
            "lower it."
        )
    context = longest or limit
    if context is not None and sampling.max_tokens >= context:
        raise BadInputError(
            f"{what} has sampling.max_tokens {sampling.max_tokens} in a context of {context} "
            "tokens, which leaves none for the prompt; lower it."
        )


def _check_trackers(what: str, training: Training, storage: str) -> None:
    for name in training.trackers:
        if find_spec(name) is None:
            raise BadInputError(
                f"{what}.trackers names {name}, which is not installed here; install it, or leave "
                "it out: the log and the report have all figures."
            )
    if "tensorboard" in training.trackers and Location.of(storage).scheme != "file":
        raise BadInputError(
            f"{what}.trackers names tensorboard and storage is {storage}; TensorBoard needs a "
            "storage on a file system: leave it out, or take mlflow or wandb."
        )


def _check_adapters(what: str, model: str, training: Training) -> None:
    if training.lora and training.lora.modules:
        try:
            check_layers(model, training.lora.modules)
        except BadInputError as error:
            raise BadInputError(f"{what}.lora.modules: {error}") from None


def _check_training_data(
    what: str, training: Training, columns: tuple[str, ...], report: Report
) -> None:
    """The first rows of an existing data set are in TRL's conversational format."""
    if training.data is None:
        return
    data = DataPath(training.data, training.data_revision)
    if _first_rows(what, data, report) is None:
        return
    if not list(itertools.islice(read_training_rows(data, columns), NUM_ROWS)):
        raise BadInputError(
            f"{training.data} of {what} has no rows; give a file with at least one."
        )
    report.checked.append(f"{what}: the first rows of {training.data} are in TRL's format")
