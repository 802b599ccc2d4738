import json
import re
import shutil
import subprocess
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import polars as pl
import pytest

from fusion.report import render_page
from fusion.report.pairs import choose_pairs
from tests.fusion.report.sample import empty_data, sample_data

HOSTILE = '</script><script>alert(1)</script><img src="https://evil.example/x" onerror="alert(2)">'
LOADING_ATTRIBUTES = {"src", "srcset", "href", "data", "action", "poster", "background", "style"}


class Page(HTMLParser):
    """What a browser would load or run: elements, attributes, scripts, styles, text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts, self.styles, self.texts = [], [], [], []
        self._open = None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open = tag if tag in ("script", "style") else None
        if tag == "script":
            self.scripts.append("")
        if tag == "style":
            self.styles.append("")

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        kept = {"script": self.scripts, "style": self.styles}.get(self._open)
        if kept is None:
            self.texts.append(data)
        else:
            kept[-1] += data

    @property
    def policy(self):
        return next(
            attributes["content"]
            for tag, attributes in self.elements
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        )

    @property
    def figures(self):
        data = [a.get("id") == "figures" for tag, a in self.elements if tag == "script"]
        return json.loads(self.scripts[data.index(True)])


@pytest.fixture(scope="module")
def data():
    return sample_data(num_train=40, num_test=20)


@pytest.fixture(scope="module")
def html(data):
    return render_page(data)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def hostile(data):
    """The same run with script in every text that a model or a data set wrote."""
    message = pl.struct(role=pl.lit("assistant"), content=pl.lit(HOSTILE))
    texts = {name: pl.concat_list(message) for name in ("prompt", "chosen", "rejected")}
    return replace(
        data,
        preferences=data.preferences.with_columns(**texts, dataset=pl.lit(HOSTILE)),
        results=data.results.with_columns(text=pl.lit(HOSTILE)),
        lineage=replace(data.lineage, recipe_yaml=HOSTILE),
    )


def source_hash(text):
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def test_page_loads_nothing_from_anywhere(page):
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        loaded = {n: v for n, v in attributes.items() if n in LOADING_ATTRIBUTES}
        assert all(n == "href" and v.startswith("#") for n, v in loaded.items()), (tag, loaded)
    assert not any("url(" in style or "@import" in style for style in page.styles)


def test_policy_allows_the_scripts_and_styles_of_the_page_and_no_others(page):
    directives = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    run = [s for s, (_, a) in zip(page.scripts, scripts_of(page), strict=True) if "type" not in a]
    assert directives["default-src"] == "'none'"
    assert sorted(directives["script-src"].split()) == sorted(map(source_hash, run))
    assert set(directives["style-src"].split()) == set(map(source_hash, [*page.styles, ""]))
    assert "unsafe" not in page.policy


def scripts_of(page):
    return [element for element in page.elements if element[0] == "script"]


def test_no_element_carries_a_handler_or_a_style(page):
    for tag, attributes in page.elements:
        assert not [n for n in attributes if n.startswith("on") or n == "style"], tag


def test_script_in_what_models_wrote_stays_text(data, page):
    attacked = Page(render_page(hostile(data)))
    assert Counter(tag for tag, _ in attacked.elements if tag in ("script", "img")) == Counter(
        tag for tag, _ in page.elements if tag in ("script", "img")
    )
    assert sum(HOSTILE in text for text in attacked.texts) > 10


def test_script_cannot_end_the_element_that_holds_the_figures(data):
    domain = pl.lit("</script><script>alert(1)</script>").alias("domain")
    attacked = Page(render_page(replace(data, rewards=data.rewards.with_columns(domain))))
    assert len(attacked.scripts) == 3
    assert any("</script>" in figure["id"] for figure in attacked.figures)


def test_hidden_characters_of_a_text_are_shown(data):
    message = pl.struct(role=pl.lit("assistant"), content=pl.lit("a\x00b\u202ec\n\td"))
    tricky = data.preferences.with_columns(chosen=pl.concat_list(message))
    assert choose_pairs(tricky)[0].chosen[0].text == "a\u2400b\ufffdc\n\td"


def test_long_texts_are_cut_and_say_so(data):
    message = pl.struct(role=pl.lit("assistant"), content=pl.lit("x" * 7_234))
    long = replace(data, preferences=data.preferences.with_columns(chosen=pl.concat_list(message)))
    assert "1,234 more characters." in render_page(long)


def test_ten_pairs_are_spread_over_domains_and_sources(data):
    pairs = choose_pairs(data.preferences)
    assert len(pairs) == 10
    assert set(Counter(pair.domain for pair in pairs)) == set(data.preferences["domain"])
    assert max(Counter(pair.domain for pair in pairs).values()) <= 4
    assert {pair.source for pair in pairs} == set(data.preferences["source"])


def test_the_choice_of_pairs_does_not_depend_on_the_order_of_the_table(data):
    shuffled = data.preferences.sample(fraction=1, shuffle=True, seed=5)
    assert choose_pairs(shuffled) == choose_pairs(data.preferences)


def test_a_model_has_one_colour_throughout(page):
    colours = {}
    for figure in page.figures:
        for trace in figure["traces"]:
            if figure["id"].startswith("chart-accuracy"):
                named = zip(trace["y"], trace["marker"]["color"], strict=True)
            elif figure["id"].startswith(("chart-rewards", "chart-mix")):
                colour = trace.get("line", {}).get("color")
                named = [(trace["name"], colour if "fill" in trace else trace["marker"]["color"])]
            else:
                continue
            for name, colour in named:
                colours.setdefault(name, set()).add(colour)
    assert set(colours) == {"base", "sft", "dpo", "mathilda", "coder", "scribe"}
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(colours)


def test_every_colour_of_a_chart_stands_in_the_style_sheet_for_light_and_dark(page):
    used = set(re.findall(r'"@([a-z0-9-]+)(?:/[\d.]+)?"', json.dumps(page.figures)))
    light, dark = page.styles[0].split("@media (prefers-color-scheme: dark)")
    for name in used:
        assert re.search(rf"--{name}: #[0-9a-f]{{6}};", light), name
        assert re.search(rf"--{name}: #[0-9a-f]{{6}};", dark), name


def test_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name, number in Counter(ids).items() if number > 1] == []


def test_page_is_small_enough_to_mail(html):
    assert len(html.encode()) < 6_000_000


def test_same_data_gives_the_same_page(data, html):
    assert render_page(data) == html


def test_an_empty_run_says_plainly_what_it_lacks():
    text = " ".join(" ".join(Page(render_page(empty_data())).texts).split())
    assert "so there is no accuracy" in text
    assert "This run has no preference pairs." in text
    assert "No step of dpo was logged." in text


def test_rows_of_a_source_that_the_recipe_no_longer_has_are_shown(data):
    renamed = {"mathilda": "gone"}
    past = data.preferences.with_columns(pl.col("source").replace(renamed))
    sources = tuple(
        replace(part, source=renamed.get(part.source, part.source)) for part in data.yields.sources
    )
    yields = replace(data.yields, sources=sources)
    assert ">gone<" in render_page(replace(data, preferences=past, yields=yields))


def test_rewards_without_spread_and_single_answers_are_drawn(data):
    same = data.rewards.with_columns(reward=pl.lit(0.25)).head(1)
    drawn = Page(render_page(replace(data, rewards=same))).figures
    assert sum(figure["id"].startswith("chart-rewards") for figure in drawn) == 1


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is not installed: nothing checks that a browser draws the page")
    return found


def load(chromium, html, folder):
    """The page's DOM once its scripts have run, and what the console said."""
    file = folder / "report.html"
    file.write_text(html)
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --enable-logging=stderr "
        f"--virtual-time-budget=30000 --user-data-dir={folder / 'profile'} --dump-dom"
    )
    done = subprocess.run(
        [chromium, *flags.split(), file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.integration
def test_a_browser_draws_every_chart_and_complains_of_nothing(chromium, html, page, tmp_path):
    dom, complaints = load(chromium, html, tmp_path)
    assert complaints == []
    assert 'data-charts="drawn"' in dom
    assert len(page.figures) > 15
    assert dom.count('class="plot js-plotly-plot"') == len(page.figures)
    assert dom.count('class="main-svg"') >= len(page.figures)


@pytest.mark.integration
def test_a_browser_runs_no_script_of_a_model(chromium, data, tmp_path):
    marker = "<script>document.documentElement.dataset.owned = 1</script>"
    attacked = render_page(data).replace("<main>", f"<main>{marker}", 1)
    dom, complaints = load(chromium, attacked, tmp_path)
    assert "data-owned" not in dom
    assert any("Content Security Policy" in line for line in complaints)
