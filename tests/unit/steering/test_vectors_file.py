"""Vectors files of other writers: layers in any order, and metadata that means harm."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steer_lightning import ConfigError, attach, load_vectors, save_vectors
from steer_lightning.steering import LoRA, load_steering
from steer_lightning.steering.arithmetic import plain_vectors, sliced
from steer_lightning.steering.layers import in_layer_order, parse_layers
from steer_lightning.steering.vectors_file import TENSORS
from steer_lightning.testing import tiny_model

METADATA = {
    "format_version": "1",
    "base_model": "b",
    "layers": "[2, 0]",
    "num_layers": "3",
    "site": "layer_output",
    "width": "32",
}
HOSTILE = "\x1b]0;owned\x07\x1b[2J\nerror: fake\u202e\u2028"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\nerror: fake\u202e\u2028"


def rows_of(vectors: Any) -> dict[int, float]:
    """The first number of each layer's vector."""
    return {layer: float(vectors.vectors[k, 0]) for k, layer in enumerate(vectors.layers)}


def two_rows(first: float, second: float, width: int = 32) -> torch.Tensor:
    return torch.stack([torch.full((width,), first), torch.full((width,), second)])


@pytest.mark.parametrize("layers", [[4, 2], (4, 2), np.array([4, 2])])
def test_rows_are_saved_with_the_layers_that_they_were_given_for(
    tmp_path: Path, layers: Any
) -> None:
    path = tmp_path / "v.safetensors"
    save_vectors(two_rows(4.0, 2.0), path, base_model="b", layers=layers, num_layers=5)
    assert rows_of(load_vectors(path)) == {2: 2.0, 4: 4.0}
    save_vectors(two_rows(2.0, 4.0), path, base_model="b", layers=[2, 4], num_layers=5)
    assert rows_of(load_vectors(path)) == {2: 2.0, 4: 4.0}


def test_layers_of_a_tensor_may_be_a_range(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_vectors(two_rows(2.0, 3.0), path, base_model="b", layers="2-3", num_layers=5)
    assert rows_of(load_vectors(path)) == {2: 2.0, 3: 3.0}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([4, 4], "each only once"),
        ([4, 2, 1], "must name 2 layers, one for each row"),
        ([4], "must name 2 layers, one for each row"),
        ([4, 5], "0 to 4"),
        ([4, 2.0], "whole numbers"),
        ([4, True], "whole numbers"),
        (["4", "2"], "whole numbers"),
    ],
)
def test_layers_that_do_not_fit_the_rows_are_errors(
    tmp_path: Path, layers: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        save_vectors(
            two_rows(4.0, 2.0), tmp_path / "v", base_model="b", layers=layers, num_layers=5
        )
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_metadata_names_layers_in_another_order_keeps_its_rows_beside_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "v.safetensors"
    save_file({"vectors": two_rows(20.0, 1.0)}, path, METADATA)
    found = load_vectors(path)
    assert rows_of(found) == {0: 1.0, 2: 20.0}
    assert json.loads(found.metadata["layers"]) == [0, 2]
    model = tiny_model(layers=3)
    seen: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    ids = torch.tensor([[5, 6]])
    with torch.no_grad():
        model(ids)
        with attach(model, path):
            model(ids)
    moved = (seen[-1] - seen[0]).mean()
    assert moved > 10, "layer 2 has the vector of 20, not that of 1"


def test_every_tensor_of_a_kind_is_sorted(tmp_path: Path) -> None:
    tensors = {name: two_rows(2.0, 0.0) for name in TENSORS["AdaptiveVectors"]}
    where = {"kind": "AdaptiveVectors", "site": "layer_output", "tokens": "all"}
    path = tmp_path / "v.safetensors"
    save_file(tensors, path, {**METADATA, **where, "format_version": "2"})
    found = load_vectors(path)
    assert found.layers == (0, 2)
    assert {name: x[:, 0].tolist() for name, x in found.result().items()} == {
        name: [0.0, 2.0] for name in tensors
    }


def test_vectors_made_of_rows_in_any_order_are_sorted_with_them() -> None:
    found = plain_vectors(two_rows(4.0, 2.0), [4, 2], 5)
    assert rows_of(found) == {2: 2.0, 4: 4.0}
    assert rows_of(sliced(found, [4, 2])) == {2: 2.0, 4: 4.0}
    rows, layers = in_layer_order(torch.tensor([[3.0], [1.0], [2.0]]), [3, 1, 2], 4)
    assert (rows.flatten().tolist(), layers) == ([1.0, 2.0, 3.0], (1, 2, 3))
    assert parse_layers(np.array([3, 1]), 4) == (1, 3)
    assert all(type(layer) is int for layer in parse_layers(np.array([3, 1]), 4))


# ---- metadata of unknown origin


def hostile_file(path: Path) -> Path:
    metadata = {**METADATA, "base_model": HOSTILE, "step": HOSTILE, "revision": HOSTILE}
    save_file({"vectors": two_rows(2.0, 0.0)}, path, metadata)
    return path


def test_metadata_is_one_line_without_controls(tmp_path: Path) -> None:
    found = load_vectors(hostile_file(tmp_path / "v.safetensors")).metadata
    assert {found[key] for key in ("base_model", "step", "revision")} == {SHOWN}
    for text in found.values():
        assert text.isprintable()


def test_attach_shows_a_hostile_base_and_does_not_send_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(layers=3)
    model.name_or_path = "org/\x1b[2Jmine"  # a folder may have any name, too
    with caplog.at_level(logging.WARNING):
        attach(model, hostile_file(tmp_path / "v.safetensors")).remove()
    (record,) = caplog.records
    assert record.getMessage() == (
        rf"these vectors were trained on {SHOWN}, not on org/\x1b[2Jmine"
    )


def test_names_in_a_file_are_shown_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_file({"lay\x1b[2J\nerror: fake": torch.zeros(2)}, path, {"kind": "FullFinetune"})
    with pytest.raises(ConfigError) as caught:
        load_steering(path).build(tiny_model())
    assert "\\x1b[2J\\nerror: fake" in str(caught.value)
    assert str(caught.value).isprintable()
    save_file({"a\x1b\n": torch.zeros(2, dtype=torch.float16)}, path, {"kind": "FullFinetune"})
    with pytest.raises(ConfigError, match="float16") as caught:
        load_steering(path)
    assert str(caught.value).isprintable()


def test_a_hostile_base_of_an_adapter_is_shown(tmp_path: Path) -> None:
    lora, model = LoRA(rank=1, target_modules=["down_proj"]), tiny_model()
    lora.build(model)
    lora.save(tmp_path / LoRA.file_name, base_model=HOSTILE)
    assert load_steering(tmp_path / LoRA.file_name).metadata == {"base_model": SHOWN}
