"""The measurement of how large activations are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from steer_lightning.steering.sites import stream_of


@contextmanager
def one_logit(model: Any) -> Iterator[None]:
    """Lets a model compute the logits of the first position alone in the passes of the block.

    It saves the memory of the others, as `logits_to_keep` does. But with that number, layers of
    Gemma 4 that share keys read the kept positions alone.

    Args:
        model: Language model of transformers.
    """

    def cut(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][:, :1], *inputs[1:])

    head = model.get_output_embeddings()
    if head is None:  # the model does not tell its output layer, and computes them all
        yield
        return
    handle = head.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()


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

    def keep(
        row: int,
        module: nn.Module,
        args: object,
        output: torch.Tensor | tuple[torch.Tensor, ...],
    ) -> None:
        sizes = stream_of(output).float().pow(2).mean(-1).sqrt()  # (B, T)
        found[row].append(sizes[real.to(sizes.device)].cpu())

    handles = [place.register_forward_hook(partial(keep, row)) for row, place in enumerate(places)]
    try:
        for ids, mask in batches:
            real = mask.bool()
            with one_logit(model):
                model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([torch.cat(sizes).median() for sizes in found.values()])
