"""The vectors of several experiments on one base: each row of a batch is steered by its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

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
        parts: Vectors of each experiment, which have been built for the same model; one object may
            serve several.
        left_out: Indices of layers in which the vectors of each experiment do nothing; default:
            none.
    """

    def __init__(
        self, parts: Sequence[SiteVectors], left_out: Sequence[Collection[int]] | None = None
    ) -> None:
        super().__init__()
        self.metadata = {}
        self._left_out = left_out
        self.parts = list(parts)
        """Vectors of each experiment; not registered, since they are trained where they belong."""

    @property
    def layers_path(self) -> str | None:
        """Dotted path of the model's decoder layers, the same for all parts; see `Steering`."""
        return self.parts[0].layers_path

    @layers_path.setter
    def layers_path(self, path: str | None) -> None:
        for part in self.parts:
            part.layers_path = path

    @property
    def first_layer(self) -> int:
        """Index of the first layer that an experiment steers; see `Steering.first_layer`."""
        return min(part.first_layer for part in self.parts)

    def build(self, model: nn.Module) -> None:
        """Does nothing, since the parts are built by themselves; see `Steering.build`."""

    def attach(self, model: nn.Module, scale: float = 1.0) -> RowVectors:
        """Attaches the vectors of all experiments to a model; see `Steering.attach`."""
        return RowVectors(model, self.parts, self._left_out)

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


def steers_rows(steering: Steering) -> TypeGuard[SiteVectors]:
    """Returns whether a steering is known to act as `RowVectors` does."""
    # a subclass with an attachment of its own may add something else
    return isinstance(steering, SiteVectors) and type(steering).attach is SiteVectors.attach


