"""The callback that watches for skipped optimizer steps, lost signal, and collapses."""

from __future__ import annotations

import io
import logging
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from steer_lightning.callbacks.collapse import (
    Course,
    entropy_collapse,
    point_of,
    reward_collapse,
)
from steer_lightning.callbacks.run_folder import claim
from steer_lightning.callbacks.vector_checkpoint import VectorCheckpoint
from steer_lightning.errors import ConfigError
from steer_lightning.module import SteeringModule
from steer_lightning.steering import SiteVectors, Steering
from steer_lightning.system.collectives import rank, world_size
from steer_lightning.system.figures import rounded
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import SKIPPED, step_name
from steer_lightning.system.whole_files import write_bytes
from steer_lightning.training.step import Step

log = logging.getLogger(__name__)


class Guard(Callback):
    """Keeps batches of skipped optimizer steps, stops after several, and warns of problems.

    The module itself skips an optimizer step if its loss or gradient is not finite. The batch is
    kept for inspection under `skipped/`, as a file for `torch.load`: token ids, masks,
    log-probabilities, advantages, texts.

    The callback warns of rewards without signal, and names the likely cause. It warns if the reward
    or the entropy has collapsed, and names the setting to change and a value to try; see
    `callbacks.collapse` for the criteria. It also warns if vectors outgrow the stream,
    which happens if the learning rate is too high; with `scale: none` the size of the stream is not
    known. The summary at the end of the run repeats the warnings.

    Cost: microseconds per step.

    Args:
        max_skipped: Number of consecutive batches with skipped steps after which the run stops.
        no_signal_steps: Number of consecutive steps without signal in any group after which the
            callback warns.
        stop_on_collapse: Whether the run ends after the step in which the reward or the entropy has
            collapsed, as it ends after its last step. False only warns.

    Attributes:
        warnings: Warnings of the run by subject, each in its latest form.
    """

    def __init__(
        self, max_skipped: int = 5, no_signal_steps: int = 10, stop_on_collapse: bool = False
    ) -> None:
        super().__init__()
        for key, value in (("max_skipped", max_skipped), ("no_signal_steps", no_signal_steps)):
            if value < 1:
                raise ConfigError(f"Guard.{key}", value, rule="must be at least 1")
        self.max_skipped, self.no_signal_steps = max_skipped, no_signal_steps
        self.stop_on_collapse = stop_on_collapse
        self._forget()

    def _forget(self) -> None:
        self._course = Course()
        self._skipped = self._silent = 0  # numbers of consecutive such steps
        self._num_kept = 0
        self.warnings: dict[str, str] = {}
        self._first: Shares | None = None  # of the first step, which the base has sampled

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a folder that holds another run's batches, and forgets an earlier run."""
        if stage == "fit":
            self._folder = claim(trainer, SKIPPED)
            self._forget()  # a resumed run gets its own from the checkpoint, after this

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Inspects the step that has just ended.

        Raises:
            FloatingPointError: After `max_skipped` consecutive batches with a skipped step.
        """
        assert isinstance(pl_module, SteeringModule)
        step = pl_module.last_step
        assert step is not None
        self._skipped = self._skipped + 1 if step.update.skipped else 0
        if step.update.skipped:
            self._keep(trainer, step)
        rate = highest_rate(trainer)
        self._first = self._first or shares_of(step)
        size = size_in_stream(pl_module.policy.steering)
        if size is not None and size >= HUGE:
            self._warn("size", too_large(size, rate))
        self._silent = self._silent + 1 if learns_nothing(step) else 0
        if self._silent >= self.no_signal_steps:
            told = why_no_signal(step, self._silent, self._first, size, rate)
            self._warn("signal", told, again=self._silent == self.no_signal_steps)
        self._watch_the_course(trainer, step, rate)

    def _watch_the_course(self, trainer: L.Trainer, step: Step, rate: float) -> None:
        """Warns the first time that the reward or the entropy has collapsed."""
        reward, entropy = self._course.add(point_of(step)), self._course.entropy_fall()
        now, best = trainer.global_step, _best_step(trainer)
        found = {
            "reward": reward and reward_collapse(reward, now, rate, best),
            "entropy": entropy and entropy_collapse(entropy, now, rate, best),
        }
        for about, told in found.items():
            if told and about not in self.warnings:
                self._warn(about, told)
                if self.stop_on_collapse:
                    trainer.should_stop = True

    def _warn(self, about: str, text: str, again: bool = False) -> None:
        """Logs a warning the first time, and keeps its latest form for the end of the run."""
        if about not in self.warnings or again:
            log.warning("%s", one_line(text))
        self.warnings[about] = text

    def _keep(self, trainer: L.Trainer, step: Step) -> None:
        name = step_name(trainer.global_step)  # each process keeps its own share
        name += f".process_{rank()}" if world_size() > 1 else ""
        path = self._folder / f"{name}.pt"
        if self._num_kept < MAX_KEPT:
            keep_batch(step, path)
            self._num_kept += 1
        log.warning(
            "step %d: loss or gradient not finite, optimizer step skipped (%d steps in a row); "
            "the batches of such steps are in %s",
            trainer.global_step,
            self._skipped,
            one_line(path.parent),
        )
        if self._skipped >= self.max_skipped:
            raise FloatingPointError(
                f"loss or gradient not finite in {self._skipped} steps in a row; the vectors are "
                f"those after step {trainer.global_step - self._skipped}, the batches are in "
                f"{path.parent}. Start a new run with model.dtype: float32 or a lower learning rate"
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns how many consecutive steps had skips, and how many had no signal."""
        return {
            "skipped": self._skipped,
            "silent": self._silent,
            "warnings": self.warnings,
            "first": None if self._first is None else tuple(self._first),
            "course": self._course.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the counts and the warnings."""
        self._skipped, self._silent = state_dict["skipped"], state_dict["silent"]
        self.warnings = dict(state_dict.get("warnings", {}))  # older checkpoints lack these
        first = state_dict.get("first")
        self._first = None if first is None else Shares(*first)
        if "course" in state_dict:
            self._course.load_state_dict(state_dict["course"])


def keep_batch(step: Step, path: Path) -> None:
    """Writes the batch of a step, in types that load with `weights_only=True`."""
    rollouts = step.rollouts
    buffer = io.BytesIO()  # on a full disk torch.save by itself raises no OSError
    torch.save(
        {
            "prompt_ids": [list(prompt.token_ids) for prompt in rollouts.prompts],
            "completion_ids": rollouts.completion_ids,
            "completion_mask": rollouts.completion_mask,
            "logprobs": rollouts.logprobs,
            "advantages": step.advantages[step.own],
            "texts": list(rollouts.texts),
        },
        buffer,
    )
    write_bytes(path, buffer.getvalue())


TEXTS = "the texts are in rollouts.parquet, or in rollouts/ during the run"
"""Where to look at completions."""

MAX_KEPT = 20
"""Largest number of batches that are kept; each is as large as the rollouts."""

NAMES = {
    "right": "right",
    "wrong": "wrong",
    "no_answer": "without an answer",
    "unparseable": "unparseable",
    "incomparable": "incomparable",
    "timed_out": "timed out",
    "crashed": "crashed",
}
"""Outcomes of rewards that point to a cause, with their names in the warning."""


LARGE, HUGE = 1.0, 3.0
"""Sizes of vectors, in units of the stream: as large as the stream, so that lost signal is due to
the vectors; and so large that they leave little of the stream."""


class Shares(NamedTuple):
    """Shares of a step's completions, and their mean reward."""

    cut: float
    """Share that was cut off."""
    no_answer: float
    """Share in which a reward found no answer."""
    reward: float = float("nan")
    """Mean reward of those that are scored; NaN in checkpoints of earlier versions."""


def _best_step(trainer: L.Trainer) -> int | None:
    """Returns the step of the best result that is kept so far; None if there is none."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = [x.best for x in callbacks if isinstance(x, VectorCheckpoint) and x.best is not None]
    return found[0].step if found else None


def shares_of(step: Step) -> Shares:
    """Computes the shares of a step, and its mean reward."""
    missing = max((found.get("no_answer", 0) for found in step.outcomes.values()), default=0)
    cut = 1 - float(step.finished.float().mean())
    return Shares(cut, missing / step.rewards.numel(), float(step.rewards.nanmean()))


def learns_nothing(step: Step) -> bool:
    """Tells whether no completion that takes part in the update has an advantage."""
    return not bool(((step.advantages != 0) & step.takes_part).any())


def is_left_out(step: Step) -> bool:
    """Tells whether there are advantages, but only of completions that don't take part."""
    return bool((step.advantages != 0).any()) and learns_nothing(step)


def size_in_stream(steering: Steering) -> float | None:
    """Returns the mean size of vectors as a multiple of the stream's; None if it is not known."""
    if isinstance(steering, SiteVectors) and steering.scale != "none":
        return steering.metrics()["size_in_stream"]
    return None


def highest_rate(trainer: L.Trainer) -> float:
    """Returns the configured learning rate, from which the schedule derives that of each step."""
    (optimizer,) = trainer.optimizers
    return max(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)


def too_large(size: float, rate: float) -> str:
    """Says that the vectors have outgrown the stream to which they are added."""
    return (
        f"the vectors are {rounded(size)} times as large as the stream to which they are added "
        f"(vectors/size_in_stream), and drown it: the learning rate {rate:g} is too high. Lower "
        "the one of model.optimizer; Adam moves the vectors by it in each step, in their units"
    )


def why_no_signal(
    step: Step,
    num_steps: int,
    first: Shares | None = None,
    size: float | None = None,
    rate: float = 0.0,
) -> str:
    """Names the likely cause, with the counts that point to it.

    Args:
        step: The last step.
        num_steps: Number of steps in a row without signal.
        first: Figures of the run's first step. If few completions were cut off or without an answer
            in that step, prompts and `max_new_tokens` can't be the cause later.
        size: Size of the vectors in units of the stream, if they have such units.
        rate: Configured learning rate.
    """
    outcomes = Counter[str]()
    for counts_of_one in step.outcomes.values():
        outcomes.update(counts_of_one)
    counts = f"{int(step.rewards.isnan().sum())} of {step.rewards.numel()} completions unscored, "
    counts += f"{int((~step.finished).sum())} cut off"
    counts += "".join(f", {outcomes[key]} {name}" for key, name in NAMES.items() if outcomes[key])
    scored = step.rewards[~step.rewards.isnan()]
    if len(scored):
        counts += f", rewards from {float(scored.min()):g} to {float(scored.max()):g}"
    causes = [*_causes_beside_the_task(step, outcomes, first, size, rate)]
    causes += _causes_in_the_task(step, outcomes)
    cause = next(text for holds, text in causes if holds)
    return (
        f"no group has had signal for {num_steps} steps (last step: {counts}). "
        f"Likely cause: {cause}"
    )


def _causes_beside_the_task(
    step: Step, outcomes: Counter[str], first: Shares | None, size: float | None, rate: float
) -> list[tuple[bool, str]]:
    """Lists causes in the reward itself and in training, and whether each one applies."""
    total = step.rewards.numel()
    now = shares_of(step)
    first = first or now
    scored = step.rewards[~step.rewards.isnan()]
    grown = ", or raise model.sampling.max_new_tokens if good answers have grown" * (
        2 * now.cut > 1
    )
    return [
        (
            2 * (outcomes["timed_out"] + outcomes["crashed"]) > total,
            "the reward takes too long or crashes; raise model.reward_pool.deadline, or fix it",
        ),
        (
            2 * int(step.rewards.isnan().sum()) > total,
            "the gold answers can't be parsed; check the source's answer column",
        ),
        (
            2 * outcomes["right"] > total and not is_left_out(step),
            "all problems are solved; stop, or use harder problems",
        ),
        (
            now.reward > first.reward and bool((scored == scored[:1]).all()),
            f"all completions earn the same reward, {rounded(now.reward)}, and more than the "
            f"{rounded(first.reward)} of the first step: what it asks for is learned. Stop, or "
            "reward what else you want",
        ),
        (
            size is not None and size >= LARGE,
            f"the vectors are too large, {rounded(size or 0.0)} times the stream "
            f"(vectors/size_in_stream); lower the learning rate {rate:g} of model.optimizer",
        ),
        (
            any(2 * a < 1 < 2 * b for a, b in zip(first[:2], now[:2], strict=True)),
            f"training has broken the model: in the first step {first.cut:.1%} were cut off and "
            f"{first.no_answer:.1%} without an answer. Lower the learning rate {rate:g} of "
            f"model.optimizer{grown}",
        ),
    ]


def _causes_in_the_task(step: Step, outcomes: Counter[str]) -> list[tuple[bool, str]]:
    """Lists causes in data and settings; the last one applies if no other does."""
    total = step.rewards.numel()
    return [
        (
            is_left_out(step),
            "the rewards differ, but the completions with an advantage are cut off, which "
            "model.mask_overlong leaves out of the update; raise model.sampling.max_new_tokens, or "
            "set model.mask_overlong: false",
        ),
        (
            2 * int((~step.finished).sum()) > total,
            "answers are cut off before they end; raise model.sampling.max_new_tokens",
        ),
        (
            2 * (outcomes["unparseable"] + outcomes["incomparable"]) > total,
            "the text in the answer's place is not mathematics; ask for the bare answer in "
            "data.template",
        ),
        (
            2 * outcomes["no_answer"] > total,
            "no completion contains what the reward looks for; check data.template, and where the "
            f"reward looks for the answer ({TEXTS})",
        ),
        (
            2 * outcomes["wrong"] > total,
            "the problems are too hard, or the gold answers are wrong; use easier problems, or "
            "more completions of each prompt",
        ),
        (
            True,
            "the reward is the same for all completions of a prompt; check data.template, and "
            f"what the reward looks for ({TEXTS})",
        ),
    ]
