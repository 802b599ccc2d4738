"""Training logs as curves: which of the trainer's many keys are shown, and under which title."""

from collections.abc import Mapping, Sequence
from math import fsum, isfinite
from typing import Any, NamedTuple

# Title and the keys drawn together, in the page's order; docs/training.md says what each is.
_CURVES = (
    ("loss", "Loss", ("loss",)),
    ("held-out-loss", "Loss on rows kept back", ("held_out/loss",)),
    ("learning-rate", "Learning rate", ("learning_rate",)),
    ("grad-norm", "Gradient norm", ("grad_norm",)),
    ("rewards", "Rewards that the loss compares", ("rewards/chosen", "rewards/rejected")),
    ("rewards-margins", "Margin of chosen over rejected", ("rewards/margins",)),
    ("rewards-accuracies", "Share of pairs ranked rightly", ("rewards/accuracies",)),
    ("logps", "Log-probability of replies", ("logps/chosen", "logps/rejected")),
    ("kl", "Divergence from the reference, nats a token", ("kl",)),
    ("length-expected", "Share of a chosen reply before its expected end", ("length/expected",)),
    ("padding", "Share of computed tokens that are padding", ("padding",)),
)
_SCHEDULES = ("learning-rate",)


class Line(NamedTuple):
    """One logged value over the steps."""

    name: str
    steps: list[float]
    values: list[float]


class Curve(NamedTuple):
    """Lines that share one chart; a schedule has no noise to smooth."""

    id: str
    title: str
    lines: list[Line]

    @property
    def is_noisy(self) -> bool:
        """Whether it was measured, not planned."""
        return self.id not in _SCHEDULES


def training_curves(log: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The curves that a log has values for."""
    curves = [
        Curve(id, title, [line for key in keys if (line := _line(key, log)).values])
        for id, title, keys in _CURVES
    ]
    return [curve for curve in curves if curve.lines]


def centred_mean(values: Sequence[float], *, width: int) -> list[float]:
    """The mean over `width` values on each side, fewer near the ends, so that nothing lags."""
    means = []
    for index in range(len(values)):
        reach = min(width, index, len(values) - 1 - index)
        window = values[index - reach : index + reach + 1]
        means.append(fsum(window) / len(window))
    return means


def _line(key: str, log: Sequence[Mapping[str, Any]]) -> Line:
    """One value a step: a step that was trained again after a crash counts as it was last."""
    points = {row["step"]: row[key] for row in log if "step" in row and _is_finite(row.get(key))}
    name = key.rpartition("/")[2].replace("_", " ")
    steps = sorted(points)
    return Line(name, [float(step) for step in steps], [float(points[step]) for step in steps])


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)
