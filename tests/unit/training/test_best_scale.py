"""The scale that is found by accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steer_lightning.evaluation import Estimate
from steer_lightning.rewards import FormatReward, RewardSum, WeightedReward
from steer_lightning.rollout import GenerateEngine, Sampling, completions_of
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.training.best_scale import Trial, best_of, find_scale

LETTERS = RewardSum([WeightedReward(reward=FormatReward("[a-m]"))])


def test_the_most_accurate_scale_is_taken() -> None:
    policy = tiny_policy("qwen2")
    engine = GenerateEngine()
    engine.setup(policy)
    rows = policy.model.get_output_embeddings().weight.detach()
    letters = policy.tokenizer.convert_tokens_to_ids(list("abcdefghijklm"))
    direction = torch.zeros(3, 32)
    direction[2] = -rows[letters].mean(0) / rows[letters].mean(0).norm()
    prompts = make_prompts([f"q{k}" for k in range(12)])
    sampling = Sampling(group_size=2, max_new_tokens=4)
    trials = find_scale(
        policy,
        engine,
        direction,
        prompts,
        scales=[30.0, -30.0],
        sampling=sampling,
        verifier=LETTERS,
        batch_size=5,
    )
    assert [trial.scale for trial in trials] == [-30.0, 0.0, 30.0]
    best = best_of(trials)
    assert best.scale == -30.0, "neither the first one tried nor the last"
    assert best.accuracy.value > trials[1].accuracy.value > trials[2].accuracy.value
    gap = best.accuracy.value - trials[1].accuracy.value
    assert best.against_base.value == pytest.approx(gap)
    torch.testing.assert_close(policy.steering.vectors.detach(), -30 * direction)
    policy.steering.set_vectors(torch.zeros(3, 32))
    plain = engine.generate(prompts, sampling, seed=0, step=2**32 - 1)
    accuracy = np.mean([score or 0.0 for score in LETTERS(completions_of(plain)).total])
    assert trials[1].accuracy.value == pytest.approx(accuracy), "scale 0 is the base"


def test_of_equal_scales_the_nearest_to_the_base_is_taken() -> None:
    def trial(scale: float, accuracy: float) -> Trial:
        found = Estimate(value=accuracy, low=None, high=None)
        return Trial(
            scale=scale,
            accuracy=found,
            against_base=found,
            completion_length=1.0,
            cut_off_share=0.0,
            num_unscored=0,
        )

    assert best_of([trial(0.0, 0.5), trial(0.1, 0.5)]).scale == 0
    assert best_of([trial(-0.4, 0.6), trial(0.0, 0.5), trial(0.3, 0.6)]).scale == 0.3
