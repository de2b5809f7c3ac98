"""`VLLMEngine` against a stand-in that speaks the protocol; vLLM itself: tests/integration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling, VLLMEngine
from steer_lightning.rollout.exact_engine import engine_of
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import EOS, check_engine, make_prompts, save_tiny
from steer_lightning.types import Completion
from tests.rollout_stand_in import TOKEN, StandIn

PROMPTS = make_prompts(["a", "bcd", "efghij", "klm"])
GREEDY = Sampling(group_size=1, temperature=0.0, max_new_tokens=12)
FULL = Sampling(group_size=2, max_new_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def start(folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a stand-in."""
    monkeypatch.setenv("STEER_LIGHTNING_ROLLOUT_TOKEN", TOKEN)
    with ExitStack() as stack:
        yield lambda **facts: stack.enter_context(StandIn(folder, **facts))


@pytest.fixture
def policy(folder: str) -> Policy:
    found = Policy(folder, steering=SteeringVectors(layers=[0, 2], scale="none"))
    found.load()
    return found


def set_vectors(policy: Policy, size: float, seed: int = 1) -> None:
    steering: Any = policy.steering
    generator = torch.Generator().manual_seed(seed)
    steering.set_vectors(size * torch.randn(2, 32, generator=generator))


def engine_on(policy: Policy, *servers: StandIn, **options: Any) -> VLLMEngine:
    engine = VLLMEngine([server.address for server in servers], start_timeout=5, **options)
    engine.setup(policy)
    return engine


def test_it_keeps_the_protocol_of_an_engine(policy: Policy, start: Any) -> None:
    set_vectors(policy, 1.0)
    check_engine(VLLMEngine([start().address]), policy)


def test_it_samples_what_the_trainers_own_engine_samples(policy: Policy, start: Any) -> None:
    own = DecodeEngine()
    own.setup(policy)
    engine = engine_on(policy, start())
    texts = []
    for size in (0.0, 0.02, 0.05):
        set_vectors(policy, size)
        engine.sync(policy.steering)
        expected = own.generate(PROMPTS, GREEDY, seed=0, step=0)
        found = engine.generate(PROMPTS, GREEDY, seed=0, step=0)
        assert torch.equal(found.completion_ids, expected.completion_ids)
        assert torch.allclose(found.logprobs, expected.logprobs, atol=1e-5)
        assert found.texts == expected.texts
        texts.append(found.texts)
    assert len(set(texts)) == 3  # each change of the vectors has changed the completions


def test_only_changed_vectors_travel(policy: Policy, start: Any) -> None:
    server = start()
    engine = engine_on(policy, server)
    server.received.clear()
    set_vectors(policy, 1.0)
    engine.sync(policy.steering)
    both = server.received.pop()
    steering: Any = policy.steering
    vectors = steering.vectors.detach().clone()
    vectors[1] *= 2
    steering.set_vectors(vectors)
    engine.sync(policy.steering)
    one = server.received.pop()
    # 32 numbers of 4 bytes, and a header of safetensors
    assert 2 * 128 < both < 2 * 128 + 200
    assert 128 < one < 128 + 100
    assert engine.metrics()["sync_bytes"] == one
    assert torch.equal(server.vectors[2], vectors[1])
    assert not server.vectors[1].any()
    engine.sync(policy.steering)  # nothing has changed
    assert not server.received
    assert engine.metrics()["sync_bytes"] == 0


def test_the_factor_of_the_policy_and_layers_left_out_hold(policy: Policy, start: Any) -> None:
    server = start()
    engine = engine_on(policy, server)
    set_vectors(policy, 1.0)
    attachment: Any = policy.attachment
    with policy.at_scale(0.5):
        attachment.left_out = frozenset({0})
        engine.generate(PROMPTS, GREEDY, seed=0, step=0)
    steering: Any = policy.steering
    assert not server.vectors[0].any()
    assert torch.equal(server.vectors[2], 0.5 * steering.vectors[1])


def test_a_server_that_somebody_else_has_changed_gets_all_vectors(
    policy: Policy, start: Any
) -> None:
    server = start()
    engine = engine_on(policy, server)
    set_vectors(policy, 1.0)
    engine.sync(policy.steering)
    server.vectors[1] += 1
    engine.generate(PROMPTS, GREEDY, seed=0, step=0)
    assert not server.vectors[1].any()


def test_completions_end_as_those_of_the_other_engines(policy: Policy, start: Any) -> None:
    """At any of several tokens, at a stop string, or at the limit; the end itself is kept."""
    engine, own = engine_on(policy, start()), DecodeEngine()
    own.setup(policy)
    plain = own.generate(PROMPTS, GREEDY, seed=0, step=0)
    token = int(plain.completion_ids[0, 3])
    text = policy.tokenizer.decode([int(plain.completion_ids[1, 4])])
    for options in ({"eos_token_ids": [token, EOS]}, {"stop_strings": [text]}):
        sampling = Sampling(group_size=1, temperature=0.0, max_new_tokens=12, **options)
        expected = own.generate(PROMPTS, sampling, seed=0, step=0)
        told: dict[int, Completion] = {}
        found = engine.generate(PROMPTS, sampling, seed=0, step=0, on_completion=told.__setitem__)
        assert torch.equal(found.completion_mask, expected.completion_mask)
        assert torch.equal(found.completion_ids, expected.completion_ids)
        assert found.finished.tolist() == expected.finished.tolist()
        assert found.finished.any()
        assert not found.finished.all()
        assert [told[k].text for k in range(4)] == list(expected.texts)


