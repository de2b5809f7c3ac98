"""Vectors without training: the difference of means between better and worse completions."""

from steer_lightning.training_free.difference import MeanDifference, difference_of_means, in_units
from steer_lightning.training_free.scale import Trial, best_of, find_scale

__all__ = ["MeanDifference", "Trial", "best_of", "difference_of_means", "find_scale", "in_units"]
