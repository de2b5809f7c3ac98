"""The packing of the rows of a micro-batch into one sequence without padding or repetitions.

Rows of a group share their prompt, prompts often share worked examples, and completions often begin
with the same words. The common beginning of two rows is read only once, since the hidden state of a
token depends only on the tokens before it. Everything except attention and recurrences works token
by token, and so runs on the packed tokens. Attention and recurrences take the tokens in blocks, and
put their output back into the packed order. A block holds whole texts, or trees: each token of a
group once, with a mask of the tokens of the same text, far fewer where completions are short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from steer_lightning.model.attention import AttentionCall, attention_by
from steer_lightning.model.head import Head, TokenStates, token_states
from steer_lightning.model.policy import Policy
from steer_lightning.model.replaced_forward import ForwardMethod, replaced_forwards
from steer_lightning.rollout.prefill import SHORTEST_SHARED, common_length
from steer_lightning.steering.tokens import COMPLETION, LAST_PROMPT, PROMPT
from steer_lightning.training.batch import MicroBatch
from steer_lightning.training.forward import Packed

WIDEST_TREE = 1024
"""Maximum number of tokens of a tree, since its mask grows with their square."""


class Packing:
    """The packed sequence of n rows, and the place of each of their tokens in it.

    Args:
        prompts: Tokens of the prompts of the n rows, equal within a group.
        groups: Number of each row's group.
        completions: Tokens of each row's completion, at least one.
        device: Device of the tensors.

    Attributes:
        ids: Tokens of the rows, (1, S) int64, without the last token of each row, which predicts
            nothing.
        positions: Position of each token in its text, (1, S) int64.
        roles: Role of each token, (1, S) int64, as in `steering.tokens`.
        predictors: Places in the sequence whose logits predict completion tokens, (Q,) int64.
        targets: Predicted tokens, (Q,) int64; no pair of place and token occurs twice.
        copies: Index of the pair of each completion token, row by row, (number of all completion
            tokens,) int64.
        mask: Mask of the n completions, right-padded, (n, T) bool, True for tokens.
        rows: Places in the sequence of the tokens of each row, without its last token.
        attended: Blocks in which attention takes the tokens.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        groups: Sequence[int],
        completions: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        texts = [[*p, *c[:-1]] for p, c in zip(prompts, completions, strict=True)]
        ids, positions, rows = share_beginnings(texts, groups, [len(prompt) for prompt in prompts])
        pairs: dict[tuple[int, int], int] = {}
        copies = [
            pairs.setdefault(pair, len(pairs))
            for row, prompt, completion in zip(rows, prompts, completions, strict=True)
            for pair in zip(row[len(prompt) - 1 :], completion, strict=True)
        ]
        predictors, targets = zip(*pairs, strict=True)
        roles = [COMPLETION] * len(ids)
        for row, prompt in zip(rows, prompts, strict=True):
            for place in row[: len(prompt) - 1]:
                roles[place] = PROMPT
            roles[row[len(prompt) - 1]] = LAST_PROMPT
        self.ids = torch.tensor([ids], device=device)
        self.positions = torch.tensor([positions], device=device)
        self.roles = torch.tensor([roles], device=device)
        self.predictors = torch.tensor(predictors, device=device)
        self.targets = torch.tensor(targets, device=device)
        self.copies = torch.tensor(copies, device=device)
        lengths = torch.tensor([len(completion) for completion in completions], device=device)
        self.mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
        self.rows = rows
        self.attended = Blocks(attention_blocks(rows, groups, self.positions[0]), len(ids))

    @cached_property
    def _mixed(self) -> Blocks:
        return Blocks(row_blocks(self.rows, self.ids.device), self.ids.shape[1])

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attends within the rows; takes packed tensors (1, H, S, D), returns (1, S, H, D)."""
        outputs = []
        for block in self.attended.all:
            query, key, value = (_take(x, block.places) for x in (call.query, call.key, call.value))
            output = call.over(query, key, value, block.bias(call.window, query.dtype))
            outputs.append(output.flatten(0, 1))  # (n * T, H, D)
        return self.attended.put_back(outputs)

    def by_rows(
        self, mix: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor
    ) -> torch.Tensor:
        """Mixes the tokens within the rows by a causal function of rows (n, T, D).

        Later positions, such as padding, must not change the output of a token.

        Args:
            mix: Function from rows (n, T, D) to rows (n, T, E).
            states: Packed states, (1, S, D).

        Returns:
            Packed output, (1, S, E).
        """
        outputs = []
        for block in self._mixed.all:
            rows = states[0].index_select(0, block.places.flatten())
            outputs.append(mix(rows.view(*block.places.shape, -1)).flatten(0, 1))
        return self._mixed.put_back(outputs)

    def token_states(
        self, states: torch.Tensor, head: Head, temperature: float, with_entropy: bool
    ) -> TokenStates:
        """Computes what the head makes of the states (Q, D) at the predictors, (n, T) each."""
        flat = token_states(states, self.targets, head, temperature, with_entropy)
        entropy = None if flat.entropy is None else self.spread(flat.entropy)
        return TokenStates(logprobs=self.spread(flat.logprobs), entropy=entropy)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Puts values (Q,) at the places of the completion tokens, (n, T); 0 where padded."""
        empty = torch.zeros(self.mask.shape, device=values.device)
        return empty.masked_scatter(self.mask, values[self.copies])


