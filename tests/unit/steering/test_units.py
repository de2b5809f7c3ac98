"""How large activations are."""

from __future__ import annotations

import torch
from torch import nn

from steer_lightning.steering import measure_rms


def test_units_are_the_median_over_tokens_of_the_rms() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Identity()])

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
