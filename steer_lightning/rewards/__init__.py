"""Rewards: completions in, numbers out."""

from steer_lightning.rewards.base import Reward, RewardSum, Scores, WeightedReward, reward_name
from steer_lightning.rewards.format import FormatReward
from steer_lightning.rewards.length import LengthReward
from steer_lightning.rewards.math import MathReward

__all__ = [
    "FormatReward",
    "LengthReward",
    "MathReward",
    "Reward",
    "RewardSum",
    "Scores",
    "WeightedReward",
    "reward_name",
]
