"""The states of recurrent layers, one for each row in flight."""

from __future__ import annotations

import torch

from steer_lightning.model.recurrence import Name
from steer_lightning.rollout.flight import Flight, View


class States:
    """The states of one decoder layer; a layer that is not recurrent has none.

    A row begins with the state at the end of its prompt, and each token changes the state. The
    state of the prompt itself is not kept: rows that begin later read their prompt again.

    Args:
        flight: Rows and prompts in flight, shared by all layers.

    Attributes:
        view: View of the flight that the current pass has: the flight itself, or a padded view.
        rows: States of each name by row slot, (maximum number of rows in flight, ...).
    """

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
        self.view: View = flight
        self.rows: dict[Name, torch.Tensor] = {}

    def read(self, name: Name) -> torch.Tensor | None:
        """Returns the states of the rows by slot, (N, ...), without a copy; None for a prompt."""
        if self.view.prefilling is not None:
            return None
        return self.rows[name][: self.view.num_rows]

    def write(self, name: Name, state: torch.Tensor) -> None:
        """Stores the states of the rows by slot, or of the rows whose prompts are read."""
        view = self.view
        if name not in self.rows:
            self.rows[name] = state.new_zeros(self.flight.max_rows, *state.shape[1:])
        if view.prefilling is not None:
            self.rows[name][view.prefilling.starting] = state
        else:
            self.rows[name][: view.num_rows] = state

    def copy_rows(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies the states of rows into free slots."""
        for room in self.rows.values():
            room[target] = room[source]
