"""Which models read padded batches, and logits of those that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning.model.padding import leaks, why_not_padded
from steer_lightning.rollout.completions import left_padded
from steer_lightning.testing import ARCHITECTURES, tiny_policy
from tests.odd_models import bart, minimax, mixtral, policy_of


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_common_models_take_padding(architecture: str) -> None:
    assert why_not_padded(tiny_policy(architecture)) is None


def test_a_recurrence_with_a_mask_takes_padding() -> None:
    assert why_not_padded(policy_of(minimax())) is None


@pytest.mark.parametrize("num_last", [1, 4])
def test_logits_of_a_model_that_takes_no_padding_are_those_of_single_rows(num_last: int) -> None:
    policy = policy_of(bart())
    assert "differ" in str(why_not_padded(policy))
    ids, mask = left_padded([[5, 6, 7, 8, 9], [11, 12]], pad=0)
    right = torch.tensor([[20, 21, 22], [30, 0, 0]])
    ids, mask = torch.cat([ids, right], 1), torch.cat([mask, (right > 0).long()], 1)
    if num_last == 1:
        ids, mask = ids[:, :5], mask[:, :5]
    found = policy.logits(ids, mask, num_last)
    for row, real, logits in zip(ids, mask.bool(), found, strict=True):
        alone = policy.model(input_ids=row[real][None]).logits[0]
        count = int(real[-num_last + 1 :].sum()) + 1 if num_last > 1 else 1
        assert torch.allclose(logits[:count], alone[-count:], atol=1e-5)
    padded = policy.padded_logits(ids, mask, num_last)
    assert not torch.allclose(padded[1, 0], found[1, 0], atol=1e-2), "it would have been wrong"


def test_a_weak_dependence_on_the_padding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is far below what a comparison could tell from rounding."""
    policy = tiny_policy()
    padded = policy.padded_logits

    def leaking(ids: torch.Tensor, mask: torch.Tensor, num_last: int) -> Any:
        padding = (ids * (1 - mask)).sum(1)[:, None, None]
        weak = torch.zeros(ids.shape[0], num_last, 259)
        weak[..., 3] = 1e-4 * (padding / padding.max().clamp(min=1))[..., 0]
        return padded(ids, mask, num_last) + weak

    monkeypatch.setattr(policy, "padded_logits", leaking)
    assert "changes with the tokens of the padding" in str(why_not_padded(policy))


@pytest.mark.parametrize(
    ("gap", "noise", "leak", "without"),
    [(0.0, 0.0, False, False), (1e-3, 0.0, True, True), (3e-3, 1e-3, False, True)],
    ids=["exact", "leak", "noise"],
)
def test_experts_alone_may_make_noise(gap: float, noise: float, leak: bool, without: bool) -> None:
    assert leaks(policy_of(mixtral()).model, gap, lambda: noise) == leak
    assert leaks(tiny_policy().model, gap, lambda: noise) == without


@pytest.mark.parametrize(("side", "told"), [(slice(0, 10), "padding"), (slice(0, None), "None")])
def test_padding_after_a_text_shows_the_noise_of_experts(
    side: slice, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts change with the padding before them alone, or with any."""
    policy = policy_of(mixtral())
    padded = policy.padded_logits

    def noisy(ids: torch.Tensor, mask: torch.Tensor, num_last: int) -> Any:
        read = (ids * (1 - mask))[:, side].clamp(max=1).sum()
        logits = padded(ids, mask, num_last)
        logits[..., ::2] += 1e-6 * read
        return logits

    monkeypatch.setattr(policy, "padded_logits", noisy)
    assert told in str(why_not_padded(policy))


def test_a_model_that_fails_on_a_batch_takes_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    padded = policy.padded_logits

    def fails(ids: torch.Tensor, mask: torch.Tensor, num_last: int) -> Any:
        if ids.shape[0] > 1:
            raise RuntimeError("one text at a time")
        return padded(ids, mask, num_last)

    monkeypatch.setattr(policy, "padded_logits", fails)
    assert why_not_padded(policy) == "RuntimeError: one text at a time"
    assert not policy.takes_padding
