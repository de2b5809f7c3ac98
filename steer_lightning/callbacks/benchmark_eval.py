"""The callback that measures the accuracy on held-out problems during training."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from steer_lightning.callbacks.run_folder import tell
from steer_lightning.data.completion_text import tell_of_endings
from steer_lightning.errors import ConfigError
from steer_lightning.evaluation import BenchmarkMetrics, evaluate_batch
from steer_lightning.evaluation.runner import sampling_for
from steer_lightning.module import SteeringModule
from steer_lightning.rewards import MathReward, Reward, RewardSum, WeightedReward, reward_name
from steer_lightning.rollout import Sampling
from steer_lightning.system.printable import one_line
from steer_lightning.types import Prompt, Source


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

    Cost: the time to answer the problems, for each evaluation.

    Args:
        benchmarks: Sources of problems by name; the data module's template turns them into prompts.
            Null takes the validation problems of the data module, with the name `validation`.
        every_n_steps: Number of steps between evaluations; 0 evaluates only at the start and the
            end.
        sampling: Settings for answering the problems. Each problem gets `group_size` completions,
            and the accuracy is their mean (avg@k). Null takes `model.eval_sampling`, and as many
            completions of each problem as its source sets: AIME and AMC set 32.
        verifier: Reward that decides which answers are right; `MathReward` by default.
        batch_size: Number of problems to answer at once.

    Attributes:
        results: All results so far, in order.
        verdict: Name of the mean verdict.
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
        self.benchmarks, self.every_n_steps, self.sampling = benchmarks, every_n_steps, sampling
        self.verifier: Reward = verifier or MathReward()
        # the mean verdict on a form or a length is not accuracy, so it is named after its reward
        name = reward_name(self.verifier)
        self.verdict = "accuracy" if isinstance(self.verifier, MathReward) else f"mean {name}"
        self.batch_size = batch_size
        self.results: list[Result] = []
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
        verifier = WeightedReward(reward=self.verifier)
        self._judge = RewardSum([verifier], pl_module.reward_pool)
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
        """Evaluates after the last step, unless that step has just been evaluated."""
        if not self.results or self.results[-1].step != trainer.global_step:
            self._evaluate(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluates a resumed run that was already complete, so that no step is trained."""
        self.on_train_end(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ends the threads of the verifier, if it has any."""
        if stage == "fit":
            self._judge.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns the results so far, so that a resumed run knows its accuracy before training."""
        return {"results": [asdict(result) for result in self.results]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the results so far."""
        self.results = [Result(**result) for result in state_dict["results"]]

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

    def _ordered(self, last: bool) -> list[Result]:
        return self.results if last else [found for found in self.results if found.step == 0]

    def _evaluate(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, SteeringModule)
        for name, prompts in self._prompts.items():
            start = time.perf_counter()
            numbers = self._run(trainer, module, name, prompts)
            result = Result(benchmark=name, step=trainer.global_step, **numbers)
            self.results.append(result)
            for logger in trainer.loggers:
                logger.log_metrics(
                    {f"benchmark/{name}/{k}": v for k, v in numbers.items()},
                    step=trainer.global_step,
                )
            tell(
                trainer,
                f"step {result.step:>5}  {name}: {self.verdict} {result.accuracy:.1%} on "
                f"{len(prompts)} held-out problems"
                f"  (mean length {result.completion_length:.0f} tokens, cut off "
                f"{result.cut_off_share:.1%},"
                f" {time.perf_counter() - start:.0f} s)",
            )

    def _run(
        self, trainer: L.Trainer, module: SteeringModule, name: str, prompts: list[Prompt]
    ) -> dict[str, float]:
        metrics = BenchmarkMetrics().to(module.device)
        policy = module.policy
        prompts = prompts[module.own]  # the share of this process; the metrics join all shares
        starts = range(0, len(prompts), self.batch_size)
        quiet = trainer.progress_bar_callback is None or len(starts) <= 1
        quiet |= not trainer.is_global_zero
        with policy.sharding.for_rollouts(policy.model):
            told = f"evaluating {one_line(name)}"
            for start in tqdm(starts, desc=told, leave=False, disable=quiet):
                batch = prompts[start : start + self.batch_size]
                evaluate_batch(
                    metrics,
                    module.engine,
                    batch,
                    self._samplings[name],
                    self._judge,
                    module.seed,
                )
        return metrics.result()
