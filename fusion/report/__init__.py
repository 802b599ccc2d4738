"""The report of one run: result.json for programs, one page for people."""

from fusion.report.data import DatasetInput, Lineage, ModelInput, ReportData, train_rewards
from fusion.report.page import render_page
from fusion.report.result import build_result

__all__ = [
    "DatasetInput",
    "Lineage",
    "ModelInput",
    "ReportData",
    "build_result",
    "render_page",
    "train_rewards",
]
