"""The base classes of trainable parameters, which change the output of a frozen model."""

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

BASE_BITS = "base_bits"
"""Name of the metadata by which a result says that its base was quantised."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Prompts (B, T) int64, right-padded, with masks (B, T), 0 where padded."""


@dataclass
class ConstantVector:
    """A vector that stays constant for a while and is added to the stream of every token."""

    layer: nn.Module
    """Decoder layer that the vector steers."""
    site: str
    """Site in the layer, one of `steering.sites`."""
    vector: torch.Tensor
    """Vector to add, (D,) float32."""
    is_folded: bool = False
    """Whether something else adds the vector meanwhile, such as a bias of the model."""


class Attachment(ABC):
    """A steering that is active on a model until `remove()` is called or the `with` block ends.

    Attributes:
        scale: Factor on the steering; 0 is the base. It may be changed at any time.
        needs_roles: Whether the steering acts only on some tokens, and so needs their roles.
        needs_owners: Whether the steering differs from row to row, and so needs to know whose each
            row is.
        is_paused: Whether the steering does nothing for now, because the model serves another
            experiment.
    """

    scale: float
    needs_roles = False
    needs_owners = False
    is_paused = False

    def constant(self) -> AbstractContextManager[Sequence[ConstantVector]]:
        """Declares that the parameters do not change within the block and need no gradients.

        Yields:
            Vectors that something else may add instead; see `ConstantVector.is_folded`.
        """
        return nullcontext(())

    def with_roles(self, roles: torch.Tensor) -> AbstractContextManager[None]:
        """Sets the roles of the tokens for the forward passes within the block.

        Args:
            roles: Roles of the tokens, (rows, T), as in `steering.tokens`.
        """
        return nullcontext()

    def with_owners(self, owners: torch.Tensor) -> AbstractContextManager[None]:
        """Says to which experiment each row belongs in the forward passes of the block.

        Args:
            owners: Number of each row's experiment, (rows,) int64.
        """
        return nullcontext()

    def with_segments(self, segments: Sequence[tuple[int, int]]) -> AbstractContextManager[None]:
        """Says to which experiments the parts of a packed sequence belong in the block.

        Args:
            segments: Number of the experiment and number of tokens of each part.
        """
        return nullcontext()

    @abstractmethod
    def remove(self) -> None:
        """Restores the model as it was; a second call does nothing."""

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
    """Base class of trainable parameters; a subclass can be set as class_path of `model.steering`.

    An object is created from settings only, and checks them before any model is known. `build` then
    creates its parameters for a model, and `attach` applies them to the model. All of its float32
    parameters are optimised, and no parameters of the model. At the start, and at any time with
    scale 0, the model equals the base bit for bit. Checkpoints hold its `state_dict`.

    Attributes:
        metadata: Metadata of a loaded file, such as `base_model` and `step`.
        file_name: Name of the result in the folder of a run; for some kinds the result is a folder.
        layers_path: Dotted path of the model's decoder layers; None searches the known paths.
        beside_base: Whether it leaves the model's own modules unchanged, which a sharded base
            requires.
        first_layer: Index of a decoder layer below which it changes nothing; 0 if unknown.
        needs_weights: Whether it is made for linear layers with plain weights, which a quantised
            base lacks.
        base_bits: Bits of a weight of the quantised base that it is trained on; None if that is not
            quantised. `save` writes it into the result.
        rows_are_vectors: Whether each row of each parameter is the vector of one layer, as
            optimizers need that treat each layer alone.
    """

    file_name: str
    metadata: dict[str, str]
    layers_path: str | None = None
    beside_base = True
    needs_weights = False
    base_bits: int | None = None
    rows_are_vectors = False

    @property
    def first_layer(self) -> int:
        """Index of a decoder layer below which nothing changes; available after `build`."""
        return 0

    @abstractmethod
    def build(self, model: nn.Module) -> None:
        """Creates the parameters, or checks that existing ones fit; a second call does nothing.

        Args:
            model: Causal language model of transformers. Only its structure is read, so it may be
                on the meta device.

        Raises:
            ConfigError: If the settings do not fit the model.
        """

    @abstractmethod
    def attach(self, model: nn.Module, scale: float = 1.0) -> Attachment:
        """Makes every forward pass of a model, `generate` included, use the parameters.

        Args:
            model: Model that `build` has seen, or one of the same structure.
            scale: Factor on the effect of the parameters.
        """

    @abstractmethod
    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Saves the result; an existing result is replaced atomically.

        Args:
            path: File or folder to write, usually named `file_name`.
            base_model: Hub id or folder of the base model.
            revision: Revision of the base model.
            step: Number of optimizer steps taken.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Returns the settings on which the numbers of a checkpoint depend, by their keys."""

    @abstractmethod
    def describe(self) -> str:
        """Describes the trained numbers in a few words, such as `6 vectors of width 128`."""

    @property
    def num_trained(self) -> int:
        """Number of trained numbers, without padding."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def base_facts(self) -> dict[str, str]:
        """Metadata that tells a result for a quantised base from others; empty for other bases."""
        bits = self.base_bits or self.metadata.get(BASE_BITS)
        return {BASE_BITS: str(bits)} if bits else {}

    def base_name(self, name: str) -> str | None:
        """Returns the name of a state-dict tensor in the base; None if the base lacks it."""
        return name

    def check_sharding(self, shards: bool) -> None:
        """Raises a ConfigError if this kind can't be trained with a sharded base.

        Args:
            shards: Whether each process holds only a part of the base.
        """
        if shards and not self.beside_base:
            raise ConfigError(
                "model.steering",
                type(self).__name__,
                rule="can't be trained with trainer.strategy: fsdp or fsdp2",
                why="It changes weights, and each process holds only a part of them",
                fix="Set trainer.strategy: ddp, or train vectors",
            )

    def measure(self, model: nn.Module, batches: Batches) -> None:
        """Takes measurements on the first prompts; called once, before training, with scale 0."""

    def take_from_first(self) -> None:
        """Takes over from the first process what each has computed by itself and does not train.

        All processes call it together, before training.
        """

    def metrics(self) -> dict[str, float]:
        """Returns the metrics that are logged after each step."""
        return {}
