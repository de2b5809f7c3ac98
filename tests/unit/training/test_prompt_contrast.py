"""The contrast of two prompts for the same question, worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.data import PlainTemplate
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import MathReward, RewardSum, WeightedReward
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.testing import make_prompts, save_tiny, tiny_policy
from steer_lightning.training import PromptContrast, Reading
from steer_lightning.training.sample import Sampler
from steer_lightning.training.states import read_states

UP, DOWN = PlainTemplate("up {question}"), PlainTemplate("down {question}!")


def made(component: str) -> PromptContrast:
    return PromptContrast(UP, DOWN, component)  # type: ignore[arg-type]


def differences(contrast: PromptContrast, every: list[list[list[float]]]) -> torch.Tensor:
    """Adds differences (L, P, D) in two batches."""
    rows = torch.tensor(every)
    base = torch.full_like(rows, 3.0)
    contrast.add((base + rows)[:, :1], base[:, :1])
    contrast.add((base + rows)[:, 1:], base[:, 1:])
    return contrast.direction()


def test_the_mean() -> None:
    found = differences(made("mean"), [[[1.0, 0.0], [3.0, 2.0]], [[0.0, 2.0], [0.0, 4.0]]])
    assert found.tolist() == [[2.0, 1.0], [0.0, 3.0]]


def test_the_first_principal_component() -> None:
    """Of (3, 0) and (-1, 0) it is the first axis, of length sqrt((9 + 1) / 2), not 1.

    The mean of (1, 1) and (-3, -3) is (-1, -1): the sign is that of the mean. The length is the
    root of the mean of squares, sqrt((2 + 18) / 2).
    """
    first, second = differences(
        made("principal"), [[[3.0, 0.0], [-1.0, 0.0]], [[1.0, 1.0], [-3.0, -3.0]]]
    )
    torch.testing.assert_close(first, torch.tensor([5.0**0.5, 0.0]))
    torch.testing.assert_close(second, torch.tensor([-(5.0**0.5), -(5.0**0.5)]))
    outlier = differences(made("principal"), [[[1.0, 0.0], [0.0, 9.0], [1.0, 0.0]]])
    assert outlier[0].tolist() == pytest.approx([0, 9 / 3**0.5], abs=1e-6)


def test_one_question_has_one_difference() -> None:
    for component in ("mean", "principal"):
        contrast = made(component)
        contrast.add(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 4.0]]]))
        torch.testing.assert_close(contrast.direction(), torch.tensor([[1.0, -2.0]]))


def test_states_are_read_at_the_last_token_of_each_prompt() -> None:
    policy, prompts = tiny_policy(), make_prompts(["a", "bcd"])
    contrast = made("mean")
    engine = GenerateEngine()
    reward = RewardSum([WeightedReward(reward=MathReward())])
    sampler = Sampler(policy, engine, reward, Sampling(group_size=2))
    contrast.read(prompts, Reading(policy=policy, sampler=sampler, max_tokens=100))
    texts = [
        template.encode(template.render(word, policy.tokenizer), policy.tokenizer)
        for template in (UP, DOWN)
        for word in ("a", "bcd")
    ]
    ends = read_states(policy, texts, [[len(text) - 1] for text in texts])
    torch.testing.assert_close(contrast.direction(), (ends[:, :2] - ends[:, 2:]).mean(1))
    assert contrast.facts() == {"num_prompts": 2, "component": "mean"}
    assert contrast.summary() == "2 pairs of prompts, mean of their differences"


def test_what_does_not_fit_is_refused_before_the_base_loads(tmp_path: Path) -> None:
    policy, prompts = Policy(save_tiny(tmp_path)), make_prompts(["a"])
    made("mean").check(policy, prompts)
    same = PromptContrast(UP, PlainTemplate("up {question}"))
    with pytest.raises(ConfigError, match=r"positive.* gives the same prompts as .*negative"):
        same.check(policy, prompts)
    long = PromptContrast(UP, PlainTemplate("x" * 5000 + "{question}"))
    with pytest.raises(ConfigError, match=r"contrast.init_args.negative.*longest prompt"):
        long.check(policy, prompts)
    assert policy.model is None
