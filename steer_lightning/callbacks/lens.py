"""The callback that shows, during training, which tokens the vectors point to."""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from steer_lightning.callbacks.run_folder import claim
from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.module import SteeringModule
from steer_lightning.results.lens import (
    Look,
    check_unembedding,
    describe,
    look_at_tokens,
    stable_rank,
    token_text,
)
from steer_lightning.results.lens.finite import check_finite
from steer_lightning.steering import SiteVectors
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import LENS, LENS_LINES
from steer_lightning.system.showing import told_not_raised
from steer_lightning.system.whole_files import write_bytes
from steer_lightning.types import Prompt

log = logging.getLogger(__name__)


class LensCallback(Callback):
    """Looks at the vectors every n steps and at the end.

    Each look adds a line to `lens.jsonl`: the norms, the distance of each vector from its start and
    from the last look, the stable rank, and the tokens with the largest products. All of these but
    the tokens also go to the loggers, as `lens/...`. At the end, the callback writes `lens.json`
    with everything that the command `lens` shows.

    LoRA and changes of weights are not vectors; for them, the callback does nothing.

    Cost: a forward pass of one token and the product of L vectors with the unembedding for each
    look; at the end, three short forward passes for each of a few prompts.

    Args:
        every_n_steps: Number of steps between two looks; 0 looks only at the end.
        num_tokens: Number of tokens in each list.
        num_prompts: Number of training prompts on which `lens.json` measures the stream and the
            first token.
        final_norm: Whether vectors pass through the final norm before the unembedding.
    """

    def __init__(
        self,
        every_n_steps: int = 10,
        num_tokens: int = 10,
        num_prompts: int = 8,
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        for key, value in (("every_n_steps", every_n_steps), ("num_prompts", num_prompts)):
            if value < 0:
                raise ConfigError(f"LensCallback.{key}", value, rule="must be 0 or more")
        self.every_n_steps, self.num_prompts = every_n_steps, num_prompts
        self.how = Look(num_tokens=num_tokens, final_norm=final_norm)
        self._forget()

    def _forget(self) -> None:
        self._start: torch.Tensor | None = None
        self._last: torch.Tensor | None = None
        self._looked_at: int | None = None  # step of the last look
        self._described = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a folder that holds another run's lens files, and forgets an earlier run."""
        if stage == "fit":
            self._lines = claim(trainer, LENS_LINES)
            self._file = claim(trainer, LENS)
            self._forget()  # a resumed run gets its own from the checkpoint, after this

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warns if the base does not allow lists of tokens."""
        if _vectors(pl_module) is None:
            return
        try:
            check_unembedding(_policy(pl_module))
        except ConfigError as error:
            log.warning("the lens shows no tokens: %s", one_line(error))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stores the vectors at the start; a resumed run gets them from its checkpoint."""
        vectors = _vectors(pl_module)
        if self._start is None and vectors is not None:
            self._start = self._last = _plain(vectors)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Looks every n steps."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            with _told(pl_module):
                self._look(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the final vectors and writes `lens.json`."""
        self._described = True
        if self._looked_at != trainer.global_step:
            with _told(pl_module):
                self._look(trainer, pl_module)
        with _told(pl_module):
            self._describe(trainer, pl_module)

    def _describe(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        vectors = _vectors(pl_module)
        if vectors is None:
            return
        policy, prompts = _policy(pl_module), self._prompts(trainer)
        found = describe(policy, vectors, prompts, self.how, trainer.global_step)
        if trainer.is_global_zero:
            with told_not_raised("a look through the lens"):
                check_finite("trained here", found)
                write_bytes(self._file, (json.dumps(found) + "\n").encode())

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Does the same for a resumed run that has no step left to train."""
        if not self._described:
            self.on_train_start(trainer, pl_module)
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Returns the vectors at the start and at the last look."""
        return {"start": self._start, "last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the vectors at the start and at the last look."""
        self._start, self._last = state_dict["start"], state_dict["last"]

    def _prompts(self, trainer: L.Trainer) -> list[Prompt]:
        prompts: dict[str, list[Prompt]] = getattr(
            getattr(trainer, "datamodule", None), "prompts", {}
        )
        return prompts.get("train", [])[: self.num_prompts]

    def _look(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        vectors = _vectors(module)
        if vectors is None:
            return
        assert self._start is not None
        assert self._last is not None
        now, step, layers = _plain(vectors), trainer.global_step, vectors.layers
        columns = {
            "norms": now.norm(dim=1).tolist(),
            "drift": (now - self._start).norm(dim=1).tolist(),
            "drift_since_last": (now - self._last).norm(dim=1).tolist(),
        }
        rank = stable_rank(now)
        top = self._tokens(_policy(module), now)
        self._last, self._looked_at = now, step
        metrics = {"lens/stable_rank": rank}
        for name, values in columns.items():
            metrics |= {
                f"lens/{name}/layer_{layer}": value
                for layer, value in zip(layers, values, strict=True)
            }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        if trainer.is_global_zero:
            line = {"step": step, **columns, "stable_rank": rank, "layers": layers, "top": top}
            self._lines.parent.mkdir(parents=True, exist_ok=True)  # someone may have removed it
            with self._lines.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _tokens(self, policy: Policy, vectors: torch.Tensor) -> list[list[str]]:
        """Finds each layer's top tokens by their dot products; a vector of zeros has none."""
        ranks = look_at_tokens(policy, vectors, self.how)
        if not ranks:
            return [[] for _ in vectors]
        return [
            [token_text(policy.tokenizer, token) for token in row] if bool(vector.any()) else []
            for row, vector in zip(ranks["dot"].top.ids.tolist(), vectors, strict=True)
        ]


def _told(module: L.LightningModule) -> AbstractContextManager[None]:
    """Returns a guard against errors; none for a sharded base, whose passes are collective."""
    shards = _policy(module).sharding.shards
    return nullcontext() if shards else told_not_raised("a look through the lens")


def _policy(module: L.LightningModule) -> Policy:
    assert isinstance(module, SteeringModule)
    return module.policy


def _vectors(module: L.LightningModule) -> SiteVectors | None:
    """Returns the trained vectors; None if the steering is of another kind."""
    steering = _policy(module).steering
    return steering if isinstance(steering, SiteVectors) else None


def _plain(vectors: SiteVectors) -> torch.Tensor:
    """Copies the current plain vectors (L, D) to the CPU."""
    return vectors.vectors.detach().cpu().clone()
