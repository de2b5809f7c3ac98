"""The check of joint flights finds rows that are steered by the vectors of another experiment."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from steer_lightning.rollout import DecodeEngine
from steer_lightning.steering import LowRankVectors, SiteVectors, SteeringVectors
from steer_lightning.steering.row_vectors import RowVectors
from steer_lightning.sweep.joint_check import why_not_joint
from steer_lightning.sweep.shared_base import SharedBase
from tests.unit.sweep.helpers import share


def check(steerings: Sequence[SiteVectors]) -> str | None:
    base = SharedBase(share("llama", steerings))
    before = [part.detach().clone() for policy in base.policies for part in parts(policy.steering)]
    engine = DecodeEngine()
    engine.keep(base.policies[0])
    found = why_not_joint(base, engine)
    after = [part for policy in base.policies for part in parts(policy.steering)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert all(policy.attachment.is_paused for policy in (*base.policies, base.joint))
    return found


def parts(steering: SiteVectors) -> list[torch.Tensor]:
    return list(steering.parameters())


def test_right_rows_pass() -> None:
    steerings = [SteeringVectors(), LowRankVectors(rank=1), SteeringVectors(layers=[1])]
    assert check([*steerings, *(SteeringVectors() for _ in range(4))]) is None


def test_rows_steered_by_another_experiment_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = RowVectors.with_owners

    def mixed_up(self: RowVectors, owners: torch.Tensor) -> object:
        return plain(self, torch.where(owners == 1, 2, owners))

    monkeypatch.setattr(RowVectors, "with_owners", mixed_up)
    reason = check([SteeringVectors() for _ in range(3)])
    assert reason is not None
    assert "log-probabilities differ from a plain pass" in reason
