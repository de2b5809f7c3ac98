"""The keys and values of the completions in flight: how many fit, and the attention over them.

A cache layer holds each prompt's keys and values once, for all G completions of its group, and a
preallocated tail for each row. The attention function attends to both and joins the two parts by
their softmax sums. The model's own forward pass does the rest, so any decoder that uses the
interface of `model.attention` can decode here.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.model.attention import (
    AttentionCall,
    CacheLayer,
    attention_by,
    cache_of,
    sources_of_keys,
)
from steer_lightning.model.recurrence import RecurrentCache
from steer_lightning.rollout.flight import Flight, View
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.states import States

FIRST_COLUMNS = 64
"""Number of tail columns allocated at first; the number doubles as completions grow."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The number of rows and prompts in flight at once."""

    max_rows: int
    """Maximum number of rows in flight."""
    max_prompts: int
    """Maximum number of prompts in flight."""
    tokens: int
    """Maximum number of tokens in these rows and prompts together."""
    least: int
    """Maximum number of tokens in the longest prompt with one completion."""


FEW_SLOTS = Plan(max_rows=4, max_prompts=2, tokens=0, least=0)
"""Plan of checks, in which rows have to wait, split and move."""


def plan_flight(
    requests: Sequence[Request], budget: int, fitting: int | None = None, num_flights: int = 1
) -> Plan:
    """Fits as many completions as possible into a budget of tokens.

    Args:
        requests: Prompts of one policy, or of several that share the flight.
        budget: Maximum number of tokens in flight, as configured.
        fitting: Number of tokens to try instead after memory has run out; None before that.
        num_flights: Number of flights that share the budget.

    Raises:
        ConfigError: If the budget is too small for one prompt with one completion.
    """
    sizes = [(len(request.prompts), request.sampling.group_size) for request in requests]
    num_prompts, num_rows = sum(b for b, _ in sizes), sum(b * g for b, g in sizes)
    columns = max(request.sampling.max_new_tokens for request in requests)
    width = max(len(prompt.token_ids) for request in requests for prompt in request.prompts)
    least = width + columns
    if least > budget:
        raise ConfigError(
            "model.engine.max_tokens_in_flight",
            budget,
            rule=f"must be enough for the longest prompt ({width} tokens) and one completion "
            f"({columns} tokens)",
            fix=f"Set it to {least} or more, or lower max_new_tokens",
        )
    budget = max(least, min(budget // num_flights, budget if fitting is None else fitting))
    if num_rows * columns + num_prompts * width > budget:
        # prompts stay while any of their rows is unfinished: allow half as many slots again as full
        # groups need
        share = columns + 1.5 * width * num_prompts / num_rows
        num_rows = max(1, min(num_rows, int((budget - 2 * width) / share)))
        spare = (budget - num_rows * columns) // width
        num_prompts = max(1, min(num_prompts, num_rows, spare))
    tokens = num_rows * columns + num_prompts * width
    return Plan(max_rows=num_rows, max_prompts=num_prompts, tokens=tokens, least=least)


def smaller(plan: Plan, most: int, in_step: bool) -> int:
    """Returns the number of tokens to try after memory has run out.

    Args:
        plan: Plan for which memory has run out.
        most: Maximum number of tokens in flight, as configured.
        in_step: Whether other processes are in the middle of the same pass.

    Raises:
        ConfigError: If the rollout can't restart, or a single completion does not fit.
    """
    if in_step:
        raise ConfigError(
            "model.engine.max_tokens_in_flight",
            most,
            rule=f"memory ran out with {plan.tokens} tokens in flight",
            why="The base is gathered layer by layer, in step with other processes, which are in "
            "the middle of the same pass, so this process can't restart its rollout alone",
            fix=f"Set it to {max(plan.least, plan.tokens // 2)} or less",
        )
    if plan.max_rows == 1:
        raise ConfigError(
            "model.sampling.max_new_tokens",
            UNKNOWN,
            rule=f"memory ran out with a single completion in flight ({plan.least} tokens with "
            "its prompt)",
            why="At least one completion must fit",
            fix="Lower it or data.max_prompt_tokens, or use a smaller base or model.dtype: "
            "bfloat16",
        )
    return max(plan.least, plan.tokens // 2)


class KeyValues(CacheLayer):
    """The keys and values of one decoder layer.

    Prompts (P, K, T0, D) are aligned to the right, like left-padded text; tails (N, K, T, D) to the
    left.

    Args:
        flight: Rows and prompts in flight, shared by all layers.

    Attributes:
        view: View of the flight that the current pass has: the flight itself, or a padded view.
    """

    def __init__(self, flight: Flight) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flight = flight
        self.view: View = flight
        self.prefix: list[torch.Tensor] = []  # empty in a layer without attention
        self.tail: list[torch.Tensor] = []

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocates memory for all rows and prompts that can be in flight at once."""
        flight = self.flight

        def room(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
            return _zeros(like, (rows, like.shape[1], columns, like.shape[3]))

        self.prefix = [
            room(like, flight.max_prompts, flight.max_width) for like in (key_states, value_states)
        ]
        columns = min(FIRST_COLUMNS, flight.max_columns)
        self.tail = [room(like, flight.max_rows, columns) for like in (key_states, value_states)]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns its arguments unchanged: the attention stores keys and values, see `store`."""
        return key_states, value_states

    def store(self, key: torch.Tensor, value: torch.Tensor) -> None:
        """Stores the keys and values of new tokens, (rows, K, T, D).

        These are the keys and values that the attention gets; some models pass compressed ones to
        `update`.
        """
        if not self.is_initialized:
            self.lazy_initialization(key, value)
        view, new = self.view, (key, value)
        if view.prefilling is not None:
            for room, states in zip(self.prefix, new, strict=True):
                view.prefilling.store(room, states)
            return
        self.reserve(view.num_columns)
        for room, states in zip(self.tail, new, strict=True):
            if view.column is not None:  # all rows are equally long: a slice is faster
                room[: view.num_rows, :, view.column] = states[:, :, 0]
            else:
                room[view.slots, :, view.columns] = states[:, :, 0]

    @property
    def num_columns(self) -> int:
        """Number of tail columns that are allocated; 0 in a layer without attention."""
        return self.tail[0].shape[2] if self.is_initialized else 0

    def reserve(self, num_columns: int) -> None:
        """Allocates at least that many tail columns, in new memory if there were fewer."""
        while 0 < self.num_columns < num_columns:
            self._grow()

    def _grow(self) -> None:
        columns = min(2 * self.tail[0].shape[2], self.flight.max_columns)
        for k, old in enumerate(self.tail):
            self.tail[k] = _zeros(old, (*old.shape[:2], columns, old.shape[3]))
            self.tail[k][:, :, : old.shape[2]] = old

    def copy_rows(self, source: torch.Tensor, target: torch.Tensor, num_columns: int) -> None:
        """Copies tails into free slots."""
        for room in self.tail:
            room[target, :, :num_columns] = room[source, :, :num_columns]

    def move_prompts(self, source: torch.Tensor, target: torch.Tensor, width: int) -> None:
        """Moves prompts of up to `width` tokens into slots that have become free."""
        for room in self.prefix:
            room[target, :, -width:] = room[source, :, -width:]

    def clear(self, rows: list[int], prompts: list[int]) -> None:
        """Sets the tails in row slots, and the prompts in prompt slots, to zero."""
        for tail, prefix in zip(self.tail, self.prefix, strict=True):
            tail[rows, :, : self.flight.num_columns] = 0
            prefix[prompts, :, -self.flight.width :] = 0


def _zeros(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns zeros of the same dtype and device.

    On a CPU, memory that nobody writes to is not taken from the system: most rows of a flight never
    need their own, since completions share rows until they differ.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, math.prod(shape) * like.element_size())
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


class FlightCache:
    """The keys, values and states of all decoder layers, and the attention of a model over them.

    Args:
        model: Language model.
        flight: Rows and prompts in flight.
        is_recurrent: Whether layers of the model have states.

    Attributes:
        layers: Keys and values of each decoder layer.
        shares_keys: Whether layers read the keys and values of others.
        states: States of each decoder layer of a recurrent model; empty for other models.
        past: Cache of these layers, which the model takes as `past_key_values`.
    """

    def __init__(self, model: Any, flight: Flight, is_recurrent: bool = False) -> None:
        self._model, self._flight = model, flight
        self._sources = sources_of_keys(model.config.get_text_config())
        self.shares_keys = len(set(self._sources)) < len(self._sources)
        self.layers = [KeyValues(flight) for _ in self._sources]
        self.states = [States(flight) for _ in self._sources] if is_recurrent else []
        self.past = (
            RecurrentCache(self.layers, self.states) if is_recurrent else cache_of(self.layers)
        )

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Makes the model attend through these layers within the block."""
        with attention_by(self._model, self.attend):
            yield

    @contextmanager
    def seen_as(self, view: View) -> Iterator[None]:
        """Makes passes see the flight through another view within the block."""
        self._see(view)
        try:
            yield
        finally:
            self._see(self._flight)

    def _see(self, view: View) -> None:
        for layer in self.layers:
            layer.view = view
        for states in self.states:
            states.view = view

    @contextmanager
    def keeping_states(self) -> Iterator[None]:
        """Restores the rows' states after passes that must not count."""
        rooms = [room for states in self.states for room in states.rows.values()]
        kept = [room[: self._flight.num_rows].clone() for room in rooms]
        try:
            yield
        finally:
            for room, before in zip(rooms, kept, strict=True):
                room[: len(before)] = before

    def reserve(self, num_columns: int) -> int:
        """Allocates at least that many tail columns; returns how many there are."""
        for layer in self.layers:
            layer.reserve(num_columns)
        return max(layer.num_columns for layer in self.layers)

    def copy_rows(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies tails and states from row slots into free ones."""
        for layer in self.layers:
            layer.copy_rows(source, target, self._flight.num_columns)
        for states in self.states:
            states.copy_rows(source, target)

    def move_prompts(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Moves prompts into slots that have become free."""
        flight = self._flight
        width = max(flight.lengths[flight.prompts[slot]] for slot in target.tolist())
        for layer in self.layers:
            layer.move_prompts(source, target, width)

    def clear(self, completions: Collection[int]) -> None:
        """Sets the keys and values of completions in flight, and of their prompts, to zero.

        A mask hides what earlier rows have left in a slot, but not if it is infinite or NaN.
        """
        flight = self._flight
        rows = [k for k, row in enumerate(flight.rows) if not set(row).isdisjoint(completions)]
        asked = {flight.prompt_of[completion] for completion in completions}
        prompts = [k for k, prompt in enumerate(flight.prompts) if prompt in asked]
        for layer in self.layers:
            layer.clear(rows, prompts)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attends over prompts and tails.

        Args:
            call: Queries, keys and values of the new tokens only.

        Returns:
            Output (rows, T, H, D).
        """
        source = self._sources[call.layer]
        layer = self.layers[source]
        if source == call.layer:
            layer.store(call.key, call.value)
        prefill = layer.view.prefilling
        if prefill is None:
            return _decode(layer.view, layer, call)
        seen = zip(layer.prefix, (call.key, call.value), strict=True)
        keys, values = (prefill.with_beginning(room, states) for room, states in seen)
        return call.over(call.query, keys, values, prefill.mask(call.window))


def _decode(view: View, layer: KeyValues, call: AttentionCall) -> torch.Tensor:
    """Attends for one token per row: from queries (N, H, 1, D) to an output (N, 1, H, E)."""
    num_rows, heads, _, size = call.query.shape
    keys, values = (room[:num_rows, :, : view.num_columns] for room in layer.tail)
    kv_heads = keys.shape[1]
    folded = (call.query * call.scale).reshape(num_rows, kv_heads, heads // kv_heads, size)
    prefix_bias, tail_bias = view.biases(call.window, heads // kv_heads)
    tail = _part(call, folded, keys, values, tail_bias)
    prompts = [room[: view.num_prompts, :, -view.width :] for room in layer.prefix]
    grouped = view.to_groups(folded)
    prefix = [
        view.from_groups(part, heads // kv_heads)
        for part in _part(call, grouped, prompts[0], prompts[1], prefix_bias)
    ]
    joined = _join(prefix, tail, call.sinks).to(call.query.dtype)
    return joined.reshape(num_rows, 1, heads, values.shape[-1])


Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # weighted values, sums, maxima


def _part(
    call: AttentionCall,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
) -> Part:
    """Attends over a part of the tokens, without normalisation; scores are float32."""
    scores = call.capped(torch.matmul(query, keys.transpose(2, 3)).float())
    if bias is not None:
        scores += bias
    largest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    return (
        torch.matmul(weights.to(values.dtype), values).float(),
        weights.sum(-1, keepdim=True),
        largest,
    )


def _join(one: Any, two: Any, sinks: torch.Tensor | None) -> torch.Tensor:
    """Joins two parts into the softmax over both: each is weighted by its share of the sum.

    Sinks (H,) are a third part, whose values are zero.
    """
    largest = torch.maximum(one[2], two[2])
    if sinks is not None:
        scores = sinks.float().view(largest.shape[1:])
        largest = torch.maximum(largest, scores)
    share_one, share_two = (one[2] - largest).exp_(), (two[2] - largest).exp_()
    total = one[1] * share_one + two[1] * share_two
    if sinks is not None:
        total += (scores - largest).exp_()
    joined: torch.Tensor = (one[0] * share_one + two[0] * share_two) / total
    return joined
