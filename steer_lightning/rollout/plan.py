"""How many completions are in flight at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer_lightning.errors import ConfigError
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.types import Prompt


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many rows and prompts are in flight at once."""

    max_rows: int
    max_prompts: int
    tokens: int
    """That they take at most."""


def plan_flight(prompts: Sequence[Prompt], sampling: Sampling, budget: int) -> Plan:
    """Fits as many completions as possible into a budget of tokens.

    Raises:
        ConfigError: If it does not even hold one prompt with one completion.
    """
    size, columns = sampling.group_size, sampling.max_new_tokens
    width = max(len(prompt.token_ids) for prompt in prompts)
    num_prompts, num_rows = len(prompts), len(prompts) * size
    if width + columns > budget:
        raise ConfigError(
            "model.engine.max_tokens_in_flight",
            budget,
            rule=f"must hold the longest prompt, {width} tokens, and one completion of "
            f"{columns} tokens",
            fix=f"Set it to {width + columns} or more, or max_new_tokens lower",
        )
    if num_rows * columns + num_prompts * width > budget:
        # stragglers keep their prompts: half as many slots again as full groups need
        share = columns + 1.5 * width / size
        num_rows = max(1, min(num_rows, int((budget - 2 * width) / share)))
        spare = (budget - num_rows * columns) // width
        num_prompts = max(1, min(num_prompts, num_rows, spare))
    tokens = num_rows * columns + num_prompts * width
    return Plan(max_rows=num_rows, max_prompts=num_prompts, tokens=tokens)


def out_of_step(plan: Plan) -> ConfigError:
    """Why a rollout that ran out of memory does not begin anew where processes pass in step."""
    return ConfigError(
        "model.engine.max_tokens_in_flight",
        plan.tokens,
        rule="memory ran out",
        why="The base is gathered layer by layer, in step with other processes, which are in the "
        "middle of the same pass: the rollout can't begin anew on one of them",
        fix=f"Set it to {plan.tokens // 2} or less",
    )
