"""The mean states of completions, padded and packed, against plain passes."""

from __future__ import annotations

import logging

import pytest
import torch

from steer_lightning.model.policy import Policy
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.training import mean_states as module
from steer_lightning.training.batch import padded_micro_batches
from steer_lightning.training.mean_states import StateReader, distance, mean_states
from steer_lightning.types import Rollouts
from tests.odd_places import odd_policy

SHARED = "worked examples, which all of the prompts have in common: "


def made_up_rollouts() -> Rollouts:
    """Completions of 1 to 5 tokens."""
    prompts = make_prompts(["a", "bcd"])
    lengths = torch.tensor([1, 3, 5, 2])
    mask = torch.arange(5) < lengths[:, None]
    ids = torch.randint(3, 200, (4, 5)) * mask
    return Rollouts(
        prompts=tuple(prompts),
        group_size=2,
        completion_ids=ids,
        completion_mask=mask,
        logprobs=torch.zeros(4, 5),
        finished=torch.ones(4, dtype=torch.bool),
        texts=("",) * 4,
    )


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3", "gpt2", "gemma4"])
@pytest.mark.parametrize(("site", "num"), [("layer_output", None), ("mlp_output", 2)])
def test_states_are_those_of_a_plain_forward_pass(
    architecture: str, site: str, num: int | None
) -> None:
    steering = SteeringVectors(layers=[0, 2], site=site)
    # the third layer of Gemma 4 reads only the positions whose logits are asked for
    make = odd_policy if architecture == "gemma4" else tiny_policy
    policy = make(architecture, steering)
    rollouts = made_up_rollouts()
    (part,) = padded_micro_batches(rollouts, torch.arange(4), 10_000, policy.pad_token_id)
    with torch.no_grad():
        found = mean_states(policy, part, num)
    for place, n in enumerate(part.rows.tolist()):
        prompt = list(rollouts.prompts[n // 2].token_ids)
        tokens = rollouts.completion_ids[n][rollouts.completion_mask[n]].tolist()
        for row, layer in enumerate((0, 2)):
            module = policy.layers[layer] if site == "layer_output" else policy.layers[layer].mlp
            kept: list[torch.Tensor] = []
            handle = module.register_forward_hook(
                lambda m, a, output, kept=kept: kept.append(
                    output if isinstance(output, torch.Tensor) else output[0]
                )
            )
            with torch.no_grad():
                policy.model(torch.tensor([[*prompt, *tokens]]))
            handle.remove()
            states = kept[0][0, len(prompt) :]
            expected = states[:-1][:num].mean(0) if len(tokens) > 1 else states[0]
            torch.testing.assert_close(found[row, place], expected, atol=1e-5, rtol=1e-4)


def group_rollouts() -> Rollouts:
    """Completions of 1 to 6 tokens of 3 prompts that begin alike; some begin alike, too."""
    prompts = make_prompts([SHARED + "a", SHARED + "bcd", SHARED + "bc"])
    lengths = torch.tensor([1, 3, 5, 2, 6, 6, 4, 1, 2])
    mask = torch.arange(6) < lengths[:, None]
    ids = torch.randint(3, 200, (9, 6), generator=torch.Generator().manual_seed(0))
    ids[4, :3] = ids[5, :3]
    return Rollouts(
        prompts=tuple(prompts),
        group_size=3,
        completion_ids=ids * mask,
        completion_mask=mask,
        logprobs=torch.zeros(9, 6),
        finished=torch.ones(9, dtype=torch.bool),
        texts=("",) * 9,
    )


def one_by_one(policy: Policy, rollouts: Rollouts, rows: torch.Tensor, num: int | None):
    """Mean states of rows that are read alone, (L, n, D)."""
    parts = [next(padded_micro_batches(rollouts, row[None], 1, 0)) for row in rows]
    with torch.no_grad():
        return torch.cat([mean_states(policy, part, num) for part in parts], 1)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3", "gpt2", "gemma4"])
@pytest.mark.parametrize(
    ("site", "num", "max_tokens"),
    [("layer_output", None, 10_000), ("mlp_output", 2, 10_000), ("layer_output", 1, 150)],
)
def test_packed_states_are_those_of_single_texts(
    architecture: str,
    site: str,
    num: int | None,
    max_tokens: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make = odd_policy if architecture == "gemma4" else tiny_policy
    policy = make(architecture, SteeringVectors(layers=[0, 2], site=site))
    rollouts, rows = group_rollouts(), torch.tensor([0, 1, 2, 4, 5, 6, 7, 8])
    with torch.no_grad():
        order, found = StateReader(policy, num).read(rollouts, rows, max_tokens)
    assert not caplog.records  # packed
    assert order.sort().values.tolist() == rows.tolist()
    expected = one_by_one(policy, rollouts, order, num)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_packed_rows_read_the_worked_examples_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy("llama", SteeringVectors())
    rollouts, sizes = group_rollouts(), []
    reader = StateReader(policy)
    original = module.packed_mean_states

    def counted(policy, packing, rows, num):
        sizes.append(packing.ids.numel())
        return original(policy, packing, rows, num)

    monkeypatch.setattr(module, "packed_mean_states", counted)
    rows = torch.tensor([1, 2, 3, 4, 5, 6, 8])
    with torch.no_grad():
        reader.read(rollouts, rows, 10_000)
    prompts = [len(prompt.token_ids) for prompt in rollouts.prompts]
    shared = len(SHARED)  # a token a character in the tiny tokenizer
    assert min(prompts) - shared in (1, 2)
    # all ends of prompts, the shared beginning, and 2 + 4 + 1 + 5 + 5 + 3 + 1 tokens but those that
    # rows 4 and 5 share
    whole = sum(prompts[n // 3] for n in rows.tolist())
    assert sizes[-1] <= sum(p - shared for p in prompts) + shared + 21 - 3 < whole


def broken(policy, packing, rows, num):
    """States of the wrong tokens."""
    packing.rows = [row[-1:] * len(row) for row in packing.rows]
    return module._original(policy, packing, rows, num)


def test_states_that_differ_from_plain_passes_are_padded_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy, rollouts = tiny_policy("llama", SteeringVectors()), group_rollouts()
    monkeypatch.setattr(module, "_original", module.packed_mean_states, raising=False)
    monkeypatch.setattr(module, "packed_mean_states", broken)
    reader, rows = StateReader(policy), torch.tensor([0, 1, 2, 4])
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        order, found = reader.read(rollouts, rows, 10_000)
        assert len(caplog.records) == 1
        assert "can't be packed for their mean states (mean states differ" in caplog.text
        torch.testing.assert_close(found, one_by_one(policy, rollouts, order, None))
        reader.read(rollouts, rows, 10_000)
    assert len(caplog.records) == 1


def test_longer_texts_are_compared_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy, rollouts = tiny_policy("llama", SteeringVectors()), group_rollouts()
    reader = StateReader(policy)
    with torch.no_grad():
        reader.read(rollouts, torch.tensor([1, 8]), 10_000)
        monkeypatch.setattr(module, "_original", module.packed_mean_states, raising=False)
        monkeypatch.setattr(module, "packed_mean_states", broken)
        reader.read(rollouts, torch.tensor([1]), 10_000)
        assert not caplog.records
        reader.read(rollouts, torch.tensor([2, 4]), 10_000)
    assert "are padded" in caplog.text


def test_the_distance_by_hand() -> None:
    expected = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    found = torch.tensor([[[3.0, 4.5]], [[0.3, 2.4]]])
    assert distance(found, expected) == pytest.approx(0.25)  # 0.5 / 5 and 0.5 / 2
    assert distance(torch.full_like(found, float("nan")), expected) == float("inf")
