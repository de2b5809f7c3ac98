"""The policy: a frozen language model with what steers it, and the passes over texts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig

from steer_lightning.model.base import FrozenBase
from steer_lightning.model.fingerprint import checksum, sha256
from steer_lightning.model.folded_biases import folded_into_biases
from steer_lightning.model.head import Head
from steer_lightning.model.hub import eos_token_ids, pad_token_id
from steer_lightning.model.replaced_forward import replaced_forwards
from steer_lightning.model.sharding import Sharding
from steer_lightning.steering import (
    Attachment,
    Steering,
    SteeringVectors,
    attach,
    find_layers,
    find_sites,
    measure_rms,
)
from steer_lightning.steering.tokens import text_roles

UNIT_TOKENS = 8192
"""Tokens of a forward pass that measures the units."""


class Policy(FrozenBase):
    """Frozen base and what is trained; the base is always in eval mode.

    Args:
        base: Hub id, local folder, or `quickstart`.
        revision: Branch, tag or commit on the hub.
        dtype: Data type of the frozen base; `auto` takes the checkpoint's. What is trained is
            always float32.
        steering: What is trained; default `SteeringVectors`.
        attn_implementation: As in transformers; null takes its default.
        trust_remote_code: Runs code that comes with the model. Only for authors whom you trust.
    """

    def __init__(
        self,
        base: str,
        *,
        revision: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        steering: Steering | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(
            base,
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        self.steering: Steering = steering or SteeringVectors()
        self._attachment: Attachment
        self.sharding = Sharding()

    def prepare(self) -> None:
        """Makes what is trained, from the base's configuration alone.

        Raises:
            ConfigError: If the base can't be found, or the settings do not fit it.
        """
        self.steering.build(self.empty_base())

    def load(self, sharding: Sharding | None = None) -> None:
        """Loads and freezes the base, and puts what is trained to work on it.

        Args:
            sharding: How the base lies in the memory of several processes; default: whole.

        Raises:
            ConfigError: If the base can't be found, or the settings do not fit it.
        """
        if self.model is not None:
            return
        self.sharding = sharding or Sharding()
        self.steering.check_sharding(self.sharding.shards)
        self.prepare()
        _ = self.tokenizer  # a base without one is refused before its weights load
        self.adopt(self.sharding.build(self._load_base, self.empty_base, self._find_layers))

    def adopt(self, model: Any) -> None:
        """Freezes a transformers causal language model and puts what is trained to work on it.

        Args:
            model: The model; it is changed in place.
        """
        self.model = model.requires_grad_(False).eval()
        self.eos_token_ids = eos_token_ids(self.model, self.tokenizer)
        self.pad_token_id = pad_token_id(self.tokenizer, self.eos_token_ids)
        # What a checkpoint recommends for chatting (top-p, repetition penalty) must not leak into
        # rollouts: generate() fills every unset field from here, and the sampled distribution would
        # not be the policy's.
        self.model.generation_config = GenerationConfig(
            eos_token_id=list(self.eos_token_ids) or None, pad_token_id=self.pad_token_id
        )
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._attachment = attach(self.model, self.steering)

    def steer(self, steering: Steering, scale: float = 1.0) -> None:
        """Puts something else to work on the loaded base, in place of what is there.

        Args:
            steering: Of any kind.
            scale: Factor on what was learned.

        Raises:
            ConfigError: If it does not fit the base.
        """
        if steering is not self.steering:
            self._attachment.remove()  # first: some kinds put modules of their own into the base
            steering.build(self.model)
            self.steering.cpu()  # of large kinds a GPU has no room for several
            self.steering = steering.to(self.device)
            self._attachment = steering.attach(self.model)
        self._attachment.scale = scale

    @cached_property
    def checksum(self) -> int:
        """Tells a base from another one of the same shape: of some numbers of each tensor."""
        return checksum(self._base_tensors())

    @property
    def device(self) -> torch.device:
        """Where the base's first weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def layers(self) -> nn.ModuleList:
        """The base's decoder layers; an attribute would register them a second time."""
        return self._find_layers(self.model)

    def _find_layers(self, model: nn.Module) -> nn.ModuleList:
        return find_layers(model, getattr(self.steering, "layers_path", None))

    def train(self, mode: bool = True) -> Policy:
        """Keeps the base in eval mode: dropout would make it another model."""
        super().train(mode)
        if self.model is not None:
            self.model.eval()
        return self

    def measure_units(self, prompts: Sequence[Sequence[int]]) -> None:
        """Lets what is trained look once at a batch of tokenized prompts, read by the base."""
        with self.at_scale(0.0):
            self.steering.measure(self.model, self._in_batches(prompts))

    @contextmanager
    def at_scale(self, scale: float) -> Iterator[None]:
        """What was learned acts with this factor while the block runs; 0 is the base."""
        before = self._attachment.scale
        self._attachment.scale = scale
        try:
            yield
        finally:
            self._attachment.scale = before

    def stream_rms(
        self,
        prompts: Sequence[Sequence[int]],
        layers: tuple[int, ...],
        site: str = "layer_output",
    ) -> torch.Tensor:
        """(L,) size of the base's own stream at a site of L layers; see `measure_rms`."""
        with self.at_scale(0.0):
            places = find_sites(self.layers, layers, site)
            return measure_rms(self.model, places, self._in_batches(prompts))

    def with_text_roles(
        self, ids: torch.Tensor, num_completion: int
    ) -> AbstractContextManager[None]:
        """Says what the tokens (rows, T) of the block's passes are.

        Args:
            ids: Left-padded prompts, with right-padded completions or without, or tokens of
                completions alone.
            num_completion: Columns of the completions, on the right.
        """
        if not self._attachment.needs_roles:
            return nullcontext()
        return self._attachment.with_roles(text_roles(ids, num_completion))

    def _in_batches(
        self, prompts: Sequence[Sequence[int]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Right-padded batches of at most UNIT_TOKENS tokens, with their masks."""
        longest = max(len(ids) for ids in prompts)
        count = max(1, UNIT_TOKENS // longest)
        for first in range(0, len(prompts), count):
            rows = prompts[first : first + count]
            width = max(len(ids) for ids in rows)
            ids = [[*row, *[self.pad_token_id] * (width - len(row))] for row in rows]
            mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
            yield torch.tensor(ids).to(self.device), torch.tensor(mask).to(self.device)

    def logits(self, ids: torch.Tensor, mask: torch.Tensor, num_last: int) -> torch.Tensor:
        """Logits of the steered model.

        Args:
            ids: (N, T) int64, left-padded prompts with right-padded completions.
            mask: (N, T), 0 where padded.
            num_last: Positions to return, from the right: the completions and the prompts' last.

        Returns:
            (N, num_last, V), in the base's dtype.
        """
        extra = {}
        if self._takes_positions:  # models with ALiBi take none: they count from the mask
            extra["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
        with self.with_text_roles(ids, num_last - 1):
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                use_cache=False,
                logits_to_keep=num_last,
                **extra,
            )
        logits: torch.Tensor = output.logits
        return logits

    def head_states(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        places: torch.Tensor,
        roles: torch.Tensor,
    ) -> tuple[torch.Tensor, Head]:
        """What enters the head, of the steered model, and the head.

        Args:
            ids: (1, S) int64.
            positions: (1, S) of each token in its text.
            places: (Q,) places in the sequence to return.
            roles: (1, S) of the tokens.

        Returns:
            (Q, D) in the base's dtype, and the output layer, whose weights may be there only now.
        """
        kept: list[tuple[torch.Tensor, Head]] = []

        def keep(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            kept.append((inputs[0][0], self._head(module)))
            return (inputs[0][:, :1],)  # the model's own logits are not wanted

        handle = self.model.get_output_embeddings().register_forward_pre_hook(keep)
        try:
            with self._attachment.with_roles(roles):
                self.model(
                    input_ids=ids,
                    position_ids=positions,
                    attention_mask=torch.ones_like(ids),
                    use_cache=False,
                    logits_to_keep=places,
                )
        finally:
            handle.remove()
        return kept[0]

    def _head(self, layer: Any) -> Head:
        softcap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return Head(weight=layer.weight, bias=getattr(layer, "bias", None), softcap=softcap)

    def checkpointed(self, enabled: bool = True) -> AbstractContextManager[None]:
        """Activation checkpointing of the decoder layers while the block runs.

        transformers' own switch works in train mode alone, in which functional dropout is on, and
        makes the embeddings require a gradient, so that activations of the layers below the first
        steered one are kept, too. So each layer's `forward` is wrapped here, inside its hooks.
        """
        if not enabled:
            return nullcontext()
        return replaced_forwards(
            list(self.layers),
            # eval mode: there is no randomness to keep
            lambda forward: partial(
                checkpoint, forward, use_reentrant=False, preserve_rng_state=False
            ),
        )

    @contextmanager
    def constant_vectors(self) -> Iterator[None]:
        """While the block runs the vectors do not change, which a rollout makes use of."""
        with self._attachment.constant() as vectors, folded_into_biases(vectors):
            yield

    def _base_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Weights and buffers of the base by name, without what stands between them."""
        for name, tensor in self.sharding.full_tensors(self.model):
            plain = self.steering.base_name(name)
            if plain is not None:
                yield plain, tensor

    def base_sha256(self) -> str:
        """Hash of every weight and buffer of the base: training leaves it unchanged."""
        return sha256(self._base_tensors())
