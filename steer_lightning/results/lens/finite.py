"""Numbers of a description that are not finite are refused, with the layer where they arose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from steer_lightning.errors import ConfigError

Odd = tuple[str, int | None, float]
"""Key of a number that is not finite, its layer if the number has one, and the number."""


def check_finite(name: str, found: dict[str, Any]) -> None:
    """Raises a ConfigError if a description has a number that is not finite.

    Args:
        name: Name of the vectors.
        found: Description, as `describe` returns it.
    """
    odd = next(_odd_numbers(found, "", None), None)
    if odd is None:
        return
    key, layer, number = odd
    place = f"{key} is {number}" if layer is None else f"{key} of layer {layer} is {number}"
    if key == "layers.stream_rms":  # it is measured without vectors
        why, fix = "The base's own activations overflow in its dtype", "Set dtype: float32"
    else:
        largest = max(found["layers"], key=lambda entry: entry["norm"])
        why = f"The vectors are too large; the largest, of norm {largest['norm']:g}, is that of "
        why += f"layer {largest['layer']}"
        fix = "Give vectors of a smaller norm, or set dtype: float32"
    raise ConfigError("vectors", name, rule=f"can't be shown, since {place}", why=why, fix=fix)


def _odd_numbers(value: Any, key: str, layer: int | None) -> Iterator[Odd]:
    if isinstance(value, float):
        if not math.isfinite(value):
            yield key, layer, value
    elif isinstance(value, dict):
        for name, part in value.items():
            whole = f"{key}.{name}" if key else name
            yield from _odd_numbers(part, whole, value.get("layer", layer))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _odd_numbers(part, key, layer)
