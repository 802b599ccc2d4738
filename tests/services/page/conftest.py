import pytest

from tests.services.page.browsing import chromium, watched
from tests.services.page.canned import Serving, pair_row, recipe_run, write_pairs


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """An endpoint without keys, over a run with 130 pairs."""
    run = recipe_run(tmp_path_factory.mktemp("runs"))
    write_pairs(run, [pair_row(number) for number in range(130)])
    with Serving(run) as serving:
        yield serving


@pytest.fixture
def shown(browser, endpoint):
    """The page in a fresh browser; at its end nothing complained and no other host was asked."""
    with watched(browser, endpoint.base) as watching:
        watching.page.goto(endpoint.base)
        watching.page.get_by_label("llama", exact=True).wait_for(state="attached")
        yield watching


@pytest.fixture
def page(shown):
    return shown.page
