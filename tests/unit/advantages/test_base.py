"""What every advantage estimator promises, and TRL's own for comparison."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer_lightning.advantages import (
    GRPO,
    RLOO,
    BestOf,
    DrGRPO,
    MaxRL,
    MovingAverage,
    Reinforce,
    ReinforcePlusPlus,
)
from steer_lightning.advantages.base import min_group_size_of, min_reward_of, non_negative_from_of

NAN, INF = float("nan"), float("inf")
ROUGH = torch.full((1, 7), 0.9)  # its sum is rounded
PER_GROUP = [RLOO(), GRPO(), DrGRPO(), MaxRL()]
EVERY = [*PER_GROUP, Reinforce(), MovingAverage(), ReinforcePlusPlus()]


@pytest.mark.parametrize("estimator", PER_GROUP, ids=lambda e: type(e).__name__)
def test_equal_rewards_are_exactly_0(estimator: Any) -> None:
    assert (ROUGH - ROUGH.mean(1, keepdim=True)).any(), "a mean alone leaves a rounding error"
    assert not estimator(ROUGH).any()
    assert min_group_size_of(estimator) == 2


def test_an_estimator_of_ones_own_may_be_silent_on_its_group_size() -> None:
    assert min_group_size_of(torch.ones_like) == min_group_size_of(Reinforce()) == 1
    assert min_reward_of(torch.ones_like) == min_reward_of(RLOO()) == float("-inf")
    assert min_reward_of(MaxRL()) == 0


def test_which_estimators_promise_no_negative_advantage() -> None:
    promised = {type(e).__name__: non_negative_from_of(e) for e in (*EVERY, BestOf())}
    assert {n: x for n, x in promised.items() if x < INF} == {"Reinforce": 0, "BestOf": -INF}
    assert non_negative_from_of(torch.ones_like) == INF
    rewards = torch.tensor([[0.0, 0.3, 1.0, NAN]])
    assert (Reinforce()(rewards) >= 0).all()
    assert Reinforce()(rewards - 0.1).min() < 0
    of_length = {"num_tokens": torch.ones(1, 4).long(), "logprob_sums": -torch.ones(1, 4)}
    assert (BestOf()(rewards - 0.5, **of_length) >= 0).all()
    for estimator in (MovingAverage(), ReinforcePlusPlus(), *PER_GROUP):
        estimator(rewards)  # a first batch, from which a moving average starts
        assert estimator(rewards).min() < 0


@pytest.mark.parametrize("estimator", EVERY, ids=lambda e: type(e).__name__)
def test_what_is_not_scored_has_advantage_0(estimator: Any) -> None:
    found = estimator(torch.tensor([[NAN, 1.0, 0.0], [NAN, NAN, NAN]]))
    assert found.isfinite().all()
    assert not found[0, 0]
    assert not found[1].any()
    assert found[0, 1] > 0


def trl_advantages(name: str, rewards: torch.Tensor, **settings: Any) -> torch.Tensor:
    """TRL's own method, on a trainer that has nothing but what it reads."""
    trl = pytest.importorskip("trl", reason="compares with TRL, of the extra `bench`")
    num_rows, size = rewards.numel(), rewards.shape[1]
    accelerator = SimpleNamespace(
        device="cpu", process_index=0, gather=lambda x: x, reduce=lambda x, reduction: x
    )
    rows = ([[5]] * num_rows, [[6, 2]] * num_rows)
    generated = {
        "GRPOTrainer": (*rows, None, [""] * num_rows, None, {}, None, None),
        "RLOOTrainer": (*rows, [""] * num_rows),
    }
    logprobs = torch.zeros(num_rows, 2)
    trainer: Any = SimpleNamespace(
        **{"accelerator": accelerator, "args": arguments(), "beta": 0.0},
        **{"model": SimpleNamespace(training=True, is_gradient_checkpointing=False)},
        **{"environment_factories": None, "environments": None, "tools": [], "use_vllm": False},
        **{"mask_truncated_completions": False, "pad_to_multiple_of": None, "num_iterations": 1},
        **{"multi_objective_aggregation": "sum_then_normalize", "num_generations": size},
        **{"reward_weights": torch.ones(1), "reward_func_names": ["r"], "reward_clip_range": None},
        **{"_tokenizer": SimpleNamespace(pad_token_id=0), "eos_token_ids": [2]},
        **{"_metrics": defaultdict(lambda: defaultdict(list)), "_pending_metrics": {}},
        **{"_logs": defaultdict(list, rewards=defaultdict(list)), "_pending_extra_logs": {}},
        **{"normalize_advantages": False, "_generate": lambda prompts: generated[name]},
        **{"_get_per_token_logps_and_entropies": lambda *a, **k: (logprobs, None, None)},
        **{"_calculate_rewards": lambda *args: rewards.view(-1, 1).clone()},
    )
    vars(trainer).update(settings)
    method = getattr(trl, name)._generate_and_score_completions
    found: torch.Tensor = method(trainer, [{"prompt": "p"}] * num_rows)["advantages"]
    return found.view(-1, size)


def arguments() -> Any:
    """What it reads of TRL's arguments."""
    return SimpleNamespace(
        per_device_train_batch_size=None,
        steps_per_generation=1,
        gradient_accumulation_steps=1,
        gradient_checkpointing_kwargs=None,
    )


@pytest.mark.parametrize(
    ("ours", "name", "settings"),
    [
        (RLOO(), "RLOOTrainer", {}),
        (GRPO(), "GRPOTrainer", {"scale_rewards": "group"}),
        (DrGRPO(), "GRPOTrainer", {"scale_rewards": "none"}),
    ],
    ids=["RLOO", "GRPO", "Dr. GRPO"],
)
def test_trl_has_the_same_advantages(ours: Any, name: str, settings: dict[str, Any]) -> None:
    rewards = torch.rand(5, 4)
    rewards[0, 1] = rewards[1, :3] = rewards[2] = NAN
    rewards[3] = 0.25
    expected = trl_advantages(name, rewards, **settings)
    torch.testing.assert_close(ours(rewards), expected, rtol=1e-5, atol=1e-6)
