"""Files of results: float32, finite, in one order, with metadata that is safe to show."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from steer_lightning import ConfigError
from steer_lightning.steering.result_file import (
    read_metadata,
    read_parts,
    read_tensors,
    write_result,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path, half = tmp_path / "x.safetensors", torch.tensor([0.5, -2.0], dtype=torch.bfloat16)
    across = torch.arange(6.0).view(2, 3).T  # not contiguous
    write_result(path, {"b": half, "a": across.requires_grad_()}, {"step": 3, "revision": None})
    assert read_metadata(path) == ({"step": "3", "revision": ""}, ["a", "b"])
    found = read_tensors(path)
    assert found["b"].dtype == torch.float32
    assert found["b"].tolist() == [0.5, -2.0]
    assert torch.equal(found["a"], across)


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    facts = {f"key {n}": n for n in range(20)}
    for name, order in (("one", list(facts)), ("other", list(facts)[::-1])):
        tensors = {"v": torch.ones(3)}
        write_result(tmp_path / name, tensors, {key: facts[key] for key in order})
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "other").read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0, "the tensors are aligned"


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_numbers_that_are_none_are_neither_written_nor_read(tmp_path: Path, odd: float) -> None:
    path = tmp_path / "x.safetensors"
    write_result(path, {"v": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="must be finite"):
        write_result(path, {"v": torch.tensor([1.0, odd])}, {})
    assert path.read_bytes() == before, "the earlier file is left"
    save_file({"v": torch.tensor([1.0, odd])}, path)
    with pytest.raises(ConfigError, match="contains NaN or infinity"):
        read_tensors(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="no vectors file at"):
        read_metadata(path)
    save_file({"v": torch.ones(2, dtype=torch.float64)}, path)
    with pytest.raises(ConfigError, match=r"must be in float32, but v is in torch\.float64"):
        read_tensors(path)
    path.write_bytes(b"x" * 50)
    with pytest.raises(ConfigError, match=r"is not a readable safetensors file"):
        read_metadata(path)


def test_metadata_are_single_lines_without_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"v": torch.ones(1)}, path, {"base\x1b[2J": "a\nb\x07"})
    ((key, text),) = read_metadata(path)[0].items()
    assert key.isprintable()
    assert text.isprintable()
    assert text.startswith("a")


def test_parts_of_layers_are_read_and_those_of_another_kind_are_refused(tmp_path: Path) -> None:
    path, told = tmp_path / "x.safetensors", {"kind": "K", "layers": "[0, 2]", "num_layers": 3}
    write_result(path, {"b": torch.ones(2), "a": torch.zeros(1)}, told)
    found = read_parts(path, "K", ("b", "a"))
    assert (found.layers, found.num_layers, found.metadata["kind"]) == ([0, 2], 3, "K")
    assert found.tensors["b"].tolist() == [1.0, 1.0]
    for kind, names in (("L", ("a", "b")), ("K", ("a",))):
        with pytest.raises(ConfigError, match=rf"must contain {kind} with a.*has \['a', 'b'\]"):
            read_parts(path, kind, names)
    for key, odd, rule in (
        ("layers", "[0, true]", r"has layers \[0, True\]"),
        ("layers", "[0, 3]", r"layers = \[0, 3\]"),
        ("num_layers", "many", "no usable layers"),
    ):
        write_result(path, {"a": torch.ones(1)}, {**told, key: odd})
        with pytest.raises(ConfigError, match=rule):
            read_parts(path, "K", ("a",))
