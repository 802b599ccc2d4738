"""The losses against closed forms worked out apart in float64, and LN-DPO against TRL's."""

import math
from pathlib import Path

import pytest
import torch

from fusion.losses import PairLogps, preference_loss, supervised_loss

TARGET = Path(__file__).parents[2] / "rehearsal" / "models" / "target"
BETA, GAMMA = 2.5, 0.4

# Of each pair: log-prob sums of chosen and rejected under policy and reference, and their tokens.
PAIRS = [
    (-12.5, -40.25, -13.0, -38.0, 10, 31),
    (-80.0, -3.5, -79.0, -9.0, 64, 2),
    (-0.75, -0.5, -0.75, -0.5, 1, 1),
]


def log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


def closed_form(name: str, pair: tuple[float, ...]) -> float:
    """One pair's loss with Python's own floats."""
    chosen, rejected, ref_chosen, ref_rejected, n, m = pair
    if name == "dpo":
        return -log_sigmoid(BETA * ((chosen - ref_chosen) - (rejected - ref_rejected)))
    if name == "ln_dpo":
        return -log_sigmoid(BETA / n * (chosen - ref_chosen) - BETA / m * (rejected - ref_rejected))
    if name == "ipo":
        gap = (chosen - ref_chosen) / n - (rejected - ref_rejected) / m
        return (gap - 1 / (2 * BETA)) ** 2
    if name == "simpo":
        return -log_sigmoid(BETA / n * chosen - BETA / m * rejected - GAMMA)
    p, q = math.exp(chosen / n), math.exp(rejected / m)
    return -chosen / n - BETA * log_sigmoid(math.log((p / (1 - p)) / (q / (1 - q))))


def logps(chosen: int, rejected: int) -> PairLogps:
    """Two columns of PAIRS with the tokens beside them."""
    columns = torch.tensor(PAIRS, dtype=torch.float64).T
    return PairLogps(columns[chosen], columns[rejected], columns[4], columns[5])


@pytest.mark.parametrize("name", ["dpo", "ln_dpo", "ipo", "simpo", "orpo"])
def test_loss_is_its_closed_form(name):
    made = preference_loss(name, logps(0, 1), logps(2, 3), beta=BETA, target_margin=GAMMA)
    expected = [closed_form(name, pair) for pair in PAIRS]
    assert made.loss.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["dpo", "ln_dpo", "simpo", "orpo"])
def test_rewards_are_what_the_loss_compares(name):
    made = preference_loss(name, logps(0, 1), logps(2, 3), beta=BETA, target_margin=0.0)
    gap = made.chosen_reward - made.rejected_reward
    if name == "orpo":
        gap, extra = gap / BETA, -logps(0, 1).chosen_mean
        expected = extra - BETA * torch.nn.functional.logsigmoid(gap)
    else:
        expected = -torch.nn.functional.logsigmoid(gap)
    assert torch.allclose(made.loss, expected, atol=1e-9)


def test_length_wins_nothing_under_the_length_normalised_loss():
    two = torch.tensor([2.0])
    short = PairLogps(torch.tensor([-1.0]), torch.tensor([-4.0]), two, two)
    long = PairLogps(torch.tensor([-10.0]), torch.tensor([-4.0]), 10 * two, two)
    zero = PairLogps(torch.zeros(1), torch.zeros(1), two, two)
    losses = [preference_loss("ln_dpo", p, zero, beta=3.0).loss.item() for p in (short, long)]
    assert losses[0] == pytest.approx(losses[1])
    summed = [preference_loss("dpo", p, zero, beta=3.0).loss.item() for p in (short, long)]
    assert summed[1] > summed[0] + 1


def test_supervised_term_is_the_likelihood_of_chosen():
    assert supervised_loss(logps(0, 1)).tolist() == [12.5, 80.0, 0.75]


@pytest.mark.parametrize("name", ["dpo", "ln_dpo", "ipo"])
def test_a_loss_with_a_reference_refuses_to_go_without(name):
    with pytest.raises(ValueError, match=f"{name} needs reference"):
        preference_loss(name, logps(0, 1), None, beta=1.0)
