"""CUDA graphs for decoding: passes over one token per row, captured once and replayed.

A pass over one token per row consists of about a thousand small kernels. Launching them one by one
takes Python several times as long as a GPU needs to run them. A graph is launched as a whole, but
its shapes and its memory are fixed, so rows, prompts and columns are padded to round numbers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch

from steer_lightning.rollout.flight import Flight, View
from steer_lightning.rollout.kv_cache import FlightCache
from steer_lightning.system.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

COLUMNS = 128
"""Passes are padded to a multiple of this number of tail columns."""

CAPTURE_AFTER = 2
"""Number of passes of a shape before the shape is captured; a capture costs about two passes."""

TokenPass = Callable[[torch.Tensor, View], torch.Tensor]
"""Function from tokens (N,) and the view of the rows that read them to logits (N, V)."""

Pass = Callable[[], torch.Tensor]
"""Forward pass on tokens and positions at fixed addresses in memory."""


class Shape(NamedTuple):
    """The sizes that a graph fixes."""

    rows: int
    """Number of rows, N."""
    columns: int
    """Number of tail columns."""
    prompts: int
    """Number of prompts, P."""
    group: int
    """Largest number of rows of one prompt."""
    room: int
    """Number of tail columns for which memory is allocated; another number means other memory."""


class Padded(View):
    """A graph's view of a flight: padded, and in memory of its own.

    Rows that are padding read an arbitrary token and see the first column of a free slot and the
    first prompt. Their logits are discarded.

    Args:
        shape: Shape to which the flight is padded.
        width: Number of columns of the longest prompt.
        device: Device of the tensors.

    Attributes:
        tokens: Tokens to read, (N,) int64.
    """

    def __init__(self, shape: Shape, width: int, device: torch.device) -> None:
        def zeros(count: int) -> torch.Tensor:
            return torch.zeros(count, dtype=torch.long, device=device)

        self._shape, self.width, self.device = shape, width, device
        self.num_columns, self.column, self.largest_group = shape.columns, None, shape.group
        self.slots = torch.arange(shape.rows, device=device)
        self.tokens, self.counts, self.row_lengths = (zeros(shape.rows) for _ in range(3))
        self.owners = zeros(shape.rows)
        self.place, self.prompt_lengths = zeros(shape.rows), zeros(shape.prompts)
        self.slots_by_group = zeros(shape.prompts * shape.group)
        self._is_regular = self._is_uniform = False
        self._biases = {}

    @property
    def num_rows(self) -> int:
        """Number of rows, padding included; see `View.num_rows`."""
        return self._shape.rows

    @property
    def num_prompts(self) -> int:
        """Number of prompts, padding included; see `View.num_prompts`."""
        return self._shape.prompts

    def take(self, flight: Flight, tokens: torch.Tensor) -> None:
        """Copies the inputs of the next pass."""
        prompt, place = flight.place // flight.largest_group, flight.place % flight.largest_group
        place = prompt * self.largest_group + place
        _fill(self.tokens, tokens, 0)
        _fill(self.counts, flight.counts, 1)
        _fill(self.row_lengths, flight.row_lengths, 1)
        _fill(self.owners, flight.owners, 0)
        _fill(self.prompt_lengths, flight.prompt_lengths, 1)
        _fill(self.place, place, 0)
        self.slots_by_group.zero_()
        self.slots_by_group[place] = flight.slots

    def begin(self) -> None:
        """Computes the masks from the inputs; this is part of the captured pass."""
        self._padding_bias = self.hide_padding()
        self._biases.clear()


def _fill(target: torch.Tensor, values: torch.Tensor, padding: int) -> None:
    target[: len(values)] = values
    target[len(values) :] = padding


class CudaGraphs:
    """Captures passes as CUDA graphs, which share the memory of their intermediate results."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Pass) -> Pass:
        """Captures a pass; returns its replay, whose logits are in the same memory each time."""
        run()  # the first call sets up libraries, which can't be captured
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay


class CapturedPasses:
    """The graphs of one rollout.

    Args:
        flight: Rows and prompts in flight.
        cache: Keys and values of the flight.
        capture: Function that captures a pass and returns its replay.
        capture_after: Number of passes before a capture, see `CAPTURE_AFTER`.

    Attributes:
        failure: Reason why passes of this model can't be captured; None if there is none so far.
    """

    def __init__(
        self,
        flight: Flight,
        cache: FlightCache,
        capture: Callable[[Pass], Pass],
        capture_after: int = CAPTURE_AFTER,
    ) -> None:
        self._flight, self._cache = flight, cache
        self._capture, self._capture_after = capture, capture_after
        self._times: Counter[Shape] = Counter()
        self._known: dict[Shape, tuple[Padded, Pass]] = {}
        self.failure: str | None = None

    def logits(self, tokens: torch.Tensor, forward: TokenPass) -> torch.Tensor | None:
        """Returns the logits (N, V) after each row's token; None if the pass is not captured.

        Args:
            tokens: Last token of each row, (N,) int64, by slot.
            forward: Pass over one token per row, to capture or already captured.
        """
        if self.failure is not None:
            return None
        shape = self._shape()
        self._times[shape] += 1
        if self._times[shape] <= self._capture_after:
            return None
        if shape not in self._known and not self._make(shape, tokens, forward):
            return None
        padded, replay = self._known[shape]
        padded.take(self._flight, tokens)
        return replay()[: self._flight.num_rows]

    def _shape(self) -> Shape:
        flight = self._flight
        columns = min(-(-flight.num_columns // COLUMNS) * COLUMNS, flight.max_columns)
        room = self._cache.reserve(columns)
        return Shape(
            rows=min(round_up(flight.num_rows), flight.max_rows),
            columns=columns,
            prompts=min(round_up(flight.num_prompts), flight.max_prompts),
            group=min(round_up(flight.largest_group), flight.most_of_a_prompt),
            room=room,
        )

    def _make(self, shape: Shape, tokens: torch.Tensor, forward: TokenPass) -> bool:
        """Captures a pass; returns whether it could be captured."""
        for old in [known for known in self._known if known.room != shape.room]:
            del self._known[old]  # this graph reads memory that has been freed
        padded = Padded(shape, self._flight.max_width, self._flight.device)
        padded.take(self._flight, tokens)

        def run() -> torch.Tensor:
            padded.begin()
            with self._cache.seen_as(padded):
                return forward(padded.tokens, padded)

        try:
            with self._cache.keeping_states():
                self._known[shape] = padded, self._capture(run)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.failure = " ".join(str(error).split())
            return False
        return True


def round_up(count: int) -> int:
    """Rounds up to one of 1, 2, 3, 4, 6, 8, 12, 16, 24 ..., which adds at most a half."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power
