"""Rewards that need no model up: constants, imports, and what a judge compares with."""

import json
import tracemalloc

import polars as pl
import pyarrow as pa
import pytest

from fusion.errors import BadInputError, CrucibleError
from fusion.identity import prompt_id, response_id
from fusion.ingest import import_rewards
from fusion.ingest.conversation import marked_turns
from fusion.recipe import Judge, Recipe, Reward
from fusion.records import QUARANTINE, RESPONSES
from fusion.run import Run
from jobs.accounts import score_manifest
from jobs.contents import Contents, with_others
from jobs.ingest import load_prompts, run_ingest
from jobs.rating import AskJudge, score_rewards
from jobs.score import (
    not_stored,
    reward_key,
    reward_wants,
    scorer_keys,
    stored_answers,
    unscored,
)
from jobs.scoring import IDS

PROMPT = [{"role": "user", "content": "Name a colour."}]
TEXTS = ("red", "blue", "red", "green")


SOURCES = ("one", "one", "one", "two")


@pytest.fixture
def answers() -> pl.DataFrame:
    prompt = prompt_id(PROMPT)
    keys = [f"{source}-key" for source in SOURCES]
    return pl.DataFrame(
        {
            "response_id": [response_id(prompt, key, i) for i, key in enumerate(keys)],
            "prompt_id": prompt,
            "source": SOURCES,
            "source_key": keys,
        }
    )


@pytest.fixture
def run_with(tmp_path, answers):
    """Makes a run whose recipe has these scorers, and that has these answers."""

    def make(**keys: object) -> Run:
        data = tmp_path / "d.jsonl"
        data.write_text(json.dumps({"p": PROMPT[0]["content"]}) + "\n")
        model = {"model": "org/model", "revision": "v1"}
        recipe = {
            "name": "rated",
            "storage": str(tmp_path / "runs"),
            "target": model,
            "sources": [{"name": "one", **model}],
            "datasets": [
                {
                    "name": "d",
                    "path": str(data),
                    "domain": "instruction",
                    "fields": {"prompt": "p"},
                }
            ],
        }
        run = Run(Recipe.model_validate(recipe | keys))
        run_ingest(run)
        for row, text in zip(answers.to_dicts(), TEXTS, strict=True):
            run.shared("responses").partition(row["source_key"]).append(_response(row, text))
        return run

    return make


def _response(row: dict[str, str], text: str) -> pa.Table:
    """A row of the table of answers."""
    more = {"sample_index": 0, "text": text, "finish_reason": "stop"}
    return pa.Table.from_pylist([row | more], schema=RESPONSES)


def _score(run: Run, answers: pl.DataFrame) -> pl.DataFrame:
    score_rewards(run, unscored(run, reward_wants(run.recipe, answers)))
    stored = [
        pl.DataFrame(run.shared("scores").partition(key).read())
        for key in reward_wants(run.recipe, answers)["partition"].unique()
    ]
    return pl.concat(stored).sort("scorer", "response_id")


def _file(tmp_path, *rows: dict) -> str:
    path = tmp_path / "rewards.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_scorer_gives_every_answer_a_reward_of_its_own(run_with, answers):
    run = run_with(
        reward={"kind": "constant", "value": 1.5},
        scorers={"half": {"kind": "constant", "value": 0.5}},
    )
    rewards = _score(run, answers).group_by("scorer").agg(pl.len(), pl.col("reward").mean())
    assert sorted(rewards.iter_rows()) == [("half", 4, 0.5), ("reward", 4, 1.5)]
    assert unscored(run, reward_wants(run.recipe, answers)).is_empty()


def test_selection_goes_by_the_scorer_that_ranks(run_with):
    scorers = {"half": {"kind": "constant", "value": 0.5}}
    run = run_with(reward={"kind": "constant"}, scorers=scorers, selection={"ranked_by": "half"})
    (key,) = scorer_keys(run.recipe)
    assert key.startswith("half-")
    assert run.recipe.ranking.value == 0.5


def test_imported_rewards_are_found_by_response_id(run_with, answers, tmp_path):
    rows = [{"id": i, "score": n} for n, i in enumerate(answers["response_id"])]
    fields = {"reward": "score", "response_id": "id"}
    run = run_with(
        reward={"kind": "imported", "path": _file(tmp_path, *rows[:3]), "fields": fields}
    )
    stored = _score(run, answers)
    by_id = dict(stored.select("response_id", "reward").iter_rows())
    assert [by_id.get(i) for i in answers["response_id"]] == [0.0, 1.0, 2.0, None]
    (left_out,) = pl.DataFrame(run.quarantine("score").read()).iter_rows(named=True)
    assert left_out["reason"] == "not_imported"


