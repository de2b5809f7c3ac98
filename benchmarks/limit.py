"""The machine's own limit: the bare matrix products that some work needs, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from common import now
from torch import nn

from steer_lightning.model.policy import Policy
from steer_lightning.rollout.prefill import PREFILL_TOKENS
from steer_lightning.training.packing import Packing
from steer_lightning.types import Rollouts


@dataclass(frozen=True)
class Pass:
    """A pass through the model: tokens through the layers, and some of them through the head."""

    tokens: int
    head_tokens: int
    backward: bool = False


def rollout_passes(rollouts: Rollouts) -> list[Pass]:
    """Prompts once, then a token for each row that still writes, if none waits for another."""
    lengths = rollouts.completion_mask.sum(1).tolist()
    passes = [Pass(sum(len(p.token_ids) for p in rollouts.prompts), len(rollouts.prompts))]
    for step in range(1, max(lengths)):
        rows = sum(length > step for length in lengths)
        passes.append(Pass(rows, rows))
    return passes


def update_passes(rollouts: Rollouts, advantages: torch.Tensor) -> list[Pass]:
    """Rows that have an advantage, packed: forward, and backward to what each layer takes in."""
    rows = advantages.flatten().nonzero().flatten().tolist()
    if not rows:
        return []
    groups = [n // rollouts.group_size for n in rows]
    prompts = [rollouts.prompts[group].token_ids for group in groups]
    lengths = rollouts.completion_mask.sum(1).tolist()
    completions = [rollouts.completion_ids[n, : lengths[n]].tolist() for n in rows]
    packing = Packing(prompts, groups, completions, torch.device("cpu"))
    tokens, predicted = packing.ids.shape[1], len(packing.targets)
    return [Pass(tokens, predicted), Pass(tokens, predicted, backward=True)]


class BareProducts:
    """Times the products of a policy's weight matrices with as many rows as a pass has.

    Attention's own products, which depend on what has been read so far, are not among them.
    """

    def __init__(self, policy: Policy) -> None:
        head = policy.model.get_output_embeddings().weight
        matrices = [m.weight for m in policy.model.modules() if isinstance(m, nn.Linear)]
        self.head = head
        self.body = [weight for weight in matrices if weight is not head]
        self._inputs: dict[tuple[int, int], torch.Tensor] = {}

    @torch.no_grad()
    def seconds(self, passes: list[Pass]) -> float:
        """Of these passes; once to warm up, once on the clock."""
        self._run(passes)
        start = now(self.head.device.type)
        self._run(passes)
        return now(self.head.device.type) - start

    def _run(self, passes: list[Pass]) -> None:
        for one in passes:
            for weight in self.body:
                for first in range(0, one.tokens, PREFILL_TOKENS):
                    self._product(weight, min(PREFILL_TOKENS, one.tokens - first), one.backward)
            self._product(self.head, one.head_tokens, one.backward)

    def _product(self, weight: torch.Tensor, rows: int, backward: bool) -> None:
        key = rows, weight.shape[0 if backward else 1]
        if key not in self._inputs:
            self._inputs[key] = torch.randn(key, device=weight.device, dtype=weight.dtype)
        if backward:
            torch.mm(self._inputs[key], weight)
        else:
            nn.functional.linear(self._inputs[key], weight)
