"""Markdown of the settings: keys, types, defaults and descriptions, read from the classes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, get_args, get_origin

from jsonargparse._parameter_resolvers import ParamData, get_signature_parameters
from lightning import Trainer

from steer_lightning.cli.export import export
from steer_lightning.cli.fit import TRAINER_DEFAULTS
from steer_lightning.cli.report import report
from steer_lightning.cli.short_names import CLASSES, PACKAGE
from steer_lightning.data import PromptDataModule
from steer_lightning.endpoint.server import Endpoint
from steer_lightning.evaluation.job import Evaluation
from steer_lightning.module import SteeringModule
from steer_lightning.play.server import Play
from steer_lightning.results.lens.job import Lens
from steer_lightning.training.difference import Settings

TARGETS: dict[str, Callable[..., Any]] = {
    "model": SteeringModule,
    "data": PromptDataModule,
    "trainer": Trainer,
    "evaluate": Evaluation,
    "lens": Lens,
    "report": report,
    "export": export,
    "play": Play,
    "serve": Endpoint,
    "difference": Settings,
}
"""Classes and functions whose arguments are settings, by the word that asks for them."""

TITLES = {"Module": "Gradient clip", "RolloutEngine": "Rollout engine", "PromptOrder": "Order"}
"""Headings of kinds whose class has another name than a reader would look for."""

WORDS = {bool: "true or false", int: "int", float: "float", str: "text", type(None): "null"}
"""What types are called."""

OF_TORCH = "torch.optim."
TRAINER_PAGE = Path(__file__).parents[1] / "reference/trainer.md"

# what the parser of `fit` sets, or writes into a run's config.yaml
DEFAULTS: dict[str, Any] = {
    "model.steering": "SteeringVectors",
    "model.optimizer": "torch.optim.AdamW",
    **{f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()},
}
"""Defaults that are not those of the signature."""

ELSEWHERE = {
    "Sampling": "model.sampling",
    "BaseSampling": "model.sampling",
    "RewardPool": "model.reward_pool",
}
"""Keys under which the arguments of a class are described."""

LINKED = {"model.seed", "data.seed"}
"""Arguments that `seed_everything` sets."""


def kind_title(kind: str) -> str:
    """Returns the heading of the classes of a kind."""
    return TITLES.get(kind, kind)


def parameters(target: Callable[..., Any]) -> list[ParamData]:
    """Returns the arguments of a class or function, in the order of its signature."""
    found: list[ParamData] = get_signature_parameters(target)
    return found


def record_of(annotation: Any) -> Any:
    """Returns the class of this package whose arguments a value holds without a class_path."""
    name = getattr(annotation, "__name__", "")
    if inspect.isclass(annotation) and annotation.__module__.startswith(f"{PACKAGE}."):
        return annotation if name not in CLASSES and name != "SteeringVectors" else None
    found = (record_of(part) for part in get_args(annotation))
    return next((record for record in found if record is not None), None)


def link(kind: str) -> str:
    """Returns a link to the classes of a kind."""
    title = kind_title(kind)
    return f"[{title}](#{title.lower().replace(' ', '-')})"


def shown_type(annotation: Any) -> str:
    """Returns a type in words, with links to the classes of a kind."""
    origin, parts = get_origin(annotation), get_args(annotation)
    name = getattr(annotation, "__name__", str(annotation))
    if annotation in WORDS:
        return WORDS[annotation]
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in dict.fromkeys(map(str, parts)))
    if origin is dict:
        return f"mapping of names to {shown_type(parts[1])}"
    if origin is Callable:
        return link("Optimizer") if "Optimizer" in str(parts[1]) else "function"
    if origin in (list, Sequence, Iterable):
        return f"list of {shown_type(parts[0])}".replace("of mapping", "of mappings")
    if parts:
        return " or ".join(dict.fromkeys(map(shown_type, parts)))
    if name in CLASSES:
        return link(name)
    if record_of(annotation) is not None:
        return "mapping"
    return "anything" if annotation is Any else f"`{name}`"


def shown_default(value: Any) -> str:
    """Returns a default as YAML has it; empty if it is a mapping, whose keys have their own."""
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower()}`".replace("none", "null")
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, (int, float, str)):
        return f"`{value!r}`" if value == "" else f"`{value}`"
    return f"`{value.__name__}`" if inspect.isfunction(value) else ""


def facts(annotation: Any, default: Any) -> str:
    """Returns type and default of an argument, in one sentence."""
    told = shown_type(annotation)
    if default is inspect.Parameter.empty:
        return f"*Type:* {told}; must be set."
    shown = shown_default(default)
    return f"*Type:* {told}; default {shown}." if shown else f"*Type:* {told}."


@cache
def of_trainer() -> dict[str, str]:
    """Returns what the page about the trainer says of each of its options."""
    found = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) ?\|$", TRAINER_PAGE.read_text(), re.M)
    told = {}
    for name, here, meaning in found:
        text = meaning.replace("(#", "(trainer.md#").rstrip(".")
        refused = "Refused" if here == "refused" else ""
        whole = ". ".join(part for part in (refused, text[:1].upper() + text[1:]) if part)
        told[name] = f"{whole}." if whole else ""
    return told


def description(key: str, parameter: ParamData) -> str:
    """Returns the description of a setting, which is Markdown."""
    text = " ".join(str(parameter.doc or "").split())
    if not key.startswith("trainer."):
        return text
    plain = re.sub(r":\w+:`~?\.?(.*?)`", r"`\1`", text.replace("``", "`"))
    return of_trainer().get(parameter.name) or plain.partition(". ")[0].rstrip(".") + "."


def anchor(key: str) -> str:
    """Returns the anchor of a key."""
    return re.sub(r"[. -]+", "-", key.lower())


def rows(
    target: Callable[..., Any], prefix: str, defaults: Any = None, page: str = ""
) -> Iterator[str]:
    """Yields a definition list of the arguments of a class.

    Args:
        target: Class or function.
        prefix: What stands before the name of an argument; a part behind a space is shown alone.
        defaults: Object whose attributes are the defaults; None takes those of the signature.
        page: Page that has the classes of each kind; empty for the same page.
    """
    for x in parameters(target):
        key, default = f"{prefix}{x.name}", getattr(defaults, x.name, x.default)
        if not (prefix.split(" ")[0] in CLASSES["Optimizer"] and x.name == "params"):  # not a key
            text = f"{description(key, x)} {facts(x.annotation, default)}".strip()
            home = ELSEWHERE.get(getattr(record_of(x.annotation), "__name__", ""))
            text += f" The keys are those of [`{home}`](#{anchor(home)})." if home else ""
            shown = key.rpartition(" ")[2]
            yield f"[`{shown}`]{{#{anchor(key)}}}\n: {text.replace('](#', f']({page}#')}\n"


def keys_text(word: str, level: int) -> str:
    """Returns the keys of a group or of a command, each with a heading."""
    prefix = f"{word}." if word in ("model", "data", "trainer") else ""
    seen: dict[Any, str] = {}
    text = []
    for x in parameters(TARGETS[word]):
        key = f"{prefix}{x.name}"
        if key in LINKED:
            continue
        default, record = DEFAULTS.get(key, x.default), record_of(x.annotation)
        told = [description(key, x), facts(x.annotation, default)]
        if record in seen:
            told.append(f"The keys are those of [`{seen[record]}`](#{anchor(seen[record])}).")
        text.append(f"{'#' * level} `{key}`\n\n" + "\n\n".join(told) + "\n")
        if record is not None and record not in seen:
            seen[record] = key
            if not any(inner.doc for inner in parameters(record)):
                text.append(f"{first_paragraph(record)}\n")
            text += rows(record, f"{key}.", default if is_dataclass(default) else None)
    return "\n".join(text)


def first_paragraph(cls: Any) -> str:
    """Returns the first paragraph of a docstring."""
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def class_text(name: str, path: str, level: int) -> str:
    """Returns a class with the arguments that its `init_args` take."""
    cls = resolve_name(path)
    head = f"{'#' * level} `{name}`\n\n{first_paragraph(cls)}\n\n*API:* {{py:class}}`{path}`\n"
    own = list(rows(cls, f"{name} "))
    return "\n".join([head, *own] if own else [head, "It takes no arguments.\n"])


def classes_text(kind: str, level: int) -> str:
    """Returns the classes of a kind, each with its arguments."""
    text = [f"{'#' * level} {kind_title(kind)}\n"]
    own = {name: path for name, path in CLASSES[kind].items() if path.startswith(PACKAGE)}
    text += [class_text(name, path, level + 1) for name, path in own.items()]
    others = ", ".join(f"`{name}`" for name in sorted(CLASSES[kind].keys() - own))
    if others:
        text.append(f"The optimizers of `torch.optim` have short names, too: {others}.\n")
    return "\n".join(text)
