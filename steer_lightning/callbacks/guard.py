"""The callback that watches for skipped optimizer steps, and for rewards that teach nothing."""

from __future__ import annotations

import io
import logging
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from steer_lightning.callbacks.run_folder import claim
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
    """Keeps batches of skipped optimizer steps, stops after several, and warns of what goes wrong.

    The module skips an optimizer step by itself if its loss or gradient is not finite. The batch is
    kept for inspection under `skipped/`, as a file for `torch.load`: token ids, masks,
    log-probabilities, advantages, texts.

    It warns of rewards without signal, with the likely cause, and of vectors in units of the
    stream (`scale: rms`) that outgrow it, which too high a learning rate makes of them. The summary
    at the end of the run repeats the warnings.

    Cost: microseconds per step.

    Args:
        max_skipped: Number of such batches in a row after which the run stops.
        no_signal_steps: Number of steps in a row without signal in any group after which it warns.

    Attributes:
        warnings: Warnings of the run by what they are about, each as it was told last.
    """

    def __init__(self, max_skipped: int = 5, no_signal_steps: int = 10) -> None:
        super().__init__()
        for key, value in (("max_skipped", max_skipped), ("no_signal_steps", no_signal_steps)):
            if value < 1:
                raise ConfigError(f"Guard.{key}", value, rule="must be at least 1")
        self.max_skipped, self.no_signal_steps = max_skipped, no_signal_steps
        self._skipped = self._silent = 0  # numbers of such steps in a row
        self._num_kept = 0
        self.warnings: dict[str, str] = {}
        self._first: Shares | None = None  # of the first step, which the base has sampled

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a folder that holds another run's batches."""
        if stage == "fit":
            self._folder = claim(trainer, SKIPPED)

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
            FloatingPointError: After `max_skipped` batches with a skipped optimizer step in a row.
        """
        assert isinstance(pl_module, SteeringModule)
        step = pl_module.last_step
        assert step is not None
        self._skipped = self._skipped + 1 if step.update.skipped else 0
        if step.update.skipped:
            self._keep(trainer, step)
        rate = highest_rate(trainer)
        self._first = self._first or shares_of(step)
        size = size_in_units(pl_module.policy.steering)
        if size is not None and size >= HUGE:
            self._warn("size", too_large(size, rate))
        self._silent = self._silent + 1 if bool((step.advantages == 0).all()) else 0
        if self._silent >= self.no_signal_steps:
            told = why_no_signal(step, self._silent, self._first, size, rate)
            self._warn("signal", told, again=self._silent == self.no_signal_steps)

    def _warn(self, about: str, text: str, again: bool = False) -> None:
        """Tells a warning the first time, and keeps the latest one for the end of the run."""
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
            "step %d: loss or gradient were not finite, an optimizer step was skipped (%d steps in "
            "a row); batches of such steps are in %s",
            trainer.global_step,
            self._skipped,
            one_line(path.parent),
        )
        if self._skipped >= self.max_skipped:
            raise FloatingPointError(
                f"loss or gradient were not finite in {self._skipped} steps in a row; the vectors "
                f"are as after step {trainer.global_step - self._skipped}, the batches in "
                f"{path.parent}. Start anew with model.dtype: float32, or a lower learning rate"
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns how many steps in a row had skips, and how many had no signal."""
        return {
            "skipped": self._skipped,
            "silent": self._silent,
            "warnings": self.warnings,
            "first": None if self._first is None else tuple(self._first),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting from there."""
        self._skipped, self._silent = state_dict["skipped"], state_dict["silent"]
        self.warnings = dict(state_dict.get("warnings", {}))  # older checkpoints have neither
        first = state_dict.get("first")
        self._first = None if first is None else Shares(*first)


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


MAX_KEPT = 20
"""Most batches that are kept: they are as large as the rollouts."""

NAMES = {
    "right": "right",
    "wrong": "wrong",
    "no_answer": "without an answer",
    "unparseable": "unparseable",
    "incomparable": "incomparable",
    "timed_out": "timed out",
    "crashed": "crashed",
}
"""Outcomes of rewards that point to a cause, and what they are called in the warning."""


LARGE, HUGE = 1.0, 3.0
"""Sizes of vectors, in units of the stream: as large as it, so that lost signal is their doing; and
so large that little is left of it."""


class Shares(NamedTuple):
    """Shares of a step's completions."""

    cut: float
    """Share that was cut off."""
    no_answer: float
    """Share in which a reward has found no answer."""


def shares_of(step: Step) -> Shares:
    """Computes the shares of a step."""
    missing = max((found.get("no_answer", 0) for found in step.outcomes.values()), default=0)
    return Shares(1 - float(step.finished.float().mean()), missing / step.rewards.numel())


def size_in_units(steering: Steering) -> float | None:
    """Returns the mean size of vectors in units of the stream; None for what has no such units."""
    if isinstance(steering, SiteVectors) and steering.scale == "rms":
        return steering.metrics()["size_in_units"]
    return None


def highest_rate(trainer: L.Trainer) -> float:
    """Returns the learning rate that is set, from which the schedule takes those of the steps."""
    (optimizer,) = trainer.optimizers
    return max(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)


def too_large(size: float, rate: float) -> str:
    """Says that the vectors have outgrown the stream that they are added to."""
    return (
        f"the vectors are {rounded(size)} times as large as the stream that they are added to "
        f"(vectors/size_in_units), and drown it: the learning rate {rate:g} is too high. Lower "
        "that of model.optimizer, by which Adam moves them in each step, in these units"
    )


def why_no_signal(
    step: Step,
    num_steps: int,
    first: Shares | None = None,
    size: float | None = None,
    rate: float = 0.0,
) -> str:
    """Says what the likely cause is, with the counts that point to it.

    Args:
        step: The last step.
        num_steps: Number of steps in a row without signal.
        first: Shares of the run's first step: what the base did can't be due to its prompts or to
            `max_new_tokens` later on.
        size: Size of the vectors in units of the stream, if they have such units.
        rate: Learning rate that is set.
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
        f"no group has had signal for {num_steps} steps (in the last one {counts}). Likely {cause}"
    )


def _causes_beside_the_task(
    step: Step, outcomes: Counter[str], first: Shares | None, size: float | None, rate: float
) -> list[tuple[bool, str]]:
    """Lists causes, and whether each is at work: the reward's own ills, and those of training."""
    total = step.rewards.numel()
    now = shares_of(step)
    first = first or now
    grown = ", or raise model.sampling.max_new_tokens if good answers have grown" * (
        2 * now.cut > 1
    )
    return [
        (
            2 * (outcomes["timed_out"] + outcomes["crashed"]) > total,
            "the reward takes too long or crashes: raise model.reward_pool.deadline, or mend it",
        ),
        (
            2 * int(step.rewards.isnan().sum()) > total,
            "the gold answers can't be parsed: check the source's answer column",
        ),
        (2 * outcomes["right"] > total, "all is solved: stop, or take harder problems"),
        (
            size is not None and size >= LARGE,
            f"the vectors are too large, {rounded(size or 0.0)} times the stream "
            f"(vectors/size_in_units): lower the learning rate {rate:g} of model.optimizer",
        ),
        (
            any(2 * a < 1 < 2 * b for a, b in zip(first, now, strict=True)),
            f"training has broken the model: in the first step {first.cut:.1%} were cut off and "
            f"{first.no_answer:.1%} without an answer. Lower the learning rate {rate:g} of "
            f"model.optimizer{grown}",
        ),
    ]


def _causes_in_the_task(step: Step, outcomes: Counter[str]) -> list[tuple[bool, str]]:
    """Lists causes that lie in data and settings; the last one is what is left."""
    total = step.rewards.numel()
    return [
        (
            2 * int((~step.finished).sum()) > total,
            "answers are cut off before they end: raise model.sampling.max_new_tokens",
        ),
        (
            2 * (outcomes["unparseable"] + outcomes["incomparable"]) > total,
            "what stands in the answer's place is no mathematics: ask for the bare answer in "
            "data.template",
        ),
        (
            2 * outcomes["no_answer"] > total,
            "no completion has what the reward looks for: check data.template, and where the "
            "reward looks for the answer; rollouts/ has the texts",
        ),
        (
            2 * outcomes["wrong"] > total,
            "the problems are too hard, or the gold answers wrong: take easier ones, or more "
            "completions a prompt",
        ),
        (
            True,
            "the reward gives all completions of a prompt the same: check data.template, and "
            "what the reward looks for; rollouts/ has the texts",
        ),
    ]
