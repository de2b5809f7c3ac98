"""The translation of jsonargparse's messages into errors with key, value, rule and remedy."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from importlib import import_module

from steer_lightning.errors import UNKNOWN, ConfigError


def explain(message: str, options: Sequence[str], words: Sequence[str]) -> ConfigError:
    """Finds the mistake in a message of jsonargparse.

    Args:
        message: Message that lists every type that was tried.
        options: All options of the command, such as `model.base`.
        words: Words of the command line.

    Returns:
        Error with one sentence and a suggestion; a message of unknown form keeps its text.
    """
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message)) or "configuration"
    classes = re.findall(r"(?:given class_path|Import path) '?([\w.]+)'?", message)
    for pattern, make in _PATTERNS.items():
        found = re.search(pattern, message)
        if found:
            return as_typed(make(key, found, classes, options), words)
    return ConfigError(key, UNKNOWN, rule=" ".join(message.split()))


def as_typed(error: ConfigError, words: Sequence[str]) -> ConfigError:
    """Returns an error with its key as the user typed it: options may leave out `init_args`."""
    plain = error.key.replace(".init_args", "")
    typed = (word.lstrip("-").partition("=")[0] for word in words if word.startswith("--"))
    key = next((name for name in typed if name.replace(".init_args", "") == plain), error.key)
    return ConfigError(key, error.value, rule=error.rule, why=error.why, fix=error.fix)


def explain_refusal(error: Exception) -> ConfigError:
    """Finds the refusal of a plug-in's own `__init__` in an error of jsonargparse.

    Args:
        error: Error whose message lists every type that was tried.

    Returns:
        ConfigError that jsonargparse has wrapped, or a new one made from its message.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ConfigError):
            return link
        link = link.__cause__ or link.__context__
    message = str(error)
    classes = re.findall(r"class_path='?\"?([\w.]+)", message)
    specific = _specific(message)
    return ConfigError(
        classes[0] if classes else "configuration",
        UNKNOWN,
        rule=specific or " ".join(message.split()),
    )


GENERIC = (
    "Expected a path but",
    "Does not validate against",
    "Expected a <class",
    "Not a valid subclass",
    "a class path (str)",
    "a dict with",
    "Problem with given class_path",
)


def _specific(message: str) -> str:
    """Returns the first listed error that says more than that a type did not match."""
    lines = [line.strip() for line in message.splitlines()]
    told = [line.removeprefix("- ") for line in lines if line]
    body = told[told.index("Errors:") + 1 :] if "Errors:" in told else told
    useful = [line for line in body if not line.startswith((*GENERIC, "Given value", "Subtypes"))]
    return useful[0].rstrip(".") if useful else ""