def test_imported_rewards_are_found_by_prompt_and_text(run_with, answers, tmp_path):
    rows = [{"q": "Name a colour.", "a": text, "r": len(text)} for text in set(TEXTS)]
    fields = {"reward": "r", "prompt": "q", "text": "a"}
    run = run_with(reward={"kind": "imported", "path": _file(tmp_path, *rows), "fields": fields})
    assert sorted(_score(run, answers)["reward"]) == [3.0, 3.0, 4.0, 5.0]


def test_rows_of_imported_rewards_that_are_of_no_use_are_told(run_with, answers, tmp_path, caplog):
    first, second, *_ = answers["response_id"]
    rows = [
        {"id": first, "score": 1.0},
        {"id": first, "score": 9.0},
        {"id": second, "score": "high"},
        {"id": "nobody's", "score": 2.0},
    ]
    fields = {"reward": "score", "response_id": "id"}
    run = run_with(
        reward={"kind": "imported", "path": _file(tmp_path, *rows), "fields": fields},
        malformed_limit=0.5,
    )
    assert _score(run, answers)["reward"].to_list() == [1.0]
    assert (
        "1 rows are malformed, 1 judge an answer again, and 1 are of none of the 4" in caplog.text
    )
    (key,) = scorer_keys(run.recipe)
    left_out = dict(pl.DataFrame(run.quarantine("score").read(["id", "reason"])).iter_rows())
    assert left_out.pop(f"{key}:3") == "wrong_type"
    assert list(left_out.values()) == ["not_imported"] * 3
    prompts = load_prompts(run)
    counts = score_manifest(run, prompts, set(answers["source_key"])).counts
    assert (counts.entered, counts.results) == (5, 1)
    assert counts.quarantined == {"not_imported": 3, "wrong_type": 1}
    _file(tmp_path, *rows[:2])
    _score(run, answers)
    counts = score_manifest(run, prompts, set(answers["source_key"])).counts
    assert (counts.entered, counts.quarantined) == (4, {"not_imported": 3})


def test_imported_rewards_of_a_conversation_in_one_text_need_its_turn_marker(tmp_path):
    turns = "one<turn>Assistant\nhi<turn>User\nand two"
    file = _file(tmp_path, {"q": turns, "a": "three", "r": 2.0})
    fields = {"reward": "r", "prompt": "q", "text": "a"}
    reward = Reward(kind="imported", path=file, fields=fields, turn_marker="<turn>")
    messages = marked_turns(turns, "<turn>")
    answers = pl.DataFrame({"prompt_id": [prompt_id(messages)], "text": ["three"]})
    (judgement,) = import_rewards(reward, "r", answers, malformed_limit=0).judgements
    assert judgement.reward == 2.0
    assert reward_key("r", reward) != reward_key(
        "r", reward.model_copy(update={"turn_marker": None})
    )


