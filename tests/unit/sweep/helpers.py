"""Experiments on one tiny base."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.steering import SiteVectors
from steer_lightning.testing import tiny_policy


def share(architecture: str, steerings: Sequence[SiteVectors], size: float = 0.1) -> list[Policy]:
    """Policies of one base with random vectors."""
    first = tiny_policy(architecture, steerings[0])
    policies = [first]
    for steering in steerings[1:]:
        policy = Policy("tiny", steering=steering)
        policy.tokenizer = first.tokenizer
        policy.adopt(first.model)
        policies.append(policy)
    for k, steering in enumerate(steerings):
        generator = torch.Generator().manual_seed(k)
        shape = (len(steering.layers), steering.width)
        steering.set_vectors(size * torch.randn(shape, generator=generator))
    return policies
