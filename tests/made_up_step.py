"""A training step that never was: two prompts with two completions each."""

from __future__ import annotations

import torch

from steer_lightning.rewards import Scores
from steer_lightning.testing import make_prompts
from steer_lightning.training.sample import gather_figures
from steer_lightning.training.step import Step, UpdateResult
from steer_lightning.types import Rollouts


def make_step(texts: tuple[str, ...] = ("one", "two", "three", "four")) -> Step:
    rollouts = Rollouts(
        prompts=tuple(make_prompts(["p", "q"], ["1", "2"])),
        group_size=2,
        completion_ids=torch.tensor([[5, 2, 0], [5, 6, 7], [5, 0, 0], [5, 2, 0]]),
        completion_mask=torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool(),
        logprobs=torch.tensor([[-1.0, -1.0, 0], [-2.0, -1.0, -1.0], [-1.0, 0, 0], [-0.5, -0.5, 0]]),
        finished=torch.tensor([True, False, False, True]),
        texts=texts,
    )
    scores = Scores(total=[1.0, 0.0, None, 1.0], parts={"MathReward": [1.0, 0.0, None, 1.0]})
    return Step(
        **vars(gather_figures(rollouts, scores, rollout_seconds=1.0)),
        rollouts=rollouts,
        scores=scores,
        own=torch.arange(2),
        advantages=torch.tensor([[1.0, -1.0], [0.0, 0.0]]),
        takes_part=torch.ones(2, 2, dtype=torch.bool),
        kl=None,
        update=UpdateResult(
            loss=0.1,
            loss_metrics={},
            mismatch={},
            gradient_norm=1.5,
            skipped=False,
            learning_rate=0.01,
        ),
        seconds=2.0,
    )
