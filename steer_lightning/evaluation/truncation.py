r"""Truncation of the base's MLP weights to a low rank, while problems are answered.

Source: LASER (arXiv 2312.13558), which replaces a weight matrix of a trained model by its best
approximation of a low rank, and arXiv 2406.03068, which finds that feed-forward layers hold
associations of tokens that can stand in the way of reasoning from the context. With the singular
value decomposition of a matrix W (m, n),

$$W = \sum_{i=1}^{\min(m, n)} \sigma_i u_i v_i^\top, \qquad
W_r = \sum_{i=1}^{r} \sigma_i u_i v_i^\top,$$

W_r is the matrix of rank r that is closest to W (Eckart and Young). r is given as a number, or as a
share of min(m, n), rounded down. Biases stay.

Degenerate cases: with the full rank, the weight itself is taken, so that the arm is the base bit
for bit. With rank 0 the matrix is 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.model.base import FrozenBase
from steer_lightning.rollout import DecodeEngine, GenerateEngine
from steer_lightning.rollout.exact_engine import ExactEngine
from steer_lightning.steering import Steering, find_layers, parse_layers
from steer_lightning.steering.sites import MODULES

log = logging.getLogger(__name__)

KEY = "truncations"
MLP = MODULES["mlp_output"]


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Settings of a truncation (LASER, arXiv 2312.13558).

    Attributes:
        layers: Layers whose MLP is truncated: `all`, a range such as `"8-15"`, or a list.
        rank: Rank that is kept; 0 keeps nothing.
        share: Share of the full rank that is kept, in place of `rank`.
        modules: Names of the MLP's matrices to truncate, such as `[up_proj, down_proj]`; null takes
            all.
    """

    layers: str | list[int] = "all"
    rank: int | None = None
    share: float | None = None
    modules: list[str] | None = None

    def __post_init__(self) -> None:
        """Raises a ConfigError for a value out of range."""
        parse_layers(self.layers, key=f"{KEY}.layers")
        if (self.rank is None) == (self.share is None):
            raise ConfigError(
                f"{KEY}.rank",
                self.rank,
                rule=f"and share = {self.share}: exactly one of the two must be set",
                fix="Set rank to a number of singular values, or share to a part of them",
            )
        if self.rank is not None and self.rank < 0:
            raise ConfigError(f"{KEY}.rank", self.rank, rule="must be 0 or more")
        if self.share is not None and not 0 <= self.share <= 1:
            raise ConfigError(f"{KEY}.share", self.share, rule="must be from 0 to 1")
        if self.modules is not None and not self.modules:
            rule = "must name at least one matrix, or be null"
            raise ConfigError(f"{KEY}.modules", self.modules, rule=rule)

    def rank_of(self, shape: Sequence[int]) -> int:
        """Returns the rank that is kept of a matrix (m, n), at most min(m, n)."""
        full = min(shape)
        if self.rank is not None:
            return min(self.rank, full)
        assert self.share is not None
        return int(self.share * full + 1e-9)  # 0.29 * 100 is below 29


Factors = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def low_rank_factors(weight: torch.Tensor, rank: int) -> Factors:
    """Returns two matrices whose product is the closest one of a rank.

    Args:
        weight: Matrix (m, n) of any float dtype.
        rank: Rank r, below min(m, n).

    Returns:
        Factors (m, r) and (r, n), in the dtype and on the device of the matrix. They share no
        memory with the whole decomposition, which is computed in float32.
    """
    u, values, v = torch.linalg.svd(weight.float(), full_matrices=False)
    return (u[:, :rank] * values[:rank]).to(weight.dtype), v[:rank].to(weight.dtype, copy=True)


def check_truncations(
    truncations: Mapping[str, Truncation],
    steerings: Mapping[str, Steering],
    engine: Any,
    base: FrozenBase,
) -> None:
    """Raises a ConfigError for truncations that can't be right; needs no weights.

    Args:
        truncations: Truncations by name.
        steerings: Steering of the arms by their names.
        engine: Engine that answers.
        base: Base, before its weights load.
    """
    if not truncations:
        return
    for name, steering in steerings.items():
        if not steering.beside_base:
            raise ConfigError(
                KEY,
                list(truncations),
                rule=f"contradicts {name}, which holds {steering.describe()}",
                why="It changes or replaces modules of the base, in which the truncation looks for "
                "weights",
                fix="Leave out truncations, or compare only kinds beside the base, such as vectors",
            )
    if not isinstance(engine, DecodeEngine | GenerateEngine | ExactEngine):
        raise ConfigError(
            KEY,
            list(truncations),
            rule=f"contradicts engine: {type(engine).__name__} has weights of its own",
            why="Only the weights of this process are truncated",
            fix="Set engine to DecodeEngine or GenerateEngine, or leave out truncations",
        )
    if base.quantization is not None:
        raise ConfigError(
            KEY,
            list(truncations),
            rule=f"contradicts quantization, which is {base.quantization.bits} bits",
            why="A matrix in a few bits can't hold its truncation",
            fix="Leave out truncations, or set quantization: null",
        )
    if getattr(base.model_config, "quantization_config", None) is not None:
        raise _of_quantised(base.base)
    model = base.empty_base()
    for name, truncation in truncations.items():
        matrices(model, truncation, f"{KEY}.{name}")


