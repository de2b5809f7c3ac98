"""Passes that are recorded once and replayed: CUDA graphs.

A pass over one token a row is some thousand small kernels. To launch them one by one takes Python
several times as long as a GPU needs to run them. A recording is launched as a whole, but its shapes
and its memory are fixed: so rows, prompts and columns are padded to round numbers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch

from steer_lightning.rollout.attention_view import View
from steer_lightning.rollout.flight import Flight
from steer_lightning.rollout.kv_cache import KeyValues, seen_as
from steer_lightning.system.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

COLUMNS = 128
"""Tail columns are padded to a multiple of it."""

RECORD_AFTER = 2
"""Passes of a shape that come before it is recorded: a recording costs about two of them."""

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From tokens (N, 1) and positions (N, 1) to logits (N, V)."""

Pass = Callable[[], torch.Tensor]
"""The same on tokens and positions at fixed places."""


class Shape(NamedTuple):
    """What is fixed in a recording."""

    rows: int
    columns: int
    prompts: int
    group: int
    """Rows of a prompt at most."""
    room: int
    """Tail columns that there is memory for: another number is other memory."""


class Padded(View):
    """A flight as a recording sees it: padded, in memory of its own.

    Rows that are padding read any token, see the first column of a free slot and the first prompt,
    and nobody asks for their logits.

    Args:
        shape: To which it is padded.
        width: Columns of the longest prompt.
        device: Of the tensors.

    Attributes:
        tokens: (N,) to be read.
    """

    def __init__(self, shape: Shape, width: int, device: torch.device) -> None:
        def zeros(count: int) -> torch.Tensor:
            return torch.zeros(count, dtype=torch.long, device=device)

        self._shape, self.width, self.device = shape, width, device
        self.num_columns, self.column, self.largest_group = shape.columns, None, shape.group
        self.slots = torch.arange(shape.rows, device=device)
        self.tokens, self.counts, self.row_lengths = (zeros(shape.rows) for _ in range(3))
        self.place, self.prompt_lengths = zeros(shape.rows), zeros(shape.prompts)
        self.slots_by_group = zeros(shape.prompts * shape.group)
        self._is_regular = self._is_uniform = False
        self._biases = {}

    @property
    def num_rows(self) -> int:
        """See `View.num_rows`."""
        return self._shape.rows

    @property
    def num_prompts(self) -> int:
        """See `View.num_prompts`."""
        return self._shape.prompts

    def take(self, flight: Flight, tokens: torch.Tensor) -> None:
        """Copies what the next pass is about."""
        prompt, place = flight.place // flight.largest_group, flight.place % flight.largest_group
        place = prompt * self.largest_group + place
        _fill(self.tokens, tokens, 0)
        _fill(self.counts, flight.counts, 1)
        _fill(self.row_lengths, flight.row_lengths, 1)
        _fill(self.prompt_lengths, flight.prompt_lengths, 1)
        _fill(self.place, place, 0)
        self.slots_by_group.zero_()
        self.slots_by_group[place] = flight.slots

    def begin(self) -> None:
        """What is hidden is computed anew, by the pass itself, from what it was given."""
        self._padding_bias = self.hide_padding()
        self._biases.clear()


def _fill(target: torch.Tensor, values: torch.Tensor, padding: int) -> None:
    target[: len(values)] = values
    target[len(values) :] = padding


class CudaGraphs:
    """Records passes as CUDA graphs, which share the memory of what they compute in between."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Pass) -> Pass:
        """Returns the replay of a pass, whose logits lie in the same memory each time."""
        run()  # what libraries do at a first call can't be recorded
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay


class RecordedPasses:
    """The recordings of one rollout.

    Args:
        flight: What is in flight.
        layers: Its keys and values.
        record: Makes a replay of a pass.
        record_after: See `RECORD_AFTER`.

    Attributes:
        failure: Why passes of this model can't be recorded, once that is known.
    """

    def __init__(
        self,
        flight: Flight,
        layers: list[KeyValues],
        record: Callable[[Pass], Pass],
        record_after: int = RECORD_AFTER,
    ) -> None:
        self._flight, self._layers = flight, layers
        self._record, self._record_after = record, record_after
        self._times: Counter[Shape] = Counter()
        self._known: dict[Shape, tuple[Padded, Pass]] = {}
        self.failure: str | None = None

    def logits(self, tokens: torch.Tensor, forward: Forward) -> torch.Tensor | None:
        """Logits (N, V) behind a token (N,) of each row; None if the pass is not recorded.

        Args:
            tokens: (N,) by slot.
            forward: What is recorded.
        """
        if self.failure is not None:
            return None
        shape = self._shape()
        self._times[shape] += 1
        if self._times[shape] <= self._record_after:
            return None
        if shape not in self._known and not self._make(shape, tokens, forward):
            return None
        padded, replay = self._known[shape]
        padded.take(self._flight, tokens)
        return replay()[: self._flight.num_rows]

    def _shape(self) -> Shape:
        flight = self._flight
        columns = min(-(-flight.num_columns // COLUMNS) * COLUMNS, flight.max_columns)
        for layer in self._layers:
            layer.reserve(columns)
        return Shape(
            rows=min(round_up(flight.num_rows), flight.max_rows),
            columns=columns,
            prompts=min(round_up(flight.num_prompts), flight.max_prompts),
            group=min(round_up(flight.largest_group), flight.group_size),
            room=max(layer.num_columns for layer in self._layers),
        )

    def _make(self, shape: Shape, tokens: torch.Tensor, forward: Forward) -> bool:
        """Records a pass; whether it can be."""
        for old in [known for known in self._known if known.room != shape.room]:
            del self._known[old]  # of memory that is no more
        padded = Padded(shape, self._flight.max_width, self._flight.device)
        padded.take(self._flight, tokens)

        def run() -> torch.Tensor:
            padded.begin()
            with seen_as(self._layers, padded):
                return forward(padded.tokens[:, None], padded.positions[:, None])

        try:
            self._known[shape] = padded, self._record(run)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.failure = " ".join(str(error).split())
            return False
        return True


def round_up(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 ...: at most half as many again."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power
