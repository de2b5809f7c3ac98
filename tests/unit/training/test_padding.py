"""Padded rows are read as each row is alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steer_lightning.testing import make_prompts
from steer_lightning.training.batch import padded_micro_batches
from steer_lightning.training.padding import BlockForward, PaddedForward
from steer_lightning.types import Rollouts
from tests.unit.training.helpers import policy_with_vectors

LENGTHS = torch.tensor([3, 1, 2, 5])
TEMPERATURE = 0.5


def some_rollouts() -> Rollouts:
    ids = torch.randint(10, 250, (4, 5), generator=torch.Generator().manual_seed(0))
    return Rollouts(
        prompts=tuple(make_prompts(["a", "two words"])),
        group_size=2,
        completion_ids=ids,
        completion_mask=torch.arange(5) < LENGTHS[:, None],
        logprobs=torch.zeros(4, 5),
        finished=torch.ones(4, dtype=torch.bool),
        texts=("",) * 4,
    )


@pytest.mark.parametrize("with_entropy", [True, False])
@torch.no_grad()
def test_log_probabilities_and_entropies_are_those_of_single_texts(with_entropy: bool) -> None:
    policy, rollouts = policy_with_vectors(), some_rollouts()
    forward = PaddedForward(policy)
    rows = next(padded_micro_batches(rollouts, torch.arange(4), 10_000, policy.pad_token_id))
    with forward.passes(), forward.token_states(rows, TEMPERATURE, with_entropy) as found:
        assert found.logprobs.shape == (4, 5)
        assert (found.entropy is not None) == with_entropy
    for place, row in enumerate(rows.rows.tolist()):
        prompt, length = list(rollouts.prompts[row // 2].token_ids), int(LENGTHS[row])
        completion = rollouts.completion_ids[row, :length]
        ids = torch.tensor([prompt + completion.tolist()])
        logits = policy.model(ids).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
        logprobs = logits.log_softmax(-1)
        expected = logprobs[range(length), completion]
        torch.testing.assert_close(found.logprobs[place, :length], expected)
        if found.entropy is not None:
            entropy = -(logprobs.exp() * logprobs).sum(-1)
            torch.testing.assert_close(found.entropy[place, :length], entropy)


@torch.no_grad()
def test_a_block_is_read_as_a_whole_and_gives_the_rows_that_are_asked_for() -> None:
    policy, rollouts = policy_with_vectors(), some_rollouts()
    forward = BlockForward(policy)
    block = next(padded_micro_batches(rollouts, torch.arange(4), 10_000, policy.pad_token_id))
    few = next(padded_micro_batches(rollouts, torch.tensor([1, 3]), 10_000, policy.pad_token_id))
    assert policy.takes_padding  # found out at the first use, by passes of its own
    seen = []
    policy.model.register_forward_hook(lambda _, args, output: seen.append(len(output.logits)))
    with forward.token_states(block, TEMPERATURE, True) as whole:
        pass
    with forward.token_states(replace(few, block=block), TEMPERATURE, True) as part:
        pass
    assert seen == [4, 4]
    chosen = torch.isin(block.rows, torch.tensor([1, 3]))
    assert torch.equal(part.logprobs, whole.logprobs[chosen])
    assert part.entropy is not None
    assert whole.entropy is not None
    assert torch.equal(part.entropy, whole.entropy[chosen])
    with forward.token_states(few, TEMPERATURE) as alone:
        assert alone.entropy is None
    assert seen[2] == 2, "without a block by themselves"
