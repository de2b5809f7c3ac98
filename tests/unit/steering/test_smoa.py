"""SMoA: parts of the spectrum by hand, and a change whose rank is higher than LoRA's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.steering import SMoA, load_steering
from steer_lightning.steering.result_file import write_result
from steer_lightning.testing import tiny_model
from tests.unit.steering.helpers import disturb


def built(parts: int, rank: int, shape: tuple[int, int]) -> SMoA:
    smoa = SMoA(rank=rank, parts=parts)
    smoa.names = ["w"]
    smoa.changes.append(torch.nn.Parameter(torch.zeros(parts, rank, sum(shape))))
    return smoa


def test_parts_and_change_by_hand() -> None:
    # singular values 4, 3, 2, 1, with the sum 10: the shares of 4 and 3 begin below 5
    weight = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    smoa = built(2, 1, (4, 4))
    (parts,) = smoa.prepared("w", weight)
    torch.testing.assert_close(parts[0], torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0])))
    torch.testing.assert_close(parts[1], torch.diag(torch.tensor([0.0, 0.0, 2.0, 1.0])))
    torch.testing.assert_close(parts.sum(0), weight)
    numbers = torch.zeros(2, 1, 8)
    numbers[0, 0] = torch.tensor([1.0, 2.0, 9.0, 9.0, 10.0, 20.0, 9.0, 9.0])
    numbers[1, 0] = torch.tensor([9.0, 9.0, 0.5, 3.0, 9.0, 9.0, 4.0, 1.0])
    # 4 * 1 * 10, 3 * 2 * 20, 2 * 0.5 * 4, 1 * 3 * 1
    expected = torch.diag(torch.tensor([40.0, 120.0, 4.0, 3.0]))
    torch.testing.assert_close(smoa.change(numbers, (parts,)), expected)
    assert torch.linalg.matrix_rank(expected) == 4  # with products of rank 1


def test_the_backward_pass_gets_its_gradients_from_no_copies_of_the_parts() -> None:
    smoa, weight = built(2, 3, (20, 30)), torch.randn(20, 30)
    (parts,) = smoa.prepared("w", weight)
    half, numbers = parts.bfloat16(), torch.randn(2, 3, 50, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        changed = smoa.change(numbers, (half,))
    assert {tensor.data_ptr() for tensor in kept} <= {half.data_ptr(), numbers.data_ptr()}
    towards = torch.randn(20, 30)
    (changed * towards).sum().backward()
    up, down = numbers.detach()[..., :20], numbers.detach()[..., 20:]
    masked = towards * half.float()  # G * W_k
    torch.testing.assert_close(numbers.grad[..., :20], down @ masked.transpose(1, 2))
    torch.testing.assert_close(numbers.grad[..., 20:], up @ masked)


def test_one_large_value_leaves_a_part_empty_and_a_weight_of_zeros_has_none() -> None:
    smoa = built(3, 1, (2, 2))
    (parts,) = smoa.prepared("w", torch.diag(torch.tensor([9.0, 1.0])))
    assert [float(part.norm()) for part in parts] == pytest.approx([9.0, 0.0, 1.0], abs=1e-5)
    (parts,) = smoa.prepared("w", torch.zeros(2, 2))
    assert not parts.any()


def test_the_start_is_that_of_lora() -> None:
    smoa = SMoA(rank=2, parts=2)
    smoa.build(tiny_model("qwen2"))
    place = smoa.names.index("model.layers.0.mlp.gate_proj.weight")  # (64, 32)
    numbers = smoa.changes[place].detach()
    assert tuple(numbers.shape) == (2, 2, 96)
    assert not numbers[..., :64].any()
    assert numbers[..., 64:].abs().min() > 0
    # the bound of Kaiming with a = sqrt(5) is 1 / sqrt(inputs)
    assert 0.1 < numbers.abs().max() <= 32**-0.5
    disturb(smoa)
    assert smoa.describe() == "SMoA of rank 2 for 2 parts of 21 matrices"


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ([(4,)], r"\(parts, rank, outputs \+ inputs\) .*, but a has shape \(4,\)"),
        ([(2, 1, 8), (2, 2, 8)], r"b has shape \(2, 2, 8\)"),
        ([(2, 1, 8), (2, 1)], r"b has shape \(2, 1\)"),
        ([(0, 1, 8)], r"a has shape \(0, 1, 8\)"),
        ([(2, 1, 0)], r"a has shape \(2, 1, 0\)"),
        ([], "contains no changes"),
    ],
)
def test_files_with_tensors_of_other_shapes_are_refused(
    tmp_path: Path, shapes: list[tuple[int, ...]], told: str
) -> None:
    path = tmp_path / SMoA.file_name
    tensors = {name: torch.zeros(shape) for name, shape in zip("ab", shapes, strict=False)}
    write_result(path, tensors, {"kind": "SMoA", "base_model": "b"})
    with pytest.raises(ConfigError, match=told):
        load_steering(path)
    with pytest.raises(ConfigError, match=told):
        SMoA(init_from=str(path)).build(tiny_model("qwen2"))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.steering\.rank = 0: must be at least 1"):
        SMoA(rank=0)
    with pytest.raises(ConfigError, match=r"model\.steering\.parts = 0: must be at least 1"):
        SMoA(parts=0)
    with pytest.raises(ConfigError, match=r"rank = 17: must be at most 16"):
        SMoA(rank=17).build(tiny_model("qwen2"))