class RowVectors(Attachment):
    """Adds to each row the vector of its own experiment.

    In a rollout the vectors at a place are the rows of a table (K, D), which is 0 where an
    experiment has no vector there; vectors that act on some tokens, or through a gate, are added
    one experiment after the other. In an update each experiment has a segment of the packed
    sequence.

    Args:
        model: Model to steer.
        parts: Vectors of the K experiments.
        left_out: Indices of layers in which the vectors of each experiment do nothing; default:
            none.

    Attributes:
        scales: Factor on the vectors of each experiment.
    """

    scale = 1.0
    needs_owners = True

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[SiteVectors],
        left_out: Sequence[Collection[int]] | None = None,
    ) -> None:
        self._parts = parts
        left_out = left_out or [()] * len(parts)
        self.scales = [1.0] * len(parts)
        self._served = set(range(len(parts)))
        self.needs_roles = any(part.tokens != "all" for part in parts)
        self._owners: torch.Tensor | None = None
        self._segments: Sequence[tuple[int, int]] | None = None
        self._roles: torch.Tensor | None = None
        self._tables: list[torch.Tensor] | None = None
        layers = find_layers(model, parts[0].layers_path)
        places: dict[nn.Module, dict[int, int]] = {}
        for number, part in enumerate(parts):
            for row, place in enumerate(find_sites(layers, part.layers, part.site)):
                if part.layers[row] not in left_out[number]:
                    places.setdefault(place, {})[number] = row
        self._rows = list(places.values())  # at each place, the row of each experiment
        self._handles: list[Any] = []
        for number, place in enumerate(places):
            self._handles.append(place.register_forward_hook(partial(self._add, number)))
            self._handles.append(traced_anew(place))

    def _add(self, number: int, module: nn.Module, args: object, output: Any) -> Any:
        """Computes `h <- h + scale * v` for each token, with the v of its row's experiment."""
        if self.is_paused:
            return None
        stream = stream_of(output, self._parts[0].width)
        add = self._by_row if self._segments is None else self._by_segment
        return with_stream(output, add(number, stream))

    def _by_row(self, number: int, stream: torch.Tensor) -> torch.Tensor:
        """Steers rows (rows, T, D), each with a vector of its own from a table."""
        assert self._owners is not None, "nobody has said whose the rows are"
        table = self._tables[number] if self._tables else self._table(number)
        change = table.to(stream)[self._owners][:, None]
        for experiment, row in self._rows[number].items():
            if experiment in self._served and not self._is_plain(experiment):
                own = (self._owners == experiment)[:, None, None]
                # not times 0, which would make NaN of the others' rows if this one has diverged
                added = self._change(experiment, row, stream, self._roles)
                change = change + torch.where(own, added, torch.zeros_like(added))
        return stream + change

    def _by_segment(self, number: int, stream: torch.Tensor) -> torch.Tensor:
        """Steers the segments of a sequence (1, S, D), each as a sequence of its own.

        The gradient of a vector is then summed as in a run of its own, to the last bit.
        """
        assert self._segments is not None
        lengths = [length for _, length in self._segments]
        parts = torch.split(stream, lengths, 1)
        roles = [None] * len(parts) if self._roles is None else torch.split(self._roles, lengths, 1)
        rows = self._rows[number]
        steered = [
            part + self._change(owner, rows[owner], part, role) if owner in rows else part
            for (owner, _), part, role in zip(self._segments, parts, roles, strict=True)
        ]
        return torch.cat(steered, 1)

    def serves(self, experiments: Collection[int]) -> None:
        """Says which experiments have rows; the vectors of the others may lie elsewhere."""
        self._served = set(experiments)

    def _is_plain(self, experiment: int) -> bool:
        part = self._parts[experiment]
        return part.tokens == "all" and not part.by_token

    def _table(self, number: int) -> torch.Tensor:
        """Returns the vectors at a place that act on all tokens alike, (K, D) float32."""
        device = self._parts[min(self._served)].unit.device
        nothing = torch.zeros(self._parts[0].width, device=device)
        rows = {k: row for k, row in self._rows[number].items() if k in self._served}
        return torch.stack(
            [
                part.plain(rows[k], self.scales[k]) if k in rows and self._is_plain(k) else nothing
                for k, part in enumerate(self._parts)
            ]
        )

    def _change(
        self, experiment: int, row: int, stream: torch.Tensor, roles: torch.Tensor | None
    ) -> torch.Tensor:
        """Returns what an experiment adds to the tokens of a stream (rows, T, D)."""
        part = self._parts[experiment]
        change = part.plain(row, self.scales[experiment]).to(stream)
        if part.by_token:
            change = part.gate(row, stream) * change
        if part.tokens == "all":
            return change
        if roles is None or roles.shape[1] != stream.shape[1]:
            raise ConfigError(
                "model.steering.tokens",
                part.tokens,
                rule=f"the roles of {stream.shape[1]} tokens of this pass are not known",
                why="Some layers of this model read other tokens than the model itself",
                fix="Set model.steering.tokens: all, or train this experiment by `fit`",
            )
        return is_steered(roles, part.tokens).to(stream) * change

    @contextmanager
    def with_owners(self, owners: torch.Tensor) -> Iterator[None]:
        """Says whose the rows are; see `Attachment.with_owners`."""
        self._owners = owners
        try:
            yield
        finally:
            self._owners = None

    @contextmanager
    def with_segments(self, segments: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Says whose the parts of a sequence are; see `Attachment.with_segments`."""
        self._segments = segments
        try:
            yield
        finally:
            self._segments = None

    @contextmanager
    def with_roles(self, roles: torch.Tensor) -> Iterator[None]:
        """Sets the roles of the tokens; see `Attachment.with_roles`."""
        before, self._roles = self._roles, roles
        try:
            yield
        finally:
            self._roles = before

    @contextmanager
    def constant(self) -> Iterator[Sequence[ConstantVector]]:
        """Makes the tables once for the block; no bias can add vectors that differ by row."""
        with torch.no_grad():
            self._tables = [self._table(number) for number in range(len(self._rows))]
        try:
            yield ()
        finally:
            self._tables = None

    def remove(self) -> None:
        """Removes the hooks; see `Attachment.remove`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
