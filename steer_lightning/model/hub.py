"""Loading base models and tokenizers from the hub, from a folder, or from this package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from steer_lightning.errors import ConfigError
from steer_lightning.system.hub_answers import hub_or_cache
from steer_lightning.system.printable import one_line

QUICKSTART = "quickstart"
"""Name of the language model that ships inside the package."""


TOKENIZER_FILES = (
    *("tokenizer*", "vocab.*", "merges.txt", "*.model", "*.tiktoken", "tekken.json"),
    *("spiece*", "sentencepiece*"),
)
TEXT = "2 + 2 = 4, as one and one is two."
"""Text that any usable tokenizer can encode."""


def resolve_base(base: str, key: str = "model.base") -> str:
    """Turns `quickstart` into a folder of the package; leaves a hub id or a folder unchanged.

    Args:
        base: Hub id, local folder, or `quickstart`.
        key: Option that names the base.

    Raises:
        ConfigError: If the name looks like a local path and there is no such folder, or the folder
            contains no model.
    """
    if base == QUICKSTART:
        return str(files("steer_lightning") / "assets" / QUICKSTART)
    looks_local = base.startswith((".", "/", "~")) or base.count("/") > 1
    if looks_local and not Path(base).expanduser().is_dir():
        raise ConfigError(
            key,
            base,
            rule="there is no such folder",
            fix="Set a folder with config.json and weights, a hub id such as "
            '"Qwen/Qwen2.5-1.5B", or "quickstart"',
        )
    path = Path(base).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        is_adapter = (path / "adapter_config.json").is_file()
        raise ConfigError(
            key,
            base,
            rule="the folder contains no config.json, so it is not the folder of a model",
            why="It contains a PEFT adapter" if is_adapter else "",
            fix="Set a folder written by `save_pretrained`, with config.json, weights and "
            "tokenizer, or a hub id",
        )
    return str(path) if looks_local else base


@contextmanager
def hub_errors(base: str, key: str = "model.base") -> Iterator[None]:
    """Turns loading errors into a ConfigError that names the base and its option."""
    fix = "Set a hub id that you can reach, a local folder with config.json and weights, or "
    fix += f'"{QUICKSTART}" for the model that ships with the package'
    is_local = Path(resolve_base(base, key)).is_dir()
    try:
        with nullcontext() if is_local else hub_or_cache(key, base, fix):
            yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            key,
            base,
            rule="can't be loaded",
            why=" ".join(str(error).split()).rstrip("."),
            fix=fix,
        ) from error


def load_tokenizer(
    path: str, base: str, key: str = "model.base", **options: Any
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a base, before anything is read or written with it.

    If the files of the tokenizer are missing, transformers raises an error for some models. For
    others it creates a tokenizer without a vocabulary, which turns every text into no tokens.

    Args:
        path: Hub id or folder for transformers to load.
        base: Name by which the user calls it.
        key: Option that names the base.
        options: Further arguments of `AutoTokenizer.from_pretrained`.

    Raises:
        ConfigError: If there is no tokenizer, or the base can't be found.
    """
    why = "A tokenizer encodes and decodes texts, and each model needs its own"
    fix = "Save it there: AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER)"
    with hub_errors(base, key):
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
        except Exception as error:  # damaged files make transformers and tokenizers raise anything
            if Path(path).is_dir() and not has_tokenizer_files(Path(path)):
                raise ConfigError(key, base, rule="has no tokenizer", why=why, fix=fix) from error
            told = f"{type(error).__name__}: {one_line(error)}"
            raise OSError(f"its tokenizer can't be read ({told})") from error
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    if all(token == tokenizer.unk_token_id for token in ids):  # also true if there are no tokens
        raise ConfigError(key, base, rule="has no usable tokenizer", why=why, fix=fix)
    return tokenizer


def has_tokenizer_files(folder: Path) -> bool:
    """Returns whether the folder of a model contains a tokenizer of any kind."""
    return any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern))


def eos_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Returns all tokens that end a text.

    Chat models have several; if one were missed, completions would silently run to the token limit.
    """
    found: set[int] = set()
    # multimodal wrappers, such as Gemma 3's, have it only in the configuration of the text model
    configs = (model.generation_config, model.config, model.config.get_text_config())
    for value in (tokenizer.eos_token_id, *(getattr(x, "eos_token_id", None) for x in configs)):
        found |= {value} if isinstance(value, int) else set(value or ())
    return tuple(sorted(found))


def pad_token_id(tokenizer: Any, eos_token_ids: Sequence[int], num_tokens: int) -> int:
    """Returns the token for padding: that of the tokenizer, if the model has it, too.

    Otherwise any token works, since padding is masked.

    Args:
        tokenizer: Tokenizer of the model; its padding token may be missing in the model.
        eos_token_ids: Tokens that end a text.
        num_tokens: Number of tokens of the model.
    """
    found = (tokenizer.pad_token_id, *eos_token_ids)
    return next((int(pad) for pad in found if pad is not None and pad < num_tokens), 0)
