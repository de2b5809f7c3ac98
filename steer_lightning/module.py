"""The LightningModule that connects the stages: rollouts, rewards, advantages, update."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from steer_lightning.advantages import Advantage
from steer_lightning.data.completion_text import tell_of_endings
from steer_lightning.losses import Loss, PolicyGradient, needs_of
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import Quantization
from steer_lightning.optim import (
    OptimizerFactory,
    RunningNormClip,
    Schedule,
    check_optimizer,
    default_optimizer,
)
from steer_lightning.rewards import Reward, RewardPool, RewardSum, WeightedReward
from steer_lightning.rewards.math import verifier_of
from steer_lightning.rollout import RolloutEngine, Sampling
from steer_lightning.rollout.completions import longest_text_of
from steer_lightning.rollout.exact_engine import engine_of
from steer_lightning.steering import Steering, SteeringVectors
from steer_lightning.strategy import SteeringStrategy
from steer_lightning.training.batch import Batch
from steer_lightning.training.checks import (
    check_batch_size,
    check_further_prompts,
    check_same_everywhere,
    check_training,
)
from steer_lightning.training.columns import check_columns
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.guidance import Guidance, make_hints
from steer_lightning.training.held_out import HeldOut
from steer_lightning.training.kl_in_reward import KLInReward
from steer_lightning.training.length_in_reward import LengthInReward
from steer_lightning.training.monitors import check_monitors
from steer_lightning.training.resume import (
    KEY,
    check_not_finished,
    check_same_run,
    gather_random_states,
    policy_facts,
    restore_random_states,
    training_facts,
)
from steer_lightning.training.sample import (
    DynamicSampling,
    Sampler,
    advantages_of,
    default_advantage,
    default_rewards,
    who_takes_part,
)
from steer_lightning.training.scoring_end import ScoringEnd
from steer_lightning.training.selfcheck import RealRows, fastest
from steer_lightning.training.step import Sampled, Step
from steer_lightning.training.trainer_options import check_options, check_trainer, num_steps_of
from steer_lightning.training.update import OptimizerSteps, Updater
from steer_lightning.types import Prompt

log = logging.getLogger(__name__)


class SteeringModule(HeldOut):
    """Trains steering vectors of a frozen language model by online reinforcement learning.

    The constructor checks the settings and loads nothing; `configure_model` loads the model.

    Args:
        base: Language model: hub id, local folder, or `quickstart`, which ships with the package.
        revision: Branch, tag or commit on the hub.
        dtype: Data type of the frozen base; `auto` takes that of the checkpoint. The vectors are
            always float32.
        attn_implementation: Name of the attention implementation in transformers; null uses the
            default of transformers.
        trust_remote_code: Whether to run Python code that comes with the model. Set it only for
            models from authors you trust.
        quantization: Settings for keeping the frozen base in 4 or 8 bits; null keeps it as it is.
        steering: Parameters to train; default `SteeringVectors`, whose settings can be given
            without a class_path.
        sampling: Settings for sampling the training completions.
        engine: Engine that generates completions; default `DecodeEngine`.
        rewards: Rewards of a completion and their weights; the training reward is the weighted sum.
            Default `MathReward`.
        advantage: Estimator that turns rewards (B, G) into advantages (B, G); default `RLOO`.
        loss: Function that turns log-probabilities and advantages into a scalar; default
            `PolicyGradient`.
        updates: Number of passes and mini-batches, and so of optimizer steps, for each batch of
            rollouts.
        dynamic_sampling: Settings for replacing groups without signal by further prompts; null
            replaces none.
        guidance: Settings for answering prompts whose completions all fail again with a hint; null
            gives no hints. The loss needs an objective with a ratio, such as `Clip`.
        mask_overlong: Whether to leave completions that were cut off at the token limit out of the
            update, because they are neither right nor wrong (DAPO's overlong filtering). Their
            rewards still count in the baseline of their group.
        kl_in_reward: Settings for subtracting the KL to the base from the rewards; null subtracts
            nothing. The loss term `KLToBase` adds the KL to the loss instead.
        length_in_reward: Settings for rewarding right completions that are shorter than the right
            ones of their group; null leaves lengths alone.
        optimizer: Any torch or bitsandbytes optimizer.
        schedule: Schedule of the learning rate.
        gradient_clip: Module that clips the gradient in place and returns its norm; default
            `RunningNormClip`.
        tokens_per_micro_batch: Maximum number of tokens of all texts, each with its prompt, in one
            forward and backward pass, padding included where texts are padded. It limits memory
            use.
        activation_checkpointing: Whether to recompute activations in the backward pass, which takes
            less memory and more time.
        kept_tokens: Maximum number of tokens in a batch for which the input of the first steered
            layer is kept in memory. Where the same tokens are read again, for several optimizer
            steps or for the KL to the base, the layers below it need not run again. 0 keeps none.
        reward_pool: Pool of processes that score completions; default `RewardPool`.
        verifier: Reward that decides in `validate`, `test` and `BenchmarkEval` which answers are
            right. Null takes the `MathReward` among the rewards, so that accuracy and reward look
            for the answer in the same place; or one that looks in a box, if there is none, or if
            there are several.
        eval_sampling: Settings for sampling answers in `validate` and `test`; the default is
            `sampling` with one completion for each problem. The accuracy of a problem is the mean
            over its `group_size` completions.
        exact: Whether the log-probabilities from the engine equal those of the update to the last
            bit, so that the ratio of an unchanged policy is exactly 1. This is slower, because
            completions are read once more and without packing; see `ExactEngine`.
        max_staleness: Number of updates that a batch of completions may lag behind. With 1, the
            engine samples the next batch while the update runs; this needs an engine that runs
            elsewhere, such as `VLLMEngine`, and a loss with a correction.
        seed: Seed of everything random in training; on the command line, set `seed_everything`
            instead.

    Attributes:
        last_step: Data and results of the last training step, for callbacks.

    Raises:
        ConfigError: If settings are out of range or contradict each other.
    """

    last_step: Step | None = None
    _checkpoint: dict[str, Any] | None = None
    sampler: Sampler
    hints: Mapping[int, Prompt]
    _updater: Updater

    def __init__(
        self,
        base: str = "quickstart",
        revision: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        quantization: Quantization | None = None,
        steering: SteeringVectors | Steering | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
        engine: RolloutEngine | None = None,
        rewards: list[WeightedReward] | None = None,
        advantage: Advantage | None = None,
        loss: Loss | None = None,
        updates: OptimizerSteps = OptimizerSteps(),  # noqa: B008  # frozen
        dynamic_sampling: DynamicSampling | None = None,
        guidance: Guidance | None = None,
        mask_overlong: bool = False,
        kl_in_reward: KLInReward | None = None,
        length_in_reward: LengthInReward | None = None,
        optimizer: OptimizerFactory = default_optimizer,
        schedule: Schedule = Schedule(),  # noqa: B008  # frozen
        gradient_clip: torch.nn.Module | None = None,
        tokens_per_micro_batch: int = 16384,
        activation_checkpointing: bool = False,
        kept_tokens: int = 65536,
        reward_pool: RewardPool | None = None,
        verifier: Reward | None = None,
        eval_sampling: Sampling | None = None,
        exact: bool = False,
        max_staleness: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = self.strict_loading = False  # see `Updater`, `state_dict`
        of_hub: Any = {"revision": revision, "trust_remote_code": trust_remote_code}
        kept: Any = {"dtype": dtype, "quantization": quantization, "steering": steering}
        self.policy = Policy(base, attn_implementation=attn_implementation, **kept, **of_hub)
        self.sampling, self.seed, self.updates, self.schedule = sampling, seed, updates, schedule
        self.engine = engine_of(engine, tokens_per_micro_batch if exact else None)
        pool = self.reward_pool = reward_pool or RewardPool()
        loss = loss or PolicyGradient()
        self.reward = RewardSum(default_rewards(loss) if rewards is None else rewards, pool)
        self.advantage: Advantage = advantage or default_advantage(loss)
        self.dynamic_sampling, self.mask_overlong = dynamic_sampling, mask_overlong
        self.guidance, self.hints, self.max_staleness = guidance, {}, max_staleness
        self.kl_in_reward, self.length_in_reward = kl_in_reward, length_in_reward
        self.optimizer_factory, self.gradient_clip = optimizer, gradient_clip or RunningNormClip()
        check_training(self, loss)
        self.batch_gradient = BatchGradient(
            policy=self.policy,
            loss=loss,
            temperature=sampling.temperature,
            max_tokens=tokens_per_micro_batch,
            activation_checkpointing=activation_checkpointing,
            kept_tokens=kept_tokens,
            exact=exact,
        )
        self.verifier = RewardSum([verifier_of(verifier, self.reward.parts.values())], pool)
        self.eval_sampling = eval_sampling or replace(sampling, group_size=1)

    # ---- setting up

    def setup(self, stage: str) -> None:
        """Refuses settings that would falsify the run, before the model's weights are loaded."""
        self._checkpoint = None  # that of an earlier run of this module
        check_trainer(self.trainer)
        check_options(self.trainer, self._data)
        if stage == TrainerFn.FITTING and self._data is not None:
            check_batch_size(
                self._data.batch_size, self.trainer.world_size, self.updates.num_mini_batches
            )
            check_further_prompts(self._data, self.dynamic_sampling)
            check_columns(self._data, self.reward, self.sampling)
            self.hints = make_hints(self.guidance, self._data, self.policy.tokenizer)
        longest = 0
        for split, rows in getattr(self._data, "prompts", {}).items():
            training = split == "train"
            key = "model.sampling" if training else "model.eval_sampling"
            sampling = self.sampling if training else self.eval_sampling
            rows = [*rows, *self.hints.values()] if training else rows
            self.policy.check_prompts(rows, sampling.max_new_tokens, f"{key}.max_new_tokens")
            longest = max(longest, longest_text_of(rows, sampling.max_new_tokens))
        if stage == TrainerFn.FITTING:
            device = self.trainer.strategy.root_device
            self.policy.prepare()
            check_monitors(self.trainer, self, self._data)
            check_optimizer(self.optimizer_factory, self.policy.steering, device)
        before_load = getattr(self.engine, "before_load", None)  # of an engine that runs elsewhere
        if before_load is not None:
            before_load(self.policy, [self.policy.steering], longest)

    def configure_callbacks(self) -> list[L.Callback]:
        """Returns the callback that ends the processes which score completions."""
        return [ScoringEnd(self.reward, self.verifier)]

    def configure_model(self) -> None:
        """Loads the frozen base, after all data and settings have been checked."""
        self.reward_pool.start()  # its processes load the rewards meanwhile
        strategy = self._trainer.strategy if self._trainer else None
        self.policy.load(strategy.sharding() if isinstance(strategy, SteeringStrategy) else None)

    def on_fit_start(self) -> None:
        """Hands the policy to the engine and the sampler, and checks the update's fast paths."""
        self.set_up_engine()
        samplings = {"model.sampling": self.sampling, "model.eval_sampling": self.eval_sampling}
        tell_of_endings(self.policy.tokenizer, self.policy.eos_token_ids, samplings)
        self.sampler = Sampler(
            self.policy,
            self.engine,
            self.reward,
            self.sampling,
            seed=self.seed,
            dynamic_sampling=self.dynamic_sampling,
            base_sampling=needs_of(self.loss).base_sampling,
            guidance=self.guidance,
            hints=self.hints,
        )
        self.batch_gradient, self._real_rows = fastest(self.batch_gradient), RealRows()

    @property
    def loss(self) -> Loss:
        """Loss of the update."""
        return self.batch_gradient.loss

    @property
    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def configure_optimizers(self) -> Any:
        """Returns one optimizer for all trained parameters, with its learning-rate schedule."""
        optimizer = self.optimizer_factory(list(self.policy.steering.parameters()))
        self._facts = {**policy_facts(self.policy), **training_facts(self, optimizer)}
        check_same_everywhere({**self._facts, **getattr(self._data, "facts", {})})
        self.policy.steering.take_from_first()
        if self._checkpoint is not None:
            check_same_run(self._checkpoint[KEY], self._facts)
        scheduler = self.schedule.build(optimizer, num_steps_of(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Returns the prompts as they are, since they are text and plain integers."""
        return batch

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # torch overloads it
        """Returns the trained parameters and the clip's state: kilobytes, never the frozen base."""
        # the base's own state_dict is not called: it would gather a sharded base
        parts = {f"{name}.": part for name, part in self.named_children() if name != "policy"}
        parts["policy.steering."] = self.policy.steering
        return {
            prefix + key: value
            for prefix, part in parts.items()
            for key, value in part.state_dict().items()
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds all processes' random states, and the facts of the run of the numbers."""
        checkpoint["random_states"] = gather_random_states()
        checkpoint[KEY] = self._facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the checkpoint of another run, before its numbers are taken over.

        The random states wait for `on_train_start`: setting up the run still draws from them.
        """
        check_same_run(checkpoint[KEY], policy_facts(self.policy))
        if self.trainer.state.fn == TrainerFn.FITTING:
            check_not_finished(self.trainer, checkpoint)
        self._checkpoint = checkpoint

    def on_train_start(self) -> None:
        """Restores the random states of a checkpoint, and builds the `Updater`."""
        if self._checkpoint is not None:
            restore_random_states(self._checkpoint["random_states"])
        scheduler: Any = self.lr_schedulers()
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        self._updater = Updater(
            self.gradient_clip,
            optimizer,
            scheduler,
            counted=self.optimizers(),  # `global_step` is the number of batches
            steps=self.updates,
            seed=self.seed,
        )

    def on_train_batch_start(self, batch: Sequence[Prompt], batch_idx: int) -> None:
        """Measures the units of the vectors on the first batch of prompts."""
        self.policy.measure_units([prompt.token_ids for prompt in batch])

    # ---- the step

    def training_step(self, batch: Sequence[Prompt], batch_idx: int) -> None:
        """Takes one step of reinforcement learning on B prompts, shared among the processes."""
        start, number = time.perf_counter(), self.global_step
        sampled = self.sampler.sample(batch, number, self._data)  # G scored completions a prompt
        if sampled.longest > self._real_rows.longest:
            self.batch_gradient = self._real_rows.right(
                self.batch_gradient, sampled.rollouts, sampled.longest
            )
        self._sample_ahead(number + 1)
        takes_part = who_takes_part(sampled, len(batch), self.mask_overlong)  # (B, G)
        rewards, kl = self._shaped(sampled, takes_part)  # (B, G)
        advantages = advantages_of(self.advantage, rewards, sampled)  # (B, G)
        learned_from = Batch(
            rollouts=sampled.rollouts,
            own=sampled.own,
            advantages=advantages,
            num_tokens=sampled.num_tokens,
            takes_part=takes_part,
        )
        update = self._updater.update(self.batch_gradient, learned_from, number)
        self.engine.sync(self.policy.steering)  # the trained parameters alone
        self.last_step = Step(
            **vars(sampled),
            advantages=advantages,
            takes_part=takes_part,
            kl=kl,
            update=update,
            seconds=time.perf_counter() - start,
        )

    def _sample_ahead(self, number: int) -> None:
        """Lets the engine begin with the completions of the next step, unless this is the last."""
        if self.max_staleness and number != self.trainer.max_steps:
            self.sampler.sample_ahead(self._data.next_prompts(), number)

    def _shaped(
        self, sampled: Sampled, takes_part: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the rewards behind the advantages, and the KL to the base if they contain it."""
        rewards = sampled.learned_rewards
        if self.length_in_reward is not None:
            rewards = rewards + self.length_in_reward.shaping(sampled, takes_part)
        if self.kl_in_reward is None:
            return rewards, None
        kl = self.kl_in_reward.measure(self.batch_gradient, sampled)
        return rewards - self.kl_in_reward.weight * kl, kl
