"""TODO"""

from __future__ import annotations

import callbacks
import steer_lightning.callbacks as inside


def test_the_door_leads_to_the_same_classes() -> None:
    assert callbacks.__all__ == inside.__all__
    assert all(getattr(callbacks, name) is getattr(inside, name) for name in inside.__all__)
