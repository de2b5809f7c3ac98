"""A control vector, read back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from steer_lightning import ConfigError, export_vectors
from steer_lightning.cli import main
from tests.unit.results.export.helpers import make_vectors, save_base


def test_what_is_lacking_is_told_without_a_comparison_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_vectors(Path("v.safetensors"), save_base(tmp_path / "base"), layers=(0, 2))
    for to, first in (
        ("gguf", ": not the same as the steered base: without the vector of layer 0"),
        ("easysteer", ""),
    ):
        words = ["export", "--vectors=v.safetensors", f"--to={to}", f"--output={to}"]
        assert main([*words, "--verify=false"]) == 0
        assert re.fullmatch(rf"{to} \(\d+ kB\){first}", capsys.readouterr().out.split("\n")[0])
    assert ", layer 2, times 1; format `gguf`." in Path("gguf/README.md").read_text()
    assert ", layers 0, 2, times 1; format `easysteer`." in Path("easysteer/README.md").read_text()


def test_a_control_vector_leaves_layer_0_out_and_says_what_that_costs(tmp_path: Path) -> None:
    import gguf

    base = save_base(tmp_path / "base", "gemma3")
    vectors = make_vectors(tmp_path / "v.safetensors", base)
    options = {"to": "gguf", "scale": 0.5}
    report = export_vectors(tmp_path / "v.safetensors", output=tmp_path / "out", **options)
    reader = gguf.GGUFReader(tmp_path / "out/steering_vectors.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert sorted(found) == ["direction.1", "direction.2"]
    for layer in (1, 2):
        assert np.array_equal(found[f"direction.{layer}"], 0.5 * vectors[layer].numpy())
        assert found[f"direction.{layer}"].dtype == np.float32
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "gemma3_text"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    assert report.findings is not None
    facts = report.findings.facts
    assert facts["layers_left_out"] == [0]
    assert 0 < facts["float32"]["kl"] <= facts["float32"]["largest_kl"]
    assert "the effect of leaving out layer 0: next-token KL" in "\n".join(report.findings.lines)
    assert "No file of this architecture can hold it" in report.usage
    equal = facts["float32"]["num_equal"]
    assert report.lack == (
        "not the same as the steered base: without the vector of layer 0, "
        f"the greedy choice equal at {equal} of 64 tokens"
    )
    readme = (tmp_path / "out/README.md").read_text()
    assert "after 7 steps, layers 1, 2, times 0.5; format `gguf`." in readme, "what it holds"
    assert f"**This export is {report.lack}.**" in readme
    assert json.loads((tmp_path / "out/export.json").read_text())["layers"] == [1, 2]

    make_vectors(tmp_path / "upper.safetensors", base, layers=(1, 2))
    report = export_vectors(tmp_path / "upper.safetensors", output=tmp_path / "upper", **options)
    assert report.findings is not None
    assert report.findings.facts["float32"]["largest"] == 0
    assert "layer 0" not in report.usage + report.lack
    assert "layers 1, 2, times 0.5" in (tmp_path / "upper/README.md").read_text()
    assert "This export is" not in (tmp_path / "upper/README.md").read_text()
    make_vectors(tmp_path / "lowest.safetensors", base, layers=(0,))
    with pytest.raises(ConfigError, match="no control vector for layer 0"):
        export_vectors(tmp_path / "lowest.safetensors", output=tmp_path / "lowest", **options)
