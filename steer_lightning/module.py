"""The LightningModule that wires the stages: rollouts, rewards, advantages, update."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from steer_lightning.advantages import RLOO, Advantage
from steer_lightning.checks import (
    check_batch_size,
    check_same_everywhere,
    check_trainer,
    check_training_sampling,
)
from steer_lightning.errors import ConfigError
from steer_lightning.evaluation import BenchmarkMetrics, evaluate_batch
from steer_lightning.gradient import BatchGradient, gather_totals, why_not_packed
from steer_lightning.losses import Loss, PolicyGradient
from steer_lightning.optim import RunningNormClip, Schedule, check_optimizer
from steer_lightning.policy import Policy
from steer_lightning.processes import rank, sum_gradients, world_size
from steer_lightning.random_states import get_random_states, set_random_states
from steer_lightning.resume import (
    KEY,
    check_not_finished,
    check_same_run,
    policy_facts,
    training_facts,
)
from steer_lightning.rewards import (
    MathReward,
    Reward,
    RewardPool,
    RewardSum,
    WeightedReward,
)
from steer_lightning.rollout import DecodeEngine, RolloutEngine, Sampling
from steer_lightning.steering import Steering, SteeringVectors
from steer_lightning.step import Step, Update, gather_rows
from steer_lightning.strategy import SteeringStrategy
from steer_lightning.types import Prompt, Rollouts

log = logging.getLogger(__name__)

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]


def default_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """AdamW without weight decay, which would pull the vectors back to zero."""
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)


class SteeringModule(L.LightningModule):
    """Trains steering vectors of a frozen language model by online reinforcement learning.

    Nothing is loaded here: settings are checked, the model comes with `configure_model`.

    Args:
        base: Language model: hub id, local folder, or `quickstart`, which ships with the package.
        revision: Branch, tag or commit on the hub.
        dtype: Data type of the frozen base; the vectors are always float32.
        attn_implementation: As in transformers; null takes its default.
        trust_remote_code: Runs code that comes with the model; only for authors whom you trust.
        steering: What is trained; default `SteeringVectors`, whose settings need no class_path.
        sampling: How training completions are sampled.
        engine: What samples them; default `DecodeEngine`.
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
        reward_pool: The processes that score completions; default `RewardPool`.
        verifier: What counts as right in `validate` and `test`; default `MathReward`.
        eval_sampling: How problems are answered there; default: as in training, one completion
            each. Accuracy is the mean over `group_size` completions.
        seed: Of everything random in training; on the command line it is `seed_everything`.

    Raises:
        ConfigError: If settings are out of range or contradict each other.
    """

    def __init__(
        self,
        base: str = "quickstart",
        revision: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        steering: SteeringVectors | Steering | None = None,
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
        reward_pool: RewardPool | None = None,
        verifier: Reward | None = None,
        eval_sampling: Sampling | None = None,
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
        self.engine: RolloutEngine = engine or DecodeEngine()
        self.reward_pool = reward_pool or RewardPool()
        default = [WeightedReward(reward=MathReward())]
        self.reward = RewardSum(default if rewards is None else rewards, self.reward_pool)
        self.advantage: Advantage = advantage or RLOO()
        check_training_sampling(sampling, self.advantage)
        self.batch_gradient = BatchGradient(
            loss=loss or PolicyGradient(),
            temperature=sampling.temperature,
            max_tokens=tokens_per_micro_batch,
            activation_checkpointing=activation_checkpointing,
        )
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.gradient_clip = gradient_clip or RunningNormClip()
        judge = WeightedReward(reward=verifier or MathReward())
        self.verifier = RewardSum([judge], self.reward_pool)
        self.eval_sampling = eval_sampling or replace(sampling, group_size=1)
        self.seed = seed
        self.last_step: Step | None = None
        self._checkpoint: dict[str, Any] | None = None
        self._has_parted = False

    # ---- setting up

    def setup(self, stage: str) -> None:
        """Refuses what would falsify the run, before the model's weights are loaded."""
        check_trainer(self.trainer)
        if stage == TrainerFn.FITTING and self._data is not None:
            check_batch_size(self._data.batch_size, self.trainer.world_size)
        for split, rows in getattr(self._data, "prompts", {}).items():
            training = split == "train"
            key = "model.sampling" if training else "model.eval_sampling"
            sampling = self.sampling if training else self.eval_sampling
            self.policy.check_length(rows, sampling.max_new_tokens, f"{key}.max_new_tokens")
        if stage == TrainerFn.FITTING:
            device = self.trainer.strategy.root_device
            self.policy.prepare()
            check_optimizer(self.optimizer_factory, self.policy.steering, device)

    def configure_model(self) -> None:
        """Loads the frozen base, after all data and settings have been checked."""
        self.reward_pool.start()  # it loads rewards meanwhile
        strategy = self._trainer.strategy if self._trainer else None
        self.policy.load(strategy.sharding() if isinstance(strategy, SteeringStrategy) else None)

    def on_fit_start(self) -> None:
        """Hands the policy to the engine, and looks whether rows can be packed."""
        self._set_up_engine()
        reason = why_not_packed(self.policy)
        if reason is not None:
            log.warning(
                "rows of %s can't be packed for the update (%s): they are padded, which is slower",
                type(self.policy.model).__name__,
                reason,
            )
        self.batch_gradient = replace(self.batch_gradient, packed=reason is None)

    def _set_up_engine(self) -> None:
        with self.policy.sharding.for_rollouts(self.policy.model):
            self.engine.setup(self.policy)

    def on_validation_start(self) -> None:
        """Hands the policy to the engine."""
        self._set_up_engine()

    on_test_start = on_validation_start

    @property
    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def configure_optimizers(self) -> Any:
        """One optimizer on all that is trained."""
        optimizer = self.optimizer_factory(list(self.policy.steering.parameters()))
        training = training_facts(
            optimizer=optimizer,
            gradient_clip=self.gradient_clip,
            rewards=self.reward,
            sampling=self.sampling,
            advantage=self.advantage,
            loss=self.batch_gradient.loss,
        )
        self._facts = {**policy_facts(self.policy), **training}
        check_same_everywhere({**self._facts, **getattr(self._data, "order", {})})
        if self._checkpoint is not None:
            check_same_run(self._checkpoint[KEY], self._facts)
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
        # the base is not even asked: sharded, it would be gathered
        parts = {f"{name}.": part for name, part in self.named_children() if name != "policy"}
        parts["policy.steering."] = self.policy.steering
        return {
            prefix + key: value
            for prefix, part in parts.items()
            for key, value in part.state_dict().items()
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the process's random states, and what the numbers belong to."""
        checkpoint["random_states"] = get_random_states()
        checkpoint[KEY] = self._facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses another run's checkpoint, before its numbers are taken over.

        The random states wait for `on_train_start`: setting up the run still draws from them.
        """
        check_same_run(checkpoint[KEY], policy_facts(self.policy))
        if self.trainer.state.fn == TrainerFn.FITTING:
            check_not_finished(self.trainer, checkpoint)
        self._checkpoint = checkpoint

    def on_train_start(self) -> None:
        """Goes on with a checkpoint's random states."""
        if self._checkpoint is not None:
            set_random_states(self._checkpoint["random_states"])

    def on_train_batch_start(self, batch: Sequence[Prompt], batch_idx: int) -> None:
        """Measures the units of the vectors on the first batch of prompts."""
        self.policy.measure_units([prompt.token_ids for prompt in batch])

    def teardown(self, stage: str) -> None:
        """Ends the processes that score completions."""
        self.reward.close()
        self.verifier.close()

    # ---- the step

    def training_step(self, batch: Sequence[Prompt], batch_idx: int) -> None:
        """One step of online reinforcement learning on B prompts, shared among the processes."""
        start = time.perf_counter()
        scoring = self.reward.start()  # completions are scored while others are still sampled
        with self.policy.sharding.for_rollouts(self.policy.model):
            rollouts: Rollouts = self.engine.generate(
                batch[self.own],
                self.sampling,
                seed=self.seed,
                step=self.global_step,
                on_completion=scoring.add,
            )
        seconds = time.perf_counter() - start
        scores = scoring.result(rollouts.completions())  # None where unscored
        rows = gather_rows(rollouts, scores, seconds)  # of all processes
        advantages: torch.Tensor = self.advantage(rows.rewards)  # (B, G)
        update = self.update(rollouts, advantages, int(rows.num_tokens.sum()))
        self.engine.sync(self.policy.steering)  # what is trained, nothing else
        self.last_step = Step(
            **vars(rows),
            rollouts=rollouts,
            scores=scores,
            advantages=advantages,
            update=update,
            own=self.own,
            seconds=time.perf_counter() - start,
        )

    @property
    def own(self) -> slice:
        """Which prompts of a batch are this process's."""
        return slice(rank(), None, world_size())

    def update(
        self, rollouts: Rollouts, advantages: torch.Tensor, num_tokens: int | None = None
    ) -> Update:
        """One optimizer step on a batch of rollouts.

        Args:
            rollouts: Completions of this process.
            advantages: (B, G), of all processes.
            num_tokens: Of all completions of all processes; default: of these.

        With a loss or gradient that is not finite it is skipped: neither vectors, optimizer nor
        clip take it in.
        """
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        parameters = list(self.policy.steering.parameters())
        own = self.batch_gradient.accumulate(
            self.policy,
            rollouts,
            advantages[self.own],
            num_rows=advantages.numel(),
            num_tokens=num_tokens,
            backward=self.manual_backward,
        )
        gradients = [p.grad for p in parameters if p.grad is not None]
        sum_gradients(gradients)  # the one thing of any size that is ever sent
        totals = gather_totals(own, parameters)
        # a finite gradient may have an infinite norm, by which the clip would divide
        norm = torch.nn.utils.get_total_norm(gradients)
        skipped = not math.isfinite(totals.loss) or not bool(norm.isfinite())
        if skipped:
            self.policy.steering.zero_grad()  # the optimizer passes it by; the step counts
        else:
            norm = self.gradient_clip(parameters)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()  # also when no group has signal: momentum and schedule go on
        scheduler.step()
        self._compare(totals.mismatch)
        return Update(
            loss=totals.loss,
            loss_metrics=totals.metrics,
            mismatch=totals.mismatch,
            gradient_norm=math.nan if skipped else float(norm),
            skipped=skipped,
            learning_rate=rate,
        )

    def _compare(self, mismatch: Mapping[str, float]) -> None:
        """Says so, once, if the sampler and the trainer part: the update would be off policy."""
        exact = self.policy.model.dtype == torch.float32
        if self._has_parted or mismatch.get("mean", 0.0) <= (1e-3 if exact else 0.05):
            return
        self._has_parted = True
        log.warning(
            "step %d: the engine's log-probabilities differ from the trainer's by %.2g nats a "
            "token (%.2g at most): the update is off its policy. Try model.dtype: float32, or "
            "model.engine: steer_lightning.rollout.GenerateEngine",
            self.global_step,
            mismatch["mean"],
            mismatch["max"],
        )

    # ---- evaluation: `validate` and `test`

    def _start_evaluation(self) -> None:
        self._evaluation = BenchmarkMetrics().to(self.device)

    on_validation_epoch_start = _start_evaluation
    on_test_epoch_start = _start_evaluation

    def validation_step(self, batch: Sequence[Prompt], batch_idx: int) -> None:
        """Answers held-out problems and verifies the answers."""
        with self.policy.sharding.for_rollouts(self.policy.model):
            evaluate_batch(
                self._evaluation,
                self.engine,
                batch[self.own],
                self.eval_sampling,
                self.verifier,
                self.seed,
            )

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs accuracy, completion length, share of cut-off answers, and unscored answers."""
        self.log_dict({f"validation/{k}": v for k, v in self._evaluation.result().items()})

    def on_test_epoch_end(self) -> None:
        """Logs the same for the test set."""
        self.log_dict({f"test/{k}": v for k, v in self._evaluation.result().items()})
