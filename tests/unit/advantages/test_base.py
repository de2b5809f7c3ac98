"""Advantage estimators, with numbers worked by hand, and against TRL's own."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_lightning import ConfigError
from steer_lightning.advantages import (
    GRPO,
    RLOO,
    DrGRPO,
    MovingAverage,
    Reinforce,
    ReinforcePlusPlus,
    has_signal,
)
from steer_lightning.training.step import as_matrix

NAN = float("nan")
ROUGH = torch.full((1, 7), 0.9)  # its sum is rounded
EVERY = [RLOO(), GRPO(), DrGRPO(), Reinforce(), MovingAverage(), ReinforcePlusPlus()]


def test_rloo_by_hand() -> None:
    # first group: baselines 1/3 for the right one, 1/3 * (1 + ...) for the others
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    expected = [[1.0, -1 / 3, -1 / 3, -1 / 3], [2 / 3, 2 / 3, -2 / 3, -2 / 3], [0.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(RLOO()(rewards), torch.tensor(expected))


def test_rloo_leaves_out_what_can_not_be_scored() -> None:
    rewards = torch.tensor([[1.0, NAN, 0.0], [NAN, 1.0, NAN], [NAN, NAN, NAN]])
    expected = [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert RLOO()(rewards).tolist() == expected


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 0.25, None]), min_size=4, max_size=4),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None, max_examples=100)
def test_rloo_equals_the_definition(rows: list[list[float | None]]) -> None:
    scores = [score for row in rows for score in row]
    advantages = RLOO()(as_matrix(scores, 4))
    for row, group in zip(rows, advantages.tolist(), strict=True):
        for i, reward in enumerate(row):
            others = [other for j, other in enumerate(row) if j != i and other is not None]
            expected = 0.0 if reward is None or not others else reward - sum(others) / len(others)
            assert group[i] == pytest.approx(expected, abs=1e-6)
        assert sum(group) == pytest.approx(0, abs=1e-5)


def test_grpo_by_hand() -> None:
    # 1 of 4 right: deviations 3/4 and -1/4, squares 12/16, over 3: a variance of 1/4
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, NAN, NAN], [1.0, 1.0, 1.0, 1.0]])
    half = 0.5 + 1e-4
    two = 0.5**0.5 + 1e-4  # deviations 1/2 and -1/2, squares 1/2, over 1
    expected = [
        [0.75 / half, -0.25 / half, -0.25 / half, -0.25 / half],
        [0.5 / two, -0.5 / two, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(GRPO()(rewards), torch.tensor(expected))


def test_dr_grpo_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, NAN, NAN], [0.5, NAN, NAN, NAN]])
    expected = [[0.75, -0.25, -0.25, -0.25], [0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert DrGRPO()(rewards).tolist() == expected
    assert torch.allclose(RLOO()(rewards[:1]) * 3 / 4, DrGRPO()(rewards[:1]))


def test_reinforce_is_the_reward() -> None:
    assert Reinforce()(torch.tensor([[1.0, NAN], [0.5, 0.0]])).tolist() == [[1.0, 0.0], [0.5, 0.0]]


def test_a_moving_average_by_hand() -> None:
    estimator = MovingAverage(decay=0.5)
    assert estimator(torch.tensor([[1.0, 0.0]])).tolist() == [[1.0, 0.0]]  # nothing seen: b = 0
    assert estimator.baseline == 0.5  # not 0.25: the start at 0 is taken out
    assert estimator(torch.tensor([[1.0, NAN]])).tolist() == [[0.5, 0.0]]
    # 0.5 * 0.25 + 0.5 * 1 = 0.625, over 1 - 0.5^2
    assert estimator.baseline == pytest.approx(0.625 / 0.75)
    assert estimator(torch.tensor([[NAN, NAN]])).tolist() == [[0.0, 0.0]]
    assert estimator.baseline == pytest.approx(0.625 / 0.75), "a batch without a score is none"
    again = MovingAverage(decay=0.5)
    again.load_state_dict(estimator.state_dict())
    rewards = torch.rand(2, 3)
    assert torch.equal(again(rewards), estimator(rewards))
    for decay in (-0.1, 1.0, NAN):
        with pytest.raises(ConfigError, match="decay"):
            MovingAverage(decay)


def test_reinforce_plus_plus_by_hand() -> None:
    # mean 1/2 and deviation 1/2 over the four that are scored, whatever their prompt
    rewards = torch.tensor([[1.0, 1.0, NAN], [0.0, NAN, 0.0]])
    assert ReinforcePlusPlus()(rewards).tolist() == [[1.0, 1.0, 0.0], [-1.0, 0.0, -1.0]]
    assert ReinforcePlusPlus()(torch.full((2, 2), 0.3)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert ReinforcePlusPlus()(torch.tensor([[1.0]])).tolist() == [[0.0]]


@pytest.mark.parametrize("estimator", [RLOO(), GRPO(), DrGRPO()], ids=lambda e: type(e).__name__)
def test_equal_rewards_are_exactly_0(estimator: Any) -> None:
    assert (ROUGH - ROUGH.mean(1, keepdim=True)).any(), "a mean alone leaves a rounding error"
    assert not estimator(ROUGH).any()
    assert estimator.min_group_size == 2


@pytest.mark.parametrize("estimator", EVERY, ids=lambda e: type(e).__name__)
def test_what_is_not_scored_has_advantage_0(estimator: Any) -> None:
    found = estimator(torch.tensor([[NAN, 1.0, 0.0], [NAN, NAN, NAN]]))
    assert found.isfinite().all()
    assert not found[0, 0]
    assert not found[1].any()
    assert found[0, 1] > 0


def test_signal() -> None:
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, NAN], [NAN, NAN]])
    assert has_signal(rewards).tolist() == [True, False, False, False]


# ---- against TRL


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
