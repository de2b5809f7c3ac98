"""The vectors of several experiments on one base: each row of a batch is steered by its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import Attachment, ConstantVector, Steering
from steer_lightning.steering.compiled import traced_anew
from steer_lightning.steering.layers import find_layers
from steer_lightning.steering.model_parts import stream_of, with_stream
from steer_lightning.steering.site_vectors import SiteVectors
from steer_lightning.steering.sites import find_sites
from steer_lightning.steering.tokens import is_steered


class RowSteering(Steering):
    """The steering of K experiments; `Attachment.with_owners` says whose each row is.

    Args:
        parts: Vectors of each experiment, which have been built for the same model.
    """

    def __init__(self, parts: Sequence[SiteVectors]) -> None:
        super().__init__()
        self.metadata = {}
        self.parts = list(parts)
        """Vectors of each experiment; not registered, since they are trained where they belong."""

    @property
    def layers_path(self) -> str | None:  # type: ignore[override]
        """Dotted path of the model's decoder layers; see `Steering`."""
        return self.parts[0].layers_path

    @property
    def first_layer(self) -> int:
        """Index of the first layer that an experiment steers; see `Steering.first_layer`."""
        return min(part.first_layer for part in self.parts)

    def build(self, model: nn.Module) -> None:
        """Does nothing, since the parts are built by themselves; see `Steering.build`."""

    def attach(self, model: nn.Module, scale: float = 1.0) -> RowVectors:
        """Attaches the vectors of all experiments to a model; see `Steering.attach`."""
        return RowVectors(model, self.parts)

    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Raises a RuntimeError: each experiment saves its own result."""
        raise RuntimeError("the vectors of a sweep are saved by its experiments")

    def facts(self) -> dict[str, Any]:
        """Returns nothing: each experiment has facts of its own; see `Steering.facts`."""
        return {}

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        return f"the vectors of {len(self.parts)} experiments"


class RowVectors(Attachment):
    """Adds to each row the vector of its own experiment.

    At a place, the vectors of the experiments are the rows of a table (K, D), which is 0 where an
    experiment has no vector there. A token gets the row of its experiment. Vectors that act on some
    tokens, or through a gate, are added one experiment after the other.

    Args:
        model: Model to steer.
        parts: Vectors of the K experiments.

    Attributes:
        scales: Factor on the vectors of each experiment.
    """

    scale = 1.0

    def __init__(self, model: nn.Module, parts: Sequence[SiteVectors]) -> None:
        self._parts = parts
        self.scales = [1.0] * len(parts)
        self.needs_roles = any(part.tokens != "all" for part in parts)
        self._owners: torch.Tensor | None = None
        self._roles: torch.Tensor | None = None
        self._tables: list[torch.Tensor] | None = None
        layers = find_layers(model, parts[0].layers_path)
        self._rows: dict[nn.Module, dict[int, int]] = {}  # at a place: row of each experiment
        for number, part in enumerate(parts):
            for row, place in enumerate(find_sites(layers, part.layers, part.site)):
                self._rows.setdefault(place, {})[number] = row
        self._handles: list[Any] = []
        for number, place in enumerate(self._rows):
            self._handles.append(place.register_forward_hook(partial(self._add, number)))
            self._handles.append(traced_anew(place))

    def _add(self, number: int, module: nn.Module, args: object, output: Any) -> Any:
        """Computes `h <- h + scale * v` for each token, with the v of its row's experiment."""
        if self.is_paused:
            return None
        assert self._owners is not None, "nobody has said whose the rows are"
        rows = self._rows[module]
        stream = stream_of(output, self._parts[0].width)
        table = self._table(rows) if self._tables is None else self._tables[number]
        change = table.to(stream)[self._owners]  # (rows, 1, D), or (1, S, D) of a packed sequence
        for experiment, row in rows.items():
            if not self._is_plain(experiment):
                change = change + self._selective(experiment, row, stream)
        return with_stream(output, stream + change)

    def _is_plain(self, experiment: int) -> bool:
        part = self._parts[experiment]
        return part.tokens == "all" and not part.by_token

    def _table(self, rows: dict[int, int]) -> torch.Tensor:
        """Returns the plain vectors at a place, (K, D) float32; differentiable."""
        nothing = torch.zeros(self._parts[0].width, device=self._parts[0].unit.device)
        return torch.stack(
            [
                part.plain(rows[k], self.scales[k]) if k in rows and self._is_plain(k) else nothing
                for k, part in enumerate(self._parts)
            ]
        )

    def _selective(self, experiment: int, row: int, stream: torch.Tensor) -> torch.Tensor:
        """Returns what an experiment adds to some tokens, or to each as its gate says."""
        part = self._parts[experiment]
        change = part.plain(row, self.scales[experiment]).to(stream)
        if part.by_token:
            change = part.gate(row, stream) * change
        assert self._owners is not None
        chosen = self._owners.eq(experiment)[..., None]
        if part.tokens != "all":
            chosen = chosen & is_steered(self._roles_of(stream, part), part.tokens)
        return chosen.to(stream) * change

    def _roles_of(self, stream: torch.Tensor, part: SiteVectors) -> torch.Tensor:
        roles = self._roles
        if roles is None or roles.shape[1] != stream.shape[1]:
            raise ConfigError(
                "model.steering.tokens",
                part.tokens,
                rule=f"the roles of {stream.shape[1]} tokens of this pass are not known",
                why="Some layers of this model read other tokens than the model itself",
                fix="Set model.steering.tokens: all, or train this experiment by `fit`",
            )
        return roles

    @contextmanager
    def with_owners(self, owners: torch.Tensor) -> Iterator[None]:
        """Says whose the rows are; see `Attachment.with_owners`."""
        self._owners = owners
        try:
            yield
        finally:
            self._owners = None

    @contextmanager
    def with_roles(self, roles: torch.Tensor) -> Iterator[None]:
        """Sets the roles of the tokens; see `Attachment.with_roles`."""
        self._roles = roles
        try:
            yield
        finally:
            self._roles = None

    @contextmanager
    def constant(self) -> Iterator[Sequence[ConstantVector]]:
        """Makes the tables once for the block; no bias can add vectors that differ by row."""
        with torch.no_grad():
            self._tables = [self._table(rows) for rows in self._rows.values()]
        try:
            yield ()
        finally:
            self._tables = None

    def remove(self) -> None:
        """Removes the hooks; see `Attachment.remove`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
