"""Reward models: token rows in, one raw score each out; several kinds behind one protocol."""

from fusion.rewards.scorer import Scored, Scorer, load_scorer

__all__ = ["Scored", "Scorer", "load_scorer"]
