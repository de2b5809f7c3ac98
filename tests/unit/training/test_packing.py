"""Packed updates: no padding, each prompt once, logits in chunks; the same gradient."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from steer_lightning import SteeringModule
from steer_lightning.losses import EntropyBonus, KLToBase, PolicyGradient, k2
from steer_lightning.model import head as head_module
from steer_lightning.model.head import Head, TokenStates, read_head, read_logits
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import ARCHITECTURES, make_prompts, save_tiny, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.forward import why_not_packed
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.packing import Packing, buckets_by_length, common_length

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt, for windows of 8", "z9"])
CPU = torch.device("cpu")


def test_a_packing_by_hand() -> None:
    prompts = [[1, 2, 3], [7], [1, 2, 3], [1, 2, 3], [1, 2, 3]]
    completions = [[4, 5], [8, 9, 10], [6], [4, 5], [4, 9, 9]]
    packing = Packing(prompts, [0, 5, 0, 0, 0], completions, CPU)
    # the prompt and the 4 once, and no completion's last token
    assert packing.ids.tolist() == [[1, 2, 3, 4, 9, 7, 8, 9]]
    assert packing.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert packing.predictors.tolist() == [2, 3, 5, 6, 7, 2, 3, 4]
    assert packing.targets.tolist() == [4, 5, 8, 9, 10, 6, 9, 9]
    # rows 0 and 3 are the same; row 4 begins as they do
    assert packing.copies.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 0, 6, 7]


def test_equal_texts_of_different_groups_stay_apart() -> None:
    # a token may belong to the prompt of one and to the completion of the other
    packing = Packing([[1, 2], [1]], [0, 1], [[3], [2, 3]], CPU)
    assert packing.ids.tolist() == [[1, 2, 1, 2]]


@pytest.mark.parametrize(
    ("one", "two", "length"), [([1, 2], [1, 2], 2), ([1], [1, 2], 1), ([3], [1], 0), ([], [1], 0)]
)
def test_common_length(one: list[int], two: list[int], length: int) -> None:
    assert common_length(one, two) == length


def test_buckets_hold_rows_of_similar_length() -> None:
    rows = [[0] * length for length in (3, 10, 4, 9, 1, 5)]
    found = [[len(row) for row in bucket] for bucket in buckets_by_length(rows)]
    assert found == [[10, 9, 5], [4, 3], [1]]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("layers", ["all", [1]])
def test_packed_and_padded_gradients_agree(architecture: str, layers) -> None:
    policy = tiny_policy(architecture, SteeringVectors(layers=layers))
    policy.steering.set_vectors(torch.randn(len(policy.steering.layers), 32) * 0.1)
    if architecture == "falcon":
        assert "differ" in str(why_not_packed(policy))
        return
    assert why_not_packed(policy) is None
    engine = GenerateEngine()
    engine.setup(policy)
    stops = list(range(40, 80))  # rows of unequal length
    sampling = Sampling(group_size=4, max_new_tokens=14, temperature=0.8, eos_token_ids=stops)
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0)
    advantages = torch.randn(4, 4)
    advantages[1] = 0.0
    advantages[2, 0] = 0.0
    batch = Batch.alone(rollouts, advantages)
    found = []
    for settings in (
        {"packed": False},
        {"packed": True},
        {"packed": True, "max_tokens": 60},
        {"packed": True, "activation_checkpointing": True},
    ):
        plain = {"loss": PolicyGradient(), "temperature": 0.8, "max_tokens": 10_000}
        gradients = BatchGradient(**{**plain, **settings})
        totals = gradients.accumulate(policy, gradients.plan(policy, batch))
        assert totals.mismatch["max"] < 1e-5
        assert policy.steering.weight.grad is not None
        found.append((totals.loss, policy.steering.weight.grad.clone()))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-4, abs=1e-4)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "opt"])
def test_rows_that_begin_alike_have_the_same_gradient_as_rows_apart(architecture: str) -> None:
    policy = tiny_policy(architecture)
    policy.steering.set_vectors(torch.randn(len(policy.steering.layers), 32) * 0.1)
    engine = GenerateEngine()
    engine.setup(policy)
    rollouts = engine.generate(
        PROMPTS[:2], Sampling(group_size=4, max_new_tokens=9), seed=0, step=0
    )
    ids = rollouts.completion_ids
    ids[1] = ids[0]  # row 1 is row 0, row 2 begins as they do, and row 3 as row 2 does
    ids[2, :4] = ids[0, :4]
    ids[3, :6] = ids[2, :6]
    advantages = torch.randn(2, 4)
    found = []
    for packed in (False, True):
        gradient = BatchGradient(
            loss=PolicyGradient(), temperature=1.0, max_tokens=10_000, packed=packed
        )
        step = gradient.plan(policy, Batch.alone(rollouts, advantages))
        totals = gradient.accumulate(policy, step)
        assert policy.steering.weight.grad is not None
        found.append((totals.loss, totals.mismatch["mean"], policy.steering.weight.grad.clone()))
    assert found[1][:2] == pytest.approx(found[0][:2], rel=1e-4)
    torch.testing.assert_close(found[1][2], found[0][2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_a_loss_gets_the_bases_log_probabilities_and_the_entropy(packed: bool) -> None:
    """Against plain passes over one unpadded row at a time."""
    policy = tiny_policy("llama", SteeringVectors(layers=[1]))
    policy.steering.set_vectors(torch.randn(1, 32) * 0.3)
    engine = GenerateEngine()
    engine.setup(policy)
    sampling = Sampling(group_size=2, max_new_tokens=9, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0)
    loss = PolicyGradient(terms=[KLToBase(0.5, estimator=k2), EntropyBonus(0.2)])
    gradients = BatchGradient(loss=loss, temperature=0.8, max_tokens=60, packed=packed)
    step = gradients.plan(policy, Batch.alone(rollouts, torch.zeros(4, 2)))
    totals = gradients.accumulate(policy, step)
    weight = policy.steering.weight
    found, weight.grad = weight.grad, None

    total = torch.zeros(())
    for n in range(8):
        prompt = list(rollouts.prompts[n // 2].token_ids)
        tokens = rollouts.completion_ids[n][rollouts.completion_mask[n]]
        ids = torch.tensor([[*prompt, *tokens.tolist()]])
        logits = policy.model(ids).logits[0, len(prompt) - 1 : -1] / 0.8
        with policy.at_scale(0.0), torch.no_grad():
            base = policy.model(ids).logits[0, len(prompt) - 1 : -1] / 0.8
        gap = (logits.log_softmax(-1) - base.log_softmax(-1))[range(len(tokens)), tokens]
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        total = total + (0.5 * gap.square() / 2 - 0.2 * entropy).sum() / 8
    total.backward()
    assert totals.loss == pytest.approx(total.item(), rel=1e-5)
    assert gap.abs().max() > 1e-3
    torch.testing.assert_close(found, weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 50)])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_logits_in_chunks_give_the_same_numbers_and_slopes(
    monkeypatch: pytest.MonkeyPatch, softcap, bias, with_entropy: bool
) -> None:
    weight, tokens = torch.randn(50, 8), torch.randint(50, (10,))
    head = Head(weight=weight, bias=bias, softcap=softcap)
    hidden = torch.randn(10, 8, requires_grad=True)
    upstream, other = torch.randn(2, 10)

    def slope(found: TokenStates) -> torch.Tensor:
        total = found.logprobs @ upstream
        total = total if found.entropy is None else total + found.entropy @ other
        return torch.autograd.grad(total, hidden)[0]

    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = read_logits(logits, tokens, 0.7, with_entropy)
    seen = []
    plain = head_module._chunk
    monkeypatch.setattr(head_module, "_chunk", lambda *a: seen.append(len(a[0])) or plain(*a))
    monkeypatch.setattr(head_module, "CHUNK_NUMBERS", 3 * 50)
    found = read_head(hidden, tokens, head, 0.7, with_entropy)
    for name, values in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), values)
    torch.testing.assert_close(slope(found), slope(expected))
    assert seen == [3, 3, 3, 1], "logits never exist as a whole"
    with torch.no_grad():
        again = read_head(hidden, tokens, head, 0.7, with_entropy)
    torch.testing.assert_close(again.logprobs, expected.logprobs)


def test_the_entropy_of_an_even_choice_by_hand() -> None:
    tokens = torch.tensor([0])
    even = read_logits(torch.tensor([[7.0, 7.0, 7.0, 7.0]]), tokens, 1.0, with_entropy=True)
    assert even.entropy is not None
    assert even.entropy.item() == pytest.approx(math.log(4))
    # logits ln 3 and 0 at temperature 1/2: chances 9/10 and 1/10
    uneven = read_logits(torch.tensor([[math.log(3), 0.0]]), tokens, 0.5, with_entropy=True)
    assert uneven.entropy is not None
    assert uneven.entropy.item() == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    head = Head(weight=torch.tensor([[math.log(3)], [0.0]]))
    found = read_head(torch.ones(1, 1), tokens, head, 0.5, with_entropy=True)
    torch.testing.assert_close(found.entropy, uneven.entropy)


def test_layers_below_the_first_steered_one_have_no_graph() -> None:
    policy = tiny_policy("llama", SteeringVectors(layers=[2]))
    needs = []
    for layer in policy.layers:
        layer.register_forward_hook(lambda m, x, y: needs.append(y.requires_grad))
    policy.logits(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4), 1)
    assert needs == [False, False, True]


def test_a_module_pads_where_packing_is_not_right(
    tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    module = SteeringModule(base=save_tiny(tmp_path, "falcon"))
    module.configure_model()
    with caplog.at_level(logging.WARNING):
        module.on_fit_start()
    assert not module.batch_gradient.packed
    assert "rows of FalconForCausalLM can't be packed" in caplog.text


def test_a_sampler_that_parts_from_the_trainer_is_told_once(
    tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    module = SteeringModule(base=save_tiny(tmp_path, "llama"))
    module.configure_model()
    module._compare({})
    for mean in (5e-4, 0.01, 1.0):
        module._compare({"mean": mean, "max": 2.0})
    assert caplog.text.count("differ from the trainer's") == 1
    assert "0.01 nats" in caplog.text
