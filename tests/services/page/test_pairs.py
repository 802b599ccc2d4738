"""Browse and search the pairs of a run, in a real browser. The run has 130 pairs."""

import pytest
from playwright.sync_api import expect

from tests.services.page.browsing import watched
from tests.services.page.canned import (
    HOSTILE,
    Serving,
    pair_row,
    recipe_run,
    write_pairs,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def pairs(page):
    page.get_by_role("link", name="Pairs").click()
    expect(page.locator("#count")).to_have_text("1\u201350 of 130 pairs")
    return page


def margins(page):
    return [item.text_content() for item in page.locator("#list .margin").all()]


def shown_prompt(page):
    return page.locator("#pair .turns").inner_text()


def test_a_pair_shows_prompt_and_both_answers(pairs):
    pairs.locator("#list button").nth(7).click()
    assert shown_prompt(pairs) == "How much is 7 + 7?"
    header = pairs.locator(".pair-header p").inner_text()
    assert header == "instruction \u00b7 chat \u00b7 gemma \u00b7 margin 0.070"
    chosen, rejected = pairs.get_by_label("chosen"), pairs.get_by_label("rejected")
    assert chosen.locator(".text").text_content() == "7 + 7 = 14. The sum is 14."
    assert "reward 0.570" in chosen.inner_text()
    assert rejected.locator(".text").text_content() == "7 + 7 = 15. The sum is 15."
    assert chosen.bounding_box()["y"] == rejected.bounding_box()["y"]


def test_pairs_are_filtered_by_data_set_domain_source_and_margin(pairs):
    pairs.locator("#domain").select_option("math")
    expect(pairs.locator("#count")).to_have_text("1\u201350 of 65 pairs")
    pairs.locator("#source").select_option("llama")
    expect(pairs.locator("#count")).to_have_text("1\u201322 of 22 pairs")
    pairs.get_by_label("Margin from").fill("0.1")
    pairs.get_by_label("to", exact=True).fill("0.3")
    expect(pairs.locator("#count")).to_have_text("1\u20134 of 4 pairs")
    assert margins(pairs) == ["0.12", "0.18", "0.24", "0.30"]
    pairs.locator("#dataset").select_option("chat")
    expect(pairs.locator("#count")).to_have_text("No pair")
    expect(pairs.get_by_role("heading", name="No pair found")).to_be_visible()
    pairs.locator("#pair").get_by_role("button", name="Reset").click()
    expect(pairs.locator("#count")).to_have_text("1\u201350 of 130 pairs")


def test_search_looks_into_the_answers_as_well(pairs):
    pairs.get_by_label("Search").fill("SUM IS 33")
    expect(pairs.locator("#count")).to_have_text("1\u20131 of 1 pair")
    assert shown_prompt(pairs) == "How much is 16 + 16?"


def test_pages_and_pairs_are_turned(pairs):
    pairs.locator("#next-page").click()
    expect(pairs.locator("#count")).to_have_text("51\u2013100 of 130 pairs")
    pairs.locator("#next-page").click()
    expect(pairs.locator("#count")).to_have_text("101\u2013130 of 130 pairs")
    expect(pairs.locator("#next-page")).to_be_disabled()
    pairs.get_by_role("button", name="Previous pair").click()
    expect(pairs.locator("#count")).to_have_text("51\u2013100 of 130 pairs")
    assert shown_prompt(pairs) == "How much is 99 + 99?"


def test_a_link_opens_the_same_pair(pairs):
    pairs.locator("#domain").select_option("instruction")
    expect(pairs.locator("#count")).to_have_text("1\u201350 of 65 pairs")
    pairs.locator("#next-page").click()
    pairs.locator("#list button").nth(2).click()
    prompt = shown_prompt(pairs)
    address = pairs.evaluate("location.href")
    assert address.endswith("#pairs?domain=instruction&pair=53")
    pairs.goto("about:blank")
    pairs.goto(address)
    expect(pairs.locator("#count")).to_have_text("51\u201365 of 65 pairs")
    assert shown_prompt(pairs) == prompt
    assert pairs.locator("#domain").input_value() == "instruction"
    pairs.get_by_role("link", name="Ask").click()
    with pairs.expect_response("**/v1/preferences?*"):
        pairs.get_by_role("link", name="Pairs").click()
    expect(pairs.locator("#browser")).not_to_have_attribute("aria-busy", "true")
    assert shown_prompt(pairs) == prompt


def test_the_words_that_differ_are_marked(pairs):
    pairs.locator("#list button").nth(7).click()
    pairs.get_by_role("button", name="Differences").click()
    assert pairs.locator(".chosen mark").all_text_contents() == ["14", "14"]
    assert pairs.locator(".rejected mark").all_text_contents() == ["15", "15"]
    pairs.get_by_role("button", name="Next pair").click()
    assert pairs.locator(".chosen mark").all_text_contents() == ["16", "16"]
    pairs.get_by_role("button", name="Differences").click()
    assert pairs.locator("mark").count() == 0


def test_differences_keep_both_texts_whole(page):
    cases = [
        ("", "a b"),
        ("a b c", "a b c"),
        ("the old stone, round", "the new, round stone"),
        ("\u77f3\u5934\u5706", "\u77f3\u5706\u7684"),
        ("x " * 300 + "end", "y " * 200 + "x " * 100 + "end"),
    ]
    for left, right in cases:
        runs = page.evaluate(
            "async ([a, b]) => (await import('/page/difference.js')).differences(a, b)",
            [left, right],
        )
        assert ["".join(run["text"] for run in side) for side in runs] == [left, right]
        shared = ["".join(run["text"] for run in side if run["isShared"]) for side in runs]
        assert shared[0] == shared[1]
    assert shared[0].count("x") == 100


def test_texts_too_long_to_compare_are_shown_as_they_are(page):
    runs = page.evaluate(
        """async () => (await import("/page/difference.js"))
          .differences("a ".repeat(9000), "b ".repeat(4000))"""
    )
    assert runs is None


def test_a_run_without_pairs_says_what_makes_them(browser, tmp_path):
    with (
        Serving(recipe_run(tmp_path)) as serving,
        watched(browser, serving.base, refusals=1) as shown,
    ):
        shown.page.goto(f"{serving.base}/#pairs")
        expect(shown.page.get_by_role("heading", name="No pairs yet")).to_be_visible()
        expect(shown.page.locator("#pair")).to_contain_text("stage select")


def test_script_in_a_pair_is_text_and_a_pair_may_lack_rewards(browser, tmp_path):
    run = recipe_run(tmp_path)
    reply = [{"role": "assistant", "content": HOSTILE}]
    nothing = dict.fromkeys(["chosen_reward", "rejected_reward", "margin"])
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": HOSTILE},
    ]
    texts = {
        "source": "<i>s</i>",
        "rejected_source": "<i>r</i>",
        "domain": "<i>d</i>",
        "dataset": "'\"><i>",
    }
    row = pair_row(1, prompt=prompt, chosen=reply, rejected=reply, **nothing, **texts)
    write_pairs(run, [row])
    with Serving(run) as serving, watched(browser, serving.base) as shown:
        shown.page.goto(f"{serving.base}/#pairs")
        expect(shown.page.locator("#count")).to_have_text("1\u20131 of 1 pair")
        expected = HOSTILE.replace("\u202e", "\ufffd")
        for place in (".chosen .text", ".rejected .text", "#list .snippet", ".turn >> nth=3"):
            assert shown.page.locator(place).text_content() == expected
        assert shown.page.locator("main i, main b, main img, main script").count() == 0
        assert shown.page.locator("#source option").nth(1).inner_text() == "<i>s</i>"
        assert "no margin" in shown.page.locator(".pair-header").inner_text()
        shown.page.get_by_role("button", name="Differences").click()
        assert shown.page.locator("mark").count() == 0
        assert shown.page.evaluate("window.hurt") is None
