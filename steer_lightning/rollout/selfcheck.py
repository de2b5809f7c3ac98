"""The check that a model decodes correctly in `DecodeEngine`, against plain forward passes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.rollout.kv_cache import plan_flight
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.types import Problem, Prompt, Rollouts

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.1}
"""Largest difference of a log-probability that is let pass, in nats, by dtype of the base; 16-bit
results depend on the order of operations."""


def why_not(policy: Policy, decode: Callable[..., Rollouts]) -> str | None:
    """Decodes a few tokens of made-up prompts and compares them with a plain forward pass.

    Args:
        policy: Policy that decodes.
        decode: Method `DecodeEngine.decode`.

    Returns:
        None if they agree, else the reason why the model can't decode this way.
    """
    vocabulary = policy.model.config.get_text_config().vocab_size
    lengths = (5, 9, 9)
    ids = torch.randint(vocabulary, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    problem = Problem(question="", answer="")
    prompts = [
        Prompt(id=k, problem=problem, text="", token_ids=tuple(row.tolist()))
        for k, row in enumerate(torch.split(ids, list(lengths)))
    ]
    sampling = Sampling(group_size=2, max_new_tokens=4)
    plan = plan_flight(prompts, sampling, 2 * 4 + 2 * 9)  # two rows at once: others wait
    try:
        rollouts = decode(policy, prompts, sampling, plan, seed=0, step=0, capture_after=0)
    except (
        RuntimeError,
        ArithmeticError,
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
    ) as error:
        # a model that does not fit the interfaces may fail in many ways
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}"
    worst = 0.0
    for n, mask in enumerate(rollouts.completion_mask):
        completion = rollouts.completion_ids[n][mask].tolist()
        row = torch.tensor([[*prompts[n // 2].token_ids, *completion]], device=policy.device)
        with torch.no_grad():
            logits = policy.logits(row, torch.ones_like(row), len(completion) + 1)[0, :-1]
        expected = logits.float().log_softmax(-1).cpu()[range(len(completion)), completion]
        worst = max(worst, float((expected - rollouts.logprobs[n][mask]).abs().max()))
    tolerance = TOLERANCE.get(policy.model.dtype, 0.25)
    if worst <= tolerance:
        return None
    return f"log-probabilities differ by {worst:.2g}, more than {tolerance:g}"
