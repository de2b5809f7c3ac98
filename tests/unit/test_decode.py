"""The decode engine: the same tokens as `generate`, whatever is in flight at once."""

from __future__ import annotations

import logging

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.model.sharding import Sharding
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.rollout.flight import Flight
from steer_lightning.rollout.plan import plan_flight
from steer_lightning.rollout.shared_rows import part
from steer_lightning.rollout.stop import StopText
from steer_lightning.steering import SteeringVectors
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.testing import (
    ARCHITECTURES,
    byte_tokenizer,
    check_engine,
    make_prompts,
    tiny_policy,
)

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt, for windows of 8", "z9", "two"])
OPEN_DOORS = sorted(set(ARCHITECTURES) - {"falcon"})
"""Architectures whose attention goes through transformers' interface."""


def engine_for(policy, **settings):  # type: ignore[no-untyped-def]
    engine = DecodeEngine(**settings)
    engine.setup(policy)
    assert engine.fallback is None
    return engine


def steered(architecture: str, **options):  # type: ignore[no-untyped-def]
    policy = tiny_policy(architecture, **options)
    policy.steering.set_vectors(torch.randn(3, 32) * 0.1)
    return policy


@pytest.mark.parametrize("architecture", OPEN_DOORS)
def test_greedy_tokens_are_those_of_transformers(architecture: str) -> None:
    policy = steered(architecture)
    greedy = Sampling(group_size=1, temperature=0, max_new_tokens=12)
    rollouts = engine_for(policy).generate(PROMPTS, greedy, seed=0, step=0)
    for k, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt.token_ids])
        expected = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        length = int(rollouts.num_tokens[k])
        found = rollouts.completion_ids[k, :length].tolist()
        assert found == expected[0, len(prompt.token_ids) :].tolist()


@pytest.mark.parametrize("architecture", OPEN_DOORS)
def test_what_is_in_flight_at_once_changes_nothing(architecture: str) -> None:
    """A budget of few tokens makes rows wait, move and take each other's places."""
    policy = steered(architecture)
    reference = GenerateEngine()
    reference.setup(policy)
    stop = 3 + ord("e") % 50  # ends rows here and there
    sampling = Sampling(group_size=3, max_new_tokens=14, eos_token_ids=list(range(stop, stop + 20)))
    expected = reference.generate(PROMPTS, sampling, seed=1, step=2)
    assert len(set(expected.num_tokens.tolist())) > 1, "rows end at different times"
    for budget in (262_144, 150, 60):
        engine = engine_for(policy, max_tokens_in_flight=budget)
        check_engine(engine, policy, PROMPTS)
        found = engine.generate(PROMPTS, sampling, seed=1, step=2)
        assert torch.equal(found.completion_mask, expected.completion_mask)
        assert torch.equal(found.completion_ids, expected.completion_ids)
        assert torch.equal(found.finished, expected.finished)
        assert found.texts == expected.texts
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)


def test_tails_longer_than_their_first_room_and_windows() -> None:
    policy = steered("gemma3")  # sliding windows of 8
    sampling = Sampling(group_size=2, max_new_tokens=150)
    reference = GenerateEngine()
    reference.setup(policy)
    expected = reference.generate(PROMPTS, sampling, seed=0, step=0)
    found = engine_for(policy).generate(PROMPTS, sampling, seed=0, step=0)
    assert expected.completion_ids.shape[1] == 150
    assert torch.equal(found.completion_ids, expected.completion_ids)


def test_a_rollout_reads_the_vectors_as_they_are_and_leaves_the_model_alone() -> None:
    policy = steered("llama")
    engine = engine_for(policy)
    sampling = Sampling(group_size=2, max_new_tokens=8)
    before = engine.generate(PROMPTS, sampling, seed=0, step=0)
    ids = torch.tensor([PROMPTS[2].token_ids])
    logits = policy.model(ids).logits
    policy.steering.weight.data.mul_(-20)
    after = engine.generate(PROMPTS, sampling, seed=0, step=0)
    assert before.texts != after.texts
    policy.steering.weight.data.div_(-20)
    torch.testing.assert_close(policy.model(ids).logits, logits)
    assert policy.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("engine", [GenerateEngine(), DecodeEngine()], ids=["generate", "decode"])
