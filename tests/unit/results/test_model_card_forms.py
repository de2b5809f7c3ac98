"""The model card of runs as `fit` leaves them, and of files that are odd."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from steer_lightning import save_vectors
from steer_lightning.results.model_card import model_card
from steer_lightning.steering import SteeringVectors

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
    assert "added at the layer's `attention_output`, for `completion` tokens alone." in text
    save_vectors(torch.ones(2, 8), path, base_model="org/model")
    assert "numbers in all, added to the layer's output." in model_card(tmp_path, "user/name").text


def test_a_card_without_a_base_shows_a_placeholder_in_its_code(tmp_path: Path) -> None:
    text = model_card(run_of(tmp_path, {}, base=""), "user/name").text
    assert "Steering vectors for an unnamed model: one vector" in text
    assert 'AutoModelForCausalLM.from_pretrained("BASE_MODEL")' in text


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
