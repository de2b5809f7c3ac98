"""What is steered, as a configuration says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steer_lightning.errors import ConfigError
from steer_lightning.steering.layers import parse_layers


@dataclass(frozen=True, kw_only=True)
class SteeringConfig:
    """Which layers are steered, and in which units.

    Attributes:
        layers: `all`, a range such as `"8-15"` with both ends, or a list of 0-based indices.
        scale: `rms` trains each vector in units of its layer's typical activation size, measured
            once on the first batch of prompts, so that one learning rate serves streams of any
            size; `none` is the paper's parametrisation.
        init_from: A vectors file to start from; null starts at zero.
        layers_path: Dotted path of the model's decoder layers, where they are not found by
            themselves.
    """

    layers: str | list[int] = "all"
    scale: Literal["rms", "none"] = "rms"
    init_from: str | None = None
    layers_path: str | None = None

    def __post_init__(self) -> None:
        """Raises a ConfigError if the form of `layers` is wrong, or `init_from` is missing."""
        parse_layers(self.layers)
        if self.init_from is not None and not Path(self.init_from).is_file():
            raise ConfigError(
                "model.steering.init_from", self.init_from, rule="there is no such file"
            )
