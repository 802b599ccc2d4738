"""One recipe describes one fusion. These models are its grammar: every key, bound and default.

Reading a file (inheritance, paths, the nearest known key) is `fusion.recipe_file`'s affair.
"""

from fusion.recipe.datasets import Dataset, Ingest
from fusion.recipe.judging import CodeVerification, Judge, MathVerification, Reward, Verification
from fusion.recipe.recipe import Recipe
from fusion.recipe.running import Cluster, Endpoint, Evaluation, Failures, ModelSize, RequestLimits
from fusion.recipe.section import Domain, Name, Section, Share, VerifierName
from fusion.recipe.selection import DOMAIN_PRESETS, Margin, Policy, Selection
from fusion.recipe.sources import Engine, Greedy, Model, Sampling, Source, Target
from fusion.recipe.training import Dpo, Lora, LossName, Sft, Training

__all__ = [
    "DOMAIN_PRESETS",
    "Cluster",
    "CodeVerification",
    "Dataset",
    "Domain",
    "Dpo",
    "Endpoint",
    "Engine",
    "Evaluation",
    "Failures",
    "Greedy",
    "Ingest",
    "Judge",
    "Lora",
    "LossName",
    "Margin",
    "MathVerification",
    "Model",
    "ModelSize",
    "Name",
    "Policy",
    "Recipe",
    "RequestLimits",
    "Reward",
    "Sampling",
    "Section",
    "Selection",
    "Sft",
    "Share",
    "Source",
    "Target",
    "Training",
    "Verification",
    "VerifierName",
]
