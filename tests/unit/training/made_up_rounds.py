"""Rounds of sampling whose rewards are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer_lightning.rewards import Scores
from steer_lightning.testing import make_prompts
from steer_lightning.training.sample import gather_figures
from steer_lightning.training.step import Sampled
from steer_lightning.types import Prompt, Rollouts

NAN = float("nan")


def sampled(prompts: Sequence[Prompt], rewards: list[list[float]], width: int = 2) -> Sampled:
    """Two completions of each prompt; the second one is cut off."""
    num_rows = 2 * len(prompts)
    rollouts = Rollouts(
        prompts=tuple(prompts),
        group_size=2,
        completion_ids=torch.full((num_rows, width), width),
        completion_mask=torch.ones(num_rows, width, dtype=torch.bool),
        logprobs=torch.full((num_rows, width), -1.0),
        finished=torch.tensor([True, False] * len(prompts)),
        texts=tuple(f"{prompt.text}{k}" for prompt in prompts for k in range(2)),
    )
    total = [None if r != r else r for row in rewards for r in row]
    scores = Scores(total=total, parts={"r": total}, outcomes={"r": {"right": num_rows}})
    rows = gather_figures(rollouts, scores, rollout_seconds=1.0)
    return Sampled(**vars(rows), rollouts=rollouts, scores=scores, own=torch.arange(len(prompts)))


PROMPTS = make_prompts([f"p{k}" for k in range(9)])
MIXED, EQUAL = [1.0, 0.0], [1.0, 1.0]
