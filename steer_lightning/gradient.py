"""The gradient of a batch of rollouts, a micro-batch at a time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.losses import Loss, hidden_logprobs, token_logprobs
from steer_lightning.microbatches import MicroBatch, micro_batches
from steer_lightning.packing import Packing, packed, packed_attention
from steer_lightning.policy import Policy
from steer_lightning.processes import gather_objects, world_size
from steer_lightning.types import LossInputs, LossOutput, Rollouts

Backward = Callable[[torch.Tensor], None]


@dataclass(frozen=True, kw_only=True)
class BatchGradient:
    """Accumulates the gradient of what is trained over micro-batches.

    Attributes:
        loss: From `LossInputs` to a `LossOutput`.
        temperature: Of the sampled distribution.
        max_tokens: Most tokens of a micro-batch, padding included.
        activation_checkpointing: Recomputes activations in the backward pass.
        packed: Reads what rows of a group have in common once, and no padding; `why_not_packed`
            says whether a model allows it. The gradient is the same.
    """

    loss: Loss
    temperature: float
    max_tokens: int
    activation_checkpointing: bool = False
    packed: bool = True

    def __post_init__(self) -> None:
        """Raises a ConfigError for a budget that holds no token."""
        if self.max_tokens < 1:
            raise ConfigError(
                "model.tokens_per_micro_batch", self.max_tokens, rule="must be at least 1"
            )

    def accumulate(
        self,
        policy: Policy,
        rollouts: Rollouts,
        advantages: torch.Tensor,
        *,
        num_rows: int | None = None,
        num_tokens: int | None = None,
        backward: Backward = torch.Tensor.backward,
    ) -> Totals:
        """Leaves the batch's gradient in the `.grad` of what is trained.

        Args:
            policy: Whose steering is trained.
            rollouts: N completions.
            advantages: (B, G).
            num_rows: Completions of all processes, whose gradients add up; default: N.
            num_tokens: Of all completions of all processes; default: of these.
            backward: Called with each micro-batch's loss.

        Returns:
            What it did.
        """
        flat = advantages.flatten()
        for parameter in policy.steering.parameters():
            parameter.grad = torch.zeros_like(parameter)
        # a completion with advantage 0 has policy gradient 0, exactly
        chosen = torch.ones_like(flat) if getattr(self.loss, "needs_all_rows", False) else flat
        rows = chosen.nonzero().squeeze(1)
        parts = list(micro_batches(rollouts, rows, self.max_tokens, policy.pad_token_id))
        size = num_rows or len(flat), num_tokens or int(rollouts.num_tokens.sum())
        # agreed before the first pass: each gathers weights, in the same order everywhere
        num_idle = policy.sharding.most_passes(len(parts)) - len(parts)
        totals = Totals()
        with ExitStack() as stack:
            stack.enter_context(policy.checkpointed(self.activation_checkpointing))
            if self.packed:
                stack.enter_context(packed_attention(policy.model))
            for part in parts:
                self._step(policy, part, rollouts, flat, size, backward, totals)
            for _ in range(num_idle):
                self._keep_up(policy, rollouts, backward)
        return totals

    def _keep_up(self, policy: Policy, rollouts: Rollouts, backward: Backward) -> None:
        """Passes forward and backward for nothing, since other processes still do for something.

        Each such pass gathers the weights of a sharded base, which takes all processes.
        """
        first = torch.tensor([0])
        (part,) = micro_batches(rollouts, first, self.max_tokens, policy.pad_token_id)
        with self._read(policy, part, rollouts) as logprobs:
            backward((logprobs * 0).sum())

    def _step(
        self,
        policy: Policy,
        part: MicroBatch,
        rollouts: Rollouts,
        advantages: torch.Tensor,
        size: tuple[int, int],
        backward: Backward,
        totals: Totals,
    ) -> None:
        device = policy.device
        with self._read(policy, part, rollouts) as logprobs:
            inputs = LossInputs(
                logprobs=logprobs,
                sampling_logprobs=part.sampling_logprobs.to(device),
                mask=part.completion_mask.to(device),
                advantages=advantages[part.rows].to(device),
                num_rows=size[0],
                num_tokens=size[1],
            )
            output = self.loss(inputs)
            backward(output.loss)
        totals.add(inputs, output)

    @contextmanager
    def _read(self, policy: Policy, part: MicroBatch, rollouts: Rollouts) -> Iterator[torch.Tensor]:
        """(n, T) log-probabilities of a micro-batch; the backward pass belongs into the block."""
        if not self.packed:
            yield padded_logprobs(policy, part, self.temperature)
            return
        packing = pack(part, rollouts, policy.device)
        with packed(packing):
            yield packed_logprobs(policy, packing, part, self.temperature)


class Totals:
    """Sums over the micro-batches of a batch.

    Attributes:
        loss: Of the batch.
        metrics: The loss's own.
    """

    def __init__(self) -> None:
        self.loss = 0.0
        self.metrics: dict[str, float] = {}
        self._gap_sum = self._gap_max = 0.0
        self._num_tokens = 0

    def add(self, inputs: LossInputs, output: LossOutput) -> None:
        """Takes in a micro-batch."""
        self.loss += float(output.loss.detach())
        for name, value in output.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(value.detach())
        gaps = (inputs.logprobs.detach() - inputs.sampling_logprobs)[inputs.mask].abs()
        self._gap_sum += float(gaps.sum())
        self._gap_max = max(self._gap_max, float(gaps.max()))
        self._num_tokens += gaps.numel()

    def join(self, other: Totals) -> None:
        """Takes in another process's."""
        self.loss += other.loss
        for name, value in other.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value
        self._gap_sum += other._gap_sum
        self._gap_max = max(self._gap_max, other._gap_max)
        self._num_tokens += other._num_tokens

    @property
    def mismatch(self) -> dict[str, float]:
        """How far the sampler's log-probabilities are from the trainer's, in nats a token.

        `mean` and `max`; empty if no row took part.
        """
        if not self._num_tokens:
            return {}
        return {"mean": self._gap_sum / self._num_tokens, "max": self._gap_max}


