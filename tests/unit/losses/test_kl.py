"""Estimators of the distance from the base: by hand, and what they estimate."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from steer_lightning.losses import KLToBase, k1, k2, k3


def test_kl_estimators_by_hand() -> None:
    logprob, reference = torch.tensor(0.5).log(), torch.tensor(0.25).log()
    assert k1(logprob, reference).item() == pytest.approx(math.log(2))
    assert k2(logprob, reference).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert k3(logprob, reference).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_what_the_estimators_estimate_and_what_their_gradients_are() -> None:
    """Expectations over all 7 tokens instead of samples."""
    logits = torch.randn(7, requires_grad=True)
    logprobs, reference = logits.log_softmax(0), torch.randn(7).log_softmax(0)
    chances = logprobs.exp()
    forward = (reference.exp() * (reference - logprobs)).sum()
    backward = (chances * (logprobs - reference)).sum()
    for estimator in (k1, k3):
        assert (chances * estimator(logprobs, reference)).sum().item() == pytest.approx(
            backward.item(), rel=1e-5
        )
    slopes = {
        estimator: torch.autograd.grad(
            (chances.detach() * estimator(logprobs, reference)).sum(), logits, retain_graph=True
        )[0]
        for estimator in (k1, k2, k3)
    }
    torch.testing.assert_close(slopes[k1], torch.zeros(7), atol=1e-6, rtol=0)
    for estimator, distance in ((k2, backward), (k3, forward)):
        (expected,) = torch.autograd.grad(distance, logits, retain_graph=True)
        torch.testing.assert_close(slopes[estimator], expected)


def test_k1_in_the_loss_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        KLToBase(0.1, estimator=k2)
        assert not caplog.text
        KLToBase(0.1, estimator=k1)
    assert "only adds noise" in caplog.text
