"""The gradient of a batch of rollouts, a micro-batch at a time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.losses import Loss
from steer_lightning.model.head import TokenStates
from steer_lightning.model.policy import Policy
from steer_lightning.system.collectives import gather_objects, world_size
from steer_lightning.training.batch import Batch, Part, micro_batches
from steer_lightning.training.forward import first_steered, read
from steer_lightning.training.packing import packed_attention
from steer_lightning.training.skipped_layers import Kept, Streams
from steer_lightning.types import LossInputs, LossOutput, Rollouts

Backward = Callable[[torch.Tensor], None]


@dataclass(frozen=True, kw_only=True)
class MiniBatch:
    """What one optimizer step learns from: this process's share of it."""

    advantages: torch.Tensor
    """(N,) float32, of all rows of this process's rollouts."""
    parts: list[Part]
    """As many in each process that shares the base: each pass gathers weights."""
    num_rows: int
    """Completions of the step, of all processes."""
    num_tokens: int
    """Their tokens."""


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
        kept_tokens: Most tokens of which the stream below the first steered layer is kept, if they
            are read again; packed rows alone.
    """

    loss: Loss
    temperature: float
    max_tokens: int
    activation_checkpointing: bool = False
    packed: bool = True
    kept_tokens: int = 0

    def __post_init__(self) -> None:
        """Raises a ConfigError for a budget that holds no token."""
        if self.max_tokens < 1:
            raise ConfigError(
                "model.tokens_per_micro_batch", self.max_tokens, rule="must be at least 1"
            )
        if self.kept_tokens < 0:
            raise ConfigError("model.kept_tokens", self.kept_tokens, rule="must be 0 or more")

    def streams(self, policy: Policy) -> Streams:
        """What a batch of rollouts may keep of the layers below the first steered one."""
        max_tokens = self.kept_tokens if self.packed else 0
        return Streams(policy.layers, first_steered(policy), max_tokens)

    def plan(
        self,
        policy: Policy,
        batch: Batch,
        prompts: torch.Tensor | None = None,
        *,
        num_reads: int = 1,
        streams: Streams | None = None,
    ) -> MiniBatch:
        """Chooses the rows of an optimizer step and cuts them into micro-batches.

        Args:
            policy: Whose steering is trained.
            batch: Of all processes.
            prompts: (b,) int64, which of the B prompts the step is of; default: all.
            num_reads: How often the policy is going to read them.
            streams: Shared by the steps of a batch; default: its own.
        """
        chosen = batch.takes_part.clone()
        if prompts is not None:
            chosen &= torch.isin(torch.arange(len(chosen)), prompts)[:, None]
        advantages, needed = batch.advantages[batch.own], chosen[batch.own]
        if not self._needs("all_rows"):  # with advantage 0 the policy gradient is 0, exactly
            needed = needed & (advantages != 0)
        rows = needed.flatten().nonzero().squeeze(1)
        num_reads += self._needs("reference")  # once more, with the vectors off
        streams = streams or self.streams(policy)
        return MiniBatch(
            advantages=advantages.flatten(),
            parts=self._parts(policy, batch.rollouts, rows, streams, num_reads),
            num_rows=int(chosen.sum()),
            num_tokens=int(batch.num_tokens[chosen].sum()),
        )

    def _needs(self, what: str) -> bool:
        return bool(getattr(self.loss, f"needs_{what}", False))

    def _parts(
        self,
        policy: Policy,
        rollouts: Rollouts,
        rows: torch.Tensor,
        streams: Streams,
        num_reads: int,
    ) -> list[Part]:
        """As many in each process: each pass gathers the weights of a sharded base."""
        cut = partial(micro_batches, rollouts, max_tokens=self.max_tokens, pad=policy.pad_token_id)
        parts = [Part(micro_batch=part, kept=Kept(streams, num_reads)) for part in cut(rows)]
        for _ in range(policy.sharding.most_passes(len(parts)) - len(parts)):
            (first,) = cut(torch.tensor([0]))
            parts.append(Part(micro_batch=first, kept=Kept(streams, num_reads), is_idle=True))
        return parts

    def accumulate(
        self, policy: Policy, step: MiniBatch, backward: Backward = torch.Tensor.backward
    ) -> Totals:
        """Leaves the gradient of this process's share in the `.grad` of what is trained.

        Args:
            policy: Whose steering is trained.
            step: What is learned from.
            backward: Called with each micro-batch's loss.

        Returns:
            What it did.
        """
        for parameter in policy.steering.parameters():
            parameter.grad = torch.zeros_like(parameter)
        totals = Totals()
        with self._passes(policy):
            for part in step.parts:
                if self._needs("reference") and part.reference_logprobs is None:
                    part.reference_logprobs = self._measure(policy, part, base=True)
                with self._read(policy, part, self._needs("entropy")) as found:
                    if part.is_idle:
                        backward((found.logprobs * 0).sum())
                        continue
                    inputs = _inputs(step, part, found)
                    output = self.loss(inputs)
                    backward(output.loss)
                totals.add(inputs, output)
        return totals

    def measure(self, policy: Policy, step: MiniBatch) -> None:
        """Takes down the policy's log-probabilities, before the vectors change."""
        with self._passes(policy):
            for part in step.parts:
                part.old_logprobs = self._measure(policy, part)

    def reference_logprobs(self, policy: Policy, rollouts: Rollouts) -> torch.Tensor:
        """(N, T) float32 on the CPU, of the base with the vectors off; 0 where padded."""
        found = torch.zeros_like(rollouts.logprobs)
        rows, streams = torch.arange(len(found)), self.streams(policy)
        with self._passes(policy):
            for part in self._parts(policy, rollouts, rows, streams, num_reads=1):
                logprobs = self._measure(policy, part, base=True).cpu()
                mask = part.micro_batch.completion_mask
                found[part.micro_batch.rows, : mask.shape[1]] = logprobs * mask
        return found

    def _measure(self, policy: Policy, part: Part, base: bool = False) -> torch.Tensor:
        vectors = policy.at_scale(0.0) if base else nullcontext()
        with torch.no_grad(), vectors, self._read(policy, part) as found:
            return found.logprobs

    @contextmanager
    def _passes(self, policy: Policy) -> Iterator[None]:
        """Micro-batches are read in the block."""
        with ExitStack() as stack:
            stack.enter_context(policy.checkpointed(self.activation_checkpointing))
            if self.packed:
                stack.enter_context(packed_attention(policy.model))
            yield

    @contextmanager
    def _read(
        self, policy: Policy, part: Part, with_entropy: bool = False
    ) -> Iterator[TokenStates]:
        reading = read(
            policy,
            part.micro_batch,
            self.temperature,
            is_packed=self.packed,
            with_entropy=with_entropy,
        )
        with part.kept.reading(), reading as found:
            yield found


def _inputs(step: MiniBatch, part: Part, found: TokenStates) -> LossInputs:
    """What the loss sees."""
    rows, device = part.micro_batch, found.logprobs.device
    if part.old_logprobs is None:  # the first update: the policy has not moved yet
        part.old_logprobs = found.logprobs.detach()
    return LossInputs(
        logprobs=found.logprobs,
        old_logprobs=part.old_logprobs,
        sampling_logprobs=rows.sampling_logprobs.to(device),
        mask=rows.completion_mask.to(device),
        advantages=step.advantages[rows.rows].to(device),
        num_rows=step.num_rows,
        num_tokens=step.num_tokens,
        reference_logprobs=part.reference_logprobs,
        entropy=found.entropy,
    )


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
        gaps = (inputs.old_logprobs - inputs.sampling_logprobs)[inputs.mask].abs()
        self._gap_sum += float(gaps.sum())
        self._gap_max = max(self._gap_max, float(gaps.max()))
        self._num_tokens += gaps.numel()

    def join(self, other: Totals) -> None:
        """Takes in those of another process, or of another step."""
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
