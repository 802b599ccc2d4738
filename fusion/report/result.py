"""result.json: the figures of a run for a program to read."""

from collections.abc import Mapping
from typing import Any

from fusion.report.accuracy import Accuracy, measure_accuracy, read_verdicts
from fusion.report.data import ReportData
from fusion.store import Manifest


def build_result(data: ReportData) -> dict[str, Any]:
    """Accuracy by model and domain, counts, seconds and tokens a second by stage."""
    return {
        "accuracy": _accuracy_json(measure_accuracy(read_verdicts(data.results), data.models)),
        "counts": {s: m.counts.model_dump(mode="json") for s, m in data.manifests.items()},
        "seconds": {stage: manifest.seconds for stage, manifest in data.manifests.items()},
        "tokens_per_second": tokens_per_second(data.manifests),
    }


def tokens_per_second(manifests: Mapping[str, Manifest]) -> dict[str, float]:
    """Tokens of every kind over the seconds of the stage, for stages that counted tokens."""
    return {
        stage: sum(manifest.tokens.values()) / manifest.seconds
        for stage, manifest in manifests.items()
        if manifest.tokens and manifest.seconds
    }


def _accuracy_json(accuracy: Accuracy) -> dict[str, dict[str, dict[str, float]]]:
    return {
        model: {
            domain: {"value": i.value, "low": i.low, "high": i.high, "n": i.n}
            for domain, i in domains.items()
        }
        for model, domains in accuracy.items()
    }
