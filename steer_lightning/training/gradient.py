"""The gradient of a batch of rollouts, accumulated over micro-batches."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.losses import Loss, needs_of
from steer_lightning.model.head import TokenStates
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import text_lengths
from steer_lightning.system.collectives import gather_objects, world_size
from steer_lightning.system.float64 import in_float64
from steer_lightning.training.batch import (
    Batch,
    KeptMicroBatch,
    MicroBatch,
    MiniBatch,
    block_micro_batches,
    memory_for,
    packed_micro_batches,
    padded_micro_batches,
)
from steer_lightning.training.forward import Forward
from steer_lightning.training.packing import PackedForward
from steer_lightning.training.padding import BlockForward, PaddedForward
from steer_lightning.training.skipped_layers import KeptStream, SkippedLayers
from steer_lightning.types import LossInputs, LossOutput, Rollouts


@dataclass(kw_only=True)
class BatchGradient:
    """Accumulates the gradient of the trained parameters over micro-batches.

    Attributes:
        policy: Policy whose steering is trained.
        loss: Function from `LossInputs` to a `LossOutput`.
        temperature: Temperature of the sampled distribution.
        max_tokens: Maximum number of tokens in a micro-batch, each row with its prompt, and padding
            included where rows are padded.
        activation_checkpointing: Whether activations are recomputed in the backward pass.
        packed: Whether rows are packed, so that beginnings that rows share are read once, and no
            padding is read. The gradient is the same; `why_not_packed` checks whether
            a model allows it.
        kept_tokens: Maximum number of tokens for which the stream into the first steered layer is
            kept, if they are read again; 0 keeps none. `can_skip_layers` checks whether a model
            allows it.
        exact: Whether rows are read in the blocks of `ExactEngine`, and are neither packed nor
            kept.
    """

    policy: Policy
    loss: Loss
    temperature: float
    max_tokens: int
    activation_checkpointing: bool = False
    packed: bool = True
    kept_tokens: int = 0
    exact: bool = False

    def __post_init__(self) -> None:
        """Raises a ConfigError for a number of tokens out of range."""
        if self.max_tokens < 1:
            raise ConfigError(
                "model.tokens_per_micro_batch", self.max_tokens, rule="must be at least 1"
            )
        if self.kept_tokens < 0:
            raise ConfigError("model.kept_tokens", self.kept_tokens, rule="must be 0 or more")
        self.needs = needs_of(self.loss)
        self.packed = self.packed and not self.exact
        self.forward: Forward = PackedForward(self.policy)
        if not self.packed:
            self.forward = (BlockForward if self.exact else PaddedForward)(self.policy)

    @property
    def is_off_policy(self) -> bool:
        """Whether completions deliberately come from a distribution other than the policy."""
        return self.needs.base_sampling is not None

    # ---- selecting rows

    def plan(
        self,
        batch: Batch,
        prompts: torch.Tensor | None = None,
        *,
        num_reads: int = 1,
        skipped: SkippedLayers | None = None,
    ) -> MiniBatch:
        """Selects the rows of an optimizer step and splits them into micro-batches.

        Args:
            batch: Batch of all processes.
            prompts: Indices of the step's prompts among the B prompts, (b,) int64; default: all.
            num_reads: Number of times that the policy will read the rows.
            skipped: Skipped layers, shared by the steps of a batch; by default a new object for
                this step.
        """
        chosen = batch.takes_part.clone()
        if prompts is not None:
            chosen &= torch.isin(torch.arange(len(chosen)), prompts)[:, None]
        advantages, needed = batch.advantages[batch.own], chosen[batch.own]
        if not self.needs.all_rows:  # with advantage 0 the policy gradient is exactly 0
            needed = needed & (advantages != 0)
        rows = needed.flatten().nonzero().squeeze(1)
        num_reads += self.needs.reference  # once more, with the vectors off
        return MiniBatch(
            advantages=advantages.flatten(),
            micro_batches=self._cut(
                batch.rollouts, rows, skipped or self.skipped_layers(), num_reads
            ),
            num_rows=int(chosen.sum()),
            num_tokens=int(batch.num_tokens[chosen].sum()),
        )

    def skipped_layers(self) -> SkippedLayers | None:
        """Returns the layers that later passes over a batch skip; None if they skip none."""
        if not (self.packed and self.kept_tokens):
            return None
        first = self.policy.steering.first_layer
        return SkippedLayers(self.policy.layers, first, self.kept_tokens) if first else None

    def _cut(
        self, rollouts: Rollouts, rows: torch.Tensor, skipped: SkippedLayers | None, num_reads: int
    ) -> list[KeptMicroBatch]:
        """Splits rows into micro-batches, equally many on each process that shares a sharded base.

        Each pass gathers the weights of the base, so all of these processes must take part.
        """

        def kept(micro_batch: MicroBatch, is_idle: bool = False) -> KeptMicroBatch:
            return KeptMicroBatch(
                micro_batch=micro_batch,
                prepared=self.forward.prepare(micro_batch),
                stream=KeptStream(skipped, num_reads) if skipped else None,
                is_idle=is_idle,
            )

        found = [kept(cut) for cut in self.micro_batches_of(rollouts, rows)]
        for _ in range(self.policy.sharding.most_passes(len(found)) - len(found)):
            found.append(
                kept(next(self.micro_batches_of(rollouts, torch.tensor([0]))), is_idle=True)
            )
        return found

    def micro_batches_of(self, rollouts: Rollouts, rows: torch.Tensor) -> Iterator[MicroBatch]:
        """Splits rows into micro-batches.

        Args:
            rollouts: Completions.
            rows: Indices of the rows to take, (n,) int64.
        """
        cut = packed_micro_batches if self.packed else padded_micro_batches
        if self.exact:
            cut = block_micro_batches
        return cut(rollouts, rows, self.max_tokens, self.policy.pad_token_id)

    # ---- reading

    def accumulate(self, mini_batch: MiniBatch) -> Totals:
        """Accumulates the gradient of this process's share in `.grad` of the trained parameters.

        Args:
            mini_batch: Completions to learn from.

        Returns:
            Sums over the micro-batches.
        """
        for parameter in self.policy.steering.parameters():
            parameter.grad = torch.zeros_like(parameter)
        totals = Totals()
        with self.passes():
            for kept in mini_batch.micro_batches:
                self.refer(kept)
                with self._token_states(kept, self.needs.entropy) as found:
                    if kept.is_idle:
                        torch.autograd.backward((found.logprobs * 0).sum())
                        continue
                    torch.autograd.backward(self.loss_of(mini_batch, kept, found, totals))
        return totals

    def refer(self, kept: KeptMicroBatch) -> None:
        """Reads a micro-batch with the vectors off, once, if the loss asks for it."""
        if self.needs.reference and kept.reference_logprobs is None:
            kept.reference_logprobs = self._logprobs(kept, of_base=True)

    def loss_of(
        self, mini_batch: MiniBatch, kept: KeptMicroBatch, found: TokenStates, totals: Totals
    ) -> torch.Tensor:
        """Computes the loss of a micro-batch, a differentiable scalar, and adds to the totals."""
        inputs = _inputs(mini_batch, kept, found)
        output: LossOutput = self.loss(inputs)
        totals.add(inputs, output)
        return output.loss

    def read_longest(self, rollouts: Rollouts) -> tuple[MicroBatch, torch.Tensor]:
        """Reads the micro-batch with the longest row.

        Returns:
            The micro-batch, and the log-probabilities of its completions in nats, (n, T).
        """
        lengths = text_lengths(rollouts)
        cut = self.micro_batches_of(rollouts, torch.arange(len(lengths)))
        longest = next(found for found in cut if int(lengths.argmax()) in found.rows)
        kept = KeptMicroBatch(micro_batch=longest, prepared=self.forward.prepare(longest))
        with self.memory_for([kept]), self.passes():
            return longest, self._logprobs(kept)

    def measure(self, mini_batch: MiniBatch) -> None:
        """Stores the policy's log-probabilities in the micro-batches, before the vectors change."""
        with self.memory_for(mini_batch.micro_batches), self.passes():
            for kept in mini_batch.micro_batches:
                kept.old_logprobs = _old_logprobs(kept.micro_batch, self._logprobs(kept))

    def logprobs_of(self, rollouts: Rollouts, *, of_base: bool) -> torch.Tensor:
        """Reads all rows without a gradient.

        Args:
            rollouts: Completions.
            of_base: Whether the base reads them, with the vectors off, or the policy.

        Returns:
            Log-probabilities in nats, (N, T) float32 on the CPU; 0 where padded.
        """
        found = torch.zeros_like(rollouts.logprobs)
        every = self._cut(rollouts, torch.arange(len(found)), None, num_reads=1)
        with self.memory_for(every), self.passes():
            for kept in every:
                logprobs = self._logprobs(kept, of_base=of_base).cpu()
                mask = kept.micro_batch.completion_mask
                found[kept.micro_batch.rows, : mask.shape[1]] = logprobs * mask
        return found

    def _logprobs(self, kept: KeptMicroBatch, of_base: bool = False) -> torch.Tensor:
        vectors = self.policy.at_scale(0.0) if of_base else nullcontext()
        with torch.no_grad(), vectors, self._token_states(kept) as found:
            return found.logprobs

    def memory_for(
        self, kept: Sequence[KeptMicroBatch], learns: bool = False
    ) -> AbstractContextManager[None]:
        """Names what bounds memory if it runs out within the block; see `batch.memory_for`."""
        batches = [one.micro_batch for one in kept]
        how = {"packed": self.packed, "checkpointed": self.activation_checkpointing}
        return memory_for(batches, self.max_tokens, learns=learns, **how)

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Prepares the model to read micro-batches within the block."""
        with self.policy.checkpointed(self.activation_checkpointing), self.forward.passes():
            yield

    @contextmanager
    def _token_states(
        self, kept: KeptMicroBatch, with_entropy: bool = False
    ) -> Iterator[TokenStates]:
        skipping = kept.stream.one_pass() if kept.stream else nullcontext()
        reading = self.forward.token_states(kept.prepared, self.temperature, with_entropy)
        with skipping, reading as found:
            yield found


def _inputs(mini_batch: MiniBatch, kept: KeptMicroBatch, found: TokenStates) -> LossInputs:
    """Returns the inputs of the loss for a micro-batch."""
    micro_batch, device = kept.micro_batch, found.logprobs.device
    if kept.old_logprobs is None:  # the first step: the policy has not moved yet
        kept.old_logprobs = _old_logprobs(micro_batch, found.logprobs.detach())
    return LossInputs(
        logprobs=found.logprobs,
        old_logprobs=kept.old_logprobs,
        sampling_logprobs=micro_batch.sampling_logprobs.to(device),
        mask=micro_batch.completion_mask.to(device),
        advantages=mini_batch.advantages[micro_batch.rows].to(device),
        num_rows=mini_batch.num_rows,
        num_tokens=mini_batch.num_tokens,
        reference_logprobs=kept.reference_logprobs,
        entropy=found.entropy,
        guided=None if micro_batch.guided is None else micro_batch.guided.to(device),
    )


def _old_logprobs(micro_batch: MicroBatch, logprobs: torch.Tensor) -> torch.Tensor:
    """Returns the log-probabilities that ratios are relative to, (n, T).

    A guided row was sampled with a hint that its prompt here does not have, so that its ratio is
    `pi(y_t | x, y_{<t}) / pi_old(y_t | x with hint, y_{<t})`; see `Guidance`.

    Args:
        micro_batch: Micro-batch of n rows.
        logprobs: Log-probabilities under the policy before the first optimizer step, (n, T).
    """
    if micro_batch.guided is None:
        return logprobs
    guided = micro_batch.guided.to(logprobs.device)[:, None]
    return torch.where(guided, micro_batch.sampling_logprobs.to(logprobs.device), logprobs)


class Totals:
    """Sums over the micro-batches of an optimizer step.

    Attributes:
        loss: Sum of the losses.
        metrics: Sums of the loss's own metrics, by name.
    """

    def __init__(self) -> None:
        self.loss = 0.0
        self.metrics: dict[str, float] = {}
        self._gap_sum = self._gap_max = 0.0
        self._num_tokens = 0
        self._ratio_sum = self._log_ratio_sum = 0.0
        self._num_guided_tokens = 0

    def add(self, inputs: LossInputs, output: LossOutput) -> None:
        """Adds a micro-batch."""
        self.loss += float(output.loss.detach())
        for name, value in output.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(value.detach())
        compared = inputs.mask
        if inputs.guided is not None:
            compared = inputs.mask & ~inputs.guided[:, None]
            self._add_ratios(inputs, inputs.mask & inputs.guided[:, None])
        gaps = (inputs.old_logprobs - inputs.sampling_logprobs)[compared].abs()
        if gaps.numel():
            self._gap_sum += float(gaps.sum())
            self._gap_max = max(self._gap_max, float(gaps.max()))
            self._num_tokens += gaps.numel()

    def _add_ratios(self, inputs: LossInputs, tokens: torch.Tensor) -> None:
        """Adds the ratios of guided tokens, whose mask is (n, T) bool."""
        log_ratios = in_float64((inputs.logprobs.detach() - inputs.old_logprobs)[tokens])
        self._ratio_sum += float(log_ratios.exp().sum())
        self._log_ratio_sum += float(log_ratios.sum())
        self._num_guided_tokens += log_ratios.numel()

    def join(self, other: Totals) -> None:
        """Adds the sums of another process, or of another optimizer step."""
        self.loss += other.loss
        for name, value in other.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value
        self._gap_sum += other._gap_sum
        self._gap_max = max(self._gap_max, other._gap_max)
        self._num_tokens += other._num_tokens
        self._ratio_sum += other._ratio_sum
        self._log_ratio_sum += other._log_ratio_sum
        self._num_guided_tokens += other._num_guided_tokens

    @property
    def mismatch(self) -> dict[str, float]:
        """Mean and largest gap between the log-probabilities of sampler and trainer, in nats.

        The keys are `mean` and `max`, over tokens; empty if no row took part. Guided rows are left
        out, since sampler and trainer read them after different prompts.
        """
        if not self._num_tokens:
            return {}
        return {"mean": self._gap_sum / self._num_tokens, "max": self._gap_max}

    @property
    def guidance(self) -> dict[str, float]:
        """Ratios of guided tokens to the policy with hint, as means over tokens and steps.

        The keys are `ratio` and `kl`, minus the mean logarithm, in nats; empty if no guided row
        took part.
        """
        count = self._num_guided_tokens
        if not count:
            return {}
        return {"ratio": self._ratio_sum / count, "kl": -self._log_ratio_sum / count}


def gather_totals(own: Totals, parameters: Sequence[torch.Tensor]) -> Totals:
    """Joins the totals of all processes.

    Args:
        own: Totals of this process.
        parameters: Trained parameters, which must be the same everywhere.

    Raises:
        RuntimeError: If the parameters differ, so that each process would train vectors of its own.
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