def test_a_seed_decides_each_row_however_many_servers_there_are(policy: Policy, start: Any) -> None:
    one, three = engine_on(policy, start()), engine_on(policy, start(), start(), start())
    alone = one.generate(PROMPTS, FULL, seed=1, step=2)
    shared = three.generate(PROMPTS, FULL, seed=1, step=2)
    assert torch.equal(alone.completion_ids, shared.completion_ids)
    other = one.generate(PROMPTS, FULL, seed=1, step=3)
    assert not torch.equal(alone.completion_ids, other.completion_ids)


def test_lost_servers_end_the_run_or_leave_their_rows_to_others(
    policy: Policy, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected = engine_on(policy, start()).generate(PROMPTS, FULL, seed=1, step=2)
    for fault in ("dies_after", "hangs_after"):
        for choice in ("fail", "continue"):
            servers = [start(), start()]
            engine = engine_on(policy, *servers, timeout=0.5, on_lost_server=choice)
            setattr(servers[1].faults, fault, 1)
            caplog.clear()
            if choice == "fail":
                with pytest.raises(ConfigError, match=r"server is lost .* on_lost_server"):
                    engine.generate(PROMPTS, FULL, seed=1, step=2)
                continue
            with caplog.at_level(logging.WARNING):
                found = engine.generate(PROMPTS, FULL, seed=1, step=2)
            assert torch.equal(found.completion_ids, expected.completion_ids)
            assert f"{servers[1].address} is lost" in caplog.text
            assert [link.address for link in engine.links] == [servers[0].address]
            servers[0].is_dead = True
            with pytest.raises(ConfigError, match="0 other servers are left"):
                engine.generate(PROMPTS, FULL, seed=1, step=2)
            servers[1].is_dead = True


def test_a_server_that_is_lost_at_a_sync_is_noticed(policy: Policy, start: Any) -> None:
    server = start()
    engine = engine_on(policy, server)
    set_vectors(policy, 1.0)
    server.is_dead = True
    with pytest.raises(ConfigError, match="server is lost"):
        engine.sync(policy.steering)


def test_completions_of_other_vectors_are_refused(policy: Policy, start: Any) -> None:
    server = start()
    engine = engine_on(policy, server)
    server.faults.version = "0123"
    with pytest.raises(RuntimeError, match="sampled with the vectors 0123 instead of"):
        engine.generate(PROMPTS, FULL, seed=0, step=0)


def test_a_server_that_does_not_steer_is_noticed_before_training(
    policy: Policy, start: Any
) -> None:
    server = start()
    server.faults.ignores_vectors = True
    with pytest.raises(ConfigError, match="does not sample as the policy does"):
        engine_on(policy, server)


def test_rows_that_are_sampled_ahead_keep_the_vectors_of_their_start(
    policy: Policy, start: Any
) -> None:
    server = start()
    engine = engine_on(policy, server)
    set_vectors(policy, 1.0)
    expected = engine.generate(PROMPTS, FULL, seed=0, step=1)
    server.requests.clear()
    engine.sample_ahead(PROMPTS, FULL, seed=0, step=1)
    set_vectors(policy, 1.0, seed=2)
    engine.sync(policy.steering)  # waits for them
    engine.generate(PROMPTS, GREEDY, seed=0, step=0)  # another rollout in between
    found = engine.generate(PROMPTS, FULL, seed=0, step=1)
    assert torch.equal(found.completion_ids, expected.completion_ids)
    assert len(server.requests) == 2
    fresh = engine.generate(PROMPTS, FULL, seed=0, step=1)
    assert not torch.equal(fresh.completion_ids, expected.completion_ids)


def test_a_sync_waits_for_rows_that_take_longer_than_a_server_may_be_silent(
    policy: Policy, start: Any
) -> None:
    server = start()
    engine = engine_on(policy, server, timeout=1.0)
    server.faults.delay = 0.1
    sampling = Sampling(group_size=5, max_new_tokens=2)  # 20 rows take 2 seconds
    engine.sample_ahead(PROMPTS, sampling, seed=0, step=1)
    set_vectors(policy, 1.0)
    engine.sync(policy.steering)
    assert len(engine.generate(PROMPTS, sampling, seed=0, step=1).texts) == 20
    assert len(server.requests) == 2  # the check's, and the one


def test_rows_that_nobody_asks_for_are_dropped(policy: Policy, start: Any) -> None:
    engine = engine_on(policy, start())
    expected = engine.generate(PROMPTS, FULL, seed=0, step=2)
    engine.sample_ahead(PROMPTS, FULL, seed=0, step=1)
    engine.sample_ahead(PROMPTS, FULL, seed=0, step=2)
    found = engine.generate(PROMPTS, FULL, seed=0, step=2)
    assert torch.equal(found.completion_ids, expected.completion_ids)


def test_texts_must_fit_into_the_server(policy: Policy, start: Any) -> None:
    engine = VLLMEngine([start(max_model_len=20).address])
    with pytest.raises(ConfigError, match=r"up to 20 tokens, but .* 21.*--max-model-len 21"):
        engine.before_load(policy, [policy.steering], 21)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"addresses": []}, "at least one server"),
        ({"addresses": ["localhost:80"]}, "must look like"),
        ({"addresses": ["http://a", "http://a"]}, "each once"),
        ({"timeout": 0}, "seconds above 0"),
        ({"start_timeout": float("inf")}, "seconds above 0"),
        ({"command": " "}, "must not be empty"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        VLLMEngine(**options)


def test_it_can_not_be_exact() -> None:
    with pytest.raises(ConfigError, match=r"model\.exact"):
        engine_of(VLLMEngine(), 1000)


def test_an_engine_must_be_set_up(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="setup"):
        VLLMEngine().generate(PROMPTS, FULL, seed=0, step=0)
