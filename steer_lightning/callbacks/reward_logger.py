"""The callback that logs rewards and completions to any Lightning logger."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from steer_lightning.module import SteeringModule
from steer_lightning.training.step import Step


def reward_metrics(step: Step) -> dict[str, float]:
    """Computes mean and spread of rewards, share of groups without signal, mean of each reward.

    The metrics cover all completions, including those excluded from the update. Where guided
    completions have replaced others, they cover the others. If the reward includes the KL to the
    base, `reward/kl` is its mean, in nats per completion.

    Args:
        step: Step with rewards (B, G); unscored completions count only in `num_unscored`.
    """
    scored = step.rewards[~step.rewards.isnan()]
    # cut-off completions that the update leaves out teach nothing; groups beyond a batch, which
    # dynamic sampling has drawn and does not need, have signal nevertheless
    counted = step.takes_part | step.finished
    has_signal = ((step.advantages != 0) & counted).any(1)
    metrics = {
        "reward/mean": scored.mean().item() if len(scored) else float("nan"),
        "reward/std": scored.std(correction=0).item() if len(scored) else float("nan"),
        "reward/no_signal_share": (~has_signal).float().mean().item(),
        "reward/num_unscored": float(step.rewards.isnan().sum()),
    }
    if step.kl is not None:
        metrics["reward/kl"] = step.kl.mean().item()
    for name, part in step.parts.items():
        metrics[f"reward/{name}"] = part.nanmean().item()
    for name, outcomes in step.outcomes.items():
        metrics |= {f"reward/{name}/num_{key}": float(count) for key, count in outcomes.items()}
    return metrics


def completion_metrics(step: Step) -> dict[str, float]:
    """Computes lengths in tokens, the share of cut-off completions, and entropy in nats per token.

    The entropy is estimated as the mean of -log pi over the sampled tokens.
    """
    lengths = step.num_tokens.float()
    return {
        "completion/length_mean": lengths.mean().item(),
        "completion/length_max": lengths.max().item(),
        "completion/cut_off_share": (~step.finished).float().mean().item(),
        "completion/entropy": -(step.logprob_sums.sum() / lengths.sum()).item(),
    }


def guidance_metrics(step: Step) -> dict[str, float]:
    """Computes how many groups are guided, the rewards of guided completions, and their ratios.

    Args:
        step: Step of a run with guidance; without a guided completion only the share is there.
    """
    rewards = step.learned_rewards[step.guided]
    scored = rewards[~rewards.isnan()]
    metrics = {"guidance/share": step.guided.any(1).float().mean().item()}
    if len(scored):
        metrics["guidance/reward"] = scored.mean().item()
    return metrics | {f"guidance/{name}": value for name, value in step.update.guidance.items()}


class RewardLogger(Callback):
    """Logs rewards, completions, vectors and speed after each step.

    Cost: microseconds per step.
    """

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Logs the step that has just ended."""
        assert isinstance(pl_module, SteeringModule)
        step = pl_module.last_step
        assert step is not None
        metrics = {
            **reward_metrics(step),
            **completion_metrics(step),
            **(guidance_metrics(step) if pl_module.guidance is not None else {}),
            **self._update(step),
            **self._state(pl_module, step),
        }
        # for callbacks that monitor a metric; `log_dict` takes milliseconds for each experiment of
        # a sweep, and it would count the first step as 0 in logs
        trainer.callback_metrics.update({k: torch.tensor(value) for k, value in metrics.items()})
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    def _update(self, step: Step) -> dict[str, float]:
        update = step.update
        return {
            "update/loss": update.loss,
            "update/num_completions": float(step.takes_part.sum()),
            **{f"update/{name}": value for name, value in update.loss_metrics.items()},
            **{f"mismatch/{name}": value for name, value in update.mismatch.items()},
            "update/gradient_norm": update.gradient_norm,
            "update/learning_rate": update.learning_rate,
            "update/skipped": float(update.skipped),
        }

    def _state(self, module: SteeringModule, step: Step) -> dict[str, float]:
        num_tokens = float(step.num_tokens.sum())
        return {
            **{f"vectors/{k}": v for k, v in module.policy.steering.metrics().items()},
            "speed/tokens_per_second": num_tokens / step.rollout_seconds,
            "speed/rollout_seconds": step.rollout_seconds,
            "speed/step_seconds": step.seconds,
            **{f"engine/{k}": v for k, v in _metrics_of(module.own_engine).items()},
        }


def _metrics_of(engine: Any) -> dict[str, float]:
    """Returns the metrics of an engine, if it has any."""
    metrics: dict[str, float] = engine.metrics() if hasattr(engine, "metrics") else {}
    return metrics
