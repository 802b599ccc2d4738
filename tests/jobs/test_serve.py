"""What `crucible serve` checks before anything starts."""

import pytest

from fusion.errors import BadInputError
from fusion.recipe import Endpoint, Recipe
from fusion.recipe_file import load_recipe
from jobs.serve import check_endpoint, with_ranking_alone
from tests.conftest import ROOT


def _recipe(**selection: str) -> Recipe:
    """The rehearsal with a second scorer."""
    recipe = load_recipe(ROOT / "rehearsal" / "recipe.yaml")
    chosen = recipe.selection.model_copy(update=selection)
    scorers = {"second": recipe.reward}
    return recipe.model_copy(update={"selection": chosen, "scorers": scorers})


@pytest.mark.parametrize("ranks", ["reward", "second"])
def test_no_scorer_is_served_but_the_one_that_ranks(ranks):
    recipe = _recipe(ranked_by=ranks)
    assert set(recipe.rewards) == {"reward", "second"}
    served = with_ranking_alone(recipe)
    assert set(served.rewards) == {ranks}
    assert served.ranking == recipe.ranking


def test_serving_says_who_may_ask(tmp_path):
    assert "loopback only" in check_endpoint(Endpoint())
    said = check_endpoint(Endpoint(keys=str(tmp_path / "keys.json")))
    assert "crucible keys create NAME --keys" in said


def test_a_missing_certificate_is_told_before_anything_starts(tmp_path):
    endpoint = Endpoint(tls_certificate=str(tmp_path / "c.pem"), tls_key=str(tmp_path / "k.pem"))
    with pytest.raises(BadInputError, match=r"endpoint\.tls_certificate is .*no such file"):
        check_endpoint(endpoint)


def test_a_certificate_that_cannot_be_used_is_told_before_anything_starts(tmp_path):
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("no certificate")
    endpoint = Endpoint(tls_certificate=str(tmp_path / "c.pem"), tls_key=str(tmp_path / "k.pem"))
    with pytest.raises(BadInputError, match=r"c\.pem .* cannot be used .*both in PEM"):
        check_endpoint(endpoint)
