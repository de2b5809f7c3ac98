"""The lens: which tokens vectors push, how long they are, and how many directions they span."""

from steer_lightning.results.lens.final_norm import NormDirection, find_final_norm, norm_direction
from steer_lightning.results.lens.first_token import Change, change_of, divergence, mean_change
from steer_lightning.results.lens.geometry import cosines, singular_values, stable_rank
from steer_lightning.results.lens.look import (
    Look,
    check_unembedding,
    describe,
    look_at_tokens,
    token_text,
)
from steer_lightning.results.lens.unembedding import Ranked, TokenRanks, rank_tokens

__all__ = [
    "Change",
    "Look",
    "NormDirection",
    "Ranked",
    "TokenRanks",
    "change_of",
    "check_unembedding",
    "cosines",
    "describe",
    "divergence",
    "find_final_norm",
    "look_at_tokens",
    "mean_change",
    "norm_direction",
    "rank_tokens",
    "singular_values",
    "stable_rank",
    "token_text",
]
