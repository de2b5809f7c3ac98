"""The batch of a run with one process, and its micro-batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.training.batch import Batch, packed_micro_batches, padded_micro_batches
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
    parts = list(padded_micro_batches(rollouts, rows, budget, pad=0))
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


@pytest.mark.parametrize("budget", [1, 60, 90, 10_000])
def test_packed_micro_batches_hold_each_row_once_and_keep_prompts_together(budget: int) -> None:
    rollouts = rollouts_of(tiny_policy())
    rows = torch.tensor([0, 2, 3, 5, 7, 8, 11])
    parts = list(packed_micro_batches(rollouts, rows, budget, pad=0))
    read = torch.cat([part.rows for part in parts]).tolist()
    assert sorted(read) == rows.tolist()
    groups = [n // 3 for n in read]
    assert len([k for k in range(1, len(groups)) if groups[k] != groups[k - 1]]) == 3
    for before, part in zip([None, *parts], parts, strict=False):
        assert int(part.mask.sum()) <= budget or len(part.rows) == 1
        if before is not None:  # no room was left for the next row
            assert int(before.mask.sum()) + int(part.mask[0].sum()) > budget


def test_a_batch_of_long_prompts_reads_each_of_them_about_once() -> None:
    """8 prompts of 300 tokens with 16 completions of 1 to 16 tokens, in passes of 3 groups."""
    lengths = torch.arange(1, 17).repeat(8)
    prompts = tuple(
        replace(make_prompts(["a"])[0], id=k, token_ids=(7 + k,) * 300) for k in range(8)
    )
    rollouts = Rollouts(
        prompts=prompts,
        group_size=16,
        completion_ids=torch.ones(128, 16, dtype=torch.long),
        completion_mask=torch.arange(16) < lengths[:, None],
        logprobs=torch.zeros(128, 16),
        finished=torch.ones(128, dtype=torch.bool),
        texts=("",) * 128,
    )
    parts = list(packed_micro_batches(rollouts, torch.arange(128), 3 * 16 * 316, pad=0))
    assert sum(len(set(part.groups)) for part in parts) <= 8 + len(parts) - 1
    padded = list(padded_micro_batches(rollouts, torch.arange(128), 3 * 16 * 316, pad=0))
    assert sum(len(set(part.groups)) for part in padded) == 8 * len(padded)
