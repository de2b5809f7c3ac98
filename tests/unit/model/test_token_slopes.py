"""Slopes of the log-likelihood with respect to tokens, against finite differences in float64."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.model.policy import Policy
from steer_lightning.model.token_slopes import Reading, read_completion, token_slopes
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import tiny_policy

PROMPT, COMPLETION = [1, 70, 71], [80, 81, 82, 83]


def policy_in_float64(architecture: str, steered: bool = False) -> Policy:
    policy = tiny_policy(architecture, SteeringVectors())
    policy.model.double()
    if steered:
        torch.manual_seed(0)
        policy.steering.weight.data.normal_()
    return policy


def likelihood_of(policy: Policy, place: int, one_hot: torch.Tensor) -> float:
    """Computes the log-likelihood with one soft token: predicted and read by its weights (V,)."""
    ids = torch.tensor([[*PROMPT, *COMPLETION]])
    embed = policy.model.get_input_embeddings()
    read = embed(ids)
    read[0, len(PROMPT) + place] = one_hot @ embed(torch.arange(len(one_hot)))
    with torch.no_grad():
        logits = policy.model(inputs_embeds=read, use_cache=False).logits[0]
    logprobs = logits[len(PROMPT) - 1 : -1].log_softmax(-1)
    rows = torch.nn.functional.one_hot(torch.tensor(COMPLETION), len(one_hot)).double()
    rows[place] = one_hot
    return float((rows * logprobs).sum())


@pytest.mark.parametrize(
    ("architecture", "steered", "width", "allowed"),
    [("gpt2", False, 1e-5, 1e-8), ("gpt2", True, 1e-5, 1e-8), ("gemma2", False, 1e-3, 5e-4)],
)
def test_slopes_are_finite_differences(
    architecture: str, steered: bool, width: float, allowed: float
) -> None:
    """The first token and the last one are among them.

    `gemma2` has a factor on its embeddings, and normalises in float32. What is read moves its
    slopes by 0.05 to 0.4, and by a sixth of that without the factor.
    """
    policy = policy_in_float64(architecture, steered)
    reading = read_completion(policy, PROMPT, COMPLETION, with_pulls=True)
    vocabulary = reading.logits.shape[-1]
    places = torch.tensor([0, 1, 3])
    slopes = token_slopes(policy, reading, places)
    assert slopes.dtype == torch.float64
    for place, slope in zip(places.tolist(), slopes, strict=True):
        drawn = torch.nn.functional.one_hot(torch.tensor(COMPLETION[place]), vocabulary).double()
        assert likelihood_of(policy, place, drawn) == pytest.approx(reading.logprob, abs=allowed)
        for token in (COMPLETION[place], 90, 7):
            step = torch.zeros(vocabulary, dtype=torch.float64)
            step[token] = width
            up, down = (likelihood_of(policy, place, drawn + sign * step) for sign in (1, -1))
            assert float(slope[token]) == pytest.approx((up - down) / (2 * width), abs=allowed)


def test_the_last_token_is_only_predicted() -> None:
    policy = policy_in_float64("gpt2")
    reading = read_completion(policy, PROMPT, COMPLETION, with_pulls=True)
    assert reading.pulls is not None
    assert not reading.pulls[-1].any()
    last = token_slopes(policy, reading, torch.tensor([3]))[0]
    assert torch.equal(last, reading.logits[3].log_softmax(-1))


def test_a_reading_is_the_plain_pass_whether_or_not_it_has_pulls() -> None:
    policy = tiny_policy(steering=SteeringVectors())
    ids = torch.tensor([[*PROMPT, *COMPLETION]])
    with torch.no_grad():
        logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(PROMPT) - 1 : -1]
    for with_pulls in (False, True):
        reading = read_completion(policy, PROMPT, COMPLETION, with_pulls)
        torch.testing.assert_close(reading.logits, logits)
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(COMPLETION)[:, None]).sum()
        assert reading.logprob == pytest.approx(float(chosen), abs=1e-4)
        assert (reading.pulls is None) == (not with_pulls)
        assert not reading.logits.requires_grad
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_steering_is_a_part_of_what_is_read() -> None:
    policy = policy_in_float64("gpt2", steered=True)
    steered = read_completion(policy, PROMPT, COMPLETION, with_pulls=False)
    with policy.at_scale(0.0):
        base = read_completion(policy, PROMPT, COMPLETION, with_pulls=False)
    plain = read_completion(policy_in_float64("gpt2"), PROMPT, COMPLETION, with_pulls=False)
    assert base.logprob == plain.logprob != steered.logprob


def test_a_base_that_reads_its_embeddings_twice_is_refused() -> None:
    policy = tiny_policy()
    embed = policy.model.get_input_embeddings()
    policy.model.register_forward_pre_hook(lambda *_: embed(torch.tensor([[1]])) is None or None)
    with pytest.raises(RuntimeError, match="called 2 times"):
        read_completion(policy, PROMPT, COMPLETION, with_pulls=True)


def test_base_in_16_bits_is_summed_in_float32() -> None:
    policy = tiny_policy()
    policy.model.bfloat16()
    reading = read_completion(policy, PROMPT, COMPLETION, with_pulls=True)
    assert isinstance(reading, Reading)
    assert reading.pulls is not None
    assert reading.pulls.dtype == reading.logits.dtype == torch.float32
    assert token_slopes(policy, reading, torch.tensor([0])).dtype == torch.float32
