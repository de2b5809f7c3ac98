"""The checkers of the protocols notice what breaks them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import AsyncReward, MathReward
from steer_lightning.rollout import GenerateEngine
from steer_lightning.testing import check_engine, check_reward, tiny_policy
from tests.unit.rewards.helpers import completion


def test_check_engine_notices_wrong_logprobs_and_batch_dependence() -> None:
    class WrongLogprobs(GenerateEngine):
        def generate(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            rollouts = super().generate(*args, **kwargs)
            rollouts.logprobs.mul_(1.01)
            return rollouts

    class OneStream(GenerateEngine):
        def generate(self, prompts, sampling, *, seed, **rest):  # type: ignore[no-untyped-def]
            return super().generate(prompts, sampling, seed=seed + len(prompts), **rest)

    class WrongRow(GenerateEngine):
        def generate(self, prompts, sampling, *, on_completion, **rest):  # type: ignore[no-untyped-def]
            def shifted(row, completion):  # type: ignore[no-untyped-def]
                on_completion((row + 1) % 6, completion)

            return super().generate(prompts, sampling, on_completion=shifted, **rest)

    with pytest.raises(AssertionError, match="log-probabilities"):
        check_engine(WrongLogprobs(), tiny_policy())
    with pytest.raises(AssertionError, match="not on the batch"):
        check_engine(OneStream(), tiny_policy())
    with pytest.raises(AssertionError, match="same row"):
        check_engine(WrongRow(), tiny_policy())


def test_check_reward() -> None:
    rows = [completion(r"\boxed{42}"), completion("no")]
    assert check_reward(MathReward(), rows) == [1.0, 0.0]

    def by_position(completions):
        return list(range(len(completions)))

    def by_size(completions):
        return [float(len(completions))] * len(completions)

    with pytest.raises(AssertionError, match="another order"):
        check_reward(by_position, rows)
    with pytest.raises(AssertionError, match="alone"):
        check_reward(by_size, rows)


def test_check_reward_makes_completions() -> None:
    assert check_reward(MathReward()) == [1.0, 0.0, 0.0, 0.0]

    def lengths(completions):
        return [float(c.num_tokens) if c.finished else None for c in completions]

    # "6 times 7 is 42. The answer is \boxed{42}." has 9 words, and each text one EOS token
    assert check_reward(lengths) == [10.0, 11.0, None, 1.0]


def test_check_reward_takes_a_coroutine_function_in_its_wrapper() -> None:
    async def judge(completions):
        return [float("42" in c.text) for c in completions]

    with pytest.raises(ConfigError, match=r"reward judge: is a coroutine function .*AsyncReward"):
        check_reward(judge)
    reward = AsyncReward(judge)
    assert check_reward(reward) == [1.0, 0.0, 0.0, 0.0]
    reward.close()


def test_check_reward_shows_how_to_make_completions() -> None:
    def by_level(completions):
        return [float(c.columns["level"]) for c in completions]

    told = r"reward by_level: raises KeyError \('level'\) .*Completion\(text=.*columns=\{"
    with pytest.raises(ConfigError, match=told):
        check_reward(by_level)
    rows = [replace(completion("no"), columns={"level": level}) for level in (1, 2)]
    assert check_reward(by_level, rows) == [1.0, 2.0]
    with pytest.raises(ConfigError, match="must return"):
        check_reward(lambda completions: [1.0])