def test_a_stop_string_ends_a_row_and_is_part_of_it(engine) -> None:
    policy = steered("llama")
    engine.setup(policy)
    settings = {"group_size": 4, "max_new_tokens": 30}
    plain = engine.generate(PROMPTS, Sampling(**settings), seed=0, step=0)
    text = policy.tokenizer.decode(plain.completion_ids[0, 3:5])
    stopped = engine.generate(PROMPTS, Sampling(**settings, stop_strings=[text]), seed=0, step=0)
    tokens = plain.completion_ids[0].tolist()
    expected = next(k for k in range(1, 31) if text in policy.tokenizer.decode(tokens[:k]))
    assert int(stopped.num_tokens[0]) == expected
    assert bool(stopped.finished[0])
    assert stopped.texts[0].endswith(text)
    for n in range(4 * len(PROMPTS)):
        body = stopped.completion_ids[n, : int(stopped.num_tokens[n]) - 1]
        assert text not in policy.tokenizer.decode(body)


def test_a_stop_string_may_lie_across_tokens() -> None:
    tokenizer = byte_tokenizer()
    stop = StopText(tokenizer, ["né", "xyz"])
    ids = tokenizer("anné xy")["input_ids"]
    assert [stop(ids[:k]) for k in range(1, len(ids) + 1)] == [False] * 4 + [True] + [False] * 3


def test_a_model_without_these_doors_falls_back_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = steered("falcon")
    engine = DecodeEngine()
    with caplog.at_level(logging.WARNING):
        engine.setup(policy)
    assert isinstance(engine.fallback, GenerateEngine)
    (told,) = [record for record in caplog.records if "DecodeEngine" in record.message]
    assert "FalconForCausalLM" in told.message
    check_engine(engine, policy, PROMPTS)


def test_memory_that_runs_out_halves_what_is_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    class Small(DecodeEngine):
        def decode(self, policy, prompts, sampling, plan, **seeds):  # type: ignore[no-untyped-def]
            if self._policy is not None and plan.tokens > 70:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().decode(policy, prompts, sampling, plan, **seeds)

    policy = steered("qwen2")
    sampling = Sampling(group_size=3, max_new_tokens=6)
    expected = engine_for(policy).generate(PROMPTS, sampling, seed=0, step=0)
    engine = Small()
    engine.setup(policy)
    found = engine.generate(PROMPTS, sampling, seed=0, step=0)
    assert torch.equal(found.completion_ids, expected.completion_ids), "the step is not lost"
    assert engine.max_tokens_in_flight <= 140
    assert "begins anew with half" in caplog.text
    message = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))

    class InStep(Sharding):
        in_step = True  # other processes are in the middle of the same pass

    policy.sharding, engine = InStep(), Small()
    engine.setup(policy)
    with pytest.raises(ConfigError, match=r"max_tokens_in_flight = \d+: memory ran out.*in step"):
        engine.generate(PROMPTS, sampling, seed=0, step=0)


def test_plans_by_hand() -> None:
    prompts = make_prompts(["x" * 9] * 4)  # 10 tokens each, with BOS
    sampling = Sampling(group_size=4, max_new_tokens=20)
    whole = plan_flight(prompts, sampling, 360)  # 16 * 20 + 4 * 10
    assert (whole.max_rows, whole.max_prompts, whole.tokens) == (16, 4, 360)
    part = plan_flight(prompts, sampling, 200)
    assert part.tokens <= 200
    assert part.max_rows == 7  # (200 - 2 * 10) / (20 + 1.5 * 10 / 4)
    one = plan_flight(prompts, sampling, 30)
    assert (one.max_rows, one.max_prompts) == (1, 1)
    with pytest.raises(ConfigError, match=r"max_tokens_in_flight = 29.*10 tokens.*20 tokens.*30"):
        plan_flight(prompts, sampling, 29)
    with pytest.raises(ConfigError, match="at least 1"):
        DecodeEngine(0)


def apart(flight: Flight) -> None:
    """Gives each completion a row of its own."""
    rows = list(flight.rows)
    flight.rows = [row[:1] for row in rows]
    for slot, row in enumerate(rows):
        flight.split([slot] * (len(row) - 1), [[n] for n in row[1:]])


