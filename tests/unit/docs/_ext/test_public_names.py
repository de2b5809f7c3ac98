"""Public names have docstrings, and the build notices one that the reference lacks."""

from __future__ import annotations

import public_names
import pytest
from public_names import ROOMS, every_member, members, missing, without_docstring

import steer_lightning.advantages as room
from tests.unit.test_public_paths import EXPORTS


def test_the_rooms_are_those_whose_names_must_not_go() -> None:
    assert set(ROOMS) == set(EXPORTS)
    for name, exports in EXPORTS.items():
        assert set(exports.split()) <= set(public_names.public_names(name)), name


def test_every_public_name_has_a_docstring() -> None:
    assert without_docstring() == []


class Plain:
    """A class."""

    def told(self) -> None:
        """Does nothing."""

    def untold(self) -> None: ...

    @property
    def size(self) -> int:
        return 1

    def _hidden(self) -> None: ...


Plain.untold.__module__ = Plain.told.__module__ = "steer_lightning.advantages"


def test_methods_and_properties_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name for name, _ in members("Plain", Plain)] == [
        *("Plain", "Plain.told", "Plain.untold", "Plain.size")
    ]
    monkeypatch.setattr(room, "RLOO", Plain)
    names = [f"steer_lightning.advantages.RLOO.{name}" for name in ("untold", "size")]
    assert without_docstring() == names


def test_a_name_without_a_page_is_missing() -> None:
    shown = {path for path, _ in every_member()}
    assert missing(shown) == []
    gone = "steer_lightning.advantages.RLOO"
    assert missing(shown - {gone}) == [gone]
    # another path of the same object is enough
    assert missing(shown - {"steer_lightning.load_vectors"}) == []
    both = {"steer_lightning.load_vectors", "steer_lightning.steering.load_vectors"}
    assert missing(shown - both) == sorted(both)
