"""The losses and their parts, one per file."""

from steer_lightning.losses.base import (
    Aggregation,
    Correction,
    Loss,
    LossNeeds,
    Objective,
    Term,
    needs_of,
)
from steer_lightning.losses.cispo import CISPO
from steer_lightning.losses.clip import Clip
from steer_lightning.losses.constant_length import ConstantLength
from steer_lightning.losses.entropy_bonus import EntropyBonus
from steer_lightning.losses.kl import KLEstimator, KLToBase, check_kl_weight, k1, k2, k3
from steer_lightning.losses.likelihood import Likelihood
from steer_lightning.losses.policy_gradient import PolicyGradient, ScoreFunction, SequenceSum
from steer_lightning.losses.prefix_likelihood import PrefixLikelihood
from steer_lightning.losses.sequence_clip import SequenceClip
from steer_lightning.losses.sequence_mean import SequenceMean
from steer_lightning.losses.token_mean import TokenMean
from steer_lightning.losses.truncated_importance import TruncatedImportance

__all__ = [
    "CISPO",
    "Aggregation",
    "Clip",
    "ConstantLength",
    "Correction",
    "EntropyBonus",
    "KLEstimator",
    "KLToBase",
    "Likelihood",
    "Loss",
    "LossNeeds",
    "Objective",
    "PolicyGradient",
    "PrefixLikelihood",
    "ScoreFunction",
    "SequenceClip",
    "SequenceMean",
    "SequenceSum",
    "Term",
    "TokenMean",
    "TruncatedImportance",
    "check_kl_weight",
    "k1",
    "k2",
    "k3",
    "needs_of",
]
