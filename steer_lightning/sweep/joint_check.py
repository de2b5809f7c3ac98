"""The check that a flight of several experiments steers each row by the vectors of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.rollout.joint_completions import JointCompletions, Outcome
from steer_lightning.rollout.kv_cache import FEW_SLOTS
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.selfcheck import why_not
from steer_lightning.sweep.shared_base import SharedBase
from steer_lightning.types import Prompt, Rollouts

MOST_CHECKED = 4
"""Number of experiments that take part in the check: the first, the last, and some in between."""

SIZE = 0.1
"""Standard deviation of made-up trained numbers."""


def why_not_joint(base: SharedBase, engine: DecodeEngine) -> str | None:
    """Samples made-up prompts for several experiments at once, and compares with plain passes.

    Each experiment gets made-up vectors for the check, which differ from those of the others.

    Args:
        base: Base that they share.
        engine: Engine with their settings.

    Returns:
        None if they agree, else the reason why the model can't be sampled this way.

    Raises:
        FloatingPointError: If not even a plain pass has finite logits.
    """
    last = len(base.policies) - 1
    owners = sorted({round(last * k / (MOST_CHECKED - 1)) for k in range(MOST_CHECKED)})
    flights: dict[torch.dtype, list[Outcome]] = {}  # by the base's dtype, which a check may change

    def reason_of(owner: int) -> str | None:
        def generate(prompts: Sequence[Prompt], sampling: Sampling) -> Rollouts:
            dtype = base.joint.model.dtype
            if dtype not in flights:
                base.end_serving(owner)
                flights[dtype] = _fly(base, engine, owners, prompts, sampling)
                base.begin_serving(owner)
            outcome = flights[dtype][owners.index(owner)]
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        with base.serving(owner):
            return why_not(base.policies[owner], generate)

    with made_up_numbers([base.policies[owner] for owner in owners]):
        reasons = (reason_of(owner) for owner in owners)
        return next((reason for reason in reasons if reason is not None), None)


def _fly(
    base: SharedBase,
    engine: DecodeEngine,
    owners: Sequence[int],
    prompts: Sequence[Prompt],
    sampling: Sampling,
) -> list[Outcome]:
    """Samples the prompts for each of some experiments, in one flight."""
    requests = [Request(prompts=prompts, sampling=sampling, seed=k, step=0) for k in owners]
    completions = JointCompletions([base.policies[k] for k in owners], requests, owners)
    with base.serving_all(owners) as joint:
        engine.fly(joint, completions, FEW_SLOTS, capture_after=0)
    return completions.outcomes()


@contextmanager
def made_up_numbers(policies: Sequence[Policy]) -> Iterator[None]:
    """Replaces the trained numbers of each policy by random ones within the block."""
    trained = [list(policy.steering.parameters()) for policy in policies]
    before = [[number.detach().clone() for number in numbers] for numbers in trained]
    try:
        for seed, numbers in enumerate(trained):
            generator = torch.Generator().manual_seed(seed)
            for number in numbers:
                drawn = torch.randn(number.shape, generator=generator)
                number.data.copy_(SIZE * drawn)
        yield
    finally:
        for numbers, kept in zip(trained, before, strict=True):
            for number, old in zip(numbers, kept, strict=True):
                number.data.copy_(old)