def gather_totals(own: Totals, parameters: Sequence[torch.Tensor]) -> Totals:
    """Joins the totals of all processes.

    Args:
        own: Of this one.
        parameters: What is trained, which must be the same everywhere.

    Raises:
        RuntimeError: If they are not: each process would go its own way.
    """
    checksum = 0
    for parameter in parameters if world_size() > 1 else ():
        checksum = zlib.crc32(parameter.detach().cpu().numpy().tobytes(), checksum)
    found = gather_objects((own, checksum))
    if len({checksum for _, checksum in found}) > 1:
        raise RuntimeError(
            "the vectors of the processes differ; please report this, with your configuration"
        )
    totals = Totals()
    for other, _ in found:
        totals.join(other)
    return totals


def pack(part: MicroBatch, rollouts: Rollouts, device: torch.device) -> Packing:
    """Packs the rows of a micro-batch."""
    rows = part.rows.tolist()
    groups = [n // rollouts.group_size for n in rows]
    lengths = part.completion_mask.sum(1).tolist()
    completions = [
        row[:length] for row, length in zip(part.completion_ids.tolist(), lengths, strict=True)
    ]
    prompts = [rollouts.prompts[group].token_ids for group in groups]
    return Packing(prompts, groups, completions, device)


def packed_logprobs(
    policy: Policy, packing: Packing, part: MicroBatch, temperature: float
) -> torch.Tensor:
    """(n, T) log-probabilities of the completions' tokens, 0 where padded."""
    states, head = policy.head_states(packing.ids, packing.positions, packing.predictors)
    flat = hidden_logprobs(states, packing.targets, head, temperature)[packing.copies]
    mask = part.completion_mask.to(flat.device)
    return torch.zeros(mask.shape, device=flat.device).masked_scatter(mask, flat)


def padded_logprobs(policy: Policy, part: MicroBatch, temperature: float) -> torch.Tensor:
    """The same by a plain forward pass over padded rows."""
    tokens = part.completion_ids.to(policy.device)
    ids, mask = part.ids.to(policy.device), part.mask.to(policy.device)
    logits = policy.logits(ids, mask, tokens.shape[1] + 1)[:, :-1]
    # a row at a time: the whole batch in float32 would be another copy of the logits
    rows = zip(logits, tokens, strict=True)
    return torch.stack([token_logprobs(row, chosen, temperature) for row, chosen in rows])


def made_up_rows(policy: Policy) -> Iterator[tuple[list[int], int, list[int]]]:
    """Rows for a check: (prompt, group, completion), of unequal lengths, two of one group."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = policy.model.config.get_text_config().vocab_size

    def tokens(count: int) -> list[int]:
        found = torch.randint(vocabulary, (count,), generator=generator)
        return [int(token) for token in found]

    first = tokens(5)
    yield first, 0, tokens(6)
    yield first, 0, tokens(1)
    yield tokens(9), 1, tokens(4)


@torch.no_grad()
def why_not_packed(policy: Policy) -> str | None:
    """Compares packed with plain forward passes on made-up rows.

    Returns:
        None if they agree, else what went wrong.
    """
    if policy.sharding.why_not_packed is not None:
        return policy.sharding.why_not_packed
    try:
        prompts, groups, completions = zip(*made_up_rows(policy), strict=True)
        packing = Packing(prompts, groups, completions, policy.device)
        with packed_attention(policy.model), packed(packing):
            states, head = policy.head_states(packing.ids, packing.positions, packing.predictors)
            found = head.logits(states)[packing.copies]
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return f"{type(error).__name__}: {error}"  # a model that does not go through these doors
    expected = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.tensor([[*prompt, *completion]], device=policy.device)
        expected.append(policy.logits(ids, torch.ones_like(ids), len(completion) + 1)[0, :-1])
    gap = float((torch.cat(expected).float().log_softmax(-1) - found.log_softmax(-1)).abs().max())
    tolerance = 1e-3 if policy.model.dtype == torch.float32 else 0.5
    return None if gap <= tolerance else f"log-probabilities differ by {gap:.2g}"
