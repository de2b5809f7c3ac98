"""TinyLoRA, which trains as few as one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import Self

from steer_lightning.errors import ConfigError
from steer_lightning.steering.frozen_matrices import FrozenMatrices, Shape
from steer_lightning.steering.peft_modules import check_seed, import_peft


class TinyLoRA(FrozenMatrices):
    """Changes linear layers by a few numbers that may be tied over layers (arXiv 2602.04118).

    `W <- W + U sqrt(S) (sum_i v_i P_i) sqrt(S) V^T`, where U, S and V are the r largest singular
    values of W with their vectors, and the P_i (r, r) are drawn once from a normal distribution of
    variance 1 / r. Only v, u numbers, is trained. It starts at zero. Layers with the same v have
    P_i of their own, so tying does not give them the same change. With all layers tied, u numbers
    are trained in all.

    The modules are PEFT's, which computes the decompositions as the adapter is first attached: on
    the CPU, in each process of a run, and again when a run is continued. This takes a while for
    large models.

    Args:
        rank: Number r of singular values; 2 in the paper.
        u: Numbers in each trained vector v.
        weight_tying: Share of vectors that tying saves: with 0 each of n layers has its own, with 1
            all have the same, and otherwise neighbouring layers share `n * (1 - weight_tying)`,
            rounded.
        seed: Seed of the matrices P_i.
        kwargs: Further arguments of `PeftModules`.

    Raises:
        ConfigError: If PEFT is missing or a setting is out of range.
    """

    file_name = "tiny_lora_adapter"
    mark = "tinylora_"
    numbers_in = "tinylora_v"
    factor_in = "tinylora_P"

    def __init__(
        self,
        rank: int = 2,
        u: int = 13,
        weight_tying: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(rank, **kwargs)
        if u < 1:
            raise ConfigError("model.steering.u", u, rule="must be at least 1")
        if not 0 <= weight_tying <= 1:
            raise ConfigError("model.steering.weight_tying", weight_tying, rule="must be in [0, 1]")
        check_seed(seed)
        self.u, self.weight_tying, self.seed = u, float(weight_tying), seed

    def settings(self) -> tuple[type[Any], type[Any], dict[str, Any]]:
        """Returns PEFT's classes and settings; see `PeftModules.settings`."""
        peft = import_peft("TinyLoRA")
        settings = {
            "u": self.u,
            "weight_tying": self.weight_tying,
            "projection_seed": self.seed,
            "save_projection": True,
        }
        return peft.TinyLoraModel, peft.TinyLoraConfig, settings

    @classmethod
    def from_settings(cls, config: Mapping[str, Any]) -> Self:
        """Creates an object from PEFT's settings; see `FrozenMatrices.from_settings`."""
        return cls(
            rank=config["r"],
            u=int(config["u"]),
            weight_tying=float(config["weight_tying"]),
            seed=int(config["projection_seed"]),
            target_modules=config["target_modules"],
            layers=config["layers_to_transform"],
        )

    def shape_of(self, name: str) -> Shape:
        """Returns the sizes of a tensor of a file; see `FrozenMatrices.shape_of`."""
        if "tinylora_v" in name:
            return (self.u,)
        sides = {"tinylora_A": (self.rank, None), "tinylora_B": (None, self.rank)}
        return sides.get(name.rpartition(".")[2], (self.u, self.rank, self.rank))

    def check_layers(self, tuner: Any) -> None:
        """Raises a ConfigError if a layer has fewer singular values than `rank`."""
        kind = import_peft("TinyLoRA").tuners.tinylora.TinyLoraLayer
        for name, layer in tuner.model.named_modules():
            least = min(layer.in_features, layer.out_features) if isinstance(layer, kind) else None
            if least is not None and self.rank > least:
                raise ConfigError(
                    "model.steering.rank",
                    self.rank,
                    rule=f"must be at most {least}, the number of singular values of {name}",
                )

    def facts(self) -> dict[str, Any]:
        """Returns the settings of a checkpoint; see `Steering.facts`."""
        return {
            **super().facts(),
            "model.steering.u": self.u,
            "model.steering.weight_tying": self.weight_tying,
            "model.steering.seed": self.seed,
        }

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        count, noun = len(self.names), "vector" if len(self.names) == 1 else "vectors"
        return f"TinyLoRA of rank {self.rank}, {count} {noun} of {self.u} numbers"
