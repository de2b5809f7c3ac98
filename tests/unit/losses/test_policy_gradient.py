"""The loss and how its parts add up, with numbers worked by hand, and against TRL's own."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.losses import (
    Clip,
    ConstantLength,
    EntropyBonus,
    KLToBase,
    PolicyGradient,
    SequenceClip,
    SequenceMean,
    SequenceSum,
    TokenMean,
    TruncatedImportance,
    k2,
    needs_of,
)
from steer_lightning.types import LossInputs
from tests.unit.losses.helpers import inputs, slope


def test_the_papers_loss_by_hand() -> None:
    given = inputs()
    # summed, not averaged, over tokens; the mean over 4 completions
    assert PolicyGradient()(given).loss.item() == pytest.approx(-(2 * -3 - 1 * -4) / 4)
    expected = torch.tensor([[-0.5, -0.5, 0.0], [0.25, 0.25, 0.25]])
    torch.testing.assert_close(slope(PolicyGradient(), given), expected)


@pytest.mark.parametrize(
    ("aggregation", "first", "second"),
    [
        (SequenceSum(), 1 / 4, 1 / 4),
        (TokenMean(), 1 / 9, 1 / 9),
        (SequenceMean(), 1 / 8, 1 / 12),
        (ConstantLength(10), 1 / 40, 1 / 40),
    ],
    ids=lambda x: type(x).__name__,
)
def test_how_much_a_token_counts_by_hand(aggregation: Any, first: float, second: float) -> None:
    loss = PolicyGradient(aggregation=aggregation)
    expected = torch.tensor([[-2 * first] * 2 + [0.0], [second] * 3])
    torch.testing.assert_close(slope(loss, inputs()), expected)
    assert loss(inputs()).loss.item() == pytest.approx(-(2 * -3 * first - 1 * -4 * second))


def test_terms_by_hand() -> None:
    given = inputs(
        reference_logprobs=inputs().logprobs.detach() - math.log(2),
        entropy=torch.tensor([[0.5, 1.0, 9.0], [1.0, 2.0, 3.0]]),
        advantages=torch.zeros(2),  # such rows count, too
    )
    loss = PolicyGradient(
        aggregation=TokenMean(), terms=[KLToBase(0.1, estimator=k2), EntropyBonus(0.01)]
    )
    assert (loss.needs_all_rows, loss.needs_reference, loss.needs_entropy) == (True, True, True)
    output = loss(given)
    distance = 5 * math.log(2) ** 2 / 2
    assert output.loss.item() == pytest.approx((0.1 * distance - 0.01 * 7.5) / 9)
    assert output.metrics["kl"].item() == pytest.approx(distance / 9)
    assert output.metrics["entropy"].item() == pytest.approx(7.5 / 9)
    (found,) = torch.autograd.grad(output.loss, given.logprobs)
    expected = 0.1 * math.log(2) / 9 * given.mask
    torch.testing.assert_close(found, expected)


def test_a_loss_says_what_it_needs() -> None:
    plain = PolicyGradient()
    assert (plain.needs_all_rows, plain.needs_reference, plain.needs_entropy) == (False,) * 3
    assert plain.uses_ratio is False
    assert PolicyGradient(objective=Clip()).uses_ratio is True
    unknown = SimpleNamespace(gains=lambda inputs: (inputs.logprobs, {}))
    assert needs_of(PolicyGradient(objective=unknown)).uses_ratio is None


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Clip(low=0.0), "Clip.low"),
        (lambda: Clip(high=float("inf")), "Clip.high"),
        (lambda: SequenceClip(low=1.0), "SequenceClip.low"),
        (lambda: ConstantLength(0), "ConstantLength.length"),
        (lambda: TruncatedImportance(0.5), "TruncatedImportance.cap"),
        (lambda: KLToBase(0.0), r"model.loss.terms: KLToBase.weight = 0.0"),
        (lambda: KLToBase(-1.0), "driven away"),
        (lambda: EntropyBonus(0.0), r"model.loss.terms: EntropyBonus.weight = 0.0"),
    ],
)
def test_settings_that_do_nothing_are_refused(make: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()


def trl_loss(name: str, given: LossInputs, **settings: Any) -> torch.Tensor:
    """TRL's own method, on a trainer that has nothing but what it reads."""
    trl = pytest.importorskip("trl", reason="compares with TRL, of the extra `bench`")
    reduce = SimpleNamespace(
        gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1, sync_gradients=True
    )
    arguments = {"use_bias_correction_kl": False, "delta": None, "steps_per_generation": 1}
    trainer: Any = SimpleNamespace(
        **{"accelerator": reduce, "args": SimpleNamespace(**arguments), "beta": 0.0},
        **{"model": SimpleNamespace(training=True), "current_gradient_accumulation_steps": 1},
        **{"aux_loss_enabled": False, "top_entropy_quantile": 1.0, "use_adaptive_entropy": False},
        **{"off_policy_mask_threshold": None, "importance_sampling_level": "token"},
        **{"epsilon_low": 0.2, "epsilon_high": 0.2, "loss_type": "grpo", "entropy_coef": 0.0},
        **{"use_vllm": False, "vllm_importance_sampling_correction": True},
        **{"_entropy_bonus_enabled": "entropy_coef" in settings, "max_completion_length": 10},
        **{"_metrics": defaultdict(lambda: defaultdict(list))},
        **{"_get_per_token_logps_and_entropies": lambda *a, **k: (given.logprobs, entropy, None)},
    )
    entropy = torch.zeros_like(given.logprobs) if given.entropy is None else given.entropy
    vars(trainer).update(settings)
    gap = given.old_logprobs - given.sampling_logprobs
    batch = {
        "prompt_ids": torch.ones(len(given.advantages), 1),
        "prompt_mask": torch.ones(len(given.advantages), 1),
        "completion_ids": torch.ones_like(given.logprobs),
        "completion_mask": given.mask.long(),
        "advantages": given.advantages,
        "old_per_token_logps": given.old_logprobs,
        "old_logps": (given.old_logprobs * given.mask).sum(1),
        "ref_per_token_logps": given.reference_logprobs,
        "num_items_in_batch": given.mask.sum(),
        "importance_sampling_ratio": (gap * given.mask).exp().clamp(max=2.0),
    }
    loss: torch.Tensor = getattr(trl, name)._compute_loss(trainer, None, batch)
    return loss


