"""The model card by its text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from steer_lightning import data as data_room
from steer_lightning import save_vectors
from steer_lightning.results.model_card import HUB_DATA, is_hub_id, model_card
from steer_lightning.steering import SteeringVectors


def test_the_card_says_what_a_reader_needs(run: Path) -> None:
    (run / "evaluation").mkdir()
    rows = [
        {"benchmark": "aime", "arm": "steered", "metric": "avg@4", "value": 0.5, "low": 0.4},
        {"benchmark": "aime", "arm": "base", "metric": "avg@4", "value": None, "low": None},
    ]
    rows = [{**row, "high": 0.61} for row in rows]
    (run / "evaluation/results.json").write_text(json.dumps({"rows": rows}))
    card = model_card(run, "user/name")
    data = card.data.to_dict()
    assert data["base_model"] == "Qwen/Q"
    assert data["datasets"] == ["openai/gsm8k"]
    assert data["tags"] == ["steering-vectors", "reinforcement-learning"]
    (index,) = data["model-index"]
    values = {r["dataset"]["name"]: r["metrics"][0]["value"] for r in index["results"]}
    assert (index["name"], values) == ("name", {"gsm8k": 0.625, "math": 0.5})
    for text in (
        "[Qwen/Q](https://huggingface.co/Qwen/Q): one vector of width 1536 for each of 28 of its "
        "28 decoder layers, 43,008 numbers in total",
        "in 315 steps",
        'vectors = from_hub("user/name")\nwith attach(model, vectors):',
        "| benchmark | metric | base | steered |",
        "| gsm8k | accuracy | 25.0% | 62.5% |",
        "| math | accuracy | - | 50.0% |",
        "| aime | steered | avg@4 | 50.0% [40.0%, 61.0%] |",
        "| aime | base | avg@4 | - |",
        "| `model.sampling.group_size` | 16 |",
        "| `model.optimizer` | AdamW(lr=0.001) |",
        r"| `model.rewards` | reward=MathReward(), weight=1.0, reward=my_rewards.brevity\|x,",
        "Made with torch 2.13.0.",
    ):
        assert text in card.text
    compile(card.text.split("```python\n")[1].split("```")[0], "card", "exec")


def test_a_local_base_is_not_named_as_one_of_the_hub(tmp_path: Path) -> None:
    save_vectors(torch.ones(2, 4), tmp_path / "steering_vectors.safetensors", base_model="/m/my")
    card = model_card(tmp_path, "user/name")
    assert "base_model" not in card.data.to_dict()
    assert "Steering vectors for `/m/my`" in card.text
    assert is_hub_id("Qwen/Qwen2.5-1.5B")
    assert not any(map(is_hub_id, ("quickstart", "./x/y", "/m/my", "../a", str(tmp_path))))


def test_data_sets_are_those_that_the_sources_load() -> None:

    for name, hub in HUB_DATA.items():
        source = getattr(data_room, name)()
        assert getattr(source, "_records", source).hub_name == hub


STEERING = {"layers": "8-15", "site": "mlp_output", "tokens": "all", "scale": "rms"}


def run_of(folder: Path, steering: object, base: str = "org/model") -> Path:
    save_vectors(torch.ones(2, 8), folder / SteeringVectors.file_name, base_model=base)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"steering": steering}}))
    return folder


@pytest.mark.parametrize(
    "steering",
    [
        {"class_path": "steer_lightning.steering.SteeringVectors", "init_args": STEERING},
        STEERING,  # as the quickstart writes it
    ],
)
def test_the_card_shows_which_layers_are_steered_and_how(tmp_path: Path, steering: object) -> None:
    text = model_card(run_of(tmp_path, steering), "user/name").text
    for key, value in STEERING.items():
        assert f"| `model.steering.{key}` | {value} |" in text


def test_the_card_says_where_the_vectors_are_added(tmp_path: Path) -> None:
    path = tmp_path / SteeringVectors.file_name
    vectors = SteeringVectors(site="attention_output", tokens="completion").shaped(8, 2)
    vectors.save(path, base_model="org/model")
    text = model_card(tmp_path, "user/name").text
    assert "added at the layer's `attention_output`, only for `completion` tokens." in text
    save_vectors(torch.ones(2, 8), path, base_model="org/model")
    assert (
        "numbers in total, added to the layer's output." in model_card(tmp_path, "user/name").text
    )


def test_the_card_says_that_the_base_was_quantised(tmp_path: Path) -> None:
    run = run_of(tmp_path, {})
    assert "bits" not in model_card(run, "user/name").text
    vectors = SteeringVectors().shaped(8, 2)
    vectors.base_bits = 4
    vectors.save(run / SteeringVectors.file_name, base_model="org/model")
    settings = {"quantization": {"bits": 4, "where": "both"}}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": settings}))
    text = model_card(run, "user/name").text
    assert "linear layers were in `4` bits (`model.quantization.bits`)" in text
    assert "`quantize_base(model, bits)` of `steer_lightning.model.quantization`" in text
    assert "| `model.quantization` | bits=4, where=both |" in text


def test_a_card_without_a_base_shows_a_placeholder_in_its_code(tmp_path: Path) -> None:
    text = model_card(run_of(tmp_path, {}, base=""), "user/name").text
    assert "Steering vectors for an unnamed model: one vector" in text
    assert 'base = "BASE_MODEL"' in text


def test_a_hostile_base_stays_in_its_place_on_the_card(tmp_path: Path) -> None:
    base = "x`\n# Owned\n[click](javascript:alert(1))\x1b[2J"
    metadata = {"format_version": "1", "base_model": base, "layers": "[0]", "num_layers": "1"}
    metadata |= {"width": "8", "site": "layer_output"}
    save_file({"vectors": torch.ones(1, 8)}, tmp_path / SteeringVectors.file_name, metadata)
    card = model_card(tmp_path, "user/name")
    assert r"for `x'\n# Owned\n[click](javascript:alert(1))\x1b[2J`: one vector" in card.text
    assert "\n# Owned" not in card.content
    assert "\x1b" not in card.content
    code = card.text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_the_code_of_a_card_loads_the_revision_of_the_base(tmp_path: Path) -> None:
    run = run_of(tmp_path, {})
    assert "revision" not in model_card(run, "user/name").text
    rows = torch.ones(2, 8)
    save_vectors(rows, run / SteeringVectors.file_name, base_model="org/model", revision="v2")
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"revision": "v2"}}))
    text = model_card(run, "user/name").text
    assert 'base = "org/model"\nrevision = "v2"\n' in text
    assert "model, tokenizer = load_model(base, revision=revision)\n" in text
    assert "| `model.revision` | v2 |" in text


def test_a_run_that_goes_on_from_vectors_does_not_call_them_the_base(tmp_path: Path) -> None:
    run = run_of(tmp_path, {**STEERING, "init_from": "runs/run-1/steering_vectors.safetensors"})
    shares = {"accuracy_before": {"sums": 0.5}, "accuracy_after": {"sums": 0.75}}
    (run / "summary.json").write_text(json.dumps(shares))
    text = model_card(run, "user/name").text
    assert "| benchmark | metric | before | steered |" in text
    assert "| sums | accuracy | 50.0% | 75.0% |" in text
    (run / "config.yaml").unlink()
    assert "| before | steered |" in model_card(run, "user/name").text


def test_what_a_verifier_measures_has_its_own_name(tmp_path: Path) -> None:
    run = run_of(tmp_path, STEERING)
    summary = {
        "accuracy_after": {"short": 0.75, "sums": 0.5},
        "verdicts": {"short": "mean brevity"},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    card = model_card(run, "user/name")
    assert "| short | mean brevity | - | 75.0% |" in card.text
    (index,) = card.data.to_dict()["model-index"]
    types = {found["dataset"]["name"]: found["metrics"][0]["type"] for found in index["results"]}
    assert types == {"short": "mean brevity", "sums": "accuracy"}
