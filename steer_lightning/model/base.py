"""The frozen base model, whose configuration and tokenizer are available before its weights.

Tested with transformers 5.23.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
)

from steer_lightning.errors import ConfigError
from steer_lightning.model.fingerprint import hash_of_folder
from steer_lightning.model.hub import hub_errors, load_tokenizer, resolve_base
from steer_lightning.model.quantization import Quantization, quantize_base
from steer_lightning.model.quantized_linear import Bits
from steer_lightning.model.rotary import check_switch
from steer_lightning.system.printable import one_line, quoted
from steer_lightning.types import Prompt

log = logging.getLogger(__name__)


class FrozenBase(nn.Module):
    """A causal language model of transformers, given by its name.

    The constructor reads nothing: configuration, tokenizer and weights load when they are first
    used, so that mistakes show before the weights load.

    Args:
        base: Hub id, local folder, or `quickstart`.
        revision: Branch, tag or commit on the hub.
        dtype: Data type of the weights; `auto` takes that of the checkpoint.
        attn_implementation: Name of the attention implementation in transformers; None uses the
            default of transformers.
        trust_remote_code: Whether to run Python code that comes with the model. Set it only for
            models from authors you trust.
        quantization: Settings for keeping the base in 4 or 8 bits; None keeps it as it is.

    Attributes:
        model: Language model; None until it is loaded.
    """

    def __init__(
        self,
        base: str,
        *,
        revision: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__()
        self.base, self.path = base, resolve_base(base)
        self.revision, self.dtype = revision, dtype
        self.attn_implementation = attn_implementation
        self.trust_remote_code, self.quantization = trust_remote_code, quantization
        if trust_remote_code:  # before any code runs: configuration and tokenizer may contain code
            log.warning(
                "trust_remote_code is on: code from %s runs on this machine", one_line(base)
            )
        self.model: Any = None  # transformers models are typed too loosely for a narrower type

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the base, loaded at the first use: data needs it before the weights."""
        code: Any = {"trust_remote_code": self.trust_remote_code}
        return load_tokenizer(self.path, self.base, revision=self.revision, **code)

    @cached_property
    def model_config(self) -> Any:
        """Configuration of the base, available before the weights load.

        Raises:
            ConfigError: If the base can't be found, or would be loaded in float16.
        """
        with hub_errors(self.base):
            config = AutoConfig.from_pretrained(
                self.path, revision=self.revision, trust_remote_code=self.trust_remote_code
            )
        if self.dtype == "auto" and config.dtype == torch.float16:
            raise ConfigError(
                "model.dtype",
                "auto",
                rule=f"{self.base} is stored in float16",
                why="Gradients exceed the range of float16",
                fix="Set model.dtype: bfloat16 or float32",
            )
        return config

    @property
    def base_bits(self) -> Bits | None:
        """Bits of a weight of the base that the vectors are made for; None if it is not quantised.

        It does not count a copy for rollouts alone.
        """
        chosen = self.quantization
        return chosen.bits if chosen is not None and chosen.where == "both" else None

    @property
    def commit(self) -> str | None:
        """Commit on the hub that was loaded; for a local folder, the given revision."""
        found: str | None = getattr(self.model.config, "_commit_hash", None)
        return found or self.revision

    @property
    def source_hash(self) -> str | None:
        """What identifies the weights before they load: a hash of the folder, or the commit."""
        folder = Path(self.path)
        if folder.is_dir():
            return hash_of_folder(folder)
        found: str | None = getattr(self.model_config, "_commit_hash", None)
        return found

    def check_prompts(self, prompts: Sequence[Prompt], max_new_tokens: int, key: str) -> None:
        """Raises a ConfigError for prompts that the base can't read or can't answer.

        These are prompts with tokens that the base does not have, prompts that exceed its positions
        together with a completion, and prompts on both sides of a switch of its frequencies; see
        `check_switch`.

        Args:
            prompts: Prompts of the run, at least one.
            max_new_tokens: Maximum number of tokens in a completion.
            key: Key of `max_new_tokens` in the configuration.
        """
        config = self.model_config.get_text_config()
        self._check_vocabulary(prompts, config.vocab_size)
        known = getattr(config, "max_position_embeddings", None)
        lengths = [len(prompt.token_ids) for prompt in prompts]
        check_switch(self.model_config, lengths, max_new_tokens, key)
        longest = max(lengths)
        if known is not None and longest + max_new_tokens > known:
            raise ConfigError(
                key,
                max_new_tokens,
                rule=f"together with the longest prompt of {longest} tokens it exceeds the "
                f"{known} positions of {self.base}",
                why="The model has not been trained beyond them",
                fix=f"Set it to {max(1, known - longest)} or less, or lower data.max_prompt_tokens",
            )

    def _check_vocabulary(self, prompts: Sequence[Prompt], size: int) -> None:
        largest, prompt = max(((max(x.token_ids), x) for x in prompts), key=lambda pair: pair[0])
        if largest >= size:
            token = quoted(str(self.tokenizer.decode([largest])))
            raise ConfigError(
                "model.base",
                self.base,
                rule=f"its tokenizer encodes {token} as token {largest}, but the model only has "
                f"the tokens 0 to {size - 1} (problem {prompt.id + 1})",
                why="The tokenizer belongs to another model, or tokens were added to the "
                "tokenizer but not to the model",
                fix="Save the model's own tokenizer in its folder, or call "
                "model.resize_token_embeddings(len(tokenizer)) and save the model",
            )

    def _load_base(self) -> Any:
        """Returns the base with its weights, on the CPU."""
        with hub_errors(self.base):
            model = AutoModelForCausalLM.from_pretrained(
                self.path,
                config=self.model_config,
                dtype=self.dtype,
                attn_implementation=self.attn_implementation,
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
            )
        return model if self.base_bits is None else quantize_base(model, self.base_bits)

    def empty_base(self) -> Any:
        """Returns the base without its weights, on torch's meta device, and not quantised.

        Raises:
            ConfigError: If the base can't be found, or can't be quantised.
        """
        with hub_errors(self.base), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                self.model_config,
                attn_implementation=self.attn_implementation,
                trust_remote_code=self.trust_remote_code,
            )
        if self.quantization is not None:
            self.quantization.check_base(model)
        return model


def load_model(
    base: str,
    *,
    revision: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    trust_remote_code: bool = False,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Loads a causal language model and its tokenizer, to steer the model with `attach`.

        model, tokenizer = load_model("quickstart")

    Args:
        base: Hub id, local folder, or `quickstart` for the model that ships with the package.
        revision: Branch, tag or commit on the hub.
        dtype: Data type of the weights; `auto` takes that of the checkpoint.
        trust_remote_code: Whether to run Python code that comes with the model. Set it only for
            models from authors you trust.

    Returns:
        Model of transformers on the CPU, frozen and in eval mode, and its tokenizer.

    Raises:
        ConfigError: If the base or its tokenizer can't be found or loaded.
    """
    try:
        found = FrozenBase(
            base, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code
        )
        tokenizer = found.tokenizer  # a base without a tokenizer is refused before its weights load
        return found._load_base().requires_grad_(False).eval(), tokenizer
    except ConfigError as error:  # the error names keys of a YAML file, but here they are arguments
        key, fix = error.key.removeprefix("model."), error.fix.replace("Set model.", "Set ")
        raise ConfigError(key, error.value, rule=error.rule, why=error.why, fix=fix) from error
