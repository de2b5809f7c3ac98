"""Weights of a low rank: by hand, in a model, restored, and refused where they can't be right."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.evaluation.truncation import (
    TruncatedWeights,
    Truncation,
    check_truncations,
    low_rank_factors,
    matrices,
)
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import Quantization
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.rollout.vllm_engine import VLLMEngine
from steer_lightning.steering import (
    AdaptiveVectors,
    BitFit,
    FullFinetune,
    LoRA,
    LoReFT,
    Steering,
    SteeringVectors,
    VeRA,
)
from steer_lightning.testing import make_prompts, save_tiny, tiny_model, tiny_policy

IDS = torch.arange(3, 15)[None]
HALF = Truncation(share=0.5)


def test_the_closest_matrix_of_a_rank_by_hand() -> None:
    """Rotations of diag(3, 2, 1): the rank r keeps the r largest numbers of the diagonal."""
    one = torch.tensor([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    other = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.6, 0.8], [0.0, 1.0, 0.0, 0.0]])
    matrix = one @ torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ other
    kept = torch.tensor([[3.0, 0, 0], [3.0, 2.0, 0]])
    for rank, values in enumerate(kept, start=1):
        left, right = low_rank_factors(matrix, rank)
        assert (left.shape, right.shape) == ((3, rank), (rank, 4))
        torch.testing.assert_close(left @ right, one @ torch.diag(values) @ other)
    left, right = low_rank_factors(torch.ones(2, 3), 0)
    assert torch.equal(left @ right, torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_take_the_memory_of_their_own_numbers(dtype: torch.dtype) -> None:
    """Rank 2 of a matrix (6, 8): 2 * 6 and 2 * 8 numbers, none of the rest of the SVD."""
    factors = low_rank_factors(torch.randn(6, 8).to(dtype), 2)
    assert [factor.dtype for factor in factors] == [dtype] * 2
    sizes = [factor.untyped_storage().nbytes() // dtype.itemsize for factor in factors]
    assert sizes == [2 * 6, 2 * 8]


@pytest.mark.parametrize(
    ("settings", "shape", "rank"),
    [
        ({"rank": 5}, (8, 4), 4),
        ({"rank": 3}, (8, 4), 3),
        ({"rank": 0}, (8, 4), 0),
        ({"share": 0.29}, (100, 300), 29),  # 0.29 * 100 is 28.999999999999996
        ({"share": 0.1}, (19, 64), 1),
        ({"share": 0.01}, (64, 64), 0),
        ({"share": 1.0}, (8, 4), 4),
    ],
)
def test_ranks(settings: dict[str, Any], shape: tuple[int, int], rank: int) -> None:
    assert Truncation(**settings).rank_of(shape) == rank


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "exactly one of the two must be set"),
        ({"rank": 1, "share": 0.5}, r"truncations.rank = 1: and share = 0.5: exactly one"),
        ({"rank": -1}, "truncations.rank = -1: must be 0 or more"),
        ({"share": 1.5}, "truncations.share = 1.5: must be from 0 to 1"),
        ({"share": float("nan")}, "must be from 0 to 1"),
        ({"rank": 1, "layers": "b"}, "truncations.layers = 'b'"),
        ({"rank": 1, "modules": []}, "must name at least one matrix, or be null"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Truncation(**settings)


def test_only_the_chosen_matrices_change_and_all_are_restored() -> None:
    model = tiny_model("llama")
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    weights = TruncatedWeights(Truncation(layers=[1], rank=2, modules=["up_proj", "down_proj"]))
    for _ in range(2):  # the second time with the factors of the first
        with suppress(KeyError), weights.within(model):
            changed = {n for n, x in model.named_parameters() if not torch.equal(x, before[n])}
            assert changed == {f"model.layers.1.mlp.{n}_proj.weight" for n in ("up", "down")}
            up = model.model.layers[1].mlp.up_proj.weight
            u, values, v = torch.linalg.svd(before["model.layers.1.mlp.up_proj.weight"])
            expected = u[:, :2] @ torch.diag(values[:2]) @ v[:2]
            torch.testing.assert_close(up.detach(), expected)
            raise KeyError
        assert all(torch.equal(x, before[name]) for name, x in model.named_parameters())


def test_the_full_rank_is_the_base_and_rank_0_has_no_mlp() -> None:
    model = tiny_model("llama").bfloat16()
    with torch.no_grad():
        expected = model(IDS).logits
        for settings in ({"share": 1.0}, {"rank": 32}, {"rank": 1000}):
            with TruncatedWeights(Truncation(**settings)).within(model):
                assert torch.equal(model(IDS).logits, expected)
        with TruncatedWeights(HALF).within(model):
            assert not torch.equal(model(IDS).logits, expected)
        assert torch.equal(model(IDS).logits, expected)
        with TruncatedWeights(Truncation(rank=0)).within(model):
            without = model(IDS).logits
        for layer in model.model.layers:
            layer.mlp.forward = torch.zeros_like
        assert torch.equal(model(IDS).logits, without)


def test_weights_that_layers_share_are_restored() -> None:
    model = tiny_model("llama")
    model.model.layers[2].mlp = model.model.layers[0].mlp
    before = [x.detach().clone() for x in model.parameters()]
    with TruncatedWeights(HALF).within(model):
        pass
    assert all(map(torch.equal, model.parameters(), before))


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "phi3", "gemma3", "falcon"])
def test_matrices_of_other_architectures(architecture: str) -> None:
    """Whatever their names, and whichever way round they are stored."""
    model = tiny_model(architecture)
    found = matrices(model, HALF)
    assert len(found) == 3 * (3 if architecture == "gemma3" else 2)
    with TruncatedWeights(Truncation(rank=3)).within(model):
        assert [int(torch.linalg.matrix_rank(weight)) for weight in found] == [3] * len(found)


def test_layers_without_such_matrices_are_refused() -> None:
    for architecture, told in (
        ("opt", "layer 0 of OPTForCausalLM has no module called mlp"),
        ("gpt_oss", "the MLP of layer 0, GptOssMLP, has several experts"),
        ("lfm2", "has no module called mlp"),
    ):
        with pytest.raises(ConfigError, match=told):
            matrices(tiny_model(architecture), HALF)
    model = tiny_model("deepseek_v3")  # whose first layer is dense
    assert len(matrices(model, Truncation(layers=[0], rank=1))) == 3
    with pytest.raises(ConfigError, match="Its matrices are down_proj, gate_proj, up_proj"):
        matrices(tiny_model(), Truncation(rank=1, modules=["fc1"]), "truncations.a")
    with pytest.raises(ConfigError, match=r"truncations.a.layers = \[3\]: .*0 to 2"):
        matrices(tiny_model(), Truncation(rank=1, layers=[3]), "truncations.a")
    model = tiny_model()
    model.model.layers[0].mlp = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2)])})
    with pytest.raises(ConfigError, match="several experts: experts"):
        matrices(model, HALF)


def test_settings_that_contradict_each_other(tmp_path: Any) -> None:
    base, named = Policy(save_tiny(tmp_path)), {"a": HALF}
    check_truncations(named, {"v": SteeringVectors()}, DecodeEngine(), base)
    check_truncations(named, {}, GenerateEngine(), base)
    check_truncations(named, {"v": AdaptiveVectors(), "r": LoReFT()}, DecodeEngine(), base)
    check_truncations({}, {"l": LoRA()}, object(), base)
    for kind in (LoRA(), FullFinetune(), BitFit(), VeRA()):
        with pytest.raises(ConfigError, match=r"truncations = \['a'\]: contradicts k, which holds"):
            check_truncations(named, {"k": kind}, DecodeEngine(), base)
    with pytest.raises(ConfigError, match="contradicts engine: VLLMEngine has weights of its own"):
        check_truncations(named, {}, VLLMEngine.__new__(VLLMEngine), base)
    with pytest.raises(ConfigError, match=r"truncations.a.layers = '5-6'"):
        check_truncations({"a": Truncation(layers="5-6", rank=1)}, {}, DecodeEngine(), base)
    quantised = Policy(base.base, quantization=Quantization(bits=8))
    with pytest.raises(ConfigError, match="contradicts quantization, which is 8 bits"):
        check_truncations(named, {}, DecodeEngine(), quantised)
    check_truncations({}, {}, DecodeEngine(), quantised)
    base.model_config.quantization_config = {"load_in_8bit": True}
    with pytest.raises(ConfigError, match="contradicts base: its weights are quantised"):
        check_truncations(named, {}, DecodeEngine(), base)
    model = tiny_model()
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(
        torch.zeros(64, 32, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(ConfigError, match="quantised"), TruncatedWeights(HALF).within(model):
        pass


@pytest.mark.parametrize("kind", [SteeringVectors, LoReFT])
def test_an_engine_answers_with_the_truncated_weights(kind: type[Steering]) -> None:
    """As with weights that were truncated before the engine knew the model, whatever steers it."""
    sampling, prompts = Sampling(group_size=2, max_new_tokens=8), make_prompts(["ab", "cdef"])
    answers = []
    for is_early in (False, True):
        policy, engine = tiny_policy(steering=kind()), DecodeEngine()
        torch.manual_seed(0)
        for parameter in policy.steering.parameters():
            parameter.data += torch.randn_like(parameter)
        weights = TruncatedWeights(Truncation(rank=2))
        with weights.within(policy.model) if is_early else nullcontext():
            engine.setup(policy)
            whole = engine.generate(prompts, sampling, seed=0, step=0)
            with weights.within(policy.model):
                answers.append(engine.generate(prompts, sampling, seed=0, step=0).logprobs)
            again = engine.generate(prompts, sampling, seed=0, step=0)
        assert torch.equal(whole.logprobs, again.logprobs)
        assert torch.equal(whole.logprobs, answers[-1]) == is_early
    assert torch.equal(*answers)
