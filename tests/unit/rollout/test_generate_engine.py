"""The engine over `transformers.generate`: batches, ends, and nothing of a checkpoint's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning.model.head import token_logprobs
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.testing import ARCHITECTURES, check_engine, make_prompts, tiny_policy

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt", "z9"])


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_engine_keeps_its_promises_on_every_architecture(architecture: str) -> None:
    policy = tiny_policy(architecture)
    policy.steering.set_vectors(torch.randn(3, 32) * 0.1)
    check_engine(GenerateEngine(), policy, PROMPTS)


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
        length = int(rollouts.completion_mask.sum(1)[k])
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


@pytest.mark.parametrize(
    ("max_rows", "pads", "expected"),
    [
        (3, True, [3, 3, 2] * 4),  # 8 completions of each of 4 prompts
        (3, False, [3, 3, 2] * 4),
        (20, True, [16, 16]),
        (20, False, [8] * 4),
    ],
)
def test_no_more_rows_at_once_than_allowed(
    monkeypatch: pytest.MonkeyPatch, max_rows: int, pads: bool, expected: list[int]
) -> None:
    policy = tiny_policy()
    engine = GenerateEngine(max_rows=max_rows)
    engine.setup(policy)
    sampling = Sampling(group_size=8, max_new_tokens=4)
    whole = GenerateEngine()
    whole.setup(policy)
    one = whole.generate(PROMPTS, sampling, seed=0, step=0)
    engine.generate(PROMPTS, sampling, seed=0, step=0)  # compares texts of this length
    if not pads:
        engine._fall_back("a made-up reason")
    sizes: list[int] = []
    generate = policy.model.generate

    def counted(input_ids: torch.Tensor, **settings: Any) -> Any:
        sizes.append(len(input_ids))
        return generate(input_ids=input_ids, **settings)

    monkeypatch.setattr(policy.model, "generate", counted)
    other = engine.generate(PROMPTS, sampling, seed=0, step=0)
    assert sizes == expected
    assert other.texts == one.texts


def test_rows_end_at_any_eos_token_and_say_so() -> None:
    policy = tiny_policy()
    engine = GenerateEngine()
    engine.setup(policy)
    settings = {"group_size": 4, "max_new_tokens": 30}
    plain = engine.generate(PROMPTS, Sampling(**settings), seed=0, step=0)
    stop = int(plain.completion_ids[0, 3])
    stopped = engine.generate(PROMPTS, Sampling(**settings, eos_token_ids=[stop]), seed=0, step=0)
    first = plain.completion_ids[0].tolist().index(stop) + 1
    assert int(stopped.completion_mask[0].sum()) == first
    assert bool(stopped.finished[0])
    assert stopped.completion_ids[0, :first].tolist() == plain.completion_ids[0, :first].tolist()
    for n in range(16):
        ids = stopped.completion_ids[n, : int(stopped.completion_mask[n].sum())].tolist()
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
    length = int(rollouts.completion_mask.sum(1)[0])
    torch.testing.assert_close(
        ours[0, :length], rollouts.logprobs[0, :length], atol=1e-5, rtol=1e-4
    )
