from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load

from steer_lightning.errors import ConfigError
from steer_lightning.rollout.sent_vectors import (
    SentVectors,
    check_sendable,
    check_steerable,
    vectors_of,
)
from steer_lightning.steering import READ, AdaptiveVectors, BitFit, SteeringVectors
from steer_lightning.testing import tiny_policy


class Link:
    """A server that notes what it is sent.

    Args:
        accepts: Its answers, in turn.
    """

    def __init__(self, *accepts: bool) -> None:
        self.address, self.version, self.vectors = "http://a", "", dict[int, bytes]()
        self.accepts, self.sent = list(accepts), list[tuple[list[str], str, str]]()

    def change(self, packed: bytes, *, since: str, to: str) -> bool:
        self.sent.append((sorted(load(packed)), since, to))
        return self.accepts.pop(0)


def vectors(first: float, second: float) -> SentVectors:
    rows = {0: torch.full((2,), first), 2: torch.full((2,), second)}
    return SentVectors(rows, 3, 2, torch.bfloat16)


def test_the_version_is_a_hash_of_all_layers_in_the_dtype_of_the_base() -> None:
    # 1 and 2 in bfloat16, little-endian; layer 1 is not steered
    plain = b"\x80\x3f\x80\x3f" + bytes(4) + b"\x00\x40\x00\x40"
    assert vectors(1, 2).version == hashlib.sha256(plain).hexdigest()[:16]
    assert vectors(1, 2).version == vectors(1 + 1e-4, 2).version != vectors(2, 1).version


def test_a_server_gets_what_it_does_not_have() -> None:
    link: Any = Link(True, True)
    one, two = vectors(1, 2), vectors(1, 3)
    assert one.send(link) > 0
    assert one.send(link) == 0
    assert two.send(link) > 0
    assert link.sent == [
        (["0", "1", "2"], "", one.version),
        (["2"], one.version, two.version),
    ]


def test_a_server_with_other_vectors_gets_all() -> None:
    link: Any = Link(True, False, True)
    one, two = vectors(1, 2), vectors(1, 3)
    one.send(link)
    two.send(link)
    assert link.sent[1:] == [
        (["2"], one.version, two.version),
        (["0", "1", "2"], "", two.version),
    ]


def test_a_server_that_still_has_others_is_refused() -> None:
    link: Any = Link(False)
    with pytest.raises(RuntimeError, match="has other vectors than were sent"):
        vectors(1, 2).send(link)


def test_a_policys_vectors_are_sent_as_they_act() -> None:
    policy = tiny_policy(steering=SteeringVectors(layers=[1], scale="none"))
    steering: Any = policy.steering
    steering.set_vectors(torch.full((1, 32), 2.0))
    with policy.at_scale(0.5):
        found = vectors_of(policy)
    row = {1: torch.ones(32)}
    assert found.version == SentVectors(row, 3, 32, torch.float32).version


@pytest.mark.parametrize(
    "steering", [AdaptiveVectors(), BitFit(), READ(), SteeringVectors(tokens="prompt"),
                 SteeringVectors(site="input_norm")]
)  # fmt: skip
def test_what_one_vector_a_layer_can_not_do_is_refused(steering: Any) -> None:
    with pytest.raises(ConfigError, match="DecodeEngine, which can"):
        check_sendable(steering)
    with pytest.raises(ConfigError, match="DecodeEngine, which can"):
        vectors_of(SimpleNamespace(steering=steering))  # type: ignore[arg-type]  # no more is read


def test_a_base_that_is_not_known_is_refused() -> None:
    config = SimpleNamespace(architectures=["GPT2LMHeadModel"])
    policy: Any = SimpleNamespace(base="gpt2", model_config=config)
    with pytest.raises(ConfigError, match=r"can't steer GPT2LMHeadModel.*DecodeEngine"):
        check_steerable(policy)
    config.architectures = ["Qwen3ForCausalLM"]
    check_steerable(policy)