def test_slots_are_kept_without_gaps() -> None:
    flight = Flight(
        [5, 3, 4], 2, max_rows=6, max_prompts=3, max_columns=9, device=torch.device("cpu")
    )
    assert flight.admit([0, 1, 2, 3]) == [0, 1]
    assert flight.rows == [[0, 1], [2, 3]]
    apart(flight)
    assert flight.rows == [[0], [2], [1], [3]]
    flight.settle()
    flight.advance()
    assert flight.admit([4]) == [2]
    flight.settle()
    assert flight.counts.tolist() == [2, 2, 2, 2, 1]
    assert flight.positions.tolist() == [6, 4, 6, 4, 4]
    assert flight.column is None, "rows are not equally long"
    assert flight.release([0, 1]) == ([3, 4], [0, 1])  # the last ones move into the gaps
    assert flight.rows == [[3], [4], [1]]
    assert flight.release_prompts() == ([], [])
    assert flight.release([2]) == ([], [])
    assert flight.rows == [[3], [4]]
    assert flight.release_prompts() == ([2], [0])  # prompt 0 has no row left
    assert flight.prompts == [2, 1]
    flight.settle()
    assert flight.width == 4
    _, tails = flight.biases(None, 1)
    assert (tails[:, 0, 0] == 0).tolist() == [[True, True], [True, False]]
    prefix, _ = flight.biases(None, 1)
    assert (prefix[:, 0, 0] == 0).tolist() == [[True] * 4, [False, True, True, True]]


def test_a_group_and_its_rows_are_each_others_inverse() -> None:
    flight = Flight([2, 2], 3, max_rows=6, max_prompts=2, max_columns=9, device=torch.device("cpu"))
    flight.admit(range(6))
    apart(flight)
    for ended in ([], [1], [0, 2]):
        flight.release(ended)
        flight.settle()
        query = torch.randn(flight.num_rows, 2, 4, 5)
        assert torch.equal(flight.from_groups(flight.to_groups(query), 4), query)


def test_parting_by_hand() -> None:
    parting = part(
        [[0, 1, 2], [5, 4], [7]],
        [9, 8, 9, 3, 3, 6],
        [False, False, False, True, True, False],
    )
    assert parting.rows == [[0, 2], [], [7]]  # 1 leaves the first row, the second has ended
    assert parting.tokens == [9, 0, 6]
    assert parting.split == [(0, [1], 8)]
    assert parting.ended == [1]


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("budget", [262_144, 150])
def test_completions_that_have_drawn_the_same_share_a_row(architecture: str, budget: int) -> None:
    """A sharp policy draws the same tokens for a while; its rows part one after the other."""
    policy = steered(architecture)
    reference = GenerateEngine()
    reference.setup(policy)
    engine = engine_for(policy, max_tokens_in_flight=budget)
    read = []
    policy.model.register_forward_pre_hook(
        lambda model, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    stops = list(range(20, 30))
    sampling = Sampling(group_size=6, max_new_tokens=12, temperature=0.01, eos_token_ids=stops)
    found = engine.generate(PROMPTS, sampling, seed=0, step=0)
    rows = found.completion_ids.view(len(PROMPTS), 6, -1)
    lengths = found.num_tokens.view(len(PROMPTS), 6)
    # what must be read: each beginning once, without the token that ends a row
    needed = {
        (b, *rows[b, k, :t].tolist())
        for b in range(len(PROMPTS))
        for k in range(6)
        for t in range(1, int(lengths[b, k]))
    }
    plain = int((found.num_tokens - 1).sum())
    assert len(needed) < 0.8 * plain, "some begin alike"
    assert len(needed) > 5 * 11 * 1.2, "and part later"
    if budget == 262_144:
        assert sum(read) == len(needed) + len(PROMPTS)
    expected = reference.generate(PROMPTS, sampling, seed=0, step=0)
    assert torch.equal(found.completion_ids, expected.completion_ids)
    assert torch.equal(found.finished, expected.finished)
    torch.testing.assert_close(
        found.logprobs, expected.logprobs, atol=1e-3, rtol=0
    )  # divided by 0.01


def test_unsteered_layers_and_rollouts_without_vectors() -> None:
    policy = tiny_policy("qwen3", SteeringVectors(layers=[1]))
    check_engine(engine_for(policy), policy, PROMPTS)
