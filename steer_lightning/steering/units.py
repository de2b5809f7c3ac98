"""The measurement of how large activations are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

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
        SeveralStreamsError: If the output of a module is not one stream.
    """
    found: dict[int, list[torch.Tensor]] = {row: [] for row in range(len(places))}
    real = torch.zeros(0)

    def keep(row: int, stream: torch.Tensor) -> None:
        sizes = stream.float().pow(2).mean(-1).sqrt()  # (B, T)
        found[row].append(sizes[real.to(sizes.device)].cpu())

    with outputs_seen(places, keep), one_logit(model):
        for ids, mask in batches:
            real = mask.bool()
            model(input_ids=ids, attention_mask=mask, use_cache=False)
    return torch.stack([torch.cat(sizes).median() for sizes in found.values()])
