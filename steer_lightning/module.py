"""The LightningModule that wires the stages: rollouts, rewards, advantages, update."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch

from steer_lightning.advantages import RLOO, Advantage
from steer_lightning.errors import ConfigError
from steer_lightning.evaluation import BenchmarkMetrics, evaluate_batch
from steer_lightning.losses import Loss, PolicyGradient, token_logprobs
from steer_lightning.microbatches import micro_batches
from steer_lightning.optim import RunningNormClip, Schedule, check_8bit
from steer_lightning.policy import Policy, SteeringConfig
from steer_lightning.random_states import get_random_states, set_random_states
from steer_lightning.rewards import MathReward, RewardSum, Scores, WeightedReward
from steer_lightning.rollout import GenerateEngine, RolloutEngine, Sampling
from steer_lightning.types import Prompt, Rollouts

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]


def default_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """AdamW without weight decay, which would pull the vectors back to zero."""
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the last training step did; read by callbacks."""

    rollouts: Rollouts
    scores: Scores
    rewards: torch.Tensor
    """(B, G) float32, NaN where unscored."""
    advantages: torch.Tensor
    """(B, G) float32."""
    gradient_norm: float
    """Before clipping, in the units of the parameter."""
    seconds: float
    rollout_seconds: float


def check_trainer(trainer: L.Trainer) -> None:
    """Raises a ConfigError for settings of the trainer that would falsify the training."""
    if trainer.precision != "32-true":
        raise ConfigError(
            "trainer.precision",
            trainer.precision,
            rule='must be "32-true"',
            why="It is the precision of the vectors: small steps are rounded away in 16 bits",
            fix="Set the base's own precision by model.dtype: bfloat16",
        )
    if trainer.world_size > 1:
        raise ConfigError(
            "trainer.devices",
            trainer.world_size,
            rule="must be 1 process in all",
            why="The gradient of the vectors is not summed over processes yet",
            fix="Set trainer.devices: 1",
        )


