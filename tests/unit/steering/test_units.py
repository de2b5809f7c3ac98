"""How large activations are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.steering import SteeringVectors, find_layers, measure_rms
from steer_lightning.testing import tiny_model
from tests.odd_places import LAYERS, odd_model

TEXTS = ([3, 4, 5, 200], [6, 7, 8, 9, 10, 11], [90, 12, 13])


def test_units_are_the_median_over_tokens_of_the_rms() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Identity()])
            self.head = nn.Identity()

        def get_output_embeddings(self) -> nn.Module:
            return self.head

        def forward(self, input_ids: torch.Tensor, **_: object) -> None:
            first = float(input_ids[0, 0])
            # a huge first token, and a padded last one
            sizes = torch.tensor([[1000.0, 2.0, first, 4.0, 99.0]])
            self.layers[0](sizes[..., None].expand(1, 5, 7))

    model = Fixed()
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    ids = torch.full((1, 5), 3)
    # of 2, 3, 4, 1000 torch takes the lower median
    assert measure_rms(model, model.layers, [(ids, mask)]).tolist() == [3.0]
    # and of 2, 2, 3, 4, 4, 5, 1000, 1000 over two batches, too
    batches = [(ids, mask), (ids + 2, mask)]
    assert measure_rms(model, model.layers, batches).tolist() == [4.0]


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The texts in one batch, right-padded."""
    ids = [[*text, *[0] * (6 - len(text))] for text in TEXTS]
    mask = [[1] * len(text) + [0] * (6 - len(text)) for text in TEXTS]
    return [(torch.tensor(ids), torch.tensor(mask))]


@pytest.mark.parametrize("architecture", ["gemma4", "gpt1", "mamba", "llama"])
def test_all_tokens_of_all_texts_are_seen(architecture: str) -> None:
    """Also in layers of Gemma 4 that share keys, which read what logits are asked for alone."""
    model: Any = tiny_model() if architecture == "llama" else odd_model(architecture)
    streams: list[list[torch.Tensor]] = [[] for _ in find_layers(model)]
    handles = [
        layer.register_forward_hook(
            lambda m, x, y, row=row: row.append(y if torch.is_tensor(y) else y[0])
        )
        for layer, row in zip(find_layers(model), streams, strict=True)
    ]
    for text in TEXTS:
        model(input_ids=torch.tensor([text]), use_cache=False)
    for handle in handles:
        handle.remove()
    expected = [
        torch.cat([stream[0].square().mean(-1).sqrt() for stream in row]).median()
        for row in streams
    ]
    found = measure_rms(model, find_layers(model), batches())
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_the_head_computes_one_position_alone() -> None:
    model, shapes = tiny_model(), []
    model.get_output_embeddings().register_forward_hook(lambda m, x, y: shapes.append(y.shape))
    measure_rms(model, find_layers(model), batches())
    assert shapes == [(3, 1, 259)]
    model(torch.tensor([TEXTS[0]]))
    assert shapes[1:] == [(1, 4, 259)]


@pytest.mark.parametrize("architecture", ["gemma3n", "deepseek_v4", "hy_v4"])
def test_several_streams_have_no_size(architecture: str) -> None:
    model = odd_model(architecture)
    told = r"site: the output at this site is a Tensor of shape \(.*one stream.*site: mlp_output"
    with pytest.raises(ConfigError, match=told):
        measure_rms(model, find_layers(model), batches())
    vectors = SteeringVectors(site="mlp_output")
    vectors.build(model)
    vectors.measure(model, batches())
    assert vectors.unit.shape == (LAYERS,)
    assert bool((vectors.unit > 0).all())


def test_layers_that_texts_do_not_reach_have_no_size() -> None:
    model = tiny_model()
    places = [*find_layers(model), nn.Identity()]
    with pytest.raises(ConfigError, match=r"does not reach the selected layers number \[3\]"):
        measure_rms(model, places, batches())


def test_the_size_of_tokens_that_a_model_adds_is_not_taken_for_that_of_the_texts() -> None:
    model = tiny_model()
    embed = model.get_input_embeddings()
    embed.register_forward_hook(lambda m, x, y: torch.cat([y[:, :1], y], 1))
    model.model.register_forward_pre_hook(
        lambda m, x, y: (x, y | {"attention_mask": None}), with_kwargs=True
    )
    with pytest.raises(ConfigError, match=r"has \d+ tokens for a text of \d+.*scale: none"):
        measure_rms(model, find_layers(model), batches())
