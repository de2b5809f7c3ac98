"""The callback that prints a few completions, and keeps all of them in a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch.callbacks import Callback

from steer_lightning.callbacks.run_folder import claim, tell
from steer_lightning.errors import ConfigError
from steer_lightning.module import SteeringModule
from steer_lightning.rollout import completions_of
from steer_lightning.rollout.completions import is_guided
from steer_lightning.system.collectives import rank, world_size
from steer_lightning.system.figures import rounded
from steer_lightning.system.printable import quoted, valid_unicode
from steer_lightning.system.run_files import ROLLOUT_PARTS, ROLLOUTS, rollout_parts, step_name
from steer_lightning.system.showing import told_not_raised
from steer_lightning.system.whole_files import written_aside
from steer_lightning.training.step import Step


def as_table(step: Step, number: int) -> pa.Table:
    """Makes a table with one row for each completion.

    Args:
        step: Training step.
        number: Number of the step.
    """
    rollouts, size = step.rollouts, step.rollouts.group_size
    rows = completions_of(step.rollouts)
    prompts = [rollouts.prompts[n // size] for n in range(len(rows))]
    return pa.table(
        {
            "step": pa.array([number] * len(rows), pa.int64()),
            "prompt_id": pa.array([prompt.id for prompt in prompts], pa.int64()),
            "sample": pa.array([n % size for n in range(len(rows))], pa.int64()),
            "prompt": [valid_unicode(prompt.text) for prompt in prompts],
            "completion": pa.array([valid_unicode(row.text) for row in rows], pa.string()),
            "answer": [valid_unicode(row.answer) for row in rows],
            "reward": pa.array(step.scores.total, pa.float64()),
            **{
                f"reward_{name}": pa.array(scores, pa.float64())
                for name, scores in step.scores.parts.items()
            },
            "advantage": pa.array(step.advantages[step.own].flatten().tolist(), pa.float64()),
            "takes_part": pa.array(step.takes_part[step.own].flatten().tolist(), pa.bool_()),
            "num_tokens": pa.array([row.num_tokens for row in rows], pa.int64()),
            "finished": pa.array([row.finished for row in rows], pa.bool_()),
            "guided": pa.array(is_guided(rollouts).tolist(), pa.bool_()),
        }
    )


class RolloutTable(Callback):
    """Shows a few prompts with completions and rewards, and keeps all completions of each step.

    Completions that guided ones replace (`Guidance`) are no longer in the step, and are not kept.

    During the run, the completions of each step are written to a file of their own under
    `rollouts/`, so that a crash loses none. At the end, they become one file, `rollouts.parquet`.

    Cost: some milliseconds per step, and the disk space of the text.

    Args:
        every_n_steps: Number of steps after which some completions are printed again; 0 prints
            none.
        num_prompts: Number of prompts to print, from the start of the batch.
        num_completions: Number of completions to print for each prompt.
        max_characters: Number of characters after which a text is cut on the console; texts in the
            file are never cut.
    """

    def __init__(
        self,
        every_n_steps: int = 10,
        num_prompts: int = 2,
        num_completions: int = 2,
        max_characters: int = 400,
    ) -> None:
        super().__init__()
        numbers = {
            "every_n_steps": every_n_steps,
            "num_prompts": num_prompts,
            "num_completions": num_completions,
            "max_characters": max_characters,
        }
        for key, value in numbers.items():
            if value < 0:
                raise ConfigError(f"RolloutTable.{key}", value, rule="must be 0 or more")
        self.every_n_steps, self.max_characters = every_n_steps, max_characters
        self.num_prompts, self.num_completions = num_prompts, num_completions

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a folder that holds the rollouts of another run."""
        if stage == "fit":
            self._file = claim(trainer, ROLLOUTS)
            self._folder = claim(trainer, ROLLOUT_PARTS)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Writes the completions of the step, and prints some."""
        assert isinstance(pl_module, SteeringModule)
        step, number = pl_module.last_step, trainer.global_step
        assert step is not None
        # each process writes its own share, so that no text travels between processes
        share = f".process_{rank():04d}" if world_size() > 1 else ""
        path = self._folder / f"{step_name(number)}{share}.parquet"
        with told_not_raised(f"{path}, the table of completions"), written_aside(path) as aside:
            pq.write_table(as_table(step, number), aside)
        if self.every_n_steps and number % self.every_n_steps == 0:
            with told_not_raised("the printing of completions"):
                tell(trainer, *self._show(step, number))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Joins the files of all steps into one file."""
        trainer.strategy.barrier()  # waits until all processes have written their shares
        if trainer.is_global_zero and self._folder.is_dir():
            with told_not_raised(f"{self._file}, made of the tables in {self._folder},"):
                merge(self._folder, self._file)

    def _show(self, step: Step, number: int) -> list[str]:
        rollouts = step.rollouts
        lines = [f"step {number}"]
        for b, prompt in enumerate(rollouts.prompts[: self.num_prompts]):
            answer = self._cut(prompt.problem.answer)
            lines.append(f"  prompt {self._cut(prompt.text)}  answer {answer}")
            first = b * rollouts.group_size
            for n in range(first, first + min(self.num_completions, rollouts.group_size)):
                score = _shown(step.scores.total[n])
                lines.append(f"    reward {score}  {self._cut(rollouts.texts[n])}")
        return lines

    def _cut(self, text: str) -> str:
        """Cuts a text at `max_characters`, and returns it in quotes on one line."""
        more = "" if len(text) <= self.max_characters else f" ... ({len(text)} characters)"
        return f"{quoted(text[: self.max_characters])}{more}"


def _shown(score: float | None) -> str:
    return "unscored" if score is None else rounded(score)


def merge(folder: Path, file: Path) -> None:
    """Joins the parts in a folder into one Parquet file, one at a time, and deletes them."""
    parts = rollout_parts(folder)
    with written_aside(file) as aside, pq.ParquetWriter(aside, pq.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))
    for part in parts:
        part.unlink()
    folder.rmdir()
