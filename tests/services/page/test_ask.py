"""Ask, stream, compare, mark and export, in a real browser."""

import json
import re
import time

import pyarrow as pa
import pytest
from datasets import load_dataset
from playwright.sync_api import expect

from fusion.identity import prompt_id
from fusion.records import PREFERENCES
from tests.services.page.canned import ANSWERS, HOSTILE

pytestmark = pytest.mark.integration


def ask(page, prompt, *, until=3):
    """Ask and wait for so many answers to the newest question."""
    page.get_by_label("Prompt", exact=True).last.fill(prompt)
    page.get_by_role("button", name="Ask", exact=True).click()
    done = page.locator(".round").last.locator(".answer[data-state=done]")
    if until:
        expect(done).to_have_count(until)
    return page.locator(".round").last


def card(where, name):
    return where.get_by_label(f"Answer of {name}", exact=True)


def press(where, name, button):
    card(where, name).get_by_role("button", name=button).click()


def exported(page, tmp_path):
    """The rows that the page exports, and the file."""
    page.get_by_role("button", name="Export pairs").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    file = tmp_path / "preferences.jsonl"
    download.value.save_as(file)
    assert download.value.suggested_filename == "preferences.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()], file


def test_answers_stand_side_by_side_with_what_they_were_judged(page):
    page.get_by_label("Check as").select_option("exact")
    page.get_by_label("Right answer").fill(ANSWERS["gemma"])
    answers = ask(page, "Why are stones round?")
    for name, text in ANSWERS.items():
        assert card(answers, name).locator(".text").text_content() == text
    gemma = card(answers, "gemma")
    facts = [fact.text_content() for fact in gemma.locator(".facts > div").all()]
    assert facts[:3] == ["reward1.250, the highest", "verdictcorrect", "tokens15"]
    assert [re.sub(r"[\d.]+", "1", fact) for fact in facts[3:]] == ["first1 s", "in all1 s"]
    assert "wrong" in card(answers, "mistral").inner_text()
    assert "cut off at its limit" in card(answers, "mistral").inner_text()
    assert "\u22120.500" in card(answers, "mistral").inner_text()
    boxes = [card(answers, name).bounding_box() for name in ANSWERS]
    assert len({box["y"] for box in boxes}) == 1 and len({box["x"] for box in boxes}) == 3


def test_an_answer_is_read_while_it_comes(page):
    answers = ask(page, "Tell me slowly", until=0)
    text = card(answers, "gemma").locator(".text")
    expect(text).to_have_text(re.compile("^Rivers round"))
    assert len(text.text_content()) < len(ANSWERS["gemma"])
    assert "answering" in card(answers, "gemma").inner_text()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()


def test_stop_leaves_what_came_and_frees_the_sources(page, endpoint):
    answers = ask(page, "Stopped, slowly", until=0)
    expect(card(answers, "gemma").locator(".text")).to_contain_text("Rivers")
    page.get_by_role("button", name="Stop").click()
    expect(card(answers, "gemma")).to_contain_text("stopped")
    assert card(answers, "gemma").get_by_role("button").all() == []
    deadline = time.monotonic() + 5
    while ("gemma", "Stopped, slowly") not in endpoint.sources.left:
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()


def test_a_source_that_fails_leaves_the_others(page):
    answers = ask(page, "Let one fail", until=2)
    failed = card(answers, "mistral")
    assert "The source mistral does not answer: it is down" in failed.inner_text()
    assert failed.get_by_role("button").all() == []
    assert card(answers, "llama").get_by_role("button").count() == 3


def test_a_connection_that_breaks_is_told_on_what_it_broke(page):
    page.route(
        "**/v1/fanout",
        lambda route: route.fulfill(
            content_type="text/event-stream",
            body='event: delta\ndata: {"model": "llama", "index": 0, "text": "A ri"}\n\nevent: de',
        ),
    )
    answers = ask(page, "Break", until=0)
    expect(card(answers, "llama")).to_contain_text("The connection ended before this answer")
    assert "A ri" in card(answers, "llama").inner_text()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()


def test_the_request_holds_what_was_set_and_nothing_that_was_not(page, shown):
    ask(page, "Plain")
    plain = {"messages": [{"role": "user", "content": "Plain"}], "models": list(ANSWERS), "n": 1}
    assert shown.asked.pop() == {**plain, "score": True}
    for label, value in {
        "Temperature": "0.7",
        "Top p": "0.9",
        "Most tokens": "32",
        "Answers each": "2",
        "Seed": "7",
        "Stop at": "END",
        "System message": "Be brief.",
    }.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("gemma", exact=True).uncheck()
    page.get_by_label("Score with the reward model").uncheck()
    page.get_by_label("Check as").select_option("math")
    page.get_by_label("Right answer").fill("42")
    ask(page, "Set", until=4)
    assert shown.asked.pop() == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Set"},
        ],
        "models": ["llama", "mistral"],
        "n": 2,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 32,
        "seed": 7,
        "stop": "END",
        "score": False,
        "verifier": "math",
        "gold": "42",
    }


@pytest.mark.parametrize(
    ("label", "value", "told"),
    [("Temperature", "9", "Temperature:"), ("Most tokens", "100000", "Most tokens:")],
)
def test_what_the_endpoint_would_refuse_is_not_sent(page, shown, label, value, told):
    page.get_by_label(label).fill(value)
    ask(page, "Anything", until=0)
    expect(page.get_by_role("alert")).to_contain_text(told)
    assert shown.asked == []


def test_without_a_source_nothing_is_asked(page, shown):
    for name in ANSWERS:
        page.get_by_label(name, exact=True).uncheck()
    ask(page, "Anything", until=0)
    expect(page.get_by_role("alert")).to_have_text("Choose at least one source.")
    assert shown.asked == []


