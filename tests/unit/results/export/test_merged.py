"""Exports are exact, refuse what they can't hold, and leave nothing half-made."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from steer_lightning import ConfigError, export_vectors, save_vectors
from steer_lightning.results.export import FORMATS, compare, job, merged
from steer_lightning.results.export.base import Base, weight_files
from steer_lightning.results.export.compare import NUM_GREEDY, Probe, difference
from steer_lightning.results.export.families import BIAS_HOMES, NORM_AFTER_MLP
from steer_lightning.results.export.peft_adapter import load_adapter, write_adapter
from steer_lightning.results.export.vllm import check_for_vllm
from steer_lightning.steering import AdaptiveVectors, SteeringVectors, attach, find_layers
from steer_lightning.steering.arithmetic import plain_vectors
from steer_lightning.testing import ARCHITECTURES, VOCABULARY, byte_tokenizer, save_tiny

LAYERS, WIDTH = 3, 32
TEXT = "The answer is 12"


def edit_config(folder: str | Path, **changes: Any) -> None:
    path = Path(folder) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def save_base(folder: Path, architecture: str = "llama", **changes: Any) -> str:
    save_tiny(folder, architecture)
    if architecture == "mistral":
        changes = {"sliding_window": None, **changes}
    edit_config(folder, **changes)
    return str(folder)


def make_vectors(path: Path, base: str, layers: tuple[int, ...] = (0, 1, 2)) -> torch.Tensor:
    vectors = torch.randn(len(layers), WIDTH)
    save_vectors(vectors, path, base_model=base, step=7, layers=layers, num_layers=LAYERS)
    return vectors


def read_as_users_do(base: str, vectors: Path, export: Callable[[Any], Any]) -> tuple[float, bool]:
    """Largest logit difference, and whether `generate` writes the same.

    `export` makes the model of the base, after the base has been steered.
    """
    model = tf.AutoModelForCausalLM.from_pretrained(base).eval()
    ids = torch.tensor([byte_tokenizer()(TEXT)["input_ids"]])
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    with torch.no_grad(), attach(model, vectors):
        ours, text = model(ids).logits, model.generate(ids, **options)
    other = export(model)
    with torch.no_grad():
        theirs, same = other(ids).logits, other.generate(input_ids=ids, **options)
    return float((ours - theirs).abs().max()), torch.equal(text, same)


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


HEAD_DIM = {"glm": {"head_dim": 8}, "gemma": {"head_dim": 8}}


def make_config(kind: str) -> Any:
    if kind in ARCHITECTURES:
        return ARCHITECTURES[kind](LAYERS, WIDTH)
    shape = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": WIDTH}
    shape |= {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2}
    return tf.AutoConfig.for_model(kind, **shape, pad_token_id=0, **HEAD_DIM.get(kind, {}))


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


@pytest.mark.parametrize(
    ("kind", "to", "changes", "told"),
    [
        ("gemma3", "transformers", {}, ["normalises what the MLP adds", "--to easysteer or"]),
        ("gemma2", "peft", {}, ["normalises what the MLP adds", "--to easysteer or --to gguf"]),
        ("olmo2", "vllm", {}, ["normalises what the MLP adds"]),
        ("olmo3", "peft", {}, ["normalises what the MLP adds"]),
        ("glm4", "peft", {}, ["normalises what the MLP adds"]),
        ("qwen3", "transformers", {}, ["normalises queries and keys", "--to peft or"]),
        ("qwen3", "vllm", {}, ["normalises queries and keys", "--to peft or"]),
        ("gpt2", "transformers", {}, ["can't be written as those of a Llama", "--to peft or"]),
        ("granite", "peft", {}, ["residual_multiplier"]),
        ("opt", "peft", {"do_layer_norm_before": False}, ["normalises what the MLP adds"]),
        ("mistral", "transformers", {"sliding_window": 64}, ["a sliding window of 64 tokens"]),
        (
            "qwen2",
            "transformers",
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            },
            ["a sliding window of 8 tokens", "--to peft or"],
        ),
        ("llama", "vllm", {"quantization_config": {"quant_method": "fp8"}}, ["are quantised"]),
    ],
)
def test_what_can_not_be_exact_is_refused_before_anything_loads(
    kind: str, to: str, changes: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    make_config(kind).save_pretrained(tmp_path / "base")
    edit_config(tmp_path / "base", **changes)
    make_vectors(tmp_path / "v.safetensors", str(tmp_path / "base"))
    with pytest.raises(ConfigError, match="can't hold vectors of") as refused:
        export_vectors(tmp_path / "v.safetensors", to=to, output=tmp_path / "out")
    for text in told:
        assert text in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "v.safetensors"]


def test_vectors_of_another_place_are_refused(tmp_path: Path) -> None:
    for kind in (SteeringVectors(tokens="prompt"), AdaptiveVectors()):
        path = tmp_path / "vectors.safetensors"
        save_vectors(kind.shaped(192, 4), path, base_model="quickstart")
        with pytest.raises(ConfigError, match="must be SteeringVectors at the output of layers"):
            export_vectors(path, to="peft", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "olmo2", "olmo3", "glm4"])
def test_a_norm_after_the_mlp_really_makes_a_bias_another_thing(kind: str) -> None:
    assert kind in NORM_AFTER_MLP
    model = tf.AutoModelForCausalLM.from_config(make_config(kind)).eval()
    ids, vectors = torch.randint(3, VOCABULARY, (2, 9)), torch.randn(LAYERS, WIDTH)
    with torch.no_grad():
        with attach(model, vectors):
            steered = model(ids).logits
        for layer, vector in zip(find_layers(model), vectors, strict=True):
            layer.mlp.down_proj.bias = torch.nn.Parameter(vector.clone())
        assert (model(ids).logits - steered).abs().max() > 0.01


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
    assert "leaving out layer 0 costs: next-token KL" in "\n".join(report.findings.lines)
    assert "No file of this architecture can hold it" in report.usage

    make_vectors(tmp_path / "upper.safetensors", base, layers=(1, 2))
    report = export_vectors(tmp_path / "upper.safetensors", output=tmp_path / "upper", **options)
    assert report.findings is not None
    assert report.findings.facts["float32"]["largest"] == 0
    assert "layer 0" not in report.usage
    make_vectors(tmp_path / "lowest.safetensors", base, layers=(0,))
    with pytest.raises(ConfigError, match="no control vector for layer 0"):
        export_vectors(tmp_path / "lowest.safetensors", output=tmp_path / "lowest", **options)


def test_easysteer_gets_its_own_wire_form(tmp_path: Path) -> None:
    import base64

    base = save_base(tmp_path / "base", "olmo2")
    vectors = make_vectors(tmp_path / "v.safetensors", base, layers=(0, 2)).numpy()
    export_vectors(tmp_path / "v.safetensors", to="easysteer", output=tmp_path / "out")
    spec = json.loads((tmp_path / "out/steering.json").read_text())
    (vector,) = spec.pop("vectors")
    data = vector.pop("data")
    assert spec == {}
    assert vector == {
        "algorithm": "direct",
        "scale": 1.0,
        "layers": [0, 2],
        "normalize": False,
        "apply": {"prompt": "all", "generation": "all"},
    }
    digest = hashlib.sha256(
        b"direction:1" + b"layer.0(32,)" + vectors[0].tobytes() + b"layer.2(32,)"
        + vectors[1].tobytes()
    )  # fmt: skip
    assert data == {
        "version": 1,
        "kind": "direction",
        "tensors": {
            f"layer.{layer}": {
                "shape": [32],
                "data": base64.b64encode(row.tobytes()).decode(),
            }
            for layer, row in zip((0, 2), vectors, strict=True)
        },
        "extra": {},
        "sha256": digest.hexdigest(),
    }


def test_vllm_is_given_nothing_that_it_reads_otherwise(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "qwen2")
    make_vectors(tmp_path / "v.safetensors", base)
    out = tmp_path / "out"
    export_vectors(tmp_path / "v.safetensors", to="vllm", output=out, verify=False)
    good = (out / "config.json").read_text()
    for changes, told in [
        ({"rope_theta": 1.0}, "rope_theta must be"),
        ({"mlp_bias": False}, "mlp_bias must be true"),
        ({"attention_bias": False}, "attention_bias must be true"),
        ({"hidden_act": "gelu"}, "hidden_act must be silu"),
        ({"num_hidden_layers": 4}, "biases are missing"),
    ]:
        edit_config(out, **changes)
        with pytest.raises(ConfigError, match=told):
            check_for_vllm(out)
        (out / "config.json").write_text(good)
    check_for_vllm(out)
    shutil.copy(out / "model-00002-of-00002.safetensors", out / "model.safetensors")
    (out / "model.safetensors.index.json").unlink()
    save_file({"model.layers.0.mlp.gate.weight": torch.zeros(1)}, out / "model.safetensors")
    with pytest.raises(ConfigError, match="no place for some tensors"):
        check_for_vllm(out)


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
    monkeypatch.setattr(
        "steer_lightning.results.export.proofs.read_tensor", lambda files, name: ZERO
    )
    with pytest.raises(ConfigError, match="not the same as the steered base, and was not kept"):
        export_vectors(tmp_path / "v.safetensors", to="transformers", output=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "v.safetensors"]


ZERO = torch.zeros(WIDTH)


def test_nothing_is_overwritten_unasked_and_nothing_half_made_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_base(tmp_path / "base")
    make_vectors(tmp_path / "v.safetensors", base)
    options = {"to": "easysteer", "output": tmp_path / "out", "verify": False}
    (tmp_path / "out").mkdir()  # an empty folder is free
    export_vectors(tmp_path / "v.safetensors", **options)
    first = (tmp_path / "out/steering.json").read_bytes()
    with pytest.raises(ConfigError, match="give --overwrite"):
        export_vectors(tmp_path / "v.safetensors", **options)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "_readme", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_vectors(tmp_path / "v.safetensors", **options, overwrite=True)
    assert (tmp_path / "out/steering.json").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "v.safetensors"]
    export_vectors(tmp_path / "v.safetensors", **options, overwrite=True, scale=2.0)
    assert (tmp_path / "out/steering.json").read_bytes() != first
    assert json.loads((tmp_path / "out/export.json").read_text())["scale"] == 2.0
    with pytest.raises(ConfigError, match="holds no export, so it is not overwritten"):
        export_vectors(
            tmp_path / "v.safetensors", to="gguf", output=tmp_path / "base", overwrite=True
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "v.safetensors"]


def test_a_base_that_is_unusable_is_told_in_words(tmp_path: Path) -> None:
    base = Path(save_base(tmp_path / "base"))
    make_vectors(tmp_path / "v.safetensors", str(base))

    def refused(match: str, **options: Any) -> None:
        options = {"to": "transformers", "output": tmp_path / "out", **options}
        with pytest.raises(ConfigError, match=match):
            export_vectors(tmp_path / "v.safetensors", **options)
        assert not (tmp_path / "out").exists()

    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:100])
    refused("weights are damaged")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused("only pytorch_model.bin.*save_pretrained")
    tensors = {"layers.0.mlp.gate_proj.weight": torch.zeros(2, 2)}
    save_file(tensors, base / "model.safetensors")
    refused("has no model.layers.0.mlp.gate_proj.weight")
    index = {"weight_map": {"lm_head.weight": "model-1.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    refused("model-1.safetensors of its index are missing")
    refused("merge_from = './nowhere': there is no such folder", merge_from="./nowhere")
    refused("merge_from = 'org/name': can't be loaded", merge_from="org/name")
    refused("must be one of transformers, peft, gguf, vllm, easysteer", to="onnx")
    save_tiny(tmp_path / "deep", "llama", layers=5)
    refused("has 5 of width 32.*trained on", merge_from=str(tmp_path / "deep"))


def test_all_formats_are_of_the_command() -> None:
    from typing import get_args, get_type_hints

    from steer_lightning.cli.export import export

    assert get_args(get_type_hints(export)["to"]) == tuple(FORMATS)


def test_difference_by_hand() -> None:
    """One text of 1 token; what stands behind its continuation is not looked at."""
    probe = Probe(torch.zeros(1, 1 + NUM_GREEDY, dtype=torch.long), torch.tensor([1]))
    ours = torch.zeros(1, 1 + NUM_GREEDY, 2)
    ours[..., 0] = np.log(3)  # probabilities 3/4 and 1/4
    theirs = ours.clone()
    theirs[0, 2] = torch.tensor([0.0, np.log(3)])  # 1/4 and 3/4
    theirs[0, NUM_GREEDY] = torch.tensor([0.0, 100.0])  # behind the last token
    found = difference(ours, theirs, probe)
    assert found.largest == pytest.approx(np.log(3))
    assert found.largest_kl == pytest.approx(0.75 * np.log(3) + 0.25 * np.log(1 / 3))
    assert found.kl == pytest.approx(found.largest_kl / NUM_GREEDY, rel=1e-5)
    assert (found.num_tokens, found.num_equal) == (NUM_GREEDY, NUM_GREEDY - 1)
    assert found.gap == pytest.approx(np.log(3))
    assert not found.same
    assert difference(ours, ours, probe).same
