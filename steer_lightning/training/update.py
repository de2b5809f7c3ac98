"""The update of the trained parameters from a batch of rollouts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.system.collectives import sum_gradients
from steer_lightning.training.batch import Batch, MiniBatch
from steer_lightning.training.gradient import BatchGradient, Totals, gather_totals
from steer_lightning.training.imitation import imitates
from steer_lightning.training.step import UpdateResult

log = logging.getLogger(__name__)

Clip = Callable[[list[torch.nn.Parameter]], torch.Tensor]
"""Function that clips gradients in place and returns the norm before clipping, a scalar."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSteps:
    """The number of optimizer steps for each batch of rollouts; the default of one is on policy.

    More than one step needs a loss with a ratio, such as `PolicyGradient` with the objective
    `Clip`.

    Attributes:
        num_passes: Number of passes over the whole batch (the epochs of PPO, mu in GRPO).
        num_mini_batches: Number of optimizer steps in a pass, each on its own share of the prompts;
            must divide `data.batch_size`.
    """

    num_passes: int = 1
    num_mini_batches: int = 1

    def __post_init__(self) -> None:
        """Raises a ConfigError for a count below 1."""
        for key, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"model.updates.{key}", value, rule="must be at least 1")

    @property
    def total(self) -> int:
        """Number of optimizer steps for each batch of rollouts."""
        return self.num_passes * self.num_mini_batches

    def split(self, batch: Batch, seed: int, step: int) -> list[torch.Tensor]:
        """Draws the prompts of each mini-batch from (seed, step), as indices among the B prompts.

        Prompts none of whose completions take part are left out.
        """
        prompts = batch.takes_part.any(1).nonzero().squeeze(1)
        if self.num_mini_batches > 1:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            prompts = prompts[torch.randperm(len(prompts), generator=generator)]
        return list(torch.tensor_split(prompts, self.num_mini_batches))


class Updater:
    """Takes the optimizer steps for each batch of rollouts; there is one for each optimizer.

    A step whose loss or gradient is not finite is skipped: it changes neither the vectors nor the
    state of the optimizer or of the clip.

    Args:
        clip: Clip of the gradient.
        optimizer: Optimizer of the trained parameters.
        scheduler: Scheduler of the learning rate, which counts batches.
        counted: Lightning's wrapper of the optimizer, which makes `global_step` count batches;
            default: none.
        steps: Number of optimizer steps for a batch.
        seed: Seed of the run, for drawing mini-batches.
    """

    def __init__(
        self,
        clip: Clip,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        *,
        counted: Any = None,
        steps: OptimizerSteps = OptimizerSteps(),  # frozen
        seed: int = 0,
    ) -> None:
        self.clip = clip
        self.optimizer, self.scheduler = optimizer, scheduler
        self.counted = counted or optimizer
        self.steps, self.seed = steps, seed
        self._has_warned = False

    def update(self, gradient: BatchGradient, batch: Batch, step: int) -> UpdateResult:
        """Takes the optimizer steps for a batch.

        Args:
            gradient: Object that accumulates the gradient.
            batch: Batch of all processes.
            step: Number of the training step.

        Raises:
            RuntimeError: If `gradient.exact` is true and log-probabilities of the sampler are not
                exactly those of the trainer.
        """
        learning_rate = self.optimizer.param_groups[0]["lr"]
        mini_batches = self._mini_batches(gradient, batch, step)
        last = self.steps.total - 1
        totals, norms = Totals(), []
        for number in range(last + 1):
            found, norm = self._accumulate(gradient, mini_batches[number % len(mini_batches)])
            # also if no group has signal: momentum continues
            (self.counted if number == last else self.optimizer).step()
            totals.join(found)
            norms.append(norm)
        self.scheduler.step()  # also if the update was skipped
        mismatch = {} if gradient.is_off_policy else totals.mismatch
        if gradient.exact:
            _check_exact(mismatch, step)
        dtype, loss = gradient.policy.model.dtype, gradient.loss
        # a loss may correct for it, or be right for completions of any sampler
        is_corrected = getattr(loss, "correction", None) is not None
        if _is_large(mismatch, dtype) and not is_corrected and not imitates(loss):
            self._warn_of_mismatch(dtype, mismatch, step)
        taken = [norm for norm in norms if norm is not None]
        return UpdateResult(
            loss=totals.loss / len(norms),
            loss_metrics={name: value / len(norms) for name, value in totals.metrics.items()},
            mismatch=mismatch,
            gradient_norm=sum(taken) / len(taken) if taken else float("nan"),
            skipped=len(taken) < len(norms),
            learning_rate=learning_rate,
            guidance=totals.guidance,
        )

    def _mini_batches(self, gradient: BatchGradient, batch: Batch, step: int) -> list[MiniBatch]:
        skipped = gradient.skipped_layers()
        found = [  # all but the first are measured now, before the policy moves
            gradient.plan(batch, chosen, num_reads=self.steps.num_passes + (k > 0), skipped=skipped)
            for k, chosen in enumerate(self.steps.split(batch, self.seed, step))
        ]
        for later in found[1:]:
            gradient.measure(later)
        return found

    def _accumulate(
        self, gradient: BatchGradient, mini_batch: MiniBatch
    ) -> tuple[Totals, float | None]:
        """Leaves the clipped gradient of all processes in `.grad`, unless the step is skipped.

        Returns:
            Totals of all processes, and the norm before clipping; None if the step is skipped.
        """
        steering = gradient.policy.steering
        parameters = list(steering.parameters())
        with gradient.memory_for(mini_batch.micro_batches, learns=True):
            own = gradient.accumulate(mini_batch)
        gradients = [p.grad for p in parameters if p.grad is not None]
        sum_gradients(gradients)  # the only large tensors that are sent between processes
        totals = gather_totals(own, parameters)
        # a finite gradient may have an infinite norm, and the clip would divide by it
        norm = torch.nn.utils.get_total_norm(gradients)
        if math.isfinite(totals.loss) and bool(norm.isfinite()):
            return totals, float(self.clip(parameters))
        steering.zero_grad()  # so the optimizer changes nothing, but the step still counts
        return totals, None

    def _warn_of_mismatch(
        self, dtype: torch.dtype, mismatch: Mapping[str, float], step: int
    ) -> None:
        """Warns once if sampler and trainer disagree, which makes the update off policy."""
        if self._has_warned or not _is_large(mismatch, dtype):
            return
        self._has_warned = True
        log.warning(
            "step %d: the log-probabilities of the engine and the trainer differ by %.2g nats "
            "per token (%.2g at most), so the update is off policy. Correct for it by "
            "model.loss.init_args.correction: steer_lightning.losses.TruncatedImportance, or try "
            "model.dtype: float32 or model.engine: steer_lightning.rollout.GenerateEngine",
            step,
            mismatch["mean"],
            mismatch["max"],
        )


def _is_large(mismatch: Mapping[str, float], dtype: torch.dtype) -> bool:
    """Returns whether sampler and trainer differ by more than rounding."""
    return mismatch.get("mean", 0.0) > (1e-3 if dtype == torch.float32 else 0.05)


def _check_exact(mismatch: Mapping[str, float], step: int) -> None:
    """Raises a RuntimeError if log-probabilities of sampler and trainer are not exactly equal."""
    if mismatch.get("max", 0.0) > 0:
        raise RuntimeError(
            f"step {step}: log-probabilities of the sampler and the trainer differ by up to "
            f"{mismatch['max']:.2g} nats, although model.exact is true, so the model's kernels "
            "are not deterministic. Try trainer.deterministic: warn, or model.exact: false"
        )
