"""The loss, its parts, one a file, and the log-probabilities they are made of."""

from steer_lightning.losses.base import Aggregation, Correction, Loss, Objective, Term
from steer_lightning.losses.clip import Clip
from steer_lightning.losses.constant_length import ConstantLength
from steer_lightning.losses.entropy_bonus import EntropyBonus
from steer_lightning.losses.kl import KLEstimator, KLToBase, check_kl_weight, k1, k2, k3
from steer_lightning.losses.logprobs import (
    Head,
    TokenStates,
    read_head,
    read_logits,
    token_logprobs,
)
from steer_lightning.losses.policy_gradient import PolicyGradient
from steer_lightning.losses.prefix_likelihood import PrefixLikelihood
from steer_lightning.losses.score_function import ScoreFunction
from steer_lightning.losses.sequence_clip import SequenceClip
from steer_lightning.losses.sequence_mean import SequenceMean
from steer_lightning.losses.sequence_sum import SequenceSum
from steer_lightning.losses.token_mean import TokenMean
from steer_lightning.losses.truncated_importance import TruncatedImportance

__all__ = [
    "Aggregation",
    "Clip",
    "ConstantLength",
    "Correction",
    "EntropyBonus",
    "Head",
    "KLEstimator",
    "KLToBase",
    "Loss",
    "Objective",
    "PolicyGradient",
    "PrefixLikelihood",
    "ScoreFunction",
    "SequenceClip",
    "SequenceMean",
    "SequenceSum",
    "Term",
    "TokenMean",
    "TokenStates",
    "TruncatedImportance",
    "check_kl_weight",
    "k1",
    "k2",
    "k3",
    "read_head",
    "read_logits",
    "token_logprobs",
]
