"""VeRA, which trains two vectors for each layer between random matrices that all layers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from typing_extensions import Self

from steer_lightning.errors import ConfigError
from steer_lightning.steering.frozen_matrices import FrozenMatrices, Shape
from steer_lightning.steering.peft_modules import check_seed, import_peft


class VeRA(FrozenMatrices):
    """Scales the rows of two random matrices that are the same in all layers (arXiv 2310.11454).

    `y <- W x + b * (B (d * (A x)))`, where A (r, inputs) and B (outputs, r) are drawn once from a
    Kaiming uniform distribution, and cut to the size of each layer. The vectors d (r,) and b
    (outputs,) of each layer are trained. At the start b is zero, and all of d is `d_initial`. The
    modules are PEFT's.

    Args:
        rank: Rank r of the product. It may be large, since it costs r numbers a layer.
        d_initial: Value of d at the start; 0.1 in the paper. Not 0, since b would get no gradient.
        seed: Seed of the random matrices.
        kwargs: Further arguments of `PeftModules`.

    Raises:
        ConfigError: If PEFT is missing or a setting is out of range.
    """

    file_name = "vera_adapter"
    mark = "vera_"
    numbers_in = "vera_lambda_"
    factor_in = "vera_B"

    def __init__(
        self, rank: int = 256, d_initial: float = 0.1, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(rank, **kwargs)
        if d_initial == 0:
            why = "With b at zero, too, no number would have a gradient"
            raise ConfigError("model.steering.d_initial", d_initial, rule="must not be 0", why=why)
        check_seed(seed)
        self.d_initial, self.seed = float(d_initial), seed

    def settings(self) -> tuple[type[Any], type[Any], dict[str, Any]]:
        """Returns PEFT's classes and settings; see `PeftModules.settings`."""
        peft = import_peft("VeRA")
        settings = {
            "d_initial": self.d_initial,
            "projection_prng_key": self.seed,
            "save_projection": True,
        }
        return peft.VeraModel, peft.VeraConfig, settings

    @classmethod
    def from_settings(cls, config: Mapping[str, Any]) -> Self:
        """Creates an object from PEFT's settings; see `FrozenMatrices.from_settings`."""
        return cls(
            rank=config["r"],
            d_initial=float(config["d_initial"]),
            seed=int(config["projection_prng_key"]),
            target_modules=config["target_modules"],
            layers=config["layers_to_transform"],
        )

    def shape_of(self, name: str) -> Shape:
        """Returns the sizes of a tensor of a file; see `FrozenMatrices.shape_of`."""
        sides: dict[str, Shape] = {
            "vera_A": (self.rank, None),
            "vera_B": (None, self.rank),
            "vera_lambda_d": (self.rank,),
        }
        return sides.get(name.rpartition(".")[2], (None,))

    def start(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Returns zeros for b and `d_initial` for d; see `FrozenMatrices.start`."""
        return torch.full(shape, self.d_initial if "vera_lambda_d" in name else 0.0)

    def facts(self) -> dict[str, Any]:
        """Returns the settings of a checkpoint; see `Steering.facts`."""
        return {**super().facts(), "model.steering.seed": self.seed}

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        return f"VeRA of rank {self.rank} on {len(self.names) // 2} linear layers"
