"""The observer of a model's `generate`, which finds out which tokens are the prompt.

The prompt is the input of a call of `generate`, and the completion is what the call adds. This
holds however the tokens are read: with or without a cache, in chunks, after an earlier turn, or
several at once. Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.steering.tokens import column_roles

NAME = "_steer_lightning_watch"
"""Attribute of a model in which its observer is kept."""


def watched_generate(model: nn.Module) -> WatchedGenerate:
    """Returns the observer of a model's `generate` for one more user, who calls `remove` once."""
    watch: WatchedGenerate = vars(model).get(NAME) or WatchedGenerate(model)
    watch.num_users += 1
    return watch


class WatchedGenerate:
    """Wraps a model's `generate` while anything is attached to the model.

    It also keeps `generate` from compiling the model, which it would do for a static cache on a
    GPU, because compiled code ignores later attachments.

    Args:
        model: Model of transformers; a model without `generate` is left unchanged.

    Attributes:
        num_users: Number of attachments that need the observer.
        call: Current call of `generate`; None outside a call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.num_users = model, 0
        self.call: _Call | None = None
        self._before: dict[str, Any] = {NAME: None}
        vars(model)[NAME] = self
        if hasattr(model, "generate") and hasattr(model, "prepare_inputs_for_generation"):
            for name, kind in (
                ("generate", _Generate),
                ("prepare_inputs_for_generation", _Prepare),
            ):
                self._before[name] = vars(model).get(name)
                vars(model)[name] = kind(self, getattr(model, name))

    def remove(self) -> None:
        """Ends one use; after the last one the model is restored."""
        self.num_users -= 1
        if self.num_users == 0:
            for name, before in self._before.items():
                del vars(self.model)[name]
                if before is not None:  # placed there by other code
                    vars(self.model)[name] = before

    def roles(self, inputs: Mapping[str, Any]) -> torch.Tensor | None:
        """Returns the roles of the tokens of a pass, (1, T), or None outside `generate`.

        Args:
            inputs: Arguments of the model's forward pass, by name.

        Raises:
            ConfigError: If it is unknown which columns the pass reads, or a prompt is padded on the
                right.
        """
        return None if self.call is None else self.call.roles(inputs)


class _InFront:
    """A callable with the signature of the method that it replaces.

    It is not a closure, so that a copy of the model has a method of its own.
    """

    def __init__(self, watch: WatchedGenerate, plain: Any) -> None:
        self.__wrapped__ = plain  # `inspect.signature` follows it
        self.watch = watch


class _Generate(_InFront):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before, self.watch.call = self.watch.call, _Call.begin(args, kwargs)
        try:
            return _uncompiled(self.__wrapped__, args, kwargs)
        finally:
            self.watch.call = before  # `generate` may call itself, for example to draft tokens


def _uncompiled(generate: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Calls `generate` without compilation; next to a config no other settings are allowed."""
    config = args[1] if len(args) > 1 else kwargs.get("generation_config")
    if config is None:
        return generate(*args, **{**kwargs, "disable_compile": True})
    config = copy(config)
    config.disable_compile = True
    if len(args) > 1:
        return generate(args[0], config, *args[2:], **kwargs)
    return generate(*args, **{**kwargs, "generation_config": config})


class _Prepare(_InFront):
    """Replaces the method that `generate` calls before each pass, with all ids so far."""

    def __call__(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.watch.call is not None:
            self.watch.call.prepare(input_ids.shape[1], kwargs.get("past_key_values"))
        return self.__wrapped__(input_ids, *args, **kwargs)


@dataclass
class _Call:
    """A call of `generate`.

    Columns are counted in its ids: those of the prompt are below `width`. Columns of
    `inputs_embeds`, which have no ids, are below 0.
    """

    width: int
    """Number of ids in its input."""
    holds_all: bool
    """Whether these include the ids in the cache of an earlier turn."""
    mask: torch.Tensor | None
    """Mask of the prompts, (rows, T), until it has been checked."""
    end: int | None = None
    """Column after those of the pass that was prepared last; None if unknown."""
    num_read: int = 0
    """Number of columns of the prompt that chunks have read."""
    tokens: torch.Tensor | None = None
    """Ids or embeddings of the last pass."""

    @classmethod
    def begin(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Call:
        """Reads the arguments of `generate`."""
        mask = kwargs.get("attention_mask")
        given = args[0] if args else kwargs.get("inputs")
        ids = kwargs.get("input_ids") if given is None else given
        if kwargs.get("inputs_embeds") is not None:
            return cls(0 if ids is None else ids.shape[1], holds_all=True, mask=mask)
        # without ids, generation begins with a BOS token
        width = 1 if ids is None else ids.shape[1]
        return cls(width, holds_all=mask is None or mask.shape[1] == width, mask=mask)

    def prepare(self, width: int, cache: Any) -> None:
        """Records what the next pass reads: the last of some ids, or a chunk of the prompt.

        Args:
            width: Number of ids so far, including drafts; a chunk has fewer than the prompt.
            cache: Cache, which exists whenever the prompt is read in chunks.
        """
        self.end, self.tokens = width, None
        if width < self.width:
            if self.num_read == 0 and self.holds_all:
                self.num_read = int(cache.get_seq_length()) if cache is not None else 0
            self.num_read += width
            known = cache is not None and self.num_read <= self.width
            self.end = self.num_read if known else None

    def roles(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Returns the roles of the tokens of a pass; see `WatchedGenerate.roles`."""
        ids = inputs.get("input_ids")
        tokens = inputs["inputs_embeds"] if ids is None else ids
        if self.tokens is None:  # several attachments may ask for the same pass
            self.tokens = tokens
        count, end = tokens.shape[1], self.end
        if end is None or self.tokens is not tokens or (ids is not None and end < count):
            raise ConfigError(
                "model.steering.tokens",
                UNKNOWN,
                rule="this generation method reads tokens whose position in the text is unknown",
                why="Prompt and completion can't be distinguished",
                fix="Use greedy decoding, sampling or beam search, or set model.steering.tokens: "
                "all",
            )
        self._check_padding()
        return column_roles(torch.arange(end - count, end, device=tokens.device), self.width)

    def _check_padding(self) -> None:
        mask, self.mask = self.mask, None
        if mask is not None and not bool(mask[:, -1].all()):
            raise ConfigError(
                "attention_mask",
                UNKNOWN,
                rule="a prompt given to model.generate is padded on the right",
                why="The completion would follow the padding",
                fix="Pad prompts on the left: tokenizer.padding_side = 'left'",
            )
