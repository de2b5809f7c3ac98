"""The measurement of how large activations are."""

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

    The size is the median over tokens of the root mean square over the width. It is the median
    because in many models the first token carries activations a thousand times larger than others.

    Args:
        model: Language model, unsteered.
        places: The L modules to measure, such as decoder layers.
        batches: Prompts (B, T) int64, right-padded, with masks (B, T), 0 where padded.

    Returns:
        The size for each module, (L,) float32.

    Raises:
        ConfigError: If the output of a module is not one stream of the tokens of the texts, or the
            module is not reached by them.
    """
    found: dict[int, list[torch.Tensor]] = {row: [] for row in range(len(places))}
    real = torch.zeros(0)

    def keep(row: int, stream: torch.Tensor) -> None:
        sizes = stream.float().pow(2).mean(-1).sqrt()  # (B, T)
        if sizes.shape != real.shape:
            raise ConfigError(
                "model.steering.scale",
                "rms",
                rule=f"the place hands on {sizes.shape[1]} tokens of a text of {real.shape[1]}",
                why="The model adds tokens of its own, of which the size is not told apart",
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
            rule=f"a text does not reach the chosen layers number {missing}, counted from 0",
            why="They read pictures or sound, so that their vectors would have no effect",
            fix="Leave them out",
        )
    return torch.stack([torch.cat(sizes).median() for sizes in found.values()])