def share_beginnings(
    texts: Sequence[Sequence[int]], groups: Sequence[int], prompts: Sequence[int]
) -> tuple[list[int], list[int], list[list[int]]]:
    """Concatenates texts, without beginnings that they share with an earlier text.

    If the texts of a group are sorted by their tokens, each has its longest common beginning with
    the text before it. A group shares with the group before it what their prompts have in common,
    such as worked examples, if it is long; not the last token of a prompt, which has another role.

    Args:
        texts: Tokens of each text.
        groups: Number of each text's group.
        prompts: Number of tokens of each text's prompt, equal within a group.

    Returns:
        Tokens, their positions in their texts, and for each text the places of its tokens.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows: list[list[int]] = [[] for _ in texts]
    last: int | None = None
    for n in sorted(range(len(texts)), key=lambda n: (groups[n], texts[n])):
        text, common = texts[n], 0
        if last is not None:
            common = common_length(texts[last], text)
            if groups[last] != groups[n]:
                common = min(common, prompts[last] - 1, prompts[n] - 1)
                common *= common >= SHORTEST_SHARED
            rows[n] = rows[last][:common]
        rows[n] += range(len(ids), len(ids) + len(text) - common)
        ids += text[common:]
        positions += range(common, len(text))
        last = n
    return ids, positions, rows


@dataclass(kw_only=True)
class Block:
    """Rows or trees of similar size, padded on the right to the same number of tokens T."""

    places: torch.Tensor
    """Place of each token in the packed sequence, (n, T) int64; any place where padded."""
    lengths: torch.Tensor
    """Number of tokens of each row or tree, (n,) int64."""
    depths: torch.Tensor | None = None
    """Position of each token in its text, (n, T) int64, 0 where padded; None for rows."""
    _biases: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """Returns `mask` as numbers of a dtype to add to scores: 0 and minus infinity.

        They are kept: from a mask, each layer would make its own for the backward pass.
        """
        if window not in self._biases:
            seen = self.mask(window)
            bias = None if seen is None else torch.where(seen, 0.0, -torch.inf).to(dtype)
            self._biases[window] = bias
        return self._biases[window]

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Returns the mask of the tokens that each token may see.

        Args:
            window: Width of the layer's sliding window; None for a layer without one.

        Returns:
            Mask (T, T) bool for rows, or (n, 1, T, T) bool for trees; None if the causal mask is
            enough.
        """
        width = self.places.shape[1]
        window = None if window is None or width <= window else window
        if window is None and self.depths is None:
            return None
        if self.depths is None:  # a mask of rows has a window
            places = torch.arange(self.places.shape[1], device=self.places.device)
            return (places[:, None] >= places) & (places[:, None] - places < (window or 0))
        few = max(1, WIDEST_TREE**2 // self.depths.shape[1] ** 2)  # bounds matrices of int64
        trees = torch.split(self.depths, few)
        return torch.cat([ancestors(some, window) for some in trees])[:, None]


def ancestors(depths: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """Finds the tokens that lie on the way from the first token of a tree to each token.

    Each text follows the one with which it shares most, and only its own tokens stand in the tree.
    So a token belongs to the text of a later one if no token between them, nor the later one, is as
    close to the beginning.

    Args:
        depths: Position of each token in its text, (n, T) int64.
        window: Width of the layer's sliding window; None for a layer without one.

    Returns:
        Mask (n, T, T) bool, True where token i has token j in its text; i and j are the second and
        the third dimension. Each token has itself.
    """
    width = depths.shape[1]
    places = torch.arange(width, device=depths.device)
    is_later = places[:, None] < places  # (j, i)
    between = depths[:, None].masked_fill(~is_later, torch.iinfo(depths.dtype).max)
    closest = between.cummin(2).values  # of the tokens behind j up to i
    seen = (closest > depths[:, :, None]) & is_later | (places[:, None] == places)
    if window is not None:
        seen &= depths[:, None] - depths[:, :, None] < window
    return seen.transpose(1, 2).contiguous()


class Blocks:
    """Blocks that together hold each token of a packed sequence.

    Args:
        blocks: The blocks, at least one; they are kept as `all`.
        num_tokens: Number of tokens of the packed sequence, S.
    """

    def __init__(self, blocks: Sequence[Block], num_tokens: int) -> None:
        self.all = list(blocks)
        flat = []
        for block in blocks:
            columns = torch.arange(block.places.shape[1], device=block.places.device)
            inside = columns < block.lengths[:, None]
            flat.append(torch.where(inside, block.places, num_tokens).flatten())  # padding: behind
        places = torch.cat(flat)
        origin, order = places.new_zeros(num_tokens + 1), torch.arange(len(places))
        # a token that several rows share comes from the last of them, so that runs are repeatable
        origin.scatter_reduce_(0, places, order.to(places), "amax")
        self._origin = origin[:num_tokens]

    def put_back(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Puts the outputs of the blocks, (n * T, ...) each, into packed order, (1, S, ...)."""
        return torch.cat(list(outputs)).index_select(0, self._origin)[None]


def row_blocks(rows: Sequence[Sequence[int]], device: torch.device) -> list[Block]:
    """Returns blocks of rows of similar length.

    Args:
        rows: Places of the tokens of each row in the packed sequence.
        device: Device of the tensors.
    """
    found = []
    for bucket in by_size(rows):
        width = len(bucket[0])
        padded = [[*row, *[0] * (width - len(row))] for row in bucket]
        lengths = torch.tensor([len(row) for row in bucket], device=device)
        found.append(Block(places=torch.tensor(padded, device=device), lengths=lengths))
    return found


def attention_blocks(
    rows: Sequence[Sequence[int]], groups: Sequence[int], positions: torch.Tensor
) -> list[Block]:
    """Returns blocks in which attention is cheapest: groups as trees, or their rows.

    Args:
        rows: Places of the tokens of each row in the packed sequence, as `share_beginnings` returns
            them.
        groups: Number of each row's group.
        positions: Position of each token in its text, (S,) int64.
    """
    by_group: dict[int, list[Sequence[int]]] = {}
    for row, group in zip(rows, groups, strict=True):
        by_group.setdefault(group, []).append(row)
    trees: list[Sequence[int]] = []
    others: list[Sequence[int]] = []
    for members in by_group.values():
        tree = sorted(set().union(*members))
        if is_cheaper(len(tree), [len(row) for row in members]):
            trees.append(tree)
        else:
            others += members
    by_rows = row_blocks(others, positions.device)
    by_tree = row_blocks(trees, positions.device)  # padded by place 0, whose position is 0
    return [*by_rows, *(replace(tree, depths=positions[tree.places]) for tree in by_tree)]


def is_cheaper(tree: int, rows: Sequence[int]) -> bool:
    """Whether attention within a tree of a number of tokens costs less than within its rows."""
    return tree <= WIDEST_TREE and tree**2 < sum(row**2 for row in rows)


def by_size(members: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Yields buckets, longest first; each member has at least half the size of the longest."""
    bucket: list[Sequence[int]] = []
    for member in sorted(members, key=len, reverse=True):
        if bucket and 2 * len(member) < len(bucket[0]):
            yield bucket
            bucket = []
        bucket.append(member)
    if bucket:
        yield bucket


def _take(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Returns the packed states (1, H, S, D) at `places` (n, T), as (n, H, T, D)."""
    taken = states[0].index_select(1, places.flatten())
    return taken.view(states.shape[1], *places.shape, states.shape[3]).transpose(0, 1)


class PackedForward:
    """Reads micro-batches as packed sequences; see `Forward`.

    Args:
        policy: Policy whose model attends through the interface of `model.attention`.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        # not a context variable: with activation checkpointing, threads of autograd attend, too
        self._packing: Packed | None = None

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Makes the model read packed sequences within the block."""
        with ExitStack() as stack:
            stack.enter_context(attention_by(self._policy.model, self._attend))
            if self._policy.mixers:
                stack.enter_context(replaced_forwards(self._policy.mixers, self._by_rows))
            yield

    def prepare(self, rows: MicroBatch) -> Packing:
        """Packs the rows of a micro-batch."""
        lengths = rows.completion_mask.sum(1).tolist()
        ids = rows.completion_ids.tolist()
        completions = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        return Packing(rows.prompts, rows.groups, completions, self._policy.device)

    @contextmanager
    def token_states(
        self, prepared: Packing, temperature: float, with_entropy: bool = False
    ) -> Iterator[TokenStates]:
        """Reads a micro-batch; see `Forward.token_states`."""
        with self.attending(prepared):
            states, head = self.head_states(prepared)
            yield prepared.token_states(states, head, temperature, with_entropy)

    @contextmanager
    def attending(self, packing: Packed) -> Iterator[None]:
        """Uses a packing for the forward and backward passes within the block."""
        self._packing = packing
        try:
            yield
        finally:
            self._packing = None

    def head_states(self, packing: Packed) -> tuple[torch.Tensor, Head]:
        """Returns the input of the head at the predictors, (Q, D), and the head."""
        return self._policy.head_states(
            packing.ids, packing.positions, packing.predictors, packing.roles
        )

    def _attend(self, call: AttentionCall) -> torch.Tensor:
        assert self._packing is not None
        return self._packing.attend(call)

    def _by_rows(self, forward: ForwardMethod) -> ForwardMethod:
        """Returns a forward for a recurrent module that mixes the rows of a packing."""

        def mix(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            assert self._packing is not None
            if "attention_mask" in kwargs:  # all ones, with the packed length
                kwargs["attention_mask"] = None
            return self._packing.by_rows(lambda rows: forward(rows, *args, **kwargs), hidden_states)

        return mix
