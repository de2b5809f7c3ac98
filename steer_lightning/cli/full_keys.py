"""The whole keys of settings, for errors of objects that do not know their own key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonargparse import Namespace

from steer_lightning.errors import UNKNOWN, ConfigError

INIT_ARGS = "init_args"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A setting in a configuration.

    Attributes:
        parts: Parts of its whole key.
        value: Its value.
        owner: Name of the class that takes it as an argument; empty if no class is named.
    """

    parts: tuple[str, ...]
    value: Any
    owner: str

    @property
    def plain(self) -> tuple[str, ...]:
        """Parts of its key without `init_args`, which may be left out."""
        return tuple(part for part in self.parts if part != INIT_ARGS)

    @property
    def is_listed(self) -> bool:
        """Whether the key contains a number."""
        return any(map(str.isdecimal, self.parts))


def with_whole_key(error: ConfigError, config: Namespace | Mapping[str, Any]) -> ConfigError:
    """Completes the key of an error that an object has raised in its constructor.

    A `Sampling` knows that its `group_size` is wrong, but not that it is `model.sampling`. The
    error gets the key of the setting with that name and value. Among several such settings, the
    one whose class or group the error names is taken, or one outside of lists. A key such as
    `Guard.max_skipped` stays as it is where the whole key would be a number in a list of callbacks.

    Args:
        error: Error with a key of any form.
        config: Configuration with all its settings.

    Returns:
        Error with the whole key; the same error if its key is whole or its place is not found.
    """
    places = list(_places(config))
    given = [part for part in error.key.split(".") if part != INIT_ARGS]
    if any(place.plain == tuple(given) for place in places):
        return error
    of_name = [place for place in places if place.plain[-1:] == tuple(given[-1:])]
    fits = [x for x in of_name if error.value is UNKNOWN or _equal(x.value, error.value)]
    named = [x for x in fits if given[-2:-1] in ([x.owner], list(x.plain[-2:-1]))]
    found = min(named or fits, key=lambda place: place.is_listed, default=None)
    if found is None or (found.is_listed and found.owner in given):
        return error
    return error.at(".".join(found.parts))


def _places(config: Any, parts: tuple[str, ...] = (), owner: str = "") -> Iterator[_Place]:
    """Yields all settings of a configuration, outer ones first."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, Mapping):
        inner = {str(key): value for key, value in config.items()}
    elif isinstance(config, (list, tuple)):
        inner = {str(number): value for number, value in enumerate(config)}
    else:
        return
    for key, value in inner.items():
        yield _Place(parts=(*parts, key), value=value, owner=owner)
        class_path = inner.get("class_path") if key == INIT_ARGS else ""
        yield from _places(value, (*parts, key), str(class_path).rpartition(".")[2])


def _equal(one: Any, other: Any) -> bool:
    """Tells whether two values are equal; a list equals a tuple of the same items."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(one) == list(other)
    return type(one) is type(other) and bool(one == other)
