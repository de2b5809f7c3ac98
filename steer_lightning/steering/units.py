"""The measurement of the size of activations, and which sizes can be units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.steering.model_parts import one_logit, outputs_seen


@torch.no_grad()
def measure_rms(
    model: nn.Module,
    places: Sequence[nn.Module],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """Measures the typical size of the output of some modules.

    The size is the median over tokens of the root mean square over the width. The median is used
    because in many models the activations of the first token are a thousand times larger than those
    of others.

    Args:
        model: Language model, unsteered.
        places: The L modules to measure, such as decoder layers.
        batches: Prompts (B, T) int64, right-padded, with masks (B, T), 0 where padded.

    Returns:
        The size for each module, (L,) float32.

    Raises:
        ConfigError: If the output of a module is not one stream of the tokens of the texts, or the
            texts do not reach the module.
    """
    found: dict[int, list[torch.Tensor]] = {row: [] for row in range(len(places))}
    real = torch.zeros(0)

    def keep(row: int, stream: torch.Tensor) -> None:
        sizes = stream.float().pow(2).mean(-1).sqrt()  # (B, T)
        if sizes.shape != real.shape:
            raise ConfigError(
                "model.steering.scale",
                UNKNOWN,
                rule=f"the output at this site has {sizes.shape[1]} tokens for a text of "
                f"{real.shape[1]}",
                why="The model adds tokens of its own, whose size can't be separated from that "
                "of the text",
                fix="Set model.steering.scale: none",
            )
        found[row].append(sizes[real.to(sizes.device)].cpu())

    with outputs_seen(places, keep), one_logit(model):
        for ids, mask in batches:
            real = mask.bool()
            model(input_ids=ids, attention_mask=mask, use_cache=False)
    missing = [row for row, sizes in found.items() if not sizes]
    if missing:
        raise ConfigError(
            "model.steering.layers",
            UNKNOWN,
            rule=f"a text does not reach the selected layers number {missing}, counted from 0",
            why="These layers read pictures or sound, so vectors there would have no effect",
            fix="Leave these layers out",
        )
    return torch.stack([torch.cat(sizes).median() for sizes in found.values()])


def check_usable(sizes: torch.Tensor, layers: Sequence[int], scale: str) -> None:
    """Raises a ConfigError if a size is not positive and finite, so that it can be no unit.

    Args:
        sizes: Sizes of the activations of L layers, (L,).
        layers: Indices of the L layers.
        scale: Setting by which they were measured.
    """
    usable = torch.isfinite(sizes) & (sizes > 0)
    if not bool(usable.all()):
        wrong = [layers[row] for row in (~usable).nonzero().flatten().tolist()]
        raise ConfigError(
            "model.steering.scale",
            scale,
            rule=f"the activations of layers {wrong} have no usable size",
            why="They are 0, infinite or NaN, because of damaged weights or a dtype whose "
            "range is too small",
            fix="Check model.base and model.dtype, leave these layers out of "
            "model.steering.layers, or set model.steering.scale: none",
        )
