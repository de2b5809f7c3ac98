"""The check of rollout servers against plain passes of the policy, with made-up vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch

from steer_lightning.model.plain_pass import LONGEST_MADE_UP, tolerance
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.selfcheck import compare, made_up_prompts
from steer_lightning.rollout.sent_vectors import SentVectors
from steer_lightning.steering import attach
from steer_lightning.steering.site_vectors import SiteVectors
from steer_lightning.types import Rollouts

SAMPLING = Sampling(group_size=3, max_new_tokens=6)

SIZE = 0.5
"""Size of made-up vectors, as a share of the stream: large enough that their absence shows in 16
bits, too."""

BETTER = 0.2
"""Largest share of the difference from the unsteered base that the difference from the steered
one may be."""


def why_not_served(
    policy: Policy, longest: int, answer: Callable[[SentVectors, Request], Rollouts]
) -> str | None:
    """Compares completions of servers with plain passes of the policy, both with made-up vectors.

    The vectors of a run are zero at first, so that its first completions would not show whether a
    server adds them, and where.

    Args:
        policy: Policy whose weights are loaded.
        longest: Number of tokens of the longest text that the servers can hold.
        answer: Function that lets the servers answer a request with given vectors.

    Returns:
        None if they agree, else the reason why the servers can't be used.
    """
    steering = policy.steering
    assert isinstance(steering, SiteVectors)  # checked before the base was loaded
    up_to = min(LONGEST_MADE_UP, longest)
    room = longest - SAMPLING.max_new_tokens
    prompts = [x for x in made_up_prompts(policy, (0, up_to)) if len(x.token_ids) <= room]
    texts = [prompt.token_ids for prompt in prompts]
    sizes = policy.stream_rms(texts, steering.layers).cpu()
    generator = torch.Generator().manual_seed(0)
    made_up = torch.zeros(steering.num_layers, steering.width)
    for layer, size in zip(steering.layers, sizes, strict=True):
        made_up[layer] = SIZE * size * torch.randn(steering.width, generator=generator)
    rows = {layer: made_up[layer] for layer in steering.layers}
    vectors = SentVectors(rows, steering.num_layers, steering.width, policy.model.dtype)
    rollouts = answer(vectors, Request(prompts=prompts, sampling=SAMPLING, seed=0, step=0))
    every = range(len(rollouts.texts))
    with policy.at_scale(0.0):
        unsteered = compare(policy, rollouts, SAMPLING, every)
        with attach(policy.model, made_up.to(policy.device), layers_path=steering.layers_path):
            steered = compare(policy, rollouts, SAMPLING, every)
    allowed = min(tolerance(policy), BETTER * unsteered)
    if steered <= allowed:
        return None
    return (
        f"log-probabilities differ from plain passes by {steered:.2g} nats, more than "
        f"{allowed:.2g}, and from those without vectors by {unsteered:.2g}"
    )