class SteeringModule(L.LightningModule):
    """Trains steering vectors of a frozen language model by online reinforcement learning.

    Nothing is loaded here: settings are checked, the model comes with `configure_model`.

    Args:
        base: Language model: hub id, local folder, or `quickstart`, which ships with the package.
        revision: Branch, tag or commit on the hub.
        dtype: Data type of the frozen base; the vectors are always float32.
        attn_implementation: As in transformers; null takes its default.
        trust_remote_code: Runs code that comes with the model; only for authors whom you trust.
        steering: Which layers are steered, and in which units.
        sampling: How training completions are sampled.
        engine: What samples them; default `GenerateEngine`.
        rewards: What completions are worth, a weighted sum; default `MathReward`.
        advantage: From rewards (B, G) to advantages (B, G); default `RLOO`.
        loss: From log-probabilities and advantages to a scalar; default `PolicyGradient`.
        optimizer: Any torch or bitsandbytes optimizer.
        schedule: Learning rate over the run.
        gradient_clip: Clips the gradient in place and returns its norm; default `RunningNormClip`.
        tokens_per_micro_batch: Most tokens, padding included, in one forward and backward pass;
            bounds memory.
        activation_checkpointing: Recomputes activations in the backward pass: less memory, more
            time.
        seed: Of everything random in training; on the command line it is `seed_everything`.

    Raises:
        ConfigError: If settings are out of range or contradict each other.
    """

    def __init__(
        self,
        base: str = "quickstart",
        revision: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        steering: SteeringConfig = SteeringConfig(),  # noqa: B008  # frozen
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
        engine: RolloutEngine | None = None,
        rewards: list[WeightedReward] | None = None,
        advantage: Advantage | None = None,
        loss: Loss | None = None,
        optimizer: OptimizerFactory = default_optimizer,
        schedule: Schedule = Schedule(),  # noqa: B008  # frozen
        gradient_clip: torch.nn.Module | None = None,
        tokens_per_micro_batch: int = 16384,
        activation_checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # one optimizer step over many backward passes
        self.strict_loading = False  # checkpoints hold the vectors, never the base
        self.policy = Policy(
            base,
            revision=revision,
            dtype=dtype,
            steering=steering,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        self.sampling = sampling
        self.engine: RolloutEngine = engine or GenerateEngine()
        self.reward = RewardSum(
            [WeightedReward(reward=MathReward())] if rewards is None else rewards
        )
        self.advantage: Advantage = advantage or RLOO()
        self.loss: Loss = loss or PolicyGradient()
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.gradient_clip = gradient_clip or RunningNormClip()
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.activation_checkpointing = activation_checkpointing
        self.seed = seed
        self.last_step: Step | None = None
        self._random_states: dict[str, Any] | None = None
        self._check()

    def _check(self) -> None:
        needed = getattr(self.advantage, "min_group_size", 1)
        if self.sampling.group_size < needed:
            name = type(self.advantage).__name__
            raise ConfigError(
                "model.sampling.group_size",
                self.sampling.group_size,
                rule=f"must be at least {needed} with model.advantage = {name}",
                why="Its baseline is the mean reward of the group's other completions: of "
                "one there are none",
                fix="Set model.sampling.group_size: 8 or more",
            )
        if self.sampling.temperature == 0:
            raise ConfigError(
                "model.sampling.temperature",
                0,
                rule="must be above 0 in training",
                why="Greedy completions of a group are all the same, and their advantages 0",
                fix="Set model.sampling.temperature: 1.0",
            )
        for key, off in (("top_p", 1.0), ("top_k", 0)):
            value = getattr(self.sampling, key)
            if value != off:
                raise ConfigError(
                    f"model.sampling.{key}",
                    value,
                    rule=f"must be {off} in training",
                    why="The loss is of the whole distribution; truncated sampling would "
                    "be off its policy",
                    fix=f"Set model.sampling.{key}: {off}; BenchmarkEval.sampling may truncate",
                )
        if self.tokens_per_micro_batch < 1:
            raise ConfigError(
                "model.tokens_per_micro_batch",
                self.tokens_per_micro_batch,
                rule="must be at least 1",
            )

    # ---- setting up

    def setup(self, stage: str) -> None:
        """Refuses trainer settings under which the vectors would not learn as they should."""
        check_trainer(self.trainer)

    def configure_model(self) -> None:
        """Loads the frozen base, after all data and settings have been checked."""
        self.policy.load()

    def on_fit_start(self) -> None:
        """Hands the policy to the engine."""
        self.engine.setup(self.policy)

    on_validation_start = on_fit_start
    on_test_start = on_fit_start

    def configure_optimizers(self) -> Any:
        """One optimizer on the one stacked parameter."""
        weight = self.policy.steering.weight
        optimizer = self.optimizer_factory([weight])
        check_8bit(optimizer, weight.numel())
        num_steps = self.trainer.estimated_stepping_batches
        if num_steps == float("inf"):
            raise ConfigError(
                "trainer.max_steps",
                self.trainer.max_steps,
                rule="it or trainer.max_epochs must bound the run",
                why="The learning rate's schedule needs its length",
                fix="Set trainer.max_steps to a number of optimizer steps",
            )
        scheduler = self.schedule.build(optimizer, int(num_steps))
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leaves prompts alone: they are text and plain integers."""
        return batch

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # torch overloads it
        """What is trained, and what the clip remembers: kilobytes, never the frozen base."""
        state = super().state_dict(*args, **kwargs)
        return {
            key: value
            for key, value in state.items()
            if key.startswith("policy.steering.") or not key.startswith("policy.")
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the process's random states."""
        checkpoint["random_states"] = get_random_states()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the random states for `on_train_start`.

        Setting up the run still draws from them.
        """
        self._random_states = checkpoint.get("random_states")

    def on_train_start(self) -> None:
        """Goes on with a checkpoint's random states."""
        if self._random_states is not None:
            set_random_states(self._random_states)

    def on_train_batch_start(self, batch: Sequence[Prompt], batch_idx: int) -> None:
        """Measures the units of the vectors on the first batch of prompts."""
        self.policy.measure_units([prompt.token_ids for prompt in batch])

    # ---- the step

    def training_step(self, batch: Sequence[Prompt], batch_idx: int) -> None:
        """One step of online reinforcement learning on B prompts."""
        start = time.perf_counter()
        rollouts: Rollouts = self.engine.generate(
            batch, self.sampling, seed=self.seed, step=self.global_step
        )
        rollout_seconds = time.perf_counter() - start
        scores = self.reward(rollouts.completions())  # N numbers, None where unscored
        rewards = as_matrix(scores.total, self.sampling.group_size)  # (B, G)
        advantages: torch.Tensor = self.advantage(rewards)  # (B, G)
        gradient_norm = self.update(rollouts, advantages)
        self.engine.sync(self.policy.steering)  # L x D numbers, nothing else
        self.last_step = Step(
            rollouts=rollouts,
            scores=scores,
            rewards=rewards,
            advantages=advantages,
            gradient_norm=gradient_norm,
            seconds=time.perf_counter() - start,
            rollout_seconds=rollout_seconds,
        )

    def update(self, rollouts: Rollouts, advantages: torch.Tensor) -> float:
        """One optimizer step on a batch of rollouts.

        Args:
            rollouts: N completions.
            advantages: (B, G).

        Returns:
            Norm of the gradient before clipping.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.accumulate(rollouts, advantages)
        if not bool(torch.isfinite(self.policy.steering.weight.grad).all()):  # type: ignore[arg-type]
            # before the vectors, the optimizer, the clip or a checkpoint take it in
            raise FloatingPointError(
                f"the gradient of step {self.global_step} is not finite; vectors and "
                "checkpoint of the step before "
                "are whole. Set model.dtype: float32 or bfloat16, or a lower learning rate"
            )
        norm = self.gradient_clip([self.policy.steering.weight])
        optimizer.step()  # type: ignore[union-attr]  # also when no group has signal: momentum and schedule go on
        scheduler.step()  # type: ignore[union-attr]
        return float(norm)

    def accumulate(self, rollouts: Rollouts, advantages: torch.Tensor) -> None:
        """Adds the batch's gradient to the vectors, a micro-batch at a time."""
        flat = advantages.flatten()
        weight = self.policy.steering.weight
        weight.grad = torch.zeros_like(weight)
        rows = flat.nonzero().squeeze(1)  # a completion with advantage 0 has gradient 0, exactly
        for part in micro_batches(
            rollouts, rows, self.tokens_per_micro_batch, self.policy.pad_token_id
        ):
            device = self.policy.device
            with self.policy.checkpointed(self.activation_checkpointing):
                width = part.completion_ids.shape[1]
                logits = self.policy.logits(part.ids.to(device), part.mask.to(device), width + 1)[
                    :, :-1
                ]
                logprobs = token_logprobs(
                    logits, part.completion_ids.to(device), self.sampling.temperature
                )
                output = self.loss(
                    logprobs, part.completion_mask.to(device), flat[part.rows].to(device), len(flat)
                )
                self.manual_backward(output.loss)

    # ---- evaluation: `validate` and `test`

    def _start_evaluation(self) -> None:
        self._evaluation = BenchmarkMetrics().to(self.device)

    on_validation_epoch_start = _start_evaluation
    on_test_epoch_start = _start_evaluation

    def validation_step(self, batch: Sequence[Prompt], batch_idx: int) -> None:
        """Answers held-out problems as in training, and verifies them by math-verify."""
        evaluate_batch(self._evaluation, self.engine, batch, self.sampling, MathReward(), self.seed)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs accuracy, completion length, share of cut-off answers, and unscored answers."""
        self.log_dict(
            {f"validation/{key}": value for key, value in self._evaluation.result().items()}
        )

    def on_test_epoch_end(self) -> None:
        """Logs the same for the test set."""
        self.log_dict({f"test/{key}": value for key, value in self._evaluation.result().items()})


def as_matrix(scores: Sequence[float | None], group_size: int) -> torch.Tensor:
    """N scores as (B, G) float32, NaN for None."""
    values = [float("nan") if score is None else score for score in scores]
    return torch.tensor(values, dtype=torch.float32).view(-1, group_size)
