"""The mean states of completions at the places of the vectors, read packed where that is right."""

from __future__ import annotations

import logging

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import text_lengths
from steer_lightning.steering import SteeringVectors, find_sites
from steer_lightning.steering.model_parts import one_logit, outputs_seen
from steer_lightning.system.printable import one_line
from steer_lightning.training.batch import MicroBatch, packed_micro_batches, padded_micro_batches
from steer_lightning.training.packing import PackedForward, Packing
from steer_lightning.training.selfcheck import why_not_packed
from steer_lightning.types import Rollouts

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3}
"""Largest accepted distance of a packed mean state from that of a plain pass, as a share of the
latter's norm, by dtype of the base."""
IN_16_BITS = 0.05
"""The same for a base in 16 bits, whose results depend on the order of operations."""


class StateReader:
    """Reads the mean states of completions, which `mean_states` defines.

    Packed rows read the beginning that texts have in common only once; with worked examples in the
    prompt and short completions, this saves nearly all of the work. They are used if the model's
    log-probabilities are right when it reads packed made-up rows, and while packed states of real
    rows agree with plain passes: this is checked whenever texts get longer. Otherwise, rows are
    padded, with a warning.

    Args:
        policy: Loaded policy with `SteeringVectors`, at whose layers and site states are read. Its
            vectors act on the states that are read.
        num_tokens: Number of first tokens of each completion to average; None averages all.
    """

    def __init__(self, policy: Policy, num_tokens: int | None = None) -> None:
        self.policy, self.num_tokens = policy, num_tokens
        self._packed = PackedForward(policy)
        self._longest = 0
        self._may_pack = True
        reason = why_not_packed(policy)
        if reason is not None:
            self._pad(reason)

    def read(
        self, rollouts: Rollouts, rows: torch.Tensor, max_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads some completions of a batch.

        Args:
            rollouts: Completions of the batch.
            rows: Indices of the completions to read, (n,) int64, at least one.
            max_tokens: Maximum number of tokens of all texts in a forward pass, padding included.

        Returns:
            Indices of the completions in the order in which they were read, (n,) int64, and their
            mean states, (L, n, D) float32.
        """
        parts = []
        # the only token of a completion predicts nothing, so packed rows do not have it
        short = rollouts.completion_mask[rows].sum(1) < 2
        self._check(rollouts, rows[~short])
        alone = short if self._may_pack else torch.ones_like(short)
        pad = self.policy.pad_token_id
        for part in packed_micro_batches(rollouts, rows[~alone], max_tokens, pad):
            parts.append((part.rows, self._read_packed(part)))
        most = max_tokens if self.policy.takes_padding else 1  # one row at a time
        for part in padded_micro_batches(rollouts, rows[alone], most, pad):
            parts.append((part.rows, mean_states(self.policy, part, self.num_tokens)))
        order, states = zip(*parts, strict=True)
        return torch.cat(order), torch.cat(states, 1)

    def _read_packed(self, rows: MicroBatch) -> torch.Tensor:
        """Returns the mean states of the completions of a micro-batch, (L, n, D)."""
        packing = self._packed.prepare(rows)
        with self._packed.passes(), self._packed.attending(packing):
            return packed_mean_states(self.policy, packing, rows, self.num_tokens)

    def _check(self, rollouts: Rollouts, rows: torch.Tensor) -> None:
        """Compares the longest, a middle and the shortest of some texts with plain passes."""
        if not self._may_pack or len(rows) == 0:
            return
        lengths = text_lengths(rollouts)[rows]
        if int(lengths.max()) <= self._longest:
            return
        self._longest = int(lengths.max())
        order = lengths.argsort()
        chosen = rows[torch.unique(order[[-1, len(order) // 2, 0]])]
        pad = self.policy.pad_token_id
        (part,) = packed_micro_batches(rollouts, chosen, 2**62, pad)
        found = self._read_packed(part)
        plain = [
            mean_states(self.policy, alone, self.num_tokens)
            for row in part.rows
            for alone in padded_micro_batches(rollouts, row[None], 1, pad)
        ]
        gap = distance(found, torch.cat(plain, 1))
        if not gap <= TOLERANCE.get(self.policy.model.dtype, IN_16_BITS):
            self._pad(f"mean states differ from plain passes by {gap:.2g} of their norm")

    def _pad(self, reason: str) -> None:
        log.warning(
            "completions of %s can't be packed for their mean states (%s): they are padded, which "
            "is slower",
            one_line(type(self.policy.model).__name__),
            one_line(reason),
        )
        self._may_pack = False


def mean_states(policy: Policy, rows: MicroBatch, num_tokens: int | None = None) -> torch.Tensor:
    """Returns the output of each steered site, averaged over the first tokens of each completion.

    The last token of a completion is left out, because nothing is sampled after it, and an EOS
    token would separate long completions from short ones. A completion of one token keeps its
    token.

    Args:
        policy: Loaded policy with `SteeringVectors`.
        rows: Micro-batch of n completions.
        num_tokens: Number of first tokens to average; None averages all.

    Returns:
        Mean states, (L, n, D) float32.
    """
    places = _places(policy)
    width = rows.completion_ids.shape[1]
    counts = _counts(rows, num_tokens)[:, None]  # (n, 1)
    weights = ((torch.arange(width) < counts) / counts).to(policy.device)  # (n, T)
    found: dict[int, torch.Tensor] = {}

    def keep(row: int, stream: torch.Tensor) -> None:
        found[row] = torch.einsum("nt,ntd->nd", weights, stream[:, -width:].float())

    ids, mask = rows.ids.to(policy.device), rows.mask.to(policy.device)
    with outputs_seen(places, keep), one_logit(policy.model):
        policy.padded_logits(ids, mask, num_last=width + 1)
    return torch.stack([found[row] for row in range(len(places))])


def packed_mean_states(
    policy: Policy, packing: Packing, rows: MicroBatch, num_tokens: int | None = None
) -> torch.Tensor:
    """Returns the same as `mean_states`, from packed rows.

    Args:
        policy: Loaded policy with `SteeringVectors`, whose model reads this packing.
        packing: The n packed rows.
        rows: The same rows, each with a completion of at least two tokens.
        num_tokens: Number of first tokens to average; None averages all.

    Returns:
        Mean states, (L, n, D) float32.
    """
    counts = _counts(rows, num_tokens).tolist()
    starts = [len(prompt) for prompt in rows.prompts]
    texts = zip(packing.rows, starts, counts, strict=True)
    chosen = [text[start : start + count] for text, start, count in texts]
    owners = [n for n, text in enumerate(chosen) for _ in text]
    device = policy.device
    tokens = torch.tensor([place for text in chosen for place in text], device=device)
    owner = torch.tensor(owners, device=device)
    weights = torch.tensor([1 / counts[n] for n in owners], device=device)[:, None]
    found: dict[int, torch.Tensor] = {}

    def keep(row: int, stream: torch.Tensor) -> None:
        states = stream[0].index_select(0, tokens).float() * weights
        found[row] = states.new_zeros(len(counts), states.shape[1]).index_add(0, owner, states)

    places = _places(policy)
    # no `logits_to_keep`, with which some layers would read only these positions
    roles = policy.attachment.with_roles(packing.roles)
    with outputs_seen(places, keep), one_logit(policy.model), roles:
        policy.model(
            input_ids=packing.ids,
            position_ids=packing.positions,
            attention_mask=torch.ones_like(packing.ids),
            use_cache=False,
        )
    return torch.stack([found[row] for row in range(len(places))])


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the largest distance of states (L, n, D), as a share of the expected norm.

    Returns:
        Distance; infinite if a number is not finite.
    """
    gap = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    return float(gap.nan_to_num(float("inf"), float("inf")).max())


def _places(policy: Policy) -> list[torch.nn.Module]:
    steering = policy.steering
    assert isinstance(steering, SteeringVectors)
    return list(find_sites(policy.layers, steering.layers, steering.site))


def _counts(rows: MicroBatch, num_tokens: int | None) -> torch.Tensor:
    """Returns the number of tokens of each completion that count, (n,)."""
    return (rows.completion_mask.sum(1) - 1).clamp(1, num_tokens)
