"""The callback that writes `summary.json`, the results of a run."""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import version
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from steer_lightning.callbacks.benchmark_eval import BenchmarkEval
from steer_lightning.callbacks.guard import Guard
from steer_lightning.callbacks.run_folder import claim, run_folder, tell
from steer_lightning.callbacks.vector_checkpoint import VectorCheckpoint
from steer_lightning.model.quantization import told_precision
from steer_lightning.module import SteeringModule
from steer_lightning.optim import state_facts
from steer_lightning.system.figures import rounded
from steer_lightning.system.run_files import (
    CHECKPOINTS,
    LAST_CHECKPOINT,
    LENS,
    METRICS,
    ROLLOUTS,
    SUMMARY,
    checkpoint_files,
)
from steer_lightning.system.whole_files import write_bytes

PACKAGES = ("steer-lightning", "torch", "lightning", "transformers", "bitsandbytes")


class RunSummary(Callback):
    """Writes `summary.json` at the end and prints the essentials.

    Cost: a hash of the base's weights before and after training, some seconds for each 10 GB.

    Args:
        hash_base: Whether to verify by a hash that training has left the base unchanged.
    """

    def __init__(self, hash_base: bool = True) -> None:
        super().__init__()
        self.hash_base = hash_base
        self._forget()

    def _forget(self) -> None:
        self._tokens = 0
        self._optimizer: dict[str, Any] | None = None
        self._rollout_seconds = 0.0
        self._seconds_before = 0.0  # duration of the earlier run that this one resumes

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a folder that holds the summary of another run, and forgets an earlier run."""
        if stage == "fit":
            self._path = claim(trainer, SUMMARY)
            self._forget()  # a resumed run gets its own from the checkpoint, after this

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, hashes the base, and prints what is trained."""
        assert isinstance(pl_module, SteeringModule)
        self._start = time.perf_counter()
        self._before = pl_module.policy.base_sha256() if self.hash_base else None
        policy, steering = pl_module.policy, pl_module.policy.steering
        tell(
            trainer,
            f"training {steering.num_trained:,} numbers, {steering.describe()}; "
            f"the {policy.sharding.num_parameters(policy.model):,} parameters of "
            f"{policy.base} stay frozen ({told_precision(policy)}, {policy.device}"
            + (f", {trainer.world_size} processes)" if trainer.world_size > 1 else ")"),
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Adds the tokens and the time of the step."""
        assert isinstance(pl_module, SteeringModule)
        step = pl_module.last_step
        assert step is not None
        # an optimizer creates its state in its first step
        if self._optimizer is None and trainer.optimizers[0].state:
            self._optimizer = self._state_of(trainer)
        self._tokens += int(step.num_tokens.sum())
        self._rollout_seconds += step.rollout_seconds

    @staticmethod
    def _state_of(trainer: L.Trainer) -> dict[str, Any]:
        (optimizer,) = trainer.optimizers
        size, kinds = state_facts(optimizer)
        name = type(optimizer).__name__
        tell(trainer, f"{name} keeps {size:,} bytes of state, its moments in {' and '.join(kinds)}")
        return {"name": name, "state_bytes": size, "moments": kinds}

    def state_dict(self) -> dict[str, Any]:
        """Returns the counters that a resumed run continues."""
        return {
            "tokens": self._tokens,
            "rollout_seconds": self._rollout_seconds,
            "seconds": self._seconds(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the counters."""
        self._tokens, self._rollout_seconds = state_dict["tokens"], state_dict["rollout_seconds"]
        self._seconds_before = state_dict["seconds"]

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._start

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes and prints the summary.

        Raises:
            RuntimeError: If the base has changed, so that the run's result is meaningless.
        """
        assert isinstance(pl_module, SteeringModule)
        after = pl_module.policy.base_sha256() if self.hash_base else None
        if after != self._before:
            raise RuntimeError(
                "the weights of the frozen base changed during training; please report this"
            )
        summary = self._summary(trainer, pl_module)
        if trainer.is_global_zero:
            write_bytes(self._path, (json.dumps(summary, indent=2) + "\n").encode())
            result = pl_module.policy.steering.file_name
            tell(trainer, *self._lines(trainer, summary, result))

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Prints how far an interrupted run has come, and how to resume it."""
        path, _ = checkpoint_files(run_folder(trainer))
        if not trainer.global_step or not path.exists():
            return
        how = "add " if isinstance(exception, FloatingPointError) else "repeat the command, or add "
        tell(
            trainer,
            "",
            f"stopped after step {trainer.global_step} of {path.parents[1]}",
            f"to resume: {how}--ckpt_path={path}",
        )

    def _summary(self, trainer: L.Trainer, module: SteeringModule) -> dict[str, Any]:
        evals = self._evals(trainer)
        speed = self._tokens / self._rollout_seconds if self._rollout_seconds else None
        return {
            "accuracy_before": {k: v for e in evals for k, v in e.accuracy(last=False).items()},
            "accuracy_after": {k: v for e in evals for k, v in e.accuracy(last=True).items()},
            "verdicts": {name: e.verdict for e in evals for name in e.accuracy(last=True)},
            "interval_before": {k: v for e in evals for k, v in e.interval(last=False).items()},
            "interval_after": {k: v for e in evals for k, v in e.interval(last=True).items()},
            "arms": {k: v for e in evals for k, v in e.arm_figures().items()},
            "best": self._best(trainer),
            "num_steps": trainer.global_step,
            "ended_early": why_ended(trainer).lstrip(",: ") or None,
            "seconds": round(self._seconds(), 3),
            "tokens_per_second": None if speed is None else round(speed, 1),
            "trained_parameters": module.policy.steering.num_trained,
            "optimizer": self._optimizer,
            "base_model": module.policy.base,
            "base_revision": module.policy.commit,
            "base_sha256": self._before,
            "base_bits": module.policy.base_bits,
            "seed": module.seed,
            "warnings": self._warnings(trainer),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in PACKAGES},
            },
        }

    def _lines(self, trainer: L.Trainer, summary: dict[str, Any], result: str) -> list[str]:
        folder = run_folder(trainer)
        steps = summary["num_steps"]
        lines = ["", f"{steps} steps in {summary['seconds']:.0f} s{why_ended(trainer)}"]
        for callback in self._evals(trainer):
            before = callback.accuracy(last=False)
            for name, after in callback.accuracy(last=True).items():
                start = f"{before[name]:.1%}" if name in before else "not measured"
                lines.append(f"{callback.verdict} on {name}: {start} before, {after:.1%} after")
        lines += [f"warning: {text}" for text in summary["warnings"]]
        names = [("vectors", result)]
        if (best := summary["best"]) is not None:
            names.append(("best", best["file"]))
            lines.append(
                f"best: step {best['step']}, {best['metric']} {rounded(best['value'])}; "
                f"the last step is {steps}"
            )
        names += [("metrics", METRICS)]
        names += [("completions", ROLLOUTS), ("checkpoint", f"{CHECKPOINTS}/{LAST_CHECKPOINT}")]
        names += [("lens", LENS), ("summary", self._path.name)]
        lines += [f"{k + ':':<13}{folder / v}" for k, v in names if (folder / v).exists()]
        return lines

    @staticmethod
    def _best(trainer: L.Trainer) -> dict[str, Any] | None:
        """Returns step, metric, value and file of the best result; None if none is kept."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, VectorCheckpoint) and callback.best is not None:
                return {**callback.best.facts, "file": callback.best_path.name}
        return None

    @staticmethod
    def _warnings(trainer: L.Trainer) -> list[str]:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        guards = [callback for callback in callbacks if isinstance(callback, Guard)]
        return [text for guard in guards for text in guard.warnings.values()]

    @staticmethod
    def _evals(trainer: L.Trainer) -> list[BenchmarkEval]:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, BenchmarkEval)]


def why_ended(trainer: L.Trainer) -> str:
    """Says why a run ended before its last step, as the end of a sentence."""
    stopped_by = getattr(trainer, "stopped_by", None)  # Lightning's own trainer lacks it
    if not trainer.global_step or 0 < trainer.max_steps <= trainer.global_step:
        return ""
    if trainer.max_steps < 0:
        return f": {stopped_by}" if stopped_by else ""
    epochs = trainer.max_epochs
    reason = stopped_by or "trainer.max_time or a callback ended the run"
    if not stopped_by and epochs is not None and 0 <= epochs <= trainer.current_epoch:
        reason = f"trainer.max_epochs = {epochs} was reached"
    return f", not trainer.max_steps = {trainer.max_steps}: {reason}"
