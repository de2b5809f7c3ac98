"""Prompts, policies and engines for rollouts."""

from __future__ import annotations

import torch

from steer_lightning.rollout import DecodeEngine
from steer_lightning.testing import ARCHITECTURES, make_prompts, tiny_policy

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt, for windows of 8", "z9", "two"])
OPEN_DOORS = sorted(set(ARCHITECTURES) - {"falcon"})
"""Architectures whose attention goes through transformers' interface."""


def engine_for(policy, **settings):  # type: ignore[no-untyped-def]
    engine = DecodeEngine(**settings)
    engine.setup(policy)
    assert engine.fallback is None
    return engine


def steered(architecture: str, **options):  # type: ignore[no-untyped-def]
    policy = tiny_policy(architecture, **options)
    policy.steering.set_vectors(torch.randn(3, 32) * 0.1)
    return policy
