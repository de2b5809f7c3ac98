"""The rewards, which turn completions into numbers."""

from steer_lightning.rewards.asynchronous import AsyncReward
from steer_lightning.rewards.base import Reward, Scores, Verdict, WeightedReward, reward_name
from steer_lightning.rewards.budget import BudgetReward
from steer_lightning.rewards.format import FormatReward
from steer_lightning.rewards.instructions import InstructionReward, followed
from steer_lightning.rewards.length import LengthReward
from steer_lightning.rewards.math import MathReward
from steer_lightning.rewards.pool import RewardPool
from steer_lightning.rewards.scoring import RewardSum, Scoring

__all__ = [
    "AsyncReward",
    "BudgetReward",
    "FormatReward",
    "InstructionReward",
    "LengthReward",
    "MathReward",
    "Reward",
    "RewardPool",
    "RewardSum",
    "Scores",
    "Scoring",
    "Verdict",
    "WeightedReward",
    "followed",
    "reward_name",
]
