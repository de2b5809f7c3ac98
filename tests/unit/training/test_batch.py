"""Micro-batches hold each row once, within the budget."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.training.batch import micro_batches


def rollouts_of(policy, group_size: int = 3, new: int = 7):  # type: ignore[no-untyped-def]
    engine = GenerateEngine()
    engine.setup(policy)
    prompts = make_prompts(["a", "some words", "quite a few more words", "b"])
    return engine.generate(
        prompts, Sampling(group_size=group_size, max_new_tokens=new), seed=0, step=0
    )


@pytest.mark.parametrize("budget", [1, 40, 75, 10_000])
def test_micro_batches_hold_each_row_once_within_the_budget(budget: int) -> None:
    rollouts = rollouts_of(tiny_policy())
    rows = torch.tensor([0, 2, 3, 5, 7, 8, 11])
    parts = list(micro_batches(rollouts, rows, budget, pad=0))
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == rows.tolist()
    for part in parts:
        assert part.ids.numel() <= budget or len(part.rows) == 1
        assert part.mask[:, 0].any()  # no column that is padding in every row
        assert part.completion_mask[:, -1].any()
        for k, n in enumerate(part.rows.tolist()):
            prompt = rollouts.prompts[n // 3].token_ids
            real = part.ids[k][part.mask[k].bool()].tolist()
            completion = rollouts.completion_ids[n][rollouts.completion_mask[n]].tolist()
            assert real == [*prompt, *completion]
            sampled = rollouts.logprobs[n][rollouts.completion_mask[n]]
            assert torch.equal(part.sampling_logprobs[k][part.completion_mask[k]], sampled)
            assert part.completion_ids[k][part.completion_mask[k]].tolist() == completion
