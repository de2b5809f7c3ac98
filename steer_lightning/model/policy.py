"""The policy: a frozen language model with its steering, and the forward passes over texts.

Tested with transformers 5.23.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig, PreTrainedModel

from steer_lightning.data.completion_text import ids_without_text
from steer_lightning.model.base import FrozenBase
from steer_lightning.model.fingerprint import checksum, sha256
from steer_lightning.model.folded_biases import folded_into_biases
from steer_lightning.model.head import Head, before_head, head_of, logit_factor
from steer_lightning.model.hub import eos_token_ids, pad_token_id
from steer_lightning.model.padding import why_not_padded
from steer_lightning.model.precision import fits_in_float32
from steer_lightning.model.quantization import Quantization
from steer_lightning.model.recurrence import recurrent_mixers
from steer_lightning.model.replaced_forward import replaced_forwards
from steer_lightning.model.rotary import switch_length
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
from steer_lightning.system.printable import one_line

log = logging.getLogger(__name__)

UNIT_TOKENS = 8192
"""Maximum number of tokens in a forward pass that measures the units."""


class Policy(FrozenBase):
    """The frozen base with its trained parameters; the base is always in eval mode.

    Args:
        base: Hub id, local folder, or `quickstart`.
        revision: Branch, tag or commit on the hub.
        dtype: Data type of the frozen base; `auto` takes that of the checkpoint. Trained parameters
            are always float32.
        steering: Parameters to train; default `SteeringVectors`.
        attn_implementation: Name of the attention implementation in transformers; None uses the
            default of transformers.
        trust_remote_code: Whether to run Python code that comes with the model. Set it only for
            models from authors you trust.
        quantization: Settings for keeping the base in 4 or 8 bits; None keeps it as it is.
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
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__(
            base,
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            quantization=quantization,
        )
        self.steering: Steering = steering or SteeringVectors()
        self.attachment: Attachment
        self.sharding = Sharding()

    def prepare(self) -> None:
        """Creates the trained parameters, from the configuration of the base only.

        Raises:
            ConfigError: If the base can't be found, or the settings do not fit it.
        """
        self.steering.base_bits = self.base_bits
        self.steering.build(self.empty_base())

    def check_sharding(self, shards: bool) -> None:
        """Raises a ConfigError for what a base in parts rules out; see `Sharding.shards`."""
        self.steering.check_sharding(shards)
        if self.quantization is not None:
            self.quantization.check_sharding(shards)

    def load(self, sharding: Sharding | None = None) -> None:
        """Loads and freezes the base, and attaches the steering to it.

        Args:
            sharding: Placement of the base in the memory of several processes; by default each has
                the whole base.

        Raises:
            ConfigError: If the base can't be found, or the settings do not fit it.
        """
        if self.model is not None:
            return
        self.sharding = sharding or Sharding()
        self.check_sharding(self.sharding.shards)
        self.prepare()
        self.adopt(self.load_base())

    def load_base(self) -> Any:
        """Returns the base, for `adopt`; raises a ConfigError if it can't be found."""
        _ = self.tokenizer  # a base without a tokenizer is refused before its weights load
        return self.sharding.build(self._load_base, self.empty_base, self._find_layers)

    def adopt(self, model: Any) -> None:
        """Freezes a transformers causal language model, and attaches the steering to it.

        Args:
            model: Language model, which is changed in place.
        """
        self.model = model.requires_grad_(False).eval()
        self.eos_token_ids = eos_token_ids(self.model, self.tokenizer)
        num_tokens = self.model.config.get_text_config().vocab_size
        self.pad_token_id = pad_token_id(self.tokenizer, self.eos_token_ids, num_tokens)
        self.ids_without_text = ids_without_text(self.tokenizer, self.eos_token_ids)
        # The checkpoint's recommendations for chatting (top-p, repetition penalty) must not leak
        # into rollouts: generate() fills every unset field from here, and the sampled distribution
        # would not be that of the policy.
        self.model.generation_config = GenerationConfig(
            eos_token_id=list(self.eos_token_ids) or None, pad_token_id=self.pad_token_id
        )
        for of_another_base in ("takes_padding", "mixers", "fits_in_float32"):
            self.__dict__.pop(of_another_base, None)
        self.logit_factor = logit_factor(model)
        self.switches_rotary = switch_length(model.config) is not None
        # the wrapper of FSDP1 accepts any arguments, so look at the model inside
        inner = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
        self._takes_positions = "position_ids" in inspect.signature(inner.forward).parameters
        self.attachment = attach(self.model, self.steering)

    def steer(self, steering: Steering, scale: float = 1.0) -> None:
        """Attaches another steering to the loaded base, in place of the current one.

        Args:
            steering: Steering of any kind.
            scale: Factor on its effect.

        Raises:
            ConfigError: If the steering does not fit the base.
        """
        if steering is not self.steering:
            self.attachment.remove()  # before `build`: some kinds put modules into the base
            steering.build(self.model)
            self.steering.cpu()  # a GPU may not have room for several large ones
            self.steering = steering.to(self.device)
            self.attachment = steering.attach(self.model)
        self.attachment.scale = scale

    @cached_property
    def checksum(self) -> int:
        """Checksum of some numbers of each tensor, which distinguishes bases of the same shape."""
        return checksum(self._base_tensors())

    @property
    def device(self) -> torch.device:
        """Device of the base's first weights."""
        device: torch.device = self.model.device
        return device

    @property
    def layers(self) -> nn.ModuleList:
        """Decoder layers of the base; an attribute would register them a second time."""
        return self._find_layers(self.model)

    @cached_property
    def mixers(self) -> tuple[nn.Module, ...]:
        """Modules of the base that mix the tokens of a text by a recurrence; usually none."""
        return tuple(recurrent_mixers(self.layers))

    def _find_layers(self, model: nn.Module) -> nn.ModuleList:
        return find_layers(model, self.steering.layers_path)

    def train(self, mode: bool = True) -> Policy:
        """Sets the mode of all parts except the base, because dropout would change the base."""
        super().train(mode)
        if self.model is not None:
            self.model.eval()
        return self

    def measure_units(self, prompts: Sequence[Sequence[int]]) -> None:
        """Makes the steering measure its units once, while the base reads tokenized prompts."""
        with self.at_scale(0.0):
            self.steering.measure(self.model, self._in_batches(prompts))

    @contextmanager
    def at_scale(self, scale: float) -> Iterator[None]:
        """Multiplies the effect of the steering by a factor within the block; 0 is the base."""
        before, self.attachment.scale = self.attachment.scale, scale
        try:
            yield
        finally:
            self.attachment.scale = before

    def stream_rms(
        self,
        prompts: Sequence[Sequence[int]],
        layers: tuple[int, ...],
        site: str = "layer_output",
    ) -> torch.Tensor:
        """Measures the size of the base's own stream at a site of L layers, (L,).

        Args:
            prompts: Tokens of each prompt.
            layers: Indices of the L layers.
            site: Site of the layers at which the stream is measured; see `measure_rms`.
        """
        with self.at_scale(0.0):
            places = find_sites(self.layers, layers, site)
            return measure_rms(self.model, places, self._in_batches(prompts))

    def with_text_roles(
        self, ids: torch.Tensor, num_completion: int | None
    ) -> AbstractContextManager[None]:
        """Passes the roles of the tokens to the steering, for the passes within the block.

        Args:
            ids: Tokens (rows, T): left-padded prompts, with or without right-padded completions, or
                only completions.
            num_completion: Number of columns of the completions, on the right; None if the prompts
                go on.
        """
        if not self.attachment.needs_roles:
            return nullcontext()
        return self.attachment.with_roles(text_roles(ids, num_completion))

    def with_owners(self, owners: torch.Tensor) -> AbstractContextManager[None]:
        """Says whose the rows are in the passes of the block; see `Attachment.with_owners`."""
        if not self.attachment.needs_owners:
            return nullcontext()
        return self.attachment.with_owners(owners)

    def with_segments(self, segments: Sequence[tuple[int, int]]) -> AbstractContextManager[None]:
        """Says whose the parts of a sequence are; see `Attachment.with_segments`."""
        return self.attachment.with_segments(segments)

    def _in_batches(
        self, prompts: Sequence[Sequence[int]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields right-padded batches of at most UNIT_TOKENS tokens, with their masks."""
        longest = max(len(ids) for ids in prompts)
        count = max(1, UNIT_TOKENS // longest)
        for first in range(0, len(prompts), count):
            rows = prompts[first : first + count]
            width = max(len(ids) for ids in rows)
            ids = [[*row, *[self.pad_token_id] * (width - len(row))] for row in rows]
            mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
            yield torch.tensor(ids).to(self.device), torch.tensor(mask).to(self.device)

    @cached_property
    def fits_in_float32(self) -> bool:
        """Whether the base is in 16 bits and can temporarily be checked in float32."""
        return fits_in_float32(self)

    @cached_property
    def takes_padding(self) -> bool:
        """Whether the base reads padded texts like single texts; tested at first use."""
        reason = why_not_padded(self)
        if reason is not None:
            log.warning(
                "%s does not read padded batches correctly (%s): rows are read one at a time, "
                "which is slower",
                type(self.model).__name__,
                one_line(reason),
            )
        return reason is None

    def logits(self, ids: torch.Tensor, mask: torch.Tensor, num_last: int) -> torch.Tensor:
        """Returns the logits of the steered model.

        Rows are read one at a time if they are padded and the base can't read padding.

        Args:
            ids: Left-padded prompts with right-padded completions, (N, T) int64.
            mask: Mask of the tokens, (N, T), 0 where padded.
            num_last: Number of positions to return, from the right: those of the completions and
                the last position of the prompts.

        Returns:
            Logits (N, num_last, V) in the dtype of the base; arbitrary where padded.
        """
        if bool(mask.all()) or self.takes_padding:
            return self.padded_logits(ids, mask, num_last)
        rows = []
        for row, real in zip(ids, mask.bool(), strict=True):
            missing = num_last - 1 - int(real[row.shape[0] - num_last + 1 :].sum())
            alone = row[real][None]
            logits = self.padded_logits(alone, torch.ones_like(alone), num_last - missing)
            rows.append(torch.cat([logits[0], logits[0, -1:].expand(missing, -1)]))
        return torch.stack(rows)

    def padded_logits(self, ids: torch.Tensor, mask: torch.Tensor, num_last: int) -> torch.Tensor:
        """Returns the logits of the steered model, always read in one batch; see `logits`."""
        extra = {}
        if self._takes_positions:  # models with ALiBi count positions from the mask
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
        """Returns the steered model's states that enter the head, and the head.

        Args:
            ids: Tokens of a packed sequence, (1, S) int64.
            positions: Position of each token in its text, (1, S) int64.
            places: Places in the sequence whose states are returned, (Q,) int64.
            roles: Roles of the tokens, (1, S) int64.

        Returns:
            States (Q, D) in the base's dtype, and the output layer, whose weights may be gathered
            only during this pass.
        """
        kept: list[tuple[torch.Tensor, Head]] = []

        def keep(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            kept.append((inputs[0][0], head_of(self.model, module, self.logit_factor)))
            return (inputs[0][:, :1],)  # one position, since the model's own logits are not used

        with before_head(self.model, keep), self.attachment.with_roles(roles):
            self.model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=torch.ones_like(ids),
                use_cache=False,
                logits_to_keep=places,
            )
        return kept[0]

    def checkpointed(self, enabled: bool = True) -> AbstractContextManager[None]:
        """Recomputes activations of the decoder layers in the backward passes within the block.

        The switch of transformers works only in train mode, in which functional dropout is on. It
        also makes the embeddings require a gradient, so that activations of the layers below the
        first steered one are kept, too. Therefore the `forward` of each layer is wrapped here,
        inside its hooks.
        """
        if not enabled:
            return nullcontext()
        return replaced_forwards(
            list(self.layers),
            # in eval mode there is no randomness to preserve
            lambda forward: partial(
                checkpoint, forward, use_reentrant=False, preserve_rng_state=False
            ),
        )

    @contextmanager
    def constant_vectors(self) -> Iterator[None]:
        """Computes the plain vectors once for the block, in which they must not change.

        Vectors that fit into biases are added there; see `folded_into_biases`.
        """
        with self.attachment.constant() as vectors, folded_into_biases(vectors):
            yield

    def _base_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields weights and buffers of the base by their own names, without those of steering."""
        for name, tensor in self.sharding.full_tensors(self.model):
            plain = self.steering.base_name(name)
            if plain is not None:
                yield plain, tensor

    def base_sha256(self) -> str:
        """Returns a hash of the base's weights and buffers, which training leaves unchanged."""
        return sha256(self._base_tensors())
