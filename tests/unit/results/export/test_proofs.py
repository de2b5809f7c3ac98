"""An export is compared with the steered base, and is not kept where they differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file

from steer_lightning import ConfigError, export_vectors
from steer_lightning.results.export import merged, proofs
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import byte_tokenizer
from tests.unit.results.export.helpers import WIDTH, make_vectors, save_base


def test_what_rounding_to_bfloat16_costs_is_told(tmp_path: Path) -> None:
    save_base(tmp_path / "one")
    model = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "one", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    vectors = make_vectors(tmp_path / "v.safetensors", str(tmp_path / "base"))
    report = export_vectors(tmp_path / "v.safetensors", to="vllm", output=tmp_path / "out")
    bias = load_file(tmp_path / "out/model-00002-of-00002.safetensors")[merged.down_bias(1)]
    assert torch.equal(bias, vectors[1].bfloat16())
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    assert report.findings is not None
    facts = report.findings.facts
    assert facts["float32_same_rounding"]["largest"] < 1e-5 < facts["float32"]["largest"] < 0.1
    assert "bfloat16" in facts
    assert "vectors rounded to bfloat16 on both sides" in "\n".join(report.findings.lines)
    assert f"vllm serve {tmp_path / 'out'}" in report.usage
    assert "--dtype bfloat16" in (tmp_path / "out/README.md").read_text()


def test_an_export_that_is_not_exact_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_base(tmp_path / "base")
    make_vectors(tmp_path / "v.safetensors", base)
    made = merged.make_biases

    def wrong(vectors: SteeringVectors, files: dict[str, Path]) -> dict[str, torch.Tensor]:
        found = made(vectors, files)
        return {**found, merged.down_bias(1): found[merged.down_bias(2)].flip(0)}

    monkeypatch.setattr(merged, "make_biases", wrong)
    monkeypatch.setattr(proofs, "read_tensor", lambda files, name: ZERO)
    with pytest.raises(ConfigError, match="not the same as the steered base, and was not kept"):
        export_vectors(tmp_path / "v.safetensors", to="transformers", output=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "v.safetensors"]


ZERO = torch.zeros(WIDTH)