def test_a_conversation_goes_on_after_the_answer_that_was_chosen(page, shown):
    page.get_by_label("System message").fill("Be kind.")
    answers = ask(page, "First")
    press(answers, "gemma", "Continue")
    assert "Continues after gemma" in page.locator("#context").inner_text()
    after = ask(page, "Second")
    assert "after gemma on \u201cFirst\u201d" in after.inner_text()
    assert shown.asked[-1]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "First"},
        {"role": "assistant", "content": ANSWERS["gemma"]},
        {"role": "user", "content": "Second"},
    ]
    ask(page, "Third")
    assert [turn["content"] for turn in shown.asked[-1]["messages"]] == ["Be kind.", "Third"]


def test_marked_pairs_are_exported_as_rows_of_the_preferences_table(page, tmp_path):
    answers = ask(page, 'First: "q"\n\u77f3\u5934 \u00e9\t\u2028\U0001f30a')
    press(answers, "gemma", "Better")
    press(answers, "mistral", "Worse")
    press(answers, "llama", "Continue")
    answers = ask(page, "Second")
    press(answers, "llama", "Better")
    press(answers, "mistral", "Worse")
    press(answers, "gemma", "Worse")
    ask(page, "Not marked")
    press(ask(page, "Half marked"), "llama", "Better")
    rows, file = exported(page, tmp_path)
    assert [list(row) for row in rows] == [PREFERENCES.names] * 2
    assert [row["prompt_id"] for row in rows] == [prompt_id(row["prompt"]) for row in rows]
    assert [turn["role"] for turn in rows[1]["prompt"]] == ["user", "assistant", "user"]
    assert rows[0]["prompt"][0]["content"] == 'First: "q"\n\u77f3\u5934 \u00e9\t\u2028\U0001f30a'
    assert rows[0]["chosen"] == [{"role": "assistant", "content": ANSWERS["gemma"]}]
    assert rows[0]["rejected"] == [{"role": "assistant", "content": ANSWERS["mistral"]}]
    sources = [(row["source"], row["rejected_source"]) for row in rows]
    assert sources == [("gemma", "mistral"), ("llama", "gemma")]
    assert len({row["pair_id"] for row in rows}) == 2
    assert [row["margin"] for row in rows] == [1.75, -0.5]
    table = pa.Table.from_pylist(rows, schema=PREFERENCES)
    assert table.to_pylist() == rows
    loaded = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path))
    assert loaded.column_names == PREFERENCES.names and loaded[0] == rows[0]


def test_of_two_answers_one_mark_makes_a_pair(page, tmp_path):
    page.get_by_label("mistral", exact=True).uncheck()
    page.get_by_label("gemma", exact=True).uncheck()
    page.get_by_label("Answers each").fill("2")
    page.get_by_label("Score with the reward model").uncheck()
    answers = ask(page, "Two alike, or not", until=2)
    press(answers, "llama 2", "Worse")
    assert card(answers, "llama 1").get_attribute("data-mark") == "better"
    page.get_by_role("button", name="Export pairs").click()
    assert "both texts are the same" in page.locator("#export-summary").inner_text()
    expect(page.get_by_role("button", name="Download")).to_be_disabled()


def test_a_mark_can_be_taken_back(page):
    answers = ask(page, "Question")
    press(answers, "gemma", "Better")
    press(answers, "gemma", "Worse")
    assert card(answers, "gemma").get_attribute("data-mark") == "worse"
    press(answers, "gemma", "Worse")
    assert card(answers, "gemma").get_attribute("data-mark") == ""
    assert "0 pairs marked" in page.locator("#session-summary").inner_text()


def test_a_session_stays_until_it_is_cleared(page):
    page.get_by_label("Temperature").fill("0.3")
    answers = ask(page, "Kept")
    press(answers, "gemma", "Better")
    page.reload()
    expect(card(page, "gemma")).to_have_attribute("data-mark", "better")
    assert card(page, "gemma").locator(".text").text_content() == ANSWERS["gemma"]
    assert page.get_by_label("Temperature").input_value() == "0.3"
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".round")).to_have_count(1)
    page.get_by_role("button", name="Clear all?").click()
    expect(page.get_by_role("heading", name="Ask several models at once")).to_be_visible()
    page.reload()
    expect(page.locator(".round")).to_have_count(0)


def test_a_question_is_edited_or_removed(page):
    answers = ask(page, "Typo")
    answers.get_by_role("button", name="Edit").click()
    assert page.locator("#prompt").input_value() == "Typo"
    answers.get_by_role("button", name="Remove").click()
    expect(page.locator(".round")).to_have_count(0)


def test_a_question_that_is_edited_keeps_its_conversation(page, shown):
    first = ask(page, "First")
    press(first, "gemma", "Continue")
    ask(page, "Secnod")
    page.locator(".round").first.get_by_role("button", name="Remove").click()
    page.reload()
    page.get_by_role("button", name="Edit").click()
    ask(page, "Second")
    turns = [turn["content"] for turn in shown.asked[-1]["messages"]]
    assert turns == ["First", ANSWERS["gemma"], "Second"]
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_role("button", name="Start anew").click()
    ask(page, "Third")
    assert [turn["content"] for turn in shown.asked[-1]["messages"]] == ["Third"]


def test_script_in_an_answer_is_text(page):
    answers = ask(page, "Something hostile")
    for name in ANSWERS:
        text = card(answers, name).locator(".text")
        assert text.text_content() == HOSTILE.replace("\u202e", "\ufffd")
        assert text.locator("*").count() == 0
    page.reload()
    assert card(page, "llama").locator(".text *").count() == 0
    assert page.evaluate("window.hurt") is None
