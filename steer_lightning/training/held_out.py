"""The evaluation on held-out problems in `validate` and `test`, and on `data.val` in `fit`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from steer_lightning.data.completion_text import tell_of_endings
from steer_lightning.evaluation import BenchmarkMetrics, evaluate_batch
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import RewardSum
from steer_lightning.rollout import RolloutEngine, Sampling
from steer_lightning.system.collectives import rank, world_size
from steer_lightning.types import Prompt


class HeldOut(L.LightningModule):
    """The part of `SteeringModule` that answers and verifies held-out problems; it trains nothing.

    Attributes:
        policy: Policy that answers.
        engine: Engine that generates the answers.
        verifier: Reward that decides which answers are right.
        eval_sampling: Settings for sampling the answers.
        seed: Seed of the sampling.
    """

    policy: Policy
    engine: RolloutEngine
    verifier: RewardSum
    eval_sampling: Sampling
    seed: int

    @property
    def own(self) -> slice:
        """Slice of a batch's prompts that belong to this process."""
        return slice(rank(), None, world_size())

    @property
    def own_engine(self) -> RolloutEngine:
        """Engine that answers by itself, and not together with the rollouts of other runs."""
        return self.engine

    def set_up_engine(self) -> None:
        """Passes the policy to the engine."""
        with _plain_tensors(), self.policy.sharding.for_rollouts(self.policy.model):
            self.engine.setup(self.policy)

    def on_validation_start(self) -> None:
        """Passes the policy to the engine, unless training has done so."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.set_up_engine()
            samplings = {"model.eval_sampling": self.eval_sampling}
            tell_of_endings(self.policy.tokenizer, self.policy.eos_token_ids, samplings)

    on_test_start = on_validation_start

    def _start_evaluation(self) -> None:
        with _plain_tensors():
            self._evaluation = BenchmarkMetrics().to(self.device)

    on_validation_epoch_start = _start_evaluation
    on_test_epoch_start = _start_evaluation

    def validation_step(self, batch: Sequence[Prompt], batch_idx: int) -> None:
        """Answers held-out problems and verifies the answers."""
        with _plain_tensors(), self.policy.sharding.for_rollouts(self.policy.model):
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
        """Logs accuracy, completion length, and the share of cut-off and unscored answers."""
        metrics = {f"validation/{k}": v for k, v in self._evaluation.result().items()}
        training = self.trainer.state.fn == TrainerFn.FITTING
        self.log_dict(metrics, logger=False if training else None)
        if training and not self.trainer.sanity_checking:
            for logger in self.trainer.loggers:  # Lightning would log them under the previous step
                logger.log_metrics(metrics, step=self.trainer.global_step)

    def on_test_epoch_end(self) -> None:
        """Logs the same metrics for the test set."""
        self.log_dict({f"test/{k}": v for k, v in self._evaluation.result().items()})


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Ends the inference mode of `validate` and `test` within the block, without gradients.

    Tensors made in that mode can't take part in a gradient any more, and the base's weights are
    made anew where 16-bit ones are read in float32 once, and where sharded ones are gathered.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield
