"""An adapter beside the base is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from steer_lightning import export_vectors
from steer_lightning.results.export.base import Base
from steer_lightning.results.export.families import BIAS_HOMES
from steer_lightning.results.export.peft_adapter import load_adapter, write_adapter
from steer_lightning.steering import attach
from steer_lightning.steering.arithmetic import plain_vectors
from steer_lightning.testing import VOCABULARY
from tests.unit.results.export.helpers import (
    LAYERS,
    WIDTH,
    make_config,
    make_vectors,
    read_as_users_do,
    save_base,
)


@pytest.mark.parametrize("kind", sorted(BIAS_HOMES))
def test_an_adapter_is_exact_for_every_architecture_named(kind: str, tmp_path: Path) -> None:
    config = make_config(kind)
    config.save_pretrained(tmp_path / "base")
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    vectors = plain_vectors(torch.randn(2, WIDTH), (0, 2), LAYERS)
    ids = torch.randint(3, VOCABULARY, (2, 9))
    with torch.no_grad():
        plain = model(ids).logits
        with attach(model, vectors):
            steered = model(ids).logits
        write_adapter(Base(str(tmp_path / "base")), vectors, tmp_path / "adapter")
        adapted = load_adapter(model, tmp_path / "adapter")
        assert torch.allclose(adapted(ids).logits, steered, atol=1e-5)
    assert not torch.allclose(plain, steered, atol=1e-3)


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_an_adapter_beside_the_base(architecture: str, tmp_path: Path) -> None:
    from peft import PeftModel

    base = save_base(tmp_path / "base", architecture)
    make_vectors(tmp_path / "v.safetensors", base)
    report = export_vectors(tmp_path / "v.safetensors", to="peft", output=tmp_path / "out")
    kind = json.loads((tmp_path / "out/adapter_config.json").read_text())["peft_type"]
    assert kind == ("LORA" if architecture == "gpt2" else "BEFT")
    assert report.findings is not None
    assert report.findings.facts["float32"]["largest"] < 1e-5

    def adapted(model: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *args, **options: None)  # PEFT's own
            return PeftModel.from_pretrained(model, tmp_path / "out").eval()

    largest, same = read_as_users_do(base, tmp_path / "v.safetensors", adapted)
    assert largest < 1e-5
    assert same