def _unknown_option(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    name, given, value = found[1].lstrip("-").partition("=")
    if not found[1].startswith("-") and name.endswith((".yaml", ".yml")):
        rule, fix = "is a file, but no option names it", f"Write --config {name}"
        return ConfigError(name, UNKNOWN, rule=rule, fix=fix)
    return ConfigError(
        name,
        value if given else UNKNOWN,
        rule="there is no such option",
        fix=suggest(name, options),
    )


def _unknown_argument(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    name = found[1]
    if (
        not classes
    ):  # the message does not name the class itself: it is an optimizer given as a callable
        classes = re.findall(r"class_path='([\w.]+)'", found.string)
    if not classes:
        return ConfigError(
            f"{key}.{name}", UNKNOWN, rule="there is no such option", fix=suggest(name, options)
        )
    parameters = _parameters(classes[-1])
    return ConfigError(
        f"{key}.init_args.{name}",
        UNKNOWN,
        rule=f"{classes[-1]} has no such argument",
        fix=suggest(name, parameters),
    )


def _unknown_name(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    module, name = found[1], found[2]
    members = inspect.getmembers(import_module(module), lambda member: not inspect.ismodule(member))
    public = [other for other, _ in members if not other.startswith("_")]
    return ConfigError(
        key,
        f"{module}.{name}",
        rule=f"module {module} has no {name}",
        fix=suggest(name, public, module + "."),
    )


def _unknown_module(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    return ConfigError(
        key,
        classes[-1] if classes else found[1],
        rule=f"there is no module {found[1]}",
        why="Modules are searched for in the installed packages and in the current folder",
        fix="Check the spelling, or start the command in the folder that holds your file",
    )


TAKEN_AS = {
    "Reward": "A reward takes one argument, the list of completions, and returns a number or None "
    "for each: def my_reward(completions): return [float(c.answer in c.text) for c in completions]",
    "Source": "A source has a method load() that returns a list of steer_lightning.types.Problem",
    "Template": "A template has the methods render(question, tokenizer), which returns text, and "
    "encode(text, tokenizer), which returns a list of tokens",
}
"""What the plug-ins that users write most often look like, by the name of their protocol."""


def _wrong_protocol(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    name, protocol = found[1], found[2]
    takes = _call_of(name) if protocol == "Reward" else ""
    see = f"See the class {protocol} in the documentation, and `steer_lightning.testing`"
    return ConfigError(
        key,
        name,
        rule=f"can't be used as {protocol}",
        why=f"It takes {takes}" if takes else "It lacks a method, or its arguments differ",
        fix=TAKEN_AS.get(protocol, see),
    )


def _call_of(name: str) -> str:
    """Returns the arguments of a function, or of a class's `__call__`, as source text."""
    module, _, attribute = name.rpartition(".")
    found = getattr(import_module(module), attribute)
    if not isinstance(found, type):
        return str(inspect.signature(found))
    call = vars(found).get("__call__")  # not getattr: the class itself is callable, too
    if call is None:
        return "no call: the class has no method __call__"
    _, *parameters = inspect.signature(call).parameters.values()
    return f"({', '.join(map(str, parameters))})"


def _wrong_type(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    kind = re.sub(r"<class '([\w.]+)'>|typing\.", lambda m: m[1] or "", found[1])
    kind = re.sub(r"^Literal\[(.*)\]$", r"one of \1", KINDS.get(kind, kind))
    value = found[2].split(". Got value: ")[0].strip()
    if value == "None":
        return not_null(key, kind)
    return ConfigError(key, value, rule=f"must be {kind}", fix=_as_list(key, value, [kind]))


def not_null(key: str, kind: str) -> ConfigError:
    """Returns the error for null as the value of a setting that has no such value.

    Args:
        key: The setting.
        kind: The values that fit, in words; empty if they are not known.
    """
    rule = f"must be {kind}, not null" if kind else "can't be null"
    return ConfigError(key, UNKNOWN, rule=rule, fix="Leave it out for its default")


def _wrong_union(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    value = re.findall(r"Given value: (.*)", found.string)
    kinds = re.findall(r"Expected an? <class '(\w+)'>", found.string)
    names = [KINDS.get(kind, f"a {kind}") for kind in kinds if kind != "NoneType"]
    shown = value[-1].split(". Got value: ")[0].strip() if value else UNKNOWN
    if names:
        rule = "must be " + " or ".join(dict.fromkeys(names))
        return ConfigError(key, shown, rule=rule, fix=_as_list(key, shown, names))
    return ConfigError(key, shown, rule=_specific(found.string) or "has no type that fits")


def _no_class_path(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    return ConfigError(
        key,
        found[1],
        rule="must be a class with its module, such as steer_lightning.rewards.MathReward",
        fix="The documentation lists the classes that come with the package",
    )


def unknown_name(key: str, name: str, kind: str, known: Iterable[str]) -> ConfigError:
    """Returns the error for a name without a module that no class of its kind has."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    fix = f"Did you mean {close[0]}? " if close else ""
    return ConfigError(
        key,
        name,
        rule=f"there is no {kind} of this name",
        why=f"Known names: {', '.join(known)}",
        fix=f"{fix}For a class of your own, add its module, as in my_file.MyClass",
    )


def _unknown_short_name(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    return unknown_name(key, found[2], found[1], found[3].split(", "))


def _no_class_named(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    return ConfigError(
        key,
        UNKNOWN,
        rule="needs the name of a class beside its settings",
        why="Settings alone do not say which class they belong to",
        fix=f"Put --{key} NAME before them, or class_path: NAME into the YAML",
    )


def _no_protocol(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    value = re.search(r"Got value: (.*)", found.string)
    return ConfigError(
        key,
        value[1] if value else UNKNOWN,
        rule=f"must be a {found[1]}: a class_path, with init_args if it takes arguments",
    )


def _as_list(key: str, shown: object, names: Sequence[str]) -> str:
    """Returns how to write a single value as the list that is required; empty if none is."""
    if "a list" not in names or not isinstance(shown, str) or not re.fullmatch(r"[\w.]+", shown):
        return ""
    item = f'{{"reward": "{shown}"}}' if key.endswith(".rewards") else shown
    return f"Set --{key}='[{item}]', or a list of one item in the YAML"


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "collections.abc.Sequence": "a list",
    "collections.abc.Mapping": "a mapping",
    "Tensor": "a tensor",
}


def _missing_option(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    name = re.sub(r"^(fit|validate|test)\.", "", found[1])
    if key != "configuration":  # the option belongs to the class at that key
        name = f"{key}.init_args.{name}"
    fix = f"Set it with --{name}, or in the YAML file given by --config"
    return ConfigError(name, None, rule="must be set", fix=fix)


def _no_file(
    key: str, found: re.Match[str], classes: Sequence[str], options: Sequence[str]
) -> ConfigError:
    return ConfigError(key, found[1], rule="there is no such file")


_PATTERNS = {
    r"File does not exist: '([^']+)'": _no_file,
    r"does not accept option '([^']+)'": _unknown_option,
    r"unrecognized arguments: (\S+)": _unknown_option,
    r"arguments are required: (\w+(?:\.\w+)*)": _missing_option,
    r"Option '([^']+)' is not accepted": _unknown_argument,
    r"There is no ([\w ]+) named '([^']*)'; known are: ([\w, ]+)": _unknown_short_name,
    r"module '([\w.]+)' has no attribute '(\w+)'": _unknown_name,
    r"No module named '([\w.]+)'": _unknown_module,
    r"Import path ([\w.]+) does not implement protocol (\w+)": _wrong_protocol,
    r"Dict must include a class_path": _no_class_named,
    r"Expected an? (.+?)\. Got value: (.*)": _wrong_type,
    r"Expected a <class '(?!NoneType)[\w.]+'>[\s\S]*Given value: ": _wrong_union,
    r"Expected a dot import path string: (\S+)": _no_class_path,
    r"Does not implement protocol (\w+)": _no_protocol,
    r"Expected an instantiatable class, but ([\w.]+) is a protocol": _no_protocol,
}


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Asks for known names that resemble a wrong one, or tells those beside it."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(prefix + other for other in close)}?"
    last = name.rsplit(".", 1)[0]
    beside = [other for other in known if other.startswith(last + ".")] or (
        [] if len(known) > 30 else known
    )
    return "Known names: " + ", ".join(prefix + other for other in beside) if beside else ""


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(import_module(module), name)).parameters)
