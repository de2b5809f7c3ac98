"""What the vectors come to point at, while they are trained."""

from __future__ import annotations

import json
import logging
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
from steer_lightning.steering import SiteVectors
from steer_lightning.system.run_files import LENS, LENS_LINES
from steer_lightning.system.whole_files import write_bytes
from steer_lightning.types import Prompt

log = logging.getLogger(__name__)


class LensCallback(Callback):
    """Looks at the vectors every n steps and at the end.

    Norms, how far each vector has moved since the start and since the last look, the stable rank
    and the tokens with the largest products become a line of `lens.jsonl`, and all but the tokens
    go to the loggers as `lens/...`. At the end `lens.json` has all that the command `lens` shows.

    LoRA and changes of weights are no vectors to look at: then it does nothing.

    Cost: a forward pass of one token, and the product of L vectors with the unembedding, each
    time; at the end three short forward passes for each of a few prompts.

    Args:
        every_n_steps: Steps between two looks; 0 looks at the end alone.
        num_tokens: Tokens of each list.
        num_prompts: Training prompts on which `lens.json` measures the stream and the first token.
        final_norm: Passes vectors through the norm before the unembedding first.
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
        self._start: torch.Tensor | None = None
        self._last: torch.Tensor | None = None
        self._looked_at: int | None = None  # step
        self._described = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a folder that holds another run's looks."""
        if stage == "fit":
            self._lines = claim(trainer, LENS_LINES)
            self._file = claim(trainer, LENS)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sees whether tokens can be found."""
        if _vectors(pl_module) is None:
            return
        try:
            check_unembedding(_policy(pl_module))
        except ConfigError as error:
            log.warning("the lens shows no tokens: %s", error)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remembers where the vectors start; a resumed run knows it from its checkpoint."""
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
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the final vectors, and writes `lens.json`."""
        vectors = _vectors(pl_module)
        if vectors is None:
            return
        if self._looked_at != trainer.global_step:
            self._look(trainer, pl_module)
        policy, prompts = _policy(pl_module), self._prompts(trainer)
        found = describe(policy, vectors, prompts, self.how, trainer.global_step)
        self._described = True
        if trainer.is_global_zero:
            write_bytes(self._file, (json.dumps(found) + "\n").encode())

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same for a run that goes on when its last step is already behind it."""
        if not self._described:
            self.on_train_start(trainer, pl_module)
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Where the vectors were at the start and at the last look."""
        return {"start": self._start, "last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on measuring from there."""
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
            self._lines.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed
            with self._lines.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _tokens(self, policy: Policy, vectors: torch.Tensor) -> list[list[str]]:
        """Top tokens of each layer by their dot products; none of a vector of zeros."""
        ranks = look_at_tokens(policy, vectors, self.how)
        if not ranks:
            return [[] for _ in vectors]
        return [
            [token_text(policy.tokenizer, token) for token in row] if bool(vector.any()) else []
            for row, vector in zip(ranks["dot"].top.ids.tolist(), vectors, strict=True)
        ]


def _policy(module: L.LightningModule) -> Policy:
    assert isinstance(module, SteeringModule)
    return module.policy


def _vectors(module: L.LightningModule) -> SiteVectors | None:
    """What is trained, if that is vectors."""
    steering = _policy(module).steering
    return steering if isinstance(steering, SiteVectors) else None


def _plain(vectors: SiteVectors) -> torch.Tensor:
    """(L, D) plain vectors as they are now, on the CPU."""
    return vectors.vectors.detach().cpu().clone()
