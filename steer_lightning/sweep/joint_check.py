"""The checks that several experiments together get the rows and the gradients of each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.model.precision import precision_of
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.rollout.joint_completions import JointCompletions, Outcome
from steer_lightning.rollout.kv_cache import FEW_SLOTS
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.selfcheck import why_not
from steer_lightning.sweep.shared_base import SharedBase
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.joint_gradient import Share
from steer_lightning.types import Prompt, Rollouts

MOST_CHECKED = 4
"""Number of experiments that take part in the check: the first, the last, and some in between."""

LARGEST_GAP = {torch.float32: 0.01, torch.bfloat16: 0.2, torch.float16: 0.2}
"""Largest difference of a gradient, as a share of its norm. Passes of another size round
otherwise."""

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


def why_not_joint_gradient(base: SharedBase, shares: Sequence[Share]) -> str | None:
    """Compares gradients of a joint pass with those of passes of each experiment alone.

    The first and the last of the experiments are compared. One that has diverged proves nothing.

    Args:
        base: Base that they share.
        shares: Parts of the experiments, whose gradients lie in `.grad`; they stay there.

    Returns:
        None if they agree, else the reason why experiments must be read one after the other.
    """
    learning = [share for share in shares if share.error is None]
    for share in learning[:1] + learning[1:][-1:]:
        parameters = list(share.gradient.policy.steering.parameters())
        joint = [parameter.grad for parameter in parameters]
        alone = gradient_alone(base, share)
        for parameter, gradient in zip(parameters, joint, strict=True):
            parameter.grad = gradient
        if share.error is not None or not all(x is None or x.isfinite().all() for x in alone):
            continue
        gap = _relative_gap(joint, alone)
        allowed = LARGEST_GAP[precision_of(share.gradient.policy)]
        if not gap <= allowed:
            return f"a gradient differs by {gap:.2g} of its norm from that of its experiment alone"
    return None


def gradient_alone(base: SharedBase, share: Share) -> list[torch.Tensor | None]:
    """Accumulates the gradient of one experiment in passes of its own; see `BatchGradient`.

    Returns:
        The gradients, which also lie in `.grad`; totals or the error are put into the share.
    """
    gradient = share.gradient
    with base.serving(share.owner):
        try:
            share.totals = BatchGradient.accumulate(gradient, share.mini_batch)
        except Exception as error:  # raised again where the experiment waits
            share.error = error
    return [parameter.grad for parameter in gradient.policy.steering.parameters()]


def _relative_gap(one: Sequence[torch.Tensor | None], two: Sequence[torch.Tensor | None]) -> float:
    """Returns the norm of the difference of gradients, over the norm of the second."""
    a, b = (
        torch.cat([part.flatten().double() for part in x if part is not None]) for x in (one, two)
    )
    norm = float(b.norm())
    return float((a - b).norm()) / norm if norm else float(a.norm())


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
