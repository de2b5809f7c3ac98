"""What the carriers compute themselves."""

from __future__ import annotations

import torch

from steer_lightning.testing import make_prompts
from steer_lightning.types import Rollouts
from tests.unit.losses.helpers import inputs


def test_the_number_of_tokens_is_that_of_the_mask() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    rollouts = Rollouts(
        prompts=tuple(make_prompts(["a"])),
        group_size=2,
        completion_ids=torch.zeros(2, 3, dtype=torch.long),
        completion_mask=mask,
        logprobs=torch.zeros(2, 3),
        finished=torch.ones(2, dtype=torch.bool),
        texts=("", ""),
    )
    assert rollouts.num_tokens.tolist() == [2, 1]


def test_the_lengths_of_a_losss_rows_are_those_of_the_mask() -> None:
    assert inputs().lengths.tolist() == [2, 3]
