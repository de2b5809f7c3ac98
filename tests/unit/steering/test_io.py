"""The vectors file: exact round trip, whole or absent, checked when loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from steer_lightning import ConfigError, load_vectors, save_vectors
from steer_lightning.steering import LoRA, SteeringVectors, find_result, find_vectors
from steer_lightning.testing import tiny_policy

GOOD = {
    "format_version": "1",
    "base_model": "b",
    "layers": "[0, 2]",
    "num_layers": "4",
    "site": "layer_output",
    "width": "5",
}


def test_round_trip_is_exact_and_units_are_multiplied_out(tmp_path: Path) -> None:
    vectors = SteeringVectors([0, 2]).shaped(5, 4)
    vectors.set_unit(torch.tensor([3.0, 7.0]))
    vectors.weight.data[:, :5] = torch.randn(2, 5)
    path = tmp_path / "deep" / "v.safetensors"
    save_vectors(vectors, path, base_model="org/model", revision="abc", step=12)
    loaded = load_vectors(path)
    assert torch.equal(loaded.vectors, vectors.vectors)
    assert (loaded.layers, loaded.width, loaded.num_layers) == ((0, 2), 5, 4)
    assert loaded.metadata == {
        **GOOD,
        "base_model": "org/model",
        "revision": "abc",
        "step": "12",
    }
    assert not loaded.weight.requires_grad
    save_vectors(
        loaded, tmp_path / "again.safetensors", base_model="org/model", revision="abc", step=12
    )
    again = load_vectors(tmp_path / "again.safetensors")
    assert torch.equal(again.vectors, loaded.vectors)
    assert again.metadata == loaded.metadata


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"layers": [1, 3]}, r"layers = \[1, 3\]: can't be .* layers are \[0, 2\] of 4"),
        ({"num_layers": 9}, r"num_layers = 9: can't be given with an object"),
    ],
)
def test_layers_beside_an_object_are_refused(tmp_path: Path, given: Any, told: str) -> None:
    vectors = SteeringVectors(layers=[0, 2]).shaped(5, 4)
    with pytest.raises(ConfigError, match=told):
        save_vectors(vectors, tmp_path / "x.safetensors", base_model="b", **given)
    assert not list(tmp_path.iterdir())


def test_equal_vectors_are_equal_files(tmp_path: Path) -> None:
    vectors = SteeringVectors([0, 2]).shaped(5, 4)
    vectors.weight.data[:, :5] = torch.randn(2, 5)
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path in paths:
        save_vectors(vectors, path, base_model='b\u00fc"\n\t', revision="\x7f\U0001f600", step=3)
    assert len({path.read_bytes() for path in paths}) == 1
    with safe_open(paths[0], framework="pt") as file:
        assert file.metadata()["base_model"] == 'b\u00fc"\n\t'
        assert file.metadata()["revision"] == "\x7f\U0001f600"
        assert torch.equal(file.get_tensor("vectors"), vectors.vectors)
    size = int.from_bytes(paths[0].read_bytes()[:8], "little")
    assert size % 8 == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": "9"}, "format_version 1"),
        ({"site": "mlp"}, "layer_output"),
        ({"width": "6"}, r"width 6.*\(2, 5\)"),
        ({"layers": "[0]"}, r"1 layers.*\(2, 5\)"),
        ({"layers": "[0, 9]"}, "0 to 3"),
        ({"layers": "oops"}, "metadata"),
        ({"layers": '["a", "b"]'}, "metadata"),
        ({"num_layers": ""}, "metadata"),
        ({"width": "-1"}, "metadata"),
    ],
)
def test_contradictions_are_errors(tmp_path: Path, change: dict[str, str], message: str) -> None:
    path = tmp_path / "v.safetensors"
    save_file({"vectors": torch.zeros(2, 5)}, path, {**GOOD, **change})
    with pytest.raises(ConfigError, match=message):
        load_vectors(path)


def test_other_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    with pytest.raises(FileNotFoundError, match=r"v\.safetensors"):
        load_vectors(path)
    path.write_bytes(b"not a safetensors file, but long enough to have a header")
    with pytest.raises(ConfigError, match="readable safetensors"):
        load_vectors(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ConfigError, match=r"\['weight'\]"):
        load_vectors(path)
    save_file({"vectors": torch.zeros(2, 5, dtype=torch.float16)}, path, GOOD)
    with pytest.raises(ConfigError, match="float16"):
        load_vectors(path)
    header = json.dumps(
        {"vectors": {"dtype": "F32", "shape": [2, 5], "data_offsets": [0, 10**15]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ConfigError, match="readable safetensors"):
        load_vectors(path)


def test_vectors_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finite"):
        save_vectors(torch.full((2, 3), float("nan")), tmp_path / "v.safetensors", base_model="b")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_earlier_file_and_no_half_written_one(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_vectors(torch.ones(2, 3), path, base_model="b")
    before = path.read_bytes()
    script = f"""
import resource, signal, torch
from steer_lightning import save_vectors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_vectors(torch.ones(64, 4096), {str(path)!r}, base_model="b")
except OSError as error:
    print("refused", error.errno)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("refused"), done.stdout + done.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_runs_result_is_found_whatever_was_trained(tmp_path: Path) -> None:
    adapter = tmp_path / "run-1" / LoRA.file_name
    with pytest.raises(ConfigError, match=r"run-1': there is no such file"):
        find_result(adapter.parent)
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    assert find_result(adapter.parent) == find_result(adapter) == adapter
    with pytest.raises(ConfigError, match=r"contains no steering_vectors\.safetensors\."):
        find_vectors(adapter.parent)
    path = tmp_path / "run-1" / SteeringVectors.file_name
    save_vectors(torch.ones(2, 2), path, base_model="b")
    assert find_vectors(path.parent) == find_result(path) == path
    with pytest.raises(ConfigError, match=r"contains .*vectors\.safetensors and lora_adapter"):
        find_result(path.parent)
    with pytest.raises(ConfigError, match=r"contains no steering_vectors.* or weight_changes"):
        find_result(tmp_path)


def test_files_of_other_places_are_of_version_2(tmp_path) -> None:
    path = tmp_path / "v.safetensors"
    vectors = SteeringVectors([0, 2], site="mlp_output", tokens="completion").shaped(5, 4)
    vectors.set_vectors(torch.randn(2, 5))
    save_vectors(vectors, path, base_model="b", step=3)
    found = load_vectors(path)
    assert torch.equal(found.vectors, vectors.vectors)
    assert (found.site, found.tokens, found.layers) == ("mlp_output", "completion", (0, 2))
    assert found.metadata["format_version"] == "2"
    vectors = SteeringVectors([0, 2], init_from=str(path))
    with pytest.raises(ConfigError, match=r"width 5, but this run .* width 32"):
        tiny_policy(steering=vectors, layers=4)
    vectors = SteeringVectors([0, 2], init_from=str(path)).shaped(5, 4)
    with pytest.raises(ConfigError, match=r"steering\.site = 'layer_output'.*init_from.*mlp_out"):
        vectors._start_from(str(path), "b")
