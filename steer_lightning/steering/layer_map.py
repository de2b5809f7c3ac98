"""Maps from the layers of a model to those of a model with another depth.

A model may be made deeper by layers that are repeated or predicted (LLaMA Pro, arXiv 2401.02415;
SOLAR, 2312.15166; LESA, 2502.13794), or shallower by layers that are left out. A map such as
`0,1,2,2,3` has an entry for each layer of the new model: the layer of the old model whose vector it
takes, or `-` for none.
"""

from __future__ import annotations

from steer_lightning.errors import ConfigError
from steer_lightning.steering.layers import MAX_DIGITS

NO_LAYER = "-"

LayerMap = tuple[int | None, ...]


def read_layer_map(text: str, old_depth: int, new_depth: int) -> LayerMap:
    """Reads a map of layers.

    Args:
        text: 0-based indices of layers of the old model, or `-`, with commas between them.
        old_depth: Number of decoder layers of the old model.
        new_depth: Number of decoder layers of the new model.

    Returns:
        For each layer of the new model that of the old one, or None.

    Raises:
        ConfigError: If an entry is no layer of the old model, or there isn't one entry for each
            layer of the new model.
    """
    entries = [entry.strip() for entry in text.split(",")]
    for entry in entries:
        if entry != NO_LAYER and not _is_layer(entry, old_depth):
            raise ConfigError(
                "map",
                text,
                rule=f"has the entry {entry!r}, which is neither a layer from 0 to "
                f"{old_depth - 1} nor '{NO_LAYER}'",
                why=f"The vectors are for a model of {old_depth} decoder layers",
            )
    if len(entries) != new_depth:
        raise ConfigError(
            "map",
            text,
            rule=f"has {len(entries)} entries, but the base has {new_depth} decoder layers",
            fix=f"Name a layer of the old model, or '{NO_LAYER}', for each layer of the base",
        )
    return tuple(None if entry == NO_LAYER else int(entry) for entry in entries)


def _is_layer(entry: str, depth: int) -> bool:
    plain = entry.isascii() and entry.isdecimal() and len(entry) <= MAX_DIGITS
    return plain and int(entry) < depth
