"""What a model's final norm does to a vector."""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from steer_lightning.results.lens import find_final_norm, norm_direction
from steer_lightning.testing import ARCHITECTURES, tiny_policy

ALL = sorted(ARCHITECTURES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [4, 5])
def test_a_norm_gives_its_weight_however_it_stores_it(width: int, dtype: torch.dtype) -> None:
    weight = torch.tensor([0.5, -2.0, 1.0, 0.0, 4.0])[:width]
    llama, gemma = LlamaRMSNorm(width).to(dtype), Gemma3RMSNorm(width).to(dtype)
    plain = torch.nn.LayerNorm(width).to(dtype)
    with torch.no_grad():
        llama.weight.copy_(weight)
        gemma.weight.copy_(weight - 1)
        plain.weight.copy_(weight)
        plain.bias.copy_(torch.arange(width) + 1)
    vectors = torch.tensor([[1.0, 2.0, 3.0, 6.0, 0.5]])[:, :width]
    close = {"rtol": 0.01, "atol": 1e-3} if dtype == torch.bfloat16 else {}
    like = torch.zeros(1, dtype=dtype)
    for norm in (llama, gemma):
        torch.testing.assert_close(
            norm_direction(norm, width, like)(vectors), weight * vectors, **close
        )
    expected = weight * (vectors - vectors.mean())
    torch.testing.assert_close(norm_direction(plain, width, like)(vectors), expected, **close)


@pytest.mark.parametrize("architecture", ALL)
def test_the_norm_is_the_slope_of_the_models_own(architecture: str) -> None:
    """n(h + v) - n(h) is g v / size(h) to first order, for v orthogonal to h."""
    policy = tiny_policy(architecture)
    norm = find_final_norm(policy.model, policy.layers)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn_like(parameter))
    stream, vector = torch.randn(32, dtype=torch.float32), torch.randn(32)
    stream = stream - stream.mean()
    vector = vector - vector.mean()
    vector = vector - stream * (stream @ vector) / (stream @ stream)
    slope = torch.autograd.functional.jvp(lambda h: norm(h[None, None])[0, 0], stream, vector)[1]
    expected = slope * stream.square().mean().sqrt()
    found = norm_direction(norm, 32, stream)(vector[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
