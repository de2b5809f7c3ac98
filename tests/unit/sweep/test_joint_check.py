"""The check of joint flights finds rows that are steered by the vectors of another experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from steer_lightning.losses import PolicyGradient
from steer_lightning.rollout import DecodeEngine
from steer_lightning.steering import LowRankVectors, SiteVectors, SteeringVectors
from steer_lightning.steering.row_vectors import RowVectors
from steer_lightning.sweep.joint_calls import GRADIENT, JointCalls
from steer_lightning.sweep.joint_check import why_not_joint, why_not_joint_gradient
from steer_lightning.sweep.lanes import Lane
from steer_lightning.sweep.shared_base import SharedBase
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.joint_gradient import JointGradient, Share
from steer_lightning.training.selfcheck import made_up_rollouts
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


def accumulated(steerings: Sequence[SiteVectors]) -> tuple[SharedBase, list[Share]]:
    """Experiments with made-up completions, and their shares of an update."""
    base = SharedBase(share("llama", steerings))
    shares = []
    for owner, policy in enumerate(base.policies):
        rollouts = made_up_rollouts(policy)
        generator = torch.Generator().manual_seed(owner)
        shape = (len(rollouts.prompts), rollouts.group_size)
        batch = Batch.alone(rollouts, torch.randn(shape, generator=generator))
        gradient = BatchGradient(
            policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=1000, packed=True
        )
        shares.append(Share(owner=owner, gradient=gradient, mini_batch=gradient.plan(batch)))
    with base.serving_all() as joint:
        JointGradient(joint).accumulate(shares)
    return base, shares


def gradients(shares: Sequence[Share]) -> list[torch.Tensor]:
    found = [part.grad for one in shares for part in parts(one.gradient.policy.steering)]
    return [gradient for gradient in found if gradient is not None]


def test_right_gradients_pass_and_stay() -> None:
    base, shares = accumulated([SteeringVectors(), LowRankVectors(rank=1), SteeringVectors()])
    before = [gradient.clone() for gradient in gradients(shares)]
    assert why_not_joint_gradient(base, shares) is None
    assert all(map(torch.equal, before, gradients(shares)))


def test_gradients_of_another_experiment_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = RowVectors.with_segments

    def mixed_up(self: RowVectors, segments: Sequence[tuple[int, int]]) -> object:
        return plain(self, [(2 - owner, length) for owner, length in segments])

    monkeypatch.setattr(RowVectors, "with_segments", mixed_up)
    reason = why_not_joint_gradient(*accumulated([SteeringVectors() for _ in range(3)]))
    assert reason is not None
    assert "a gradient differs by" in reason


def test_a_diverged_experiment_proves_nothing() -> None:
    base, shares = accumulated([SteeringVectors(), SteeringVectors()])
    base.policies[1].steering.weight.data.fill_(float("nan"))
    with base.serving_all() as joint:
        JointGradient(joint).accumulate(shares)
    assert any(gradient.isnan().any() for gradient in gradients(shares))
    assert why_not_joint_gradient(base, shares) is None


def test_a_step_without_signal_is_not_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(base: SharedBase, chosen: Sequence[Share]) -> None:
        compared.append(len(chosen))

    monkeypatch.setattr("steer_lightning.sweep.joint_calls.why_not_joint_gradient", compare)
    base, shares = accumulated([SteeringVectors(), SteeringVectors()])
    calls = JointCalls(base, DecodeEngine())
    nothing = [replace(one, mini_batch=replace(one.mini_batch, micro_batches=[])) for one in shares]
    for chosen in (nothing, [nothing[0], shares[1]], shares):
        calls(GRADIENT, [Lane(number=k, owner=k, run=len, request=x) for k, x in enumerate(chosen)])
    assert compared == [1], "once, of the experiment that learns"


def test_experiments_are_read_alone_where_shared_passes_are_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base, shares = accumulated([SteeringVectors(), SteeringVectors(layers=[1])])
    expected = [gradient.clone() for gradient in gradients(shares)]
    plain = JointGradient.accumulate

    def wrong(self: JointGradient, chosen: Sequence[Share]) -> None:
        plain(self, chosen)
        for gradient in gradients(chosen):
            gradient.mul_(1.5)

    monkeypatch.setattr(JointGradient, "accumulate", wrong)
    lanes = [Lane(number=one.owner, owner=one.owner, run=len, request=one) for one in shares]
    calls = JointCalls(base, DecodeEngine())
    for _ in range(2):
        calls(GRADIENT, lanes)
        for found, right in zip(gradients(shares), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    assert caplog.text.count("they are read one after the other, which is slower") == 1
    assert [lane.answer.loss for lane in lanes] == [one.totals.loss for one in shares]
