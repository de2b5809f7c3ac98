"""Bases with layers repeated, left out and predicted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from scripts import change_depth
from scripts.change_depth import changed, new_layers, predict, read_map
from steer_lightning.testing import save_tiny


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0,4", "'4' is neither a layer from 0 to 3 nor"),
        ("0,x", "'x' is neither"),
        ("+,0", "entry 0 of the map"),
        ("0,+", "entry 1 of the map"),
        ("0,+,2", "entry 1 of the map"),
        ("0,+,+,1", "entry 1 of the map"),
        ("1,+,0", "entry 1 of the map"),
    ],
)
def test_what_is_no_map_is_refused(text: str, told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        read_map(text, 4)


def test_maps_are_read() -> None:
    assert read_map("0,1,+,2", 4) == [0, 1, None, 2]
    assert read_map("3,3,0", 4) == [3, 3, 0]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_layers_are_the_old_ones_in_the_order_of_the_map(kind: str, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path, kind, layers=3, width=32))
    ids = torch.tensor([[1, 5, 9, 2]])
    same = changed(base, [0, 1, 2], 0)
    assert torch.equal(same(ids).logits, base(ids).logits)
    # a model without layers 1 and 2, and then layer 0 twice
    deeper, shallow = changed(base, [0, 2, 2, 1], 0), changed(base, [2], 0)
    states = deeper(ids, output_hidden_states=True).hidden_states
    assert len(states) == 5
    ours = base(ids, output_hidden_states=True).hidden_states
    assert torch.equal(states[1], ours[1]), "the first layer is the old first one"
    old, new = (change_depth.find_layers(model) for model in (base, deeper))
    for place, layer in zip((0, 2, 2, 1), new, strict=True):
        for name, weight in layer.state_dict().items():
            assert torch.equal(weight, old[place].state_dict()[name])
    assert not torch.equal(shallow(ids).logits, base(ids).logits)


def test_the_predictor_learns_what_lies_between_neighbours() -> None:
    # layers on a line: W_k = A + k B, so that each is the mean of its neighbours
    torch.manual_seed(0)
    a, b = torch.randn(2, 16, 8)
    matrices = [a + k * b for k in range(6)]
    made, left = predict(matrices, [1, 3], epochs=100)
    assert left < 0.005
    for k, matrix in zip((1.5, 3.5), made, strict=True):
        right = a + k * b
        assert float((matrix - right).norm() / right.norm()) < 0.1
    _, untrained = predict(matrices, [1], epochs=0)
    assert untrained > 0.5


def test_a_predicted_layer_stands_between_copies(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    layers = [{"w": torch.randn(6, 4), "norm": torch.full((4,), float(k))} for k in range(3)]
    found = new_layers(layers, [0, 1, None, 2], epochs=1)
    assert [layer["norm"][0].item() for layer in found] == [0, 1, 1, 2], "norms are copied"
    for new, old in ((0, 0), (1, 1), (3, 2)):
        assert torch.equal(found[new]["w"], layers[old]["w"])
    assert found[2]["w"].shape == (6, 4)
    assert all(not torch.equal(found[2]["w"], layer["w"]) for layer in layers)
    assert capsys.readouterr().out.startswith("layer 2 w: norm ")
    with pytest.raises(SystemExit, match="at least 3 layers"):
        new_layers(layers[:2], [0, None, 1], epochs=1)


def test_the_new_model_stops_where_the_old_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, output = save_tiny(tmp_path / "base", "llama", layers=2, width=32), tmp_path / "deep"
    told = GenerationConfig.from_pretrained(base)
    told.eos_token_id, told.temperature, told.do_sample = [2, 7], 0.6, True
    told.save_pretrained(base)
    monkeypatch.setattr(sys, "argv", ["change_depth.py", base, str(output), "--map=0,1,1"])
    change_depth.main()
    found = AutoModelForCausalLM.from_pretrained(output).generation_config
    assert (found.eos_token_id, found.temperature, found.do_sample) == ([2, 7], 0.6, True)


def test_the_script_writes_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, output = save_tiny(tmp_path / "base", "llama", layers=4, width=32), tmp_path / "deep"
    words = ["change_depth.py", base, str(output), "--map=0,1,+,2,3", "--epochs=1"]
    monkeypatch.setattr(sys, "argv", words)
    change_depth.main()
    model = AutoModelForCausalLM.from_pretrained(output)
    assert model.config.num_hidden_layers == 5
    assert len(AutoTokenizer.from_pretrained(output)) == len(AutoTokenizer.from_pretrained(base))
    first = model.state_dict()
    change_depth.main()
    again = AutoModelForCausalLM.from_pretrained(output).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first), "the seed decides"
