"""A model with one layer in memory at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as tf

from steer_lightning import export_vectors
from steer_lightning.results.export import compare
from steer_lightning.steering.arithmetic import plain_vectors
from steer_lightning.testing import VOCABULARY, byte_tokenizer
from tests.unit.results.export.helpers import make_vectors, save_base


def test_memory_is_that_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak resident memory above the start, comparison included, against the size of the base."""
    monkeypatch.setattr(compare, "TEXTS", ("1+1=",))  # weights, not activations
    monkeypatch.setattr(compare, "NUM_GREEDY", 2)
    config = tf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=4096, num_hidden_layers=12,
        num_attention_heads=4, num_key_value_heads=4, dtype="float32",
    )  # fmt: skip
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(
        tmp_path / "base", max_shard_size="14MB"
    )
    byte_tokenizer().save_pretrained(tmp_path / "base")
    sizes = [path.stat().st_size for path in (tmp_path / "base").glob("*.safetensors")]
    assert sum(sizes) > 150e6 > 10 * max(sizes)
    named = {"base_model": str(tmp_path / "base")}
    vectors = plain_vectors(torch.randn(12, 256), range(12), 12, named)
    warm = save_base(tmp_path / "warm")  # what libraries load at their first use is not counted
    make_vectors(tmp_path / "w.safetensors", warm)
    export_vectors(tmp_path / "w.safetensors", to="transformers", output=tmp_path / "w")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    export_vectors(vectors, to="transformers", output=tmp_path / "out")
    assert resident("VmHWM") - before < 1.5 * max(sizes)  # with activations, logits, allocator


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))
