"""Prompts, and gradients by the trainer and by the plain formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import torch

from steer_lightning import SteeringModule
from steer_lightning.model.head import token_logprobs
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.types import Rollouts

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt", "z9"])
SAMPLING = Sampling(group_size=4, max_new_tokens=8, temperature=0.8)


def quiet_trainer(**options: Any) -> L.Trainer:
    """A trainer of one process on the CPU, which neither shows nor writes anything by itself."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"logger": False, "enable_checkpointing": False}
    return L.Trainer(**{"accelerator": "cpu", "devices": 1, **quiet, **options})


def gradient(
    module: SteeringModule, rollouts: Rollouts, advantages: torch.Tensor, **settings: object
) -> torch.Tensor:
    gradients = replace(module.batch_gradient, **settings)
    gradients.accumulate(gradients.plan(Batch.alone(rollouts, advantages)))
    found = module.policy.steering.weight.grad
    assert found is not None
    return found.clone()


def plain_gradient(
    module: SteeringModule, rollouts: Rollouts, advantages: torch.Tensor
) -> torch.Tensor:
    """- mean_i [ A_i * sum_t log pi(y_it) ], one unpadded row at a time.

    Straight from the formula.
    """
    weight = module.policy.steering.weight
    weight.grad = None
    total = torch.zeros(())
    for n, advantage in enumerate(advantages.flatten()):
        prompt = list(rollouts.prompts[n // rollouts.group_size].token_ids)
        completion = rollouts.completion_ids[n][rollouts.completion_mask[n]]
        logits = module.policy.model(torch.tensor([prompt + completion.tolist()])).logits[
            :, len(prompt) - 1 : -1
        ]
        total = (
            total + advantage * token_logprobs(logits, completion[None], SAMPLING.temperature).sum()
        )
    (-total / advantages.numel()).backward()
    assert weight.grad is not None
    return weight.grad.clone()


def policy_with_vectors(architecture: str = "llama", first: int = 2) -> Policy:
    policy = tiny_policy(architecture, SteeringVectors(layers=[first]))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        policy.steering.set_vectors(torch.randn(1, 32) * 0.1)
    return policy
