"""Losses, one a file, and the log-probabilities they are made of."""

from steer_lightning.losses.base import Loss
from steer_lightning.losses.logprobs import Head, hidden_logprobs, token_logprobs
from steer_lightning.losses.policy_gradient import PolicyGradient

__all__ = ["Head", "Loss", "PolicyGradient", "hidden_logprobs", "token_logprobs"]
