"""What losses ask for by their attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from steer_lightning.losses import Loss, LossNeeds, PolicyGradient, needs_of
from steer_lightning.types import LossInputs

NOTHING = LossNeeds(
    all_rows=False, reference=False, entropy=False, uses_ratio=None, base_sampling=None
)


def test_a_plain_function_asks_for_nothing() -> None:
    def loss(inputs: LossInputs) -> Any:
        return inputs

    assert isinstance(loss, Loss)
    assert needs_of(loss) == NOTHING


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("needs_all_rows", True, {"all_rows": True}),
        ("needs_reference", 1, {"reference": True}),
        ("needs_entropy", True, {"entropy": True}),
        ("needs_entropy", 0, {}),
        ("uses_ratio", True, {"uses_ratio": True}),
        ("uses_ratio", 0, {"uses_ratio": False}),  # it says so, which is not the same as None
        ("uses_ratio", None, {}),
        ("base_sampling", max, {"base_sampling": max}),
    ],
)
def test_each_attribute_is_read_by_itself(
    attribute: str, value: object, expected: dict[str, Any]
) -> None:
    class Own:
        def __call__(self, inputs: LossInputs) -> None: ...

    setattr(Own, attribute, value if attribute != "base_sampling" else staticmethod(max))
    assert needs_of(Own()) == replace(NOTHING, **expected)


def test_what_is_no_loss() -> None:
    assert not isinstance(3, Loss)
    assert isinstance(PolicyGradient(), Loss)