def matrices(model: nn.Module, truncation: Truncation, key: str = KEY) -> list[nn.Parameter]:
    """Finds the weights that are truncated.

    Args:
        model: Language model, whose weights may be on the meta device.
        truncation: Settings of the truncation.
        key: Key of the truncation, for errors.

    Raises:
        ConfigError: If a layer has no MLP of a known name, or the MLP has no such matrix.
    """
    layers, found = find_layers(model), []
    for k in parse_layers(truncation.layers, len(layers), f"{key}.layers"):
        mlp = next((part for name, part in layers[k].named_children() if name in MLP), None)
        if mlp is None:
            raise ConfigError(
                f"{key}.layers",
                truncation.layers,
                rule=f"layer {k} of {type(model).__name__} has no module called {' or '.join(MLP)}",
                why=f"Its modules are {', '.join(x for x, _ in layers[k].named_children())}",
                fix="Leave the layer out",
            )
        found += _matrices_of(mlp, truncation, key, k)
    return found


def _matrices_of(mlp: nn.Module, truncation: Truncation, key: str, k: int) -> list[nn.Parameter]:
    """Returns the weights of one MLP that are truncated."""
    weights = dict(mlp.named_parameters())
    several = [name for name, weight in weights.items() if weight.dim() > 2]
    several += [name for name, part in mlp.named_modules() if isinstance(part, nn.ModuleList)]
    plain = {
        name.removesuffix(".weight"): weight
        for name, weight in weights.items()
        if weight.dim() == 2
    }
    known = sorted({name.rpartition(".")[2] for name in plain})
    wanted = known if truncation.modules is None else truncation.modules
    missing = sorted(set(wanted) - set(known))
    if several or missing or not plain:
        told = f"several experts: {', '.join(several)}" if several else "no such matrix"
        raise ConfigError(
            f"{key}.modules",
            truncation.modules,
            rule=f"the MLP of layer {k}, {type(mlp).__name__}, has {told}",
            why=f"Its matrices are {', '.join(known) or 'unknown'}",
            fix="Name some of these matrices, or leave the layer out",
        )
    return [weight for name, weight in plain.items() if name.rpartition(".")[2] in wanted]


def _of_quantised(base: str) -> ConfigError:
    return ConfigError(
        KEY,
        base,
        rule="contradicts base: its weights are quantised",
        why="A matrix in a few bits can't hold its truncation",
        fix="Leave out truncations, or use the base in full precision",
    )


class TruncatedWeights:
    """The weights of a base, truncated within a block.

    The singular value decomposition is computed once, at the first use. Its factors are kept:
    r (m + n) numbers for a weight (m, n), in its dtype. Within the block, a copy of the whole
    weights is kept, too. Weights are changed in place, because captured passes of a GPU know where
    they are.

    Args:
        truncation: Settings of the truncation.
    """

    def __init__(self, truncation: Truncation) -> None:
        self.truncation = truncation
        self._factors: list[Factors | None] | None = None

    @contextmanager
    def within(self, model: nn.Module) -> Iterator[None]:
        """Truncates the weights of a model within the block, and restores them bit for bit.

        Args:
            model: Language model, always the same one.

        Raises:
            ConfigError: If weights are quantised.
        """
        weights = matrices(model, self.truncation)
        if not all(weight.is_floating_point() for weight in weights):
            raise _of_quantised(type(model).__name__)
        if self._factors is None:
            log.info("truncating %d matrices", len(weights))
            self._factors = [self._factors_of(weight) for weight in weights]
        before: list[tuple[nn.Parameter, torch.Tensor]] = []
        try:
            for weight, factors in zip(weights, self._factors, strict=True):
                if factors is not None:
                    before.append((weight, weight.detach().clone()))
                    with torch.no_grad():
                        weight.copy_(factors[0] @ factors[1])
            yield
        finally:
            with torch.no_grad():
                for weight, whole in reversed(before):  # layers may share a weight
                    weight.copy_(whole)

    def _factors_of(self, weight: torch.Tensor) -> Factors | None:
        """Returns the factors of a weight; None with the full rank, which leaves it as it is."""
        rank = self.truncation.rank_of(weight.shape)
        return None if rank == min(weight.shape) else low_rank_factors(weight, rank)
