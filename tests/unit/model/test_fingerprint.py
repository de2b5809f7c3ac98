"""Checksum and hash tell weights apart, whatever their order."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from steer_lightning.model.fingerprint import checksum, hash_of_folder, sha256

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


def test_a_folder_is_known_by_the_ends_of_its_tensors(tmp_path: Path) -> None:
    """The tensor `a` has 4 * 3000 bytes: 1024 numbers at either end are read."""
    many = {"a": torch.arange(3000.0), "b": torch.ones(2, 2)}

    def found(**changes: torch.Tensor) -> str:
        save_file({**many, **changes}, tmp_path / "model.safetensors")
        return hash_of_folder(tmp_path)

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("not part of it")
    before = found()
    (tmp_path / "README.md").unlink()
    assert found() == before
    for place, differs in ((0, True), (1023, True), (1500, False), (-1024, True), (-1, True)):
        other = many["a"].clone()
        other[place] += 1
        assert (found(a=other) != before) == differs
    assert found(b=torch.ones(4)) != before, "another shape"
    assert found(c=torch.ones(1)) != before
    assert found() == before
    (tmp_path / "config.json").write_text('{"rope_theta": 2}')
    assert hash_of_folder(tmp_path) != before
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    assert len(hash_of_folder(tmp_path)) == 64, "loading the model tells of it"


def test_weights_in_other_files_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a" * 9000)
    before = hash_of_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a" * 4500 + b"b" + b"a" * 4499)
    assert hash_of_folder(tmp_path) != before
