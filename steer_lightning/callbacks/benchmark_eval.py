"""The callback that measures the accuracy on held-out problems during training."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from steer_lightning.callbacks.arm_results import ArmResult, arm_results, lines_of
from steer_lightning.callbacks.run_folder import tell
from steer_lightning.data.completion_text import tell_of_endings
from steer_lightning.errors import ConfigError
from steer_lightning.evaluation import BenchmarkMetrics, evaluate_batch
from steer_lightning.evaluation.ablation import ArmSettings, EvalArm, arms_of, check_arms
from steer_lightning.evaluation.arm_answers import ArmAnswers, evaluate_arms
from steer_lightning.evaluation.runner import sampling_for
from steer_lightning.module import SteeringModule
from steer_lightning.rewards import MathReward, Reward, RewardSum, WeightedReward
from steer_lightning.rollout import Sampling
from steer_lightning.system.printable import one_line
from steer_lightning.types import Prompt, Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one evaluation of one benchmark."""

    benchmark: str
    step: int
    accuracy: float
    completion_length: float
    cut_off_share: float
    num_unscored: float
    accuracy_low: float | None = None
    """Lower end of the 95 % interval; None for a single problem, or if a checkpoint lacks it."""
    accuracy_high: float | None = None


class BenchmarkEval(Callback):
    """Evaluates benchmarks at the start, every n steps and at the end.

    All evaluations of a run draw the same random numbers, so that two evaluations differ only by
    the vectors.

    With `arms` or `leave_out_layers`, the same problems are also answered in other ways: with the
    vectors at other scales, or with the vectors of some layers only. All arms draw the same random
    numbers as the trained vectors and share one flight with them where the engine allows it, so
    that each difference is paired problem by problem. The trained vectors themselves are always
    measured, and do not change.

    Cost: the time to answer the problems, for each evaluation; with arms, for each arm.

    Args:
        benchmarks: Sources of problems by name; the data module's template turns them into prompts.
            Null takes the validation problems of the data module, with the name `validation`.
        every_n_steps: Number of steps between evaluations; 0 evaluates only at the start and the
            end.
        sampling: Settings for answering the problems. Each problem gets `group_size` completions,
            and the accuracy is their mean (avg@k). Null takes `model.eval_sampling`, and as many
            completions of each problem as its source sets: AIME and AMC set 32.
        verifier: Reward that decides which answers are right; null takes `model.verifier`.
        batch_size: Number of problems to answer at once.
        arms: Arms to measure beside the trained vectors, by name, such as `{base: {scale: 0}, half:
            {scale: 0.5}, only_layer_1: {only_layers: [1]}}`; null measures none.
        leave_out_layers: Layers of which each is left out once, in an arm `without_layer_N`; `each`
            takes every trained layer. Null adds no such arms.

    Attributes:
        results: All results of the trained vectors so far, in order.
        arm_results: All results of arms so far, in order.
        verdict: Name of the mean verdict; available after `setup`.
    """

    state_key = ""
    """Distinguishes several of these callbacks in a checkpoint."""

    def __init__(
        self,
        benchmarks: dict[str, Source] | None = None,
        every_n_steps: int = 0,
        sampling: Sampling | None = None,
        verifier: Reward | None = None,
        batch_size: int = 256,
        arms: dict[str, ArmSettings] | None = None,
        leave_out_layers: list[int] | Literal["each"] | None = None,
    ) -> None:
        super().__init__()
        if benchmarks is not None and not benchmarks:
            raise ConfigError(
                "BenchmarkEval.benchmarks",
                benchmarks,
                rule="must name at least one source, or be null",
            )
        for key, value, least in (
            ("every_n_steps", every_n_steps, 0),
            ("batch_size", batch_size, 1),
        ):
            if value < least:
                raise ConfigError(f"BenchmarkEval.{key}", value, rule=f"must be at least {least}")
        check_arms(arms, leave_out_layers)
        self.arms, self.leave_out_layers = arms, leave_out_layers
        self.benchmarks, self.every_n_steps, self.sampling = benchmarks, every_n_steps, sampling
        self.verifier, self.verdict = verifier, "accuracy"
        self.batch_size = batch_size
        self.results: list[Result] = []
        self.arm_results: list[ArmResult] = []
        self._answers: ArmAnswers | None = None
        self._judge: RewardSum | None = None
        self._arms: list[EvalArm] = []
        self._prompts: dict[str, list[Prompt]] = {}
        self._samplings: dict[str, Sampling] = {}
        self.state_key = self._generate_state_key(
            benchmarks=sorted(benchmarks or ["validation"]),
            sampling=None if sampling is None else asdict(sampling),
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Loads the problems before the model is loaded."""
        if stage != "fit":
            return
        assert isinstance(pl_module, SteeringModule)
        if trainer.global_step == 0:  # another trainer: its checkpoint, if any, is read after this
            self.results, self.arm_results = [], []
        datamodule: Any = getattr(trainer, "datamodule", None)
        if datamodule is None:
            raise ConfigError(
                "BenchmarkEval",
                "no data module",
                rule="needs the template of a PromptDataModule",
                fix="Call trainer.fit(module, datamodule=...)",
            )
        sources = (
            {"validation": datamodule.sources["val"]}
            if self.benchmarks is None
            else self.benchmarks
        )
        if None in sources.values():
            raise ConfigError(
                "BenchmarkEval.benchmarks",
                None,
                rule="needs data.val",
                why="If benchmarks is null, the problems come from there",
            )
        self._refuse_doubles(trainer, set(sources))
        self._prompts = {
            name: datamodule.make_prompts(
                source,
                "data.val" if self.benchmarks is None else f"BenchmarkEval.benchmarks.{name}",
            )
            for name, source in sources.items()
        }
        if self.arms is not None or self.leave_out_layers is not None:
            pl_module.policy.prepare()
            self._arms = arms_of(self.arms, self.leave_out_layers, pl_module.policy.steering)
        own = [] if self.verifier is None else [WeightedReward(reward=self.verifier)]
        self._judge = RewardSum(own, pl_module.reward_pool) if own else pl_module.verifier
        # the mean verdict on a form or a length is not accuracy, so it is named after its reward
        for name, part in self._judge.parts.items():
            self.verdict = "accuracy" if isinstance(part.reward, MathReward) else f"mean {name}"
        for name, prompts in self._prompts.items():
            found = self.sampling or sampling_for(sources[name], pl_module.eval_sampling)
            key = "model.eval_sampling" if self.sampling is None else "BenchmarkEval.sampling"
            pl_module.policy.check_prompts(prompts, found.max_new_tokens, f"{key}.max_new_tokens")
            self._samplings[name] = found

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warns if nothing ends the answers; the module does so for its own sampling settings."""
        assert isinstance(pl_module, SteeringModule)
        if self.sampling is not None:
            policy, samplings = pl_module.policy, {"BenchmarkEval.sampling": self.sampling}
            tell_of_endings(policy.tokenizer, policy.eos_token_ids, samplings)

    def _refuse_doubles(self, trainer: L.Trainer, names: set[str]) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        others = [x for x in callbacks if isinstance(x, BenchmarkEval) and x is not self]
        taken = names & {name for other in others for name in other._prompts}
        if taken:
            raise ConfigError(
                "BenchmarkEval.benchmarks",
                sorted(taken),
                rule="is also the name of a benchmark of another BenchmarkEval",
                why="Logs and summary.json identify a benchmark by its name",
                fix="Give them different names",
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluates before the first step, unless the run was resumed."""
        if trainer.global_step == 0:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Evaluates every n steps."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluates after the last step what has not just been evaluated."""
        self._evaluate(trainer, pl_module, is_last=True)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluates a resumed run that was already complete, so that no step is trained."""
        self.on_train_end(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ends the threads of the verifier, if it has any, and lets go of the base."""
        if stage == "fit":
            self._let_go()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Does the same when a run fails, since Lightning then calls no `teardown`."""
        self._let_go()

    def _let_go(self) -> None:
        self._answers = None
        if self._judge is not None:
            self._judge.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns the results so far, so that a resumed run knows its accuracy before training."""
        return {
            "results": [asdict(result) for result in self.results],
            "arm_results": [asdict(result) for result in self.arm_results],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the results so far."""
        self.results = [Result(**result) for result in state_dict["results"]]
        found = state_dict.get("arm_results", [])  # earlier checkpoints have no arms
        self.arm_results = [ArmResult(**result) for result in found]

    @property
    def benchmark_names(self) -> list[str]:
        """Names of the benchmarks; available after `setup`."""
        return list(self._prompts)

    def accuracy(self, last: bool) -> dict[str, float]:
        """Returns the accuracy on each benchmark, at its last evaluation or before the first step.

        A benchmark that was added to a resumed run has no accuracy from before the first step.
        """
        return {result.benchmark: result.accuracy for result in self._ordered(last)}

    def interval(self, last: bool) -> dict[str, list[float | None]]:
        """Returns the 95 % intervals, low and high ends, of the values that `accuracy` returns."""
        return {x.benchmark: [x.accuracy_low, x.accuracy_high] for x in self._ordered(last)}

    def arm_figures(self) -> dict[str, dict[str, dict[str, float]]]:
        """Returns the latest figures of each arm, by benchmark and arm."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for result in self.arm_results:
            found.setdefault(result.benchmark, {})[result.arm] = result.figures
        return found

    def _ordered(self, last: bool) -> list[Result]:
        return self.results if last else [found for found in self.results if found.step == 0]

    def _evaluate(
        self, trainer: L.Trainer, module: L.LightningModule, is_last: bool = False
    ) -> None:
        assert isinstance(module, SteeringModule)
        measured = {
            result.benchmark for result in self.results if result.step == trainer.global_step
        }
        for name, prompts in self._prompts.items():
            if name in measured:
                continue
            start = time.perf_counter()
            metrics, failed = self._run(trainer, module, name, prompts)
            try:
                numbers = metrics[0].result()
            except ConfigError as error:
                # the verifier has judged these problems before, so a judge elsewhere may be down;
                # without the last accuracy a run has not ended, and the same command measures it
                if is_last or name not in self.accuracy(last=True):
                    raise
                told = f"step {trainer.global_step}, {name}: {error} This evaluation is left out"
                log.warning("%s", one_line(told))
                continue
            result = Result(benchmark=name, step=trainer.global_step, **numbers)
            self.results.append(result)
            of_arms = arm_results(name, result.step, self._arms, metrics, failed)
            self.arm_results += of_arms
            self._log(trainer, name, numbers, of_arms)
            tell(
                trainer,
                f"step {result.step:>5}  {name}: {self.verdict} {result.accuracy:.1%} on "
                f"{len(prompts)} held-out problems"
                f"  (mean length {result.completion_length:.0f} tokens, cut off "
                f"{result.cut_off_share:.1%},"
                f" {time.perf_counter() - start:.0f} s)",
                *lines_of(of_arms),
            )

    @staticmethod
    def _log(
        trainer: L.Trainer, name: str, numbers: Mapping[str, float], arms: list[ArmResult]
    ) -> None:
        found = {f"benchmark/{name}/{k}": v for k, v in numbers.items()}
        for result in arms:
            prefix = f"benchmark/{name}/arms/{result.arm}"
            found |= {f"{prefix}/{k}": v for k, v in result.figures.items()}
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)

    def _run(
        self, trainer: L.Trainer, module: SteeringModule, name: str, prompts: list[Prompt]
    ) -> tuple[list[BenchmarkMetrics], dict[str, str]]:
        """Answers a benchmark.

        Returns:
            The metrics of the trained vectors and of each arm, and the reasons why arms have no
            answers.
        """
        metrics = [BenchmarkMetrics().to(module.device) for _ in range(max(1, len(self._arms)))]
        failed: dict[str, str] = {}
        policy = module.policy
        prompts = prompts[module.own]  # the share of this process; the metrics join all shares
        starts = range(0, len(prompts), self.batch_size)
        quiet = trainer.progress_bar_callback is None or len(starts) <= 1
        quiet |= not trainer.is_global_zero
        with policy.sharding.for_rollouts(policy.model):
            told = f"evaluating {one_line(name)}"
            for start in tqdm(starts, desc=told, leave=False, disable=quiet):
                batch = prompts[start : start + self.batch_size]
                asked: Any = batch, self._samplings[name], self._judge, module.seed
                if self._arms:
                    self._answers = self._answers or ArmAnswers(
                        policy, module.own_engine, self._arms
                    )
                    failed |= evaluate_arms(metrics, self._answers, *asked)
                else:
                    evaluate_batch(metrics[0], module.engine, *asked)
        return metrics, failed
