"""Log-probabilities and entropies, by hand and in chunks."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from steer_lightning.model import head as head_module
from steer_lightning.model.head import (
    Head,
    TokenStates,
    kl,
    token_logprobs,
    token_states,
    token_states_of_logits,
)


def test_temperature_reaches_the_trainers_logprobs() -> None:
    logits = torch.randn(2, 3, 5)
    tokens = torch.randint(5, (2, 3))
    expected = torch.log_softmax(logits / 0.7, -1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(token_logprobs(logits, tokens, 0.7), expected)
    assert token_logprobs(logits.bfloat16(), tokens, 1.0).dtype == torch.float32


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
    expected = token_states_of_logits(logits, tokens, 0.7, with_entropy)
    seen = []
    plain = head_module._chunk
    monkeypatch.setattr(head_module, "_chunk", lambda *a: seen.append(len(a[0])) or plain(*a))
    monkeypatch.setattr(head_module, "CHUNK_NUMBERS", 3 * 50)
    found = token_states(hidden, tokens, head, 0.7, with_entropy)
    for name, values in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), values)
    torch.testing.assert_close(slope(found), slope(expected))
    assert seen == [3, 3, 3, 1], "logits never exist as a whole"
    with torch.no_grad():
        again = token_states(hidden, tokens, head, 0.7, with_entropy)
    torch.testing.assert_close(again.logprobs, expected.logprobs)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_a_trained_head_gets_its_own_gradient_chunk_by_chunk(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, with_entropy: bool
) -> None:
    tokens, upstream, other = torch.randint(50, (10,)), torch.randn(10), torch.randn(10)
    weight, bias, hidden = (torch.randn(*shape) for shape in ((50, 8), (50,), (10, 8)))
    trained = [part.requires_grad_() for part in (weight, bias, hidden)]

    def slopes(found: TokenStates) -> tuple[torch.Tensor, ...]:
        total = found.logprobs @ upstream
        total = total if found.entropy is None else total + found.entropy @ other
        return torch.autograd.grad(total, trained)

    logits = hidden @ weight.T + bias
    logits = 0.5 * (logits if softcap is None else softcap * torch.tanh(logits / softcap))
    expected = token_states_of_logits(logits, tokens, 0.7, with_entropy)
    monkeypatch.setattr(head_module, "CHUNK_NUMBERS", 3 * 50)
    seen: list[int] = []
    plain = Head.differentiable_logits
    monkeypatch.setattr(
        Head, "differentiable_logits", lambda self, x: seen.append(len(x)) or plain(self, x)
    )
    head = Head(weight=weight, bias=bias, softcap=softcap, factor=0.5)
    found = token_states(hidden, tokens, head, 0.7, with_entropy)
    torch.testing.assert_close(found.logprobs, expected.logprobs)
    for one, two in zip(slopes(found), slopes(expected), strict=True):
        torch.testing.assert_close(one, two)
    assert sorted(seen) == sorted(2 * [3, 3, 3, 1]), "once forwards, once again backwards"


def test_the_entropy_of_an_even_choice_by_hand() -> None:
    tokens = torch.tensor([0])
    even = token_states_of_logits(
        torch.tensor([[7.0, 7.0, 7.0, 7.0]]), tokens, 1.0, with_entropy=True
    )
    assert even.entropy is not None
    assert even.entropy.item() == pytest.approx(math.log(4))
    # logits ln 3 and 0 at temperature 1/2: chances 9/10 and 1/10
    uneven = token_states_of_logits(
        torch.tensor([[math.log(3), 0.0]]), tokens, 0.5, with_entropy=True
    )
    assert uneven.entropy is not None
    assert uneven.entropy.item() == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    head = Head(weight=torch.tensor([[math.log(3)], [0.0]]))
    found = token_states(torch.ones(1, 1), tokens, head, 0.5, with_entropy=True)
    torch.testing.assert_close(found.entropy, uneven.entropy)


VOCABULARY, WIDTH, COUNT = 1000, 64, 40
TEMPERATURE = 0.7


def certain_states(
    probability: float, head: Head, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """States (Q, D) at which the head gives some tokens (Q,) about this probability."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(COUNT, WIDTH, generator=generator, dtype=torch.float64)
    tokens = torch.randint(VOCABULARY, (COUNT,), generator=generator)
    direction = head.weight.double()[tokens]
    low, high = torch.zeros(COUNT, 1), torch.full((COUNT, 1), 30.0)
    for _ in range(60):
        middle = (low + high) / 2
        found = exact_logprobs(states + middle * direction, tokens, head).exp()
        is_low = found.unsqueeze(-1) < probability
        low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
    return (states + low * direction).to(head.weight.dtype), tokens


def exact_logits(states: torch.Tensor, head: Head) -> torch.Tensor:
    raw = states @ head.weight.double().T
    return raw if head.softcap is None else head.softcap * torch.tanh(raw / head.softcap)


