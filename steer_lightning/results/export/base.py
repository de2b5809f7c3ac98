"""The base model of an export: its configuration, tokenizer and files, from the hub or a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from steer_lightning.errors import ConfigError
from steer_lightning.model.hub import hub_errors, load_tokenizer, resolve_base

KEY = "merge_from"
"""Option of an export that names the base."""

INDEX = "model.safetensors.index.json"
WEIGHTS = "model*.safetensors"
CARRIED = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "*.tiktoken", "tekken.json", "chat_template*", "generation_config.json"),
    *("LICENSE*", "NOTICE*"),
)
"""Files beside the weights that belong to the model and are copied unchanged."""


@dataclass(frozen=True)
class Base:
    """A base model whose parts are read only when they are needed.

    Attributes:
        name: Hub id, local folder, or `quickstart`.
        revision: Branch, tag or commit on the hub.
        key: Option that names the base, for messages.
    """

    name: str
    revision: str | None = None
    key: str = KEY

    @cached_property
    def path(self) -> str:
        """Hub id or folder that transformers loads."""
        return resolve_base(self.name, self.key)

    @cached_property
    def config(self) -> Any:
        """Configuration of the base."""
        with hub_errors(self.name, self.key):
            return AutoConfig.from_pretrained(self.path, revision=self.revision)

    @property
    def kind(self) -> str:
        """Architecture of the base for messages, such as `LlamaForCausalLM (llama)`."""
        named = self.config.architectures or ["a model"]
        return f"{named[0]} ({self.config.model_type})"

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Number of decoder layers, and width."""
        text = self.config.get_text_config()
        return int(text.num_hidden_layers), int(text.hidden_size)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, according to the configuration."""
        found = self.config.dtype
        return found if isinstance(found, torch.dtype) else torch.float32

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer.

        Raises:
            ConfigError: If the base has no tokenizer.
        """
        return load_tokenizer(self.path, self.name, self.key, revision=self.revision)

    def load(self, dtype: torch.dtype) -> Any:
        """Loads the whole model in eval mode, on a GPU if there is one."""
        with hub_errors(self.name, self.key):
            model = AutoModelForCausalLM.from_pretrained(
                self.path, revision=self.revision, dtype=dtype
            )
        return model.requires_grad_(False).eval().to(device())

    def empty(self) -> Any:
        """Makes the model without its weights, on torch's meta device."""
        with hub_errors(self.name, self.key), torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config)

    @cached_property
    def folder(self) -> Path:
        """Folder of the base's files, which are downloaded if they are missing."""
        if Path(self.path).is_dir():
            return Path(self.path)
        from huggingface_hub import snapshot_download

        with hub_errors(self.name, self.key):
            found = snapshot_download(
                self.path,
                revision=self.revision,
                allow_patterns=[WEIGHTS, "*.json", *CARRIED],
                ignore_patterns="*/*",  # subfolders contain the same weights in other formats
            )
        return Path(found)


def device() -> str:
    """Returns the device on which models are compared."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def weight_files(folder: Path) -> dict[str, Path]:
    """Returns the file of each tensor of a checkpoint.

    Args:
        folder: Folder with `model.safetensors`, or with several such files and their index.

    Raises:
        ConfigError: If there are no safetensors weights, or a file is missing or damaged.
    """
    index, single = folder / INDEX, folder / "model.safetensors"
    try:
        if index.is_file():
            names = json.loads(index.read_text())["weight_map"]
            found = {name: folder / file for name, file in names.items()}
        elif single.is_file():
            with safe_open(single, framework="pt") as file:
                found = dict.fromkeys(file.keys(), single)
        else:
            raise _unusable(folder, _what_is_there(folder), SAVE_AGAIN)
    except (SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        raise _unusable(folder, f"its weights are damaged ({error})") from error
    missing = sorted({path.name for path in found.values() if not path.is_file()})
    if missing:
        raise _unusable(folder, f"{', '.join(missing)} of its index are missing")
    return found


SAVE_AGAIN = (
    "Save it once with transformers, which writes safetensors: "
    "AutoModelForCausalLM.from_pretrained(BASE).save_pretrained(FOLDER), and the tokenizer "
    "likewise; then name that folder"
)


def _what_is_there(folder: Path) -> str:
    others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".gguf"))
    return f"it has no model.safetensors, only {', '.join(others) or 'other files'}"


def _unusable(folder: Path, rule: str, fix: str = "Download or save the base again") -> ConfigError:
    return ConfigError(KEY, str(folder), rule=rule, fix=fix)
