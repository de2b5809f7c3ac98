"""Advantage estimators, one a file: (B, G) rewards to (B, G) advantages."""

from steer_lightning.advantages.base import Advantage
from steer_lightning.advantages.rloo import RLOO

__all__ = ["RLOO", "Advantage"]
