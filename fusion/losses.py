"""The losses of preference optimisation, each one function with its source.

All take natural log-probs summed over the tokens of a reply (its end-of-turn token among them, the
prompt not), and give one loss a pair: who calls them divides by the pairs of a step, so that the
objective does not depend on how a step is cut into forward passes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fusion.recipe import LossName


@dataclass(frozen=True)
class PairLogps:
    """Log-probs of both replies of each pair, summed over their tokens; all of shape [pairs]."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def chosen_mean(self) -> Tensor:
        """Log-prob a token of the chosen replies."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        """Log-prob a token of the rejected replies."""
        return self.rejected / self.rejected_tokens

    def to(self, device: torch.device) -> "PairLogps":
        """The same on another device."""
        columns = (self.chosen, self.rejected, self.chosen_tokens, self.rejected_tokens)
        return PairLogps(*(column.to(device) for column in columns))

    def ratio_to(self, reference: "PairLogps") -> "PairLogps":
        """Log-ratios of this policy to a reference, over the same tokens."""
        return PairLogps(
            self.chosen - reference.chosen,
            self.rejected - reference.rejected,
            self.chosen_tokens,
            self.rejected_tokens,
        )


@dataclass(frozen=True)
class PairLoss:
    """What a step learns of its pairs; all of shape [pairs].

    The rewards are those the loss compares: normalised by length where it is.
    """

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def preference_loss(
    name: LossName,
    policy: PairLogps,
    reference: PairLogps | None,
    *,
    beta: float,
    target_margin: float = 0.0,
) -> PairLoss:
    """The loss called `name`; simpo and orpo do not look at the reference.

    Raises:
        ValueError: the loss needs a reference and none was given.
    """
    if name == "simpo":
        return simpo_loss(policy, beta=beta, target_margin=target_margin)
    if name == "orpo":
        return orpo_loss(policy, beta=beta)
    if reference is None:
        raise ValueError(f"the loss {name} needs reference log-probs")
    compared = {"dpo": dpo_loss, "ln_dpo": length_normalised_dpo_loss, "ipo": ipo_loss}
    return compared[name](policy, reference, beta=beta)


def dpo_loss(policy: PairLogps, reference: PairLogps, *, beta: float) -> PairLoss:
    """-log sigmoid(beta * (logratio(chosen) - logratio(rejected))).

    Source: Direct Preference Optimization (arXiv 2305.18290), equation 7.
    """
    ratio = policy.ratio_to(reference)
    return _logistic(beta * ratio.chosen, beta * ratio.rejected)


def length_normalised_dpo_loss(policy: PairLogps, reference: PairLogps, *, beta: float) -> PairLoss:
    """DPO on log-ratios a token, so that a longer reply gains nothing by its length.

    -log sigmoid(beta * (logratio(chosen) / |chosen| - logratio(rejected) / |rejected|)).
    Source: FuseChat-3.0 (arXiv 2503.04222), section "DPO".
    """
    ratio = policy.ratio_to(reference)
    return _logistic(beta * ratio.chosen_mean, beta * ratio.rejected_mean)


def ipo_loss(policy: PairLogps, reference: PairLogps, *, beta: float) -> PairLoss:
    """Squared distance of the log-ratios' difference from 1 / (2 * beta).

    Source: A General Theoretical Paradigm to Understand Learning from Human Preferences
    (arXiv 2310.12036), equation 17, whose tau is beta. Log-ratios are taken a token, as TRL does
    by its authors' advice, since sums would let the loss grow with length.
    """
    ratio = policy.ratio_to(reference)
    distance = ratio.chosen_mean - ratio.rejected_mean - 1 / (2 * beta)
    return PairLoss(distance**2, ratio.chosen_mean, ratio.rejected_mean)


def simpo_loss(policy: PairLogps, *, beta: float, target_margin: float) -> PairLoss:
    """-log sigmoid(beta * (logp(chosen) / |chosen| - logp(rejected) / |rejected|) - target_margin).

    Source: SimPO (arXiv 2405.14734), equation 6, whose gamma is target_margin.
    """
    chosen, rejected = beta * policy.chosen_mean, beta * policy.rejected_mean
    return PairLoss(-logsigmoid(chosen - rejected - target_margin), chosen, rejected)


def orpo_loss(policy: PairLogps, *, beta: float) -> PairLoss:
    """Negative log-likelihood a token of chosen, and beta times the log odds ratio's -log sigmoid.

    The odds of a reply are p / (1 - p), with p its likelihood a token (geometric mean).
    Source: ORPO (arXiv 2403.07691), equations 4 to 7, whose lambda is beta.
    """
    chosen, rejected = _log_odds(policy.chosen_mean), _log_odds(policy.rejected_mean)
    loss = -policy.chosen_mean - beta * logsigmoid(chosen - rejected)
    return PairLoss(loss, beta * chosen, beta * rejected)


def supervised_loss(policy: PairLogps) -> Tensor:
    """Negative log-likelihood of the chosen replies, [pairs].

    Who mixes it in divides by the chosen tokens of a step, so that every token weighs alike.
    """
    return -policy.chosen


def _logistic(chosen_reward: Tensor, rejected_reward: Tensor) -> PairLoss:
    return PairLoss(-logsigmoid(chosen_reward - rejected_reward), chosen_reward, rejected_reward)


def _log_odds(mean_logp: Tensor) -> Tensor:
    return mean_logp - torch.log(-torch.expm1(mean_logp))
