"""The stages of a training step, from sampled completions to the update of the vectors.

Public are only the contrasts, from which the command `difference` makes vectors without training.
"""

from steer_lightning.training.contrast import Contrast, Reading
from steer_lightning.training.prompt_contrast import PromptContrast
from steer_lightning.training.thought_contrast import ThoughtContrast

__all__ = ["Contrast", "PromptContrast", "Reading", "ThoughtContrast"]
