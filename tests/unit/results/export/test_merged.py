"""A merged checkpoint is a stock Llama with the same logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file

from steer_lightning import export_vectors
from steer_lightning.results.export import merged
from steer_lightning.results.export.base import weight_files
from steer_lightning.results.export.compare import NUM_GREEDY
from steer_lightning.testing import byte_tokenizer
from tests.unit.results.export.helpers import make_vectors, read_as_users_do, save_base


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_a_merged_checkpoint_is_a_stock_llama_with_the_same_logits(
    architecture: str, tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", architecture)
    make_vectors(tmp_path / "v.safetensors", base, layers=(0, 2))
    report = export_vectors(
        tmp_path / "v.safetensors", to="transformers", output=tmp_path / "out", scale=1.0
    )
    assert report.findings is not None
    assert report.findings.facts["float32"]["largest"] < 1e-5
    assert report.findings.facts["float32"]["num_equal"] == 4 * NUM_GREEDY
    assert report.findings.facts["base"]["largest"] > 0.01  # the vectors do something
    model = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(model) is tf.LlamaForCausalLM
    largest, same = read_as_users_do(base, tmp_path / "v.safetensors", lambda _: model)
    assert largest < 1e-5
    assert same
    biases = {name: value for name, value in model.named_parameters() if name.endswith("bias")}
    moved = {name for name, value in biases.items() if bool(value.any()) and "mlp" in name}
    assert moved == {merged.down_bias(0), merged.down_bias(2)}
    assert ("model.layers.0.self_attn.o_proj.bias" in biases) == (architecture == "qwen2")
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (Path(base) / name).read_bytes()
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert oct((tmp_path / "out").stat().st_mode)[-3:] == "755"


def test_a_base_of_several_shards_with_tied_embeddings_and_long_rope(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    save_base(tmp_path / "one", "llama", tie_word_embeddings=True, rope_parameters=rope)
    model = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "base", max_shard_size="30KB")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    shards = len(list((tmp_path / "base").glob("*.safetensors")))
    assert shards > 2
    make_vectors(tmp_path / "v.safetensors", str(tmp_path / "base"))
    export_vectors(tmp_path / "v.safetensors", to="transformers", output=tmp_path / "out")
    found = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [path.name for path in found] == [
        f"model-{k:05d}-of-{shards + 1:05d}.safetensors" for k in range(1, shards + 2)
    ]
    stored = {name for path in found for name in load_file(path)}
    assert set(weight_files(tmp_path / "out")) == stored
    other = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert other.config.rope_parameters == model.config.rope_parameters
    largest, same = read_as_users_do(
        str(tmp_path / "base"), tmp_path / "v.safetensors", lambda _: other
    )
    assert largest < 1e-5
    assert same


def test_an_export_can_be_exported_again(tmp_path: Path) -> None:
    """A base that has MLP biases keeps them; the vectors are added."""
    base = save_base(tmp_path / "base", "qwen2")
    first = make_vectors(tmp_path / "1.safetensors", base)
    second = make_vectors(tmp_path / "2.safetensors", base, layers=(1,))
    options = {"to": "transformers", "verify": True}
    export_vectors(tmp_path / "1.safetensors", output=tmp_path / "out", **options)
    export_vectors(
        tmp_path / "2.safetensors", output=tmp_path / "again", merge_from=str(tmp_path / "out"),
        scale=2.0, **options,
    )  # fmt: skip
    found = {
        name: value
        for path in (tmp_path / "again").glob("*.safetensors")
        for name, value in load_file(path).items()
    }
    assert torch.equal(found[merged.down_bias(0)], first[0])
    assert torch.allclose(found[merged.down_bias(1)], first[1] + 2 * second[0])
    model = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(model.model.layers[2].mlp.down_proj.bias, first[2])