def exact_logprobs(states: torch.Tensor, tokens: torch.Tensor, head: Head) -> torch.Tensor:
    scaled = (exact_logits(states, head) / TEMPERATURE).log_softmax(-1)
    return scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def exact_slopes(
    states: torch.Tensor, tokens: torch.Tensor, head: Head
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients (Q, D) of log-probabilities and entropies, in float64, at the head's own logits.

    A head of 16 bits rounds its logits, which changes the probabilities themselves.
    """
    logits = head.logits(states).double()
    shape = 1.0 if head.softcap is None else 1 - (logits / head.softcap).square()
    logprobs = (logits / TEMPERATURE).log_softmax(-1)
    weights = logprobs.exp()
    entropy = -(weights * logprobs).sum(-1, keepdim=True)
    chosen = torch.nn.functional.one_hot(tokens, VOCABULARY)
    head_weight = head.weight.double()
    return (
        ((chosen - weights) * shape / TEMPERATURE) @ head_weight,
        (-weights * (logprobs + entropy) * shape / TEMPERATURE) @ head_weight,
    )


def relative_errors(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """(Q,) of vectors (Q, D)."""
    return (found.double() - expected).norm(dim=-1) / expected.norm(dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("probability", [0.9, 0.99, 0.999])
def test_slopes_of_nearly_certain_tokens(
    dtype: torch.dtype, softcap: float | None, with_entropy: bool, probability: float
) -> None:
    """16 bits round each number by up to 0.4 %; float32 keeps 1 - p to some 1e-7."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator) / math.sqrt(WIDTH)
    head = Head(weight=weight.to(dtype), softcap=softcap)
    states, tokens = certain_states(probability, head)
    states.requires_grad_(True)
    found = token_states(states, tokens, head, TEMPERATURE, with_entropy)
    assert float(found.logprobs.detach().exp().median()) == pytest.approx(probability, rel=0.02)
    slopes, entropy_slopes = exact_slopes(states.detach(), tokens, head)
    (gradient,) = torch.autograd.grad(found.logprobs.sum(), states, retain_graph=with_entropy)
    errors = relative_errors(gradient, slopes)
    bound = 0.01 if dtype == torch.bfloat16 else 1e-6 / (1 - probability)
    assert float(errors.max()) < bound, errors
    if found.entropy is not None:
        (gradient,) = torch.autograd.grad(found.entropy.sum(), states)
        errors = relative_errors(gradient, entropy_slopes)
        assert float(errors.max()) < (0.01 if dtype == torch.bfloat16 else 1e-5), errors


def test_one_buffer_of_logits_serves_where_no_entropy_is_asked_for() -> None:
    """What exists at once is counted in tensors of (q, V) that are still alive."""
    head = Head(weight=torch.randn(VOCABULARY, WIDTH))
    states = torch.randn(COUNT, WIDTH, requires_grad=True)
    tokens = torch.arange(COUNT)
    made: list[weakref.ref[torch.UntypedStorage]] = []
    most = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal most
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape == (COUNT, VOCABULARY):
                made.append(weakref.ref(result.untyped_storage()))
            alive = {storage.data_ptr() for ref in made if (storage := ref()) is not None}
            most = max(most, len(alive))
            return result

    with Watch():
        token_states(states, tokens, head, TEMPERATURE).logprobs.sum().backward()
    assert most == 1


def test_kl_by_hand() -> None:
    first = torch.tensor([[0.5, 0.5, 0.0]]).log()
    second = torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert float(kl(first, second)) == pytest.approx(0.5 * math.log(2))
    assert float(kl(first, first)) == 0
    assert math.isnan(float(kl(torch.tensor([math.nan, 0.0]), torch.tensor([0.5, 0.5]).log())))


@pytest.mark.parametrize("trained", [False, True])
def test_a_token_that_is_ruled_out_adds_nothing_to_the_entropy(trained: bool) -> None:
    """The bias of a padded vocabulary entry is -inf; the others have chances 3/4 and 1/4."""
    weight = torch.tensor([[math.log(3)], [0.0], [0.0]], requires_grad=trained)
    head = Head(weight=weight, bias=torch.tensor([0.0, 0.0, -torch.inf]))
    hidden = torch.ones(1, 1, requires_grad=True)
    found = token_states(hidden, torch.tensor([0]), head, 1.0, with_entropy=True)
    assert found.entropy is not None
    expected = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert found.entropy.item() == pytest.approx(expected)
    (slope,) = torch.autograd.grad(found.entropy.sum(), hidden)
    # dH/dh = -sum_v p_v (z_v - mean z) W_v with z = (ln 3, 0) and mean 3/4 ln 3
    assert slope.item() == pytest.approx(-0.75 * 0.25 * math.log(3) ** 2)
    broken = Head(weight=weight, bias=torch.tensor([0.0, torch.nan, -torch.inf]))
    nan = token_states(hidden, torch.tensor([0]), broken, 1.0, with_entropy=True).entropy
    assert nan is not None
    assert nan.isnan().all(), "logits that are no numbers still show"
