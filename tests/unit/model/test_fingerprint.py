"""Checksum and hash tell weights apart, whatever their order."""

from __future__ import annotations

import hashlib

import torch

from steer_lightning.model.fingerprint import checksum, sha256

WEIGHTS = {"a": torch.arange(300.0), "b": torch.ones(2, 2)}


def changed(name: str, place: int) -> dict[str, torch.Tensor]:
    found = {key: weight.clone() for key, weight in WEIGHTS.items()}
    found[name].view(-1)[place] += 1
    return found


def test_the_hash_by_hand() -> None:
    lines = [f"{k} {hashlib.sha256(v.numpy().tobytes()).hexdigest()}\n" for k, v in WEIGHTS.items()]
    assert sha256(WEIGHTS.items()) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_any_number_changes_the_hash_and_one_near_an_end_the_checksum() -> None:
    for place in (0, 63, 150, 299):
        assert sha256(changed("a", place).items()) != sha256(WEIGHTS.items())
    for place in (0, 63, -64, -1):
        assert checksum(changed("a", place).items()) != checksum(WEIGHTS.items())
    assert checksum(changed("a", 150).items()) == checksum(WEIGHTS.items()), "it reads the ends"


def test_names_count_and_their_order_does_not() -> None:
    backwards, renamed = list(WEIGHTS.items())[::-1], {"a": WEIGHTS["b"], "b": WEIGHTS["a"]}
    for tell in (checksum, sha256):
        assert tell(backwards) == tell(WEIGHTS.items())
        assert tell(renamed.items()) != tell(WEIGHTS.items())


def test_numbers_of_16_bits_that_numpy_does_not_know() -> None:
    narrow = [("a", torch.tensor([1.0, 2.0], dtype=torch.bfloat16))]
    assert sha256(narrow) != sha256([("a", torch.tensor([1.0, 2.5], dtype=torch.bfloat16))])
    assert checksum(narrow) == checksum([("a", torch.tensor([1.0, 2.0]))])
