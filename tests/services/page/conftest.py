import pytest

from tests.services.page.browsing import chromium, watched
from tests.services.page.canned import Endpoint, Serving, pair_row, recipe_run, write_pairs


@pytest.fixture(scope="package")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory):
    """An endpoint without keys, over a run with 130 pairs."""
    run = recipe_run(tmp_path_factory.mktemp("runs"))
    write_pairs(run, [pair_row(number) for number in range(130)])
    endpoint = Endpoint(run)
    with Serving(endpoint) as endpoint.base:
        yield endpoint


@pytest.fixture
def page(browser, endpoint):
    """The page in a fresh browser; at its end nothing complained and no other host was asked."""
    endpoint.asked.clear()
    endpoint.left.clear()
    with watched(browser, endpoint.base) as shown:
        shown.page.goto(endpoint.base)
        shown.page.get_by_label("llama").wait_for(state="attached")
        yield shown.page
