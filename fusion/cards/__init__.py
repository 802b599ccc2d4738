"""The cards of what a run makes, in Hugging Face's format: of its data set and of its models."""

from fusion.cards.dataset import dataset_card
from fusion.cards.model import ModelFacts, model_card
from fusion.cards.training import course, training_card

__all__ = ["ModelFacts", "course", "dataset_card", "model_card", "training_card"]
