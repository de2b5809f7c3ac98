"""What can be trained: numbers beside a frozen model, and how they change what it computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Prompts (B, T) int64, right-padded, with masks (B, T), 0 where padded."""


@dataclass
class ConstantVector:
    """A vector that is added to every token's stream alike, while it does not change."""

    layer: nn.Module
    """Decoder layer that it steers."""
    site: str
    """Place in the layer, of `steering.sites`."""
    vector: torch.Tensor
    """(D,) float32, what is added."""
    is_folded: bool = False
    """Whether something else adds it for now, such as a bias of the model."""


class Attachment(ABC):
    """What was learned, at work on a model; `remove()`, or leaving the `with` block, takes it off.

    Attributes:
        scale: Factor on all of it, 0 being the base; may be changed at any time.
        needs_roles: Whether it acts on some tokens alone, and must be told which is which.
    """

    scale: float
    needs_roles = False

    def constant(self) -> AbstractContextManager[Sequence[ConstantVector]]:
        """While the block runs the parameters do not change, and need no gradients.

        Yields:
            Vectors that might as well be added by something else, see `ConstantVector.is_folded`.
        """
        return nullcontext(())

    def with_roles(self, roles: torch.Tensor) -> AbstractContextManager[None]:
        """Says what the tokens of the block's forward passes are.

        Args:
            roles: Roles of the tokens (rows, T), of `steering.tokens`.
        """
        return nullcontext()

    @abstractmethod
    def remove(self) -> None:
        """Takes it off; the model is as it was. A second call does nothing."""

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


class Steering(nn.Module, ABC):
    """What is trained. A subclass plugs in at `model.steering` by its class_path.

    It is made of settings alone, before any model is known, and checks them. `build` then makes its
    parameters for a model, and `attach` puts them to work on it. The parameters are float32, all of
    them are optimised, and the model's own are not: at the start, and at any time at scale 0, the
    model is the base bit for bit. Checkpoints hold its `state_dict`.

    Attributes:
        metadata: What a file says about what it holds, such as `base_model` and `step`.
        file_name: Of the result in a run's folder; a folder for some kinds.
        beside_base: Whether it leaves the model's own modules alone, which a sharded base needs.
        trains_head: Whether it changes the output layer itself, which then needs a gradient.
        first_layer: Index of a decoder layer below which it changes nothing; 0 where that is not
            known.
    """

    file_name: str
    metadata: dict[str, str]
    beside_base = True
    trains_head = False

    @property
    def first_layer(self) -> int:
        """See `Steering`; known once it is built."""
        return 0

    @abstractmethod
    def build(self, model: nn.Module) -> None:
        """Makes the parameters, or checks that those it has fit; a second call does nothing.

        Args:
            model: A transformers causal language model. Only its structure is read: it may be on
                the meta device.

        Raises:
            ConfigError: If the settings do not fit the model.
        """

    @abstractmethod
    def attach(self, model: nn.Module, scale: float = 1.0) -> Attachment:
        """Lets every forward pass of a model, `generate` included, use the parameters.

        Args:
            model: A model that `build` has seen, or one of the same structure.
            scale: Factor on what was learned.
        """

    @abstractmethod
    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Saves what was learned, to use it; an existing result is replaced in one go.

        Args:
            path: Where, named as `file_name`.
            base_model: Hub id or folder of the base model.
            revision: Its revision.
            step: Optimizer steps taken.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a checkpoint's numbers belong to, by configuration key."""

    @abstractmethod
    def describe(self) -> str:
        """A few words on what the trained numbers are, such as `6 vectors of width 128`."""

    @property
    def num_trained(self) -> int:
        """Trained numbers, padding not counted."""
        return sum(parameter.numel() for parameter in self.parameters())

    def base_name(self, name: str) -> str | None:
        """Name that a tensor of the model's state dict has in the base; None if it is not in it."""
        return name

    def check_sharding(self, shards: bool) -> None:
        """Raises a ConfigError if what is trained can't be, where the base is sharded.

        Args:
            shards: Whether each process holds a part of the base alone.
        """
        if shards and not self.beside_base:
            raise ConfigError(
                "model.steering",
                type(self).__name__,
                rule="can't be trained with trainer.strategy: fsdp or fsdp2",
                why="It changes weights, of which each process holds a part alone",
                fix="Set trainer.strategy: ddp, or train vectors",
            )

    def measure(self, model: nn.Module, batches: Batches) -> None:
        """Looks once at the first prompts, the model being at scale 0, before any training."""

    def metrics(self) -> dict[str, float]:
        """What is logged of it after each step."""
        return {}