def test_texts_of_answers_are_not_held_while_imported_rewards_join_them(tmp_path):
    text = "a" * 20_000
    file = _file(tmp_path, {"q": "Name a colour.", "a": f"7{text}", "r": 1.0})
    fields = {"reward": "r", "prompt": "q", "text": "a"}
    reward = Reward(kind="imported", path=file, fields=fields)
    texts = [f"{number}{text}" for number in range(4000)]
    answers = pl.DataFrame({"prompt_id": prompt_id(PROMPT), "text": texts})
    tracemalloc.start()
    try:
        imported = import_rewards(reward, "r", answers, malformed_limit=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [n for n, j in enumerate(imported.judgements) if j.reward == 1.0] == [7]
    assert (imported.num_unmatched, imported.num_repeated) == (0, 0)
    assert peak < 40_000_000  # all the texts are 80 MB


@pytest.mark.parametrize("reward", [None, "high", float("nan"), True])
def test_a_file_of_unusable_rewards_is_refused(run_with, answers, tmp_path, reward):
    file = _file(tmp_path, {"id": answers["response_id"][0], "score": reward})
    fields = {"reward": "score", "response_id": "id"}
    run = run_with(reward={"kind": "imported", "path": file, "fields": fields})
    with pytest.raises(BadInputError):
        _score(run, answers)


def test_an_answer_is_compared_with_the_other_texts_of_its_source(answers):
    texts = answers.with_columns(text=pl.Series(TEXTS))
    rows = with_others(texts, texts).sort("source", "text")
    assert rows["others"].to_list() == [["red"], ["blue"], ["blue"], []]


def test_contents_are_read_for_the_ids_asked_for(run_with, answers):
    contents = Contents.of(run_with(reward={"kind": "constant"}))
    rows = pl.DataFrame(contents.read(answers[1:].to_arrow()))
    assert rows["text"].to_list() == ["blue", "green", "red"]
    assert rows["messages"].to_list() == [PROMPT] * 3
    assert set(rows["response_id"]) == set(answers["response_id"][1:])


def test_contents_with_others_have_the_answers_that_are_not_asked_for(run_with, answers):
    contents = Contents.of(run_with(reward={"kind": "constant"}), has_others=True)
    rows = pl.DataFrame(contents.read(answers[1:2].to_arrow()))
    assert rows.select("text", "others").rows() == [("blue", ["red"])]


def test_what_the_driver_knows_of_answers_has_no_text(run_with, answers):
    run = run_with(reward={"kind": "constant"})
    known = stored_answers(run, load_prompts(run), answers["source_key"].unique())
    assert known.height == len(TEXTS)
    assert not {"text", "messages"} & set(known.columns)


def test_an_answer_that_its_judge_failed_on_is_asked_for_again(run_with, answers):
    run = run_with(reward={"kind": "constant"})
    wanted = reward_wants(run.recipe, answers)
    failures = (("judge_failed", "503"), ("judge_unclear", "maybe"))
    for id_, (reason, detail) in zip(wanted["score_id"], failures, strict=False):
        row = {"stage": "score", "id": id_, "reason": reason, "detail": detail, "attempts": 1}
        run.quarantine("score").append(pa.Table.from_pylist([row], QUARANTINE))
    left = unscored(run, wanted)["score_id"].to_list()
    assert left == [wanted["score_id"][0], *wanted["score_id"][2:]]
    assert not_stored(run, wanted).height == len(TEXTS)


def test_a_judge_that_nobody_answers_for_stops_before_any_work(run_with, answers):
    judge = {"url": "http://127.0.0.1:9/v1", "attempts": 1}
    run = run_with(reward={"kind": "judge", "model": "wise", "judge": judge})
    with pytest.raises(CrucibleError, match="The judge wise at http"):
        _score(run, answers)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"reward": {"kind": "judge", "model": "wise"}}, "needs the key judge"),
        ({"reward": {"kind": "classifier"}}, "needs the key model"),
        ({"reward": {"kind": "imported", "path": "x"}}, "fields needs reward"),
        (
            {
                "reward": {
                    "kind": "imported",
                    "path": "x",
                    "fields": {"reward": "r", "response_id": "i"},
                    "turn_marker": "<turn>",
                }
            },
            "turn_marker needs fields.prompt",
        ),
        ({"selection": {"ranked_by": "nobody"}}, "which is no scorer"),
        ({"scorers": {"math": {"kind": "constant"}}}, "may not be named math"),
        (
            {
                "reward": {
                    "kind": "judge",
                    "model": "wise",
                    "judge": {"url": "http://x", "lowest": 5, "highest": 5},
                }
            },
            "is not below highest",
        ),
    ],
)
def test_a_reward_that_lacks_what_its_kind_needs_is_refused(run_with, keys, words):
    with pytest.raises(ValueError, match=words):
        run_with(**keys)


@pytest.fixture
def asker():
    """Asks a judge at whose address nobody answers."""
    return AskJudge(Judge(url="http://127.0.0.1:9/v1", attempts=1), "wise", limit=0.1)


def _cases(number: int) -> pa.Table:
    row = dict.fromkeys(IDS, "x") | {"messages": PROMPT, "text": "red"}
    return pa.Table.from_pylist([row | {"score_id": str(i)} for i in range(number)])


def test_a_judge_that_goes_away_stops_the_stage(asker):
    with pytest.raises(CrucibleError, match="failed on 20 of 20 answers"):
        asker(_cases(20))


def test_a_few_failures_of_a_judge_are_written_down(asker):
    scores = asker(_cases(5))
    assert scores["failure"].to_pylist() == ["judge_failed"] * 5
