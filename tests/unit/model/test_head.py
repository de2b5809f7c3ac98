"""Log-probabilities and entropies, by hand and in chunks."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning.model import head as head_module
from steer_lightning.model.head import (
    Head,
    TokenStates,
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
