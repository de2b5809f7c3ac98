"""The callback that watches for skipped optimizer steps, and for rewards that teach nothing."""

from __future__ import annotations

import io
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from steer_lightning.callbacks.run_folder import claim
from steer_lightning.errors import ConfigError
from steer_lightning.module import SteeringModule
from steer_lightning.system.collectives import rank, world_size
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import SKIPPED, step_name
from steer_lightning.system.whole_files import write_bytes
from steer_lightning.training.step import Step

log = logging.getLogger(__name__)


class Guard(Callback):
    """Keeps batches of skipped optimizer steps, stops after several, and warns of lost signal.

    The module skips an optimizer step by itself if its loss or gradient is not finite. The batch is
    kept for inspection under `skipped/`, as a file for `torch.load`: token ids, masks,
    log-probabilities, advantages, texts.

    Cost: microseconds per step.

    Args:
        max_skipped: Number of such batches in a row after which the run stops.
        no_signal_steps: Number of steps in a row without signal in any group after which it warns.
    """

    def __init__(self, max_skipped: int = 5, no_signal_steps: int = 10) -> None:
        super().__init__()
        for key, value in (("max_skipped", max_skipped), ("no_signal_steps", no_signal_steps)):
            if value < 1:
                raise ConfigError(f"Guard.{key}", value, rule="must be at least 1")
        self.max_skipped, self.no_signal_steps = max_skipped, no_signal_steps
        self._skipped = self._silent = 0  # numbers of such steps in a row
        self._num_kept = 0

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
        self._silent = self._silent + 1 if bool((step.advantages == 0).all()) else 0
        if self._silent == self.no_signal_steps:
            log.warning("%s", one_line(why_no_signal(step, self._silent)))

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
        return {"skipped": self._skipped, "silent": self._silent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting from there."""
        self._skipped, self._silent = state_dict["skipped"], state_dict["silent"]


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


def why_no_signal(step: Step, num_steps: int) -> str:
    """Says what the likely cause is, with the counts that point to it."""
    total = step.rewards.numel()
    unscored = int(step.rewards.isnan().sum())
    cut = int((~step.finished).sum())
    scored = step.rewards[~step.rewards.isnan()]
    outcomes: Counter[str] = Counter()
    for counts_of_one in step.outcomes.values():
        outcomes.update(counts_of_one)
    counts = f"{unscored} of {total} completions unscored, {cut} cut off"
    counts += "".join(f", {outcomes[key]} {name}" for key, name in NAMES.items() if outcomes[key])
    if len(scored):
        counts += f", rewards from {float(scored.min()):g} to {float(scored.max()):g}"
    if 2 * (outcomes["timed_out"] + outcomes["crashed"]) > total:
        cause = "the reward takes too long or crashes: raise model.reward_pool.deadline, or mend it"
    elif 2 * unscored > total:
        cause = "the gold answers can't be parsed: check the source's answer column"
    elif 2 * cut > total:
        cause = "answers are cut off before they end: raise model.sampling.max_new_tokens"
    elif 2 * (outcomes["unparseable"] + outcomes["incomparable"]) > total:
        cause = "what stands in the answer's place is no mathematics: ask for the bare answer in "
        cause += "data.template"
    elif 2 * outcomes["no_answer"] > total:
        cause = "no completion has what the reward looks for: check data.template, and where the "
        cause += "reward looks for the answer; rollouts/ has the texts"
    elif 2 * outcomes["wrong"] > total:
        cause = "the problems are too hard, or the gold answers wrong: take easier ones, or more "
        cause += "completions a prompt"
    elif 2 * outcomes["right"] > total:
        cause = "all is solved: stop, or take harder problems"
    else:
        cause = "the reward gives all completions of a prompt the same: check data.template, and "
        cause += "what the reward looks for; rollouts/ has the texts"
    return (
        f"no group has had signal for {num_steps} steps (in the last one {counts}). Likely {cause}"
    )