CLIP = Clip(low=0.2, high=0.2)
PAIRS: dict[str, tuple[PolicyGradient, dict[str, Any]]] = {
    "GRPO": (PolicyGradient(objective=CLIP, aggregation=SequenceMean()), {"loss_type": "grpo"}),
    "Dr. GRPO": (
        PolicyGradient(objective=CLIP, aggregation=ConstantLength(10)),
        {"loss_type": "dr_grpo"},
    ),
    "DAPO": (
        PolicyGradient(objective=Clip(low=0.2, high=0.28), aggregation=TokenMean()),
        {"loss_type": "dapo", "epsilon_high": 0.28},
    ),
    "GSPO": (
        PolicyGradient(objective=SequenceClip(), aggregation=SequenceMean()),
        {
            "importance_sampling_level": "sequence",
            "epsilon_low": 3e-4,
            "epsilon_high": 4e-4,
        },
    ),
    "KL": (
        PolicyGradient(objective=CLIP, aggregation=SequenceMean(), terms=[KLToBase(0.04)]),
        {"beta": 0.04},
    ),
    "truncated importance": (
        PolicyGradient(objective=CLIP, aggregation=TokenMean(), correction=TruncatedImportance()),
        {"loss_type": "dapo", "use_vllm": True},
    ),
    "entropy": (
        PolicyGradient(objective=CLIP, aggregation=TokenMean(), terms=[EntropyBonus(0.01)]),
        {"loss_type": "dapo", "entropy_coef": 0.01},
    ),
}


def random_inputs() -> LossInputs:
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5])[:, None]
    logprobs = torch.randn(4, 7).requires_grad_()
    near = logprobs.detach() + 0.3 * torch.randn(4, 7)
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=near,
        sampling_logprobs=near + 0.5 * torch.randn(4, 7),
        mask=mask,
        advantages=torch.randn(4),
        num_rows=4,
        num_tokens=int(mask.sum()),
        reference_logprobs=logprobs.detach() + torch.randn(4, 7),
        entropy=logprobs.exp(),
    )


@pytest.mark.parametrize("name", PAIRS)
def test_trl_has_the_same_loss_and_gradient(name: str) -> None:
    loss, settings = PAIRS[name]
    given = random_inputs()
    ours, theirs = loss(given).loss, trl_loss("GRPOTrainer", given, **settings)
    torch.testing.assert_close(ours, theirs)
    (found,) = torch.autograd.grad(ours, given.logprobs, retain_graph=True)
    (expected,) = torch.autograd.grad(theirs, given.logprobs)
    torch.testing.assert_close(found, expected)
    assert expected.abs().sum() > 0.1


def test_trls_rloo_has_the_gradient_of_the_papers_loss() -> None:
    given = random_inputs()
    given = replace(given, old_logprobs=given.logprobs.detach())
    (expected,) = torch.autograd.grad(trl_loss("RLOOTrainer", given), given.logprobs)
    torch.testing.assert_close(slope(PolicyGradient(), given), expected)
