"""The advantage estimators, one per file; they turn rewards (B, G) into advantages (B, G)."""

from steer_lightning.advantages.base import Advantage
from steer_lightning.advantages.best_of import BestOf
from steer_lightning.advantages.dr_grpo import DrGRPO
from steer_lightning.advantages.grpo import GRPO
from steer_lightning.advantages.max_rl import MaxRL
from steer_lightning.advantages.moving_average import MovingAverage
from steer_lightning.advantages.reinforce import Reinforce
from steer_lightning.advantages.reinforce_plus_plus import ReinforcePlusPlus
from steer_lightning.advantages.rloo import RLOO
from steer_lightning.advantages.scored import has_signal

__all__ = [
    "GRPO",
    "RLOO",
    "Advantage",
    "BestOf",
    "DrGRPO",
    "MaxRL",
    "MovingAverage",
    "Reinforce",
    "ReinforcePlusPlus",
    "has_signal",
]
