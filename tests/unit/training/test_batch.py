"""The batch of a run with one process."""

from __future__ import annotations

import torch

from steer_lightning.testing import make_prompts
from steer_lightning.training.batch import Batch
from steer_lightning.types import Rollouts


def test_all_prompts_are_this_process_s_own() -> None:
    """Two prompts with two completions each."""
    lengths = torch.tensor([3, 1, 2, 4])
    rollouts = Rollouts(
        prompts=tuple(make_prompts(["a", "abc"])),
        group_size=2,
        completion_ids=torch.ones(4, 4, dtype=torch.long),
        completion_mask=torch.arange(4) < lengths[:, None],
        logprobs=torch.zeros(4, 4),
        finished=torch.ones(4, dtype=torch.bool),
        texts=("",) * 4,
    )
    batch = Batch.alone(rollouts, torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    assert batch.own.tolist() == [0, 1]
    assert batch.num_tokens.tolist() == [[3, 1], [2, 4]]
    assert batch.takes_part.tolist() == [[True, True], [True, True]], "advantage 0, too"
