"""Checkpoints are whole, hold a checksum, and unfold no further than their file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from steer_lightning.callbacks.checkpoint_file import (
    CHECKSUM,
    MAX_DEPTH,
    DamagedCheckpointError,
    checksum,
    load_checkpoint,
    save_checkpoint,
)

CONTENT = {"step": 3, "weights": {"a": torch.arange(4.0), "b": [1, (2.5, None)]}, "name": "x"}


def test_what_is_saved_is_loaded_without_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(CONTENT, path)
    assert torch.load(path, weights_only=True)[CHECKSUM] == checksum(CONTENT)
    found = load_checkpoint(path)
    assert found.keys() == CONTENT.keys()
    assert checksum(found) == checksum(CONTENT)
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_the_last_one_before_stays_beside_it(tmp_path: Path) -> None:
    for step in range(3):
        save_checkpoint({"step": step}, tmp_path / "last.ckpt")
    assert load_checkpoint(tmp_path / "last.ckpt") == {"step": 2}
    assert load_checkpoint(tmp_path / "previous.ckpt") == {"step": 1}


def test_the_checksum_by_hand() -> None:
    fed = b"mapping 1 str 'a' list 2 int 1 tensor torch.float32 (2,) "
    fed += torch.tensor([1.0, 2.0]).numpy().tobytes()
    assert checksum({"a": [1, torch.tensor([1.0, 2.0])]}) == hashlib.sha256(fed).hexdigest()


def test_kinds_and_shapes_count() -> None:
    numbers = torch.arange(4.0)
    values = [1, 1.0, "1", True, [1], (1,), {1: 1}, None, numbers, numbers.view(2, 2)]
    values += [numbers.double(), numbers.int(), [[1], 2], [[1, 2]]]
    assert len({checksum(value) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({**CONTENT, CHECKSUM: "0"}, "does not match its checksum"),
        ([1, 2], "holds a list, not a mapping"),
        ({"x": torch.zeros(1).expand(2**30)}, "unfolds into far more"),
    ],
)
def test_others_are_refused(tmp_path: Path, content: object, told: str) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(DamagedCheckpointError, match=told):
        load_checkpoint(tmp_path / "a.ckpt")


RESULT = {"gsm8k/accuracy_at_8": 0.25, "arms/base/mean_tokens": 61.5, "step": 3, "best": None}


@pytest.mark.parametrize(
    "state",
    [
        list(range(40_315)),  # the order of DeepScaleR's problems
        [0] * 300_000,  # 2 bytes each, and 8 when counted
        [None] * 300_000,  # 1 byte each
        [[] for _ in range(300_000)],
        ["answered without a box"]
        * 300_000,  # one text; 2 bytes each, and 8 + 22 // 8 when counted
        [dict(RESULT) for _ in range(20_000)],
    ],
    ids=["order", "zeros", "none", "empty", "texts", "results"],
)
def test_long_states_are_loaded(tmp_path: Path, state: list[object]) -> None:
    content = {"vectors": torch.zeros(4, 256), "state": state}
    save_checkpoint(content, tmp_path / "a.ckpt")
    assert load_checkpoint(tmp_path / "a.ckpt")["state"] == state


@pytest.mark.parametrize(
    "state",
    [
        [[0] * 1000] * 1000,  # a million numbers in 4 kB
        ["x" * 50_000] * 50_000,  # 2.5 GB of text in 150 kB
        [torch.zeros(2**10)] * 2000,  # 8 MB in 8 kB
    ],
    ids=["lists", "texts", "tensors"],
)
def test_shared_parts_that_unfold_far_are_refused(tmp_path: Path, state: object) -> None:
    torch.save({"state": state}, tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").stat().st_size < 200_000
    with pytest.raises(DamagedCheckpointError, match="unfolds"):
        load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(("depth", "fits"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, False)])
def test_how_deep_values_may_be_nested(tmp_path: Path, depth: int, fits: bool) -> None:
    value: object = 1
    for _ in range(depth):
        value = [value]
    torch.save({"x": value}, tmp_path / "a.ckpt")
    if fits:
        assert load_checkpoint(tmp_path / "a.ckpt") == {"x": value}
    else:
        with pytest.raises(DamagedCheckpointError, match="unfolds"):
            load_checkpoint(tmp_path / "a.ckpt")


def test_what_others_have_written_is_taken_as_it_is(tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "a.ckpt")
    assert load_checkpoint(tmp_path / "a.ckpt") == {"x": 1}
    (tmp_path / "a.ckpt").write_bytes(b"no zip")
    with pytest.raises(DamagedCheckpointError, match="can't be read"):
        load_checkpoint(tmp_path / "a.ckpt")
