"""Padded passes that are captured and replayed; `tests/gpu` captures real CUDA graphs."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
import torch

from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling, cuda_graphs, kv_cache
from steer_lightning.rollout.cuda_graphs import round_up
from steer_lightning.rollout.kv_cache import KeyValues
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import make_prompts, tiny_policy

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt, for windows of 8", "z9", "two"])


class Replays:
    """Captures nothing: runs a pass again, on the memory that it was made with."""

    def __init__(self) -> None:
        self.made = self.replayed = 0

    def __call__(self, run):  # type: ignore[no-untyped-def]
        self.made += 1
        self.run_first = run()

        def replay() -> torch.Tensor:
            self.replayed += 1
            return run()  # type: ignore[no-any-return]

        return replay


def engines(policy, **settings):  # type: ignore[no-untyped-def]
    plain, capturing, replays = GenerateEngine(), DecodeEngine(**settings), Replays()
    plain.setup(policy)
    capturing.setup(policy)
    assert capturing.fallback is None
    capturing._graphs = lambda: replays
    return plain, capturing, replays


def test_counts_are_rounded_up() -> None:
    found = [round_up(count) for count in (1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 25, 33, 200)]
    assert found == [1, 2, 3, 4, 6, 6, 8, 12, 16, 24, 32, 48, 256]


KINDS = [("llama", "all"), ("gemma3", "completion"), ("gpt_oss", "all"), ("qwen3_5", "completion")]
OTHERS = [("llama", "completion"), ("gemma3", "all"), ("gpt_oss", "completion"), ("qwen3_5", "all")]
OTHERS += [(name, tokens) for name in ("qwen2", "gpt_neox") for tokens in ("all", "completion")]


@pytest.mark.parametrize(
    ("architecture", "tokens"),
    [*KINDS, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)],
)
def test_padded_passes_draw_the_same_tokens(
    architecture: str, tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows end here and there, wait, and take each other's places; windows of 8; room grows."""
    monkeypatch.setattr(cuda_graphs, "COLUMNS", 8)
    monkeypatch.setattr(kv_cache, "FIRST_COLUMNS", 4)
    policy = tiny_policy(architecture, SteeringVectors(tokens=tokens))
    policy.steering.set_vectors(torch.randn(3, 32) * 0.1)
    sampling = Sampling(group_size=5, max_new_tokens=30, eos_token_ids=list(range(60, 66)))
    for budget in (262_144, 400):
        plain, capturing, replays = engines(policy, max_tokens_in_flight=budget)
        expected = plain.generate(PROMPTS, sampling, seed=1, step=2)
        assert len(set(expected.completion_mask.sum(1).tolist())) > 3, "rows end at different times"
        found = capturing.generate(PROMPTS, sampling, seed=1, step=2)
        assert torch.equal(found.completion_ids, expected.completion_ids)
        assert found.texts == expected.texts
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)
        assert replays.made > 1
        assert replays.replayed > 10


def test_a_shape_is_captured_once_it_has_come_often() -> None:
    policy = tiny_policy("llama")
    _, capturing, replays = engines(policy)
    sampling = Sampling(group_size=1, max_new_tokens=2 + 3)
    capturing.generate(PROMPTS[:1], sampling, seed=0, step=0)
    assert (replays.made, replays.replayed) == (1, 2)  # the first token comes of the prompt


def test_a_model_that_cant_be_captured_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    policy = tiny_policy("llama")
    plain, capturing, _ = engines(policy)

    def refuse(run):  # type: ignore[no-untyped-def]
        raise RuntimeError("operation not permitted when\nstream is capturing")

    capturing._graphs = lambda: refuse
    sampling = Sampling(group_size=2, max_new_tokens=9)
    with caplog.at_level(logging.WARNING):
        found = [capturing.generate(PROMPTS, sampling, seed=0, step=0) for _ in range(2)]
    expected = plain.generate(PROMPTS, sampling, seed=0, step=0)
    assert all(torch.equal(one.completion_ids, expected.completion_ids) for one in found)
    (told,) = caplog.messages
    assert "(operation not permitted when stream is capturing)" in told
    assert "cuda_graphs: false" in told


def test_memory_that_runs_out_in_a_capturing_is_not_taken_for_a_model_that_cant() -> None:
    policy = tiny_policy("llama")
    _, capturing, _ = engines(policy, max_tokens_in_flight=2000)
    calls = []

    def refuse_once(run):  # type: ignore[no-untyped-def]
        calls.append(run)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Replays()(run)

    capturing._graphs = lambda: refuse_once
    sampling = Sampling(group_size=2, max_new_tokens=9)
    capturing.generate(PROMPTS, sampling, seed=0, step=0)
    assert len(calls) > 1
    assert capturing._fitting < 1000
    assert capturing._graphs is not None


def test_a_rollout_leaves_no_memory_behind() -> None:
    """Keys and values go with it, and do not wait for the garbage collector."""
    policy = tiny_policy("llama")
    _, capturing, _ = engines(policy)

    def keep_logits_alone(run):  # type: ignore[no-untyped-def]  # as a CUDA graph does
        logits = run()
        return lambda: logits

    capturing._graphs = lambda: keep_logits_alone
    made: list[weakref.ref[KeyValues]] = []
    before = KeyValues.__init__

    def noted(self, flight):  # type: ignore[no-untyped-def]
        made.append(weakref.ref(self))
        before(self, flight)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyValues, "__init__", noted)
        gc.collect()
        gc.disable()
        try:
            capturing.generate(PROMPTS, Sampling(group_size=2, max_new_tokens=9), seed=0, step=0)
            assert len(made) == 3
            assert [layer() for layer in made] == [None] * 3
        finally:
            gc.enable()
