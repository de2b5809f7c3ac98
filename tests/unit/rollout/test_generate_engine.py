"""Rollouts: seeds, sampling, padding, ends, and log-probabilities that are the policy's own."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.model.head import token_logprobs
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.rollout.draw import BLOCK, draw, warp
from steer_lightning.rollout.sampling import row_uniforms
from steer_lightning.testing import ARCHITECTURES, check_engine, make_prompts, tiny_policy

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt", "z9"])
LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_engine_keeps_its_promises_on_every_architecture(architecture: str) -> None:
    policy = tiny_policy(architecture)
    policy.steering.set_vectors(torch.randn(3, 32) * 0.1)
    check_engine(GenerateEngine(), policy, PROMPTS)


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


def test_greedy_equals_transformers_generate() -> None:
    policy = tiny_policy("qwen3")
    engine = GenerateEngine()
    engine.setup(policy)
    rollouts = engine.generate(
        PROMPTS, Sampling(group_size=1, temperature=0, max_new_tokens=9), seed=0, step=0
    )
    for k, prompt in enumerate(PROMPTS):
        expected = policy.model.generate(
            torch.tensor([prompt.token_ids]), max_new_tokens=9, do_sample=False
        )
        length = int(rollouts.num_tokens[k])
        assert (
            rollouts.completion_ids[k, :length].tolist()
            == expected[0, len(prompt.token_ids) :].tolist()
        )


def test_batching_does_not_change_what_is_sampled() -> None:
    policy = tiny_policy("gemma3")
    results = []
    for max_rows in (1, 3, 512):
        engine = GenerateEngine(max_rows=max_rows)
        engine.setup(policy)
        results.append(
            engine.generate(PROMPTS, Sampling(group_size=3, max_new_tokens=8), seed=1, step=2)
        )
    for other in results[1:]:
        assert torch.equal(other.completion_ids, results[0].completion_ids)
        assert other.texts == results[0].texts
        torch.testing.assert_close(other.logprobs, results[0].logprobs, atol=1e-5, rtol=1e-4)


def test_seed_step_prompt_and_sample_each_change_the_stream() -> None:
    base = row_uniforms(1, 2, [7, 8], 2, 5)
    assert base.shape == (4, 5)
    assert len({tuple(row.tolist()) for row in base}) == 4
    assert not torch.equal(row_uniforms(2, 2, [7], 1, 5)[0], base[0])
    assert not torch.equal(row_uniforms(1, 3, [7], 1, 5)[0], base[0])
    assert torch.equal(row_uniforms(1, 2, [8], 2, 5)[1], base[3])
    assert torch.equal(row_uniforms(1, 2, [8], 2, 3)[1], base[3, :3])


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 0), (0.49, 0), (0.51, 1), (0.79, 1), (0.81, 2), (0.96, 3), (1 - 1e-12, 3)],
)
def test_draw_inverts_the_cumulative_distribution(uniform: float, token: int) -> None:
    chosen, logprob = draw(LOGITS.clone(), torch.tensor([uniform], dtype=torch.float64), Sampling())
    assert chosen.tolist() == [token]
    torch.testing.assert_close(logprob, LOGITS[:, token])


def test_draw_never_takes_a_token_that_is_cut_away() -> None:
    for uniform in (0.0, 0.5, 1 - 1e-16):
        chosen, _ = draw(
            LOGITS.clone(), torch.tensor([uniform], dtype=torch.float64), Sampling(top_k=2)
        )
        assert int(chosen) in (0, 1)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_draw_in_blocks_equals_the_plain_inversion(size: int) -> None:
    logits = torch.randn(300, size) * 4
    uniforms = torch.rand(300, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1 - 1e-16])
    logprobs = logits.double().log_softmax(-1)
    ends = logprobs.exp().cumsum(-1)
    expected = torch.searchsorted(ends, uniforms[:, None] * ends[:, -1:], right=True)[:, 0]
    expected = expected.clamp(max=size - 1)
    chosen, found = draw(logits.clone(), uniforms, Sampling())
    # sums in float32 may move a border by a millionth
    near = (ends.gather(-1, expected[:, None])[:, 0] - uniforms).abs() < 1e-5
    before = ends.gather(-1, (expected[:, None] - 1).clamp(min=0))[:, 0]
    near |= (before - uniforms).abs() < 1e-5
    assert near.sum() < 30
    assert torch.equal(chosen[~near], expected[~near])
    picked = logprobs.gather(-1, chosen[:, None])[:, 0].float()
    torch.testing.assert_close(found, picked, atol=1e-5, rtol=1e-5)


def test_min_p_keeps_what_is_likely_enough() -> None:
    kept = warp(LOGITS, Sampling(min_p=0.5)).isfinite()  # 0.3 is at least half of 0.5
    assert kept.tolist() == [[True, True, False, False]]
    assert warp(LOGITS, Sampling(min_p=1.0)).isfinite().sum() == 1


def test_warp_by_hand() -> None:
    def warped(sampling: Sampling) -> torch.Tensor:
        return warp(LOGITS, sampling).softmax(-1)[0]

    assert warped(Sampling(top_k=2)).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert warped(Sampling(top_p=0.8)).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert warped(Sampling(top_p=0.81))[:3].sum().item() == pytest.approx(1)
    assert warped(Sampling(top_p=0.01)).tolist() == pytest.approx([1, 0, 0, 0])
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert warped(Sampling(temperature=0.5)).tolist() == pytest.approx(
        (squared / squared.sum()).tolist()
    )


def test_frequencies_follow_the_distribution() -> None:
    uniforms = row_uniforms(0, 0, range(500), 4, 1)[:, 0]
    chosen, _ = draw(LOGITS.repeat(2000, 1), uniforms, Sampling())
    shares = torch.bincount(chosen, minlength=4) / 2000
    torch.testing.assert_close(shares, LOGITS[0].exp(), atol=0.03, rtol=0)


def test_rows_end_at_any_eos_token_and_say_so() -> None:
    policy = tiny_policy()
    engine = GenerateEngine()
    engine.setup(policy)
    settings = {"group_size": 4, "max_new_tokens": 30}
    plain = engine.generate(PROMPTS, Sampling(**settings), seed=0, step=0)
    stop = int(plain.completion_ids[0, 3])
    stopped = engine.generate(PROMPTS, Sampling(**settings, eos_token_ids=[stop]), seed=0, step=0)
    first = plain.completion_ids[0].tolist().index(stop) + 1
    assert int(stopped.num_tokens[0]) == first
    assert bool(stopped.finished[0])
    assert stopped.completion_ids[0, :first].tolist() == plain.completion_ids[0, :first].tolist()
    for n in range(16):
        ids = stopped.completion_ids[n, : int(stopped.num_tokens[n])].tolist()
        assert bool(stopped.finished[n]) == (ids[-1] in (2, stop))
        assert not {2, stop} & set(ids[:-1])
        assert bool(stopped.finished[n]) or len(ids) == 30


def test_a_checkpoints_generation_settings_do_not_leak_into_rollouts() -> None:
    policy = tiny_policy()
    model = policy.model
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.top_k = 3
    policy.adopt(model)
    engine = GenerateEngine()
    engine.setup(policy)
    rollouts = engine.generate(
        PROMPTS[:1], Sampling(group_size=2, max_new_tokens=6), seed=0, step=0
    )
    ids = torch.tensor([[*PROMPTS[0].token_ids, *rollouts.completion_ids[0].tolist()]])
    with torch.no_grad():
        logits = policy.logits(ids, torch.ones_like(ids), 7)[:, :-1]
    ours = token_logprobs(logits, rollouts.completion_ids[:1], 1.0)
    length = int(rollouts.num_tokens[0])
    torch.testing.assert_close(
        ours[0, :length], rollouts.logprobs[0, :length], atol=1e-5, rtol=1e-4
    )


def test_temperature_reaches_the_trainers_logprobs() -> None:
    logits = torch.randn(2, 3, 5)
    tokens = torch.randint(5, (2, 3))
    expected = torch.log_softmax(logits / 0.7, -1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(token_logprobs(logits, tokens, 0.7), expected)
    assert token_logprobs(logits.bfloat16(), tokens, 1.0).dtype == torch.float32


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("group_size", 0),
        ("temperature", -1.0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_new_tokens", 0),
    ],
)
def test_settings_out_of_range_are_errors(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"sampling.{key}"):
        Sampling(**{key: value})


def test_entropy_of_the_uniform_distribution() -> None:
    _, logprob = draw(torch.zeros(1, 8), torch.tensor([0.3], dtype=torch.float64), Sampling())
    assert -logprob.item() == pytest.approx(math.log(8))
