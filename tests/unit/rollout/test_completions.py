"""Seeds, draws and ends of completions."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.rollout.completions import BLOCK, draw, row_uniforms, warp
from steer_lightning.testing import tiny_policy
from tests.unit.rollout.helpers import PROMPTS, steered

LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def test_seed_step_prompt_and_sample_each_change_the_stream() -> None:
    base = row_uniforms(1, 2, [7, 8], 2, 5)
    assert base.shape == (4, 5)
    assert len({tuple(row.tolist()) for row in base}) == 4
    assert not torch.equal(row_uniforms(2, 2, [7], 1, 5)[0], base[0])
    assert not torch.equal(row_uniforms(1, 3, [7], 1, 5)[0], base[0])
    assert torch.equal(row_uniforms(1, 2, [8], 2, 5)[1], base[3])
    assert torch.equal(row_uniforms(1, 2, [8], 2, 3)[1], base[3, :3])


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 0), (0.49, 0), (0.51, 1), (0.79, 1), (0.81, 2), (0.96, 3), (1 - 1e-12, 3)],
)
def test_draw_inverts_the_cumulative_distribution(uniform: float, token: int) -> None:
    chosen, logprob = draw(LOGITS.clone(), torch.tensor([uniform], dtype=torch.float64), Sampling())
    assert chosen.tolist() == [token]
    torch.testing.assert_close(logprob, LOGITS[:, token])


def test_draw_never_takes_a_token_that_is_cut_away() -> None:
    for uniform in (0.0, 0.5, 1 - 1e-16):
        chosen, _ = draw(
            LOGITS.clone(), torch.tensor([uniform], dtype=torch.float64), Sampling(top_k=2)
        )
        assert int(chosen) in (0, 1)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_draw_in_blocks_equals_the_plain_inversion(size: int) -> None:
    logits = torch.randn(300, size) * 4
    uniforms = torch.rand(300, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1 - 1e-16])
    logprobs = logits.double().log_softmax(-1)
    ends = logprobs.exp().cumsum(-1)
    expected = torch.searchsorted(ends, uniforms[:, None] * ends[:, -1:], right=True)[:, 0]
    expected = expected.clamp(max=size - 1)
    chosen, found = draw(logits.clone(), uniforms, Sampling())
    # sums in float32 may move a border by a millionth
    near = (ends.gather(-1, expected[:, None])[:, 0] - uniforms).abs() < 1e-5
    before = ends.gather(-1, (expected[:, None] - 1).clamp(min=0))[:, 0]
    near |= (before - uniforms).abs() < 1e-5
    assert near.sum() < 30
    assert torch.equal(chosen[~near], expected[~near])
    picked = logprobs.gather(-1, chosen[:, None])[:, 0].float()
    torch.testing.assert_close(found, picked, atol=1e-5, rtol=1e-5)


def test_min_p_keeps_what_is_likely_enough() -> None:
    kept = warp(LOGITS, Sampling(min_p=0.5)).isfinite()  # 0.3 is at least half of 0.5
    assert kept.tolist() == [[True, True, False, False]]
    assert warp(LOGITS, Sampling(min_p=1.0)).isfinite().sum() == 1


def test_warp_by_hand() -> None:
    def warped(sampling: Sampling) -> torch.Tensor:
        return warp(LOGITS, sampling).softmax(-1)[0]

    assert warped(Sampling(top_k=2)).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert warped(Sampling(top_p=0.8)).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert warped(Sampling(top_p=0.81))[:3].sum().item() == pytest.approx(1)
    assert warped(Sampling(top_p=0.01)).tolist() == pytest.approx([1, 0, 0, 0])
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert warped(Sampling(temperature=0.5)).tolist() == pytest.approx(
        (squared / squared.sum()).tolist()
    )


def test_frequencies_follow_the_distribution() -> None:
    uniforms = row_uniforms(0, 0, range(500), 4, 1)[:, 0]
    chosen, _ = draw(LOGITS.repeat(2000, 1), uniforms, Sampling())
    shares = torch.bincount(chosen, minlength=4) / 2000
    torch.testing.assert_close(shares, LOGITS[0].exp(), atol=0.03, rtol=0)


def test_entropy_of_the_uniform_distribution() -> None:
    _, logprob = draw(torch.zeros(1, 8), torch.tensor([0.3], dtype=torch.float64), Sampling())
    assert -logprob.item() == pytest.approx(math.log(8))


@pytest.mark.parametrize("engine", [GenerateEngine(), DecodeEngine()], ids=["generate", "decode"])
def test_a_stop_string_ends_a_row_and_is_part_of_it(engine) -> None:
    policy = steered("llama")
    engine.setup(policy)
    settings = {"group_size": 4, "max_new_tokens": 30}
    plain = engine.generate(PROMPTS, Sampling(**settings), seed=0, step=0)
    text = policy.tokenizer.decode(plain.completion_ids[0, 3:5])
    stopped = engine.generate(PROMPTS, Sampling(**settings, stop_strings=[text]), seed=0, step=0)
    tokens = plain.completion_ids[0].tolist()
    expected = next(k for k in range(1, 31) if text in policy.tokenizer.decode(tokens[:k]))
    assert int(stopped.completion_mask[0].sum()) == expected
    assert bool(stopped.finished[0])
    assert stopped.texts[0].endswith(text)
    for n in range(4 * len(PROMPTS)):
        body = stopped.completion_ids[n, : int(stopped.completion_mask[n].sum()) - 1]
        assert text not in policy.tokenizer.decode(body)


@pytest.mark.parametrize("size", [338, 512, 1100])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_of_logits_that_are_not_finite_a_token_is_drawn_that_exists(
    size: int, temperature: float
) -> None:
    for value in ("nan", "inf", "-inf"):
        logits = torch.zeros(3, size)
        logits[1, 7], logits[2] = float(value), float(value)
        tokens, logprobs = draw(
            logits, torch.full((3,), 0.999).double(), Sampling(temperature=temperature)
        )
        assert all(0 <= token < size for token in tokens.tolist())
        # a single -inf is a token that is never drawn
        assert logprobs.isnan().tolist() == [False, value != "-inf", True]


EXTREMES = [
    *({"temperature": 1e-300}, {"temperature": 1e-40}, {"temperature": 9e-6}),
    *({"top_p": 0.0}, {"top_p": 1e-300}, {"top_p": 1e-50}, {"top_p": 1e-30}),
    *({"min_p": 1.0}, {"top_k": 1}, {"top_p": 0.0, "temperature": 5.0}),
]


@pytest.mark.parametrize("settings", EXTREMES, ids=str)
def test_settings_that_leave_one_token_take_the_likeliest(settings: dict[str, float]) -> None:
    logits = torch.randn(4, 600, generator=torch.Generator().manual_seed(0)) * 100
    logits[0] += 1e6
    logits[1] -= 1e6
    expected = logits.argmax(-1)
    for uniform in (0.0, 0.5, 0.999):
        uniforms = torch.full((4,), uniform).double()
        tokens, logprobs = draw(logits.clone(), uniforms, Sampling(**settings))
        assert torch.equal(tokens, expected)
        assert bool(logprobs.isfinite().all())


@pytest.mark.parametrize(
    "settings", [{"temperature": 1e-5}, {"temperature": 1e300}, {"min_p": 1e-300}]
)
def test_extreme_settings_keep_their_meaning(settings: dict[str, float]) -> None:
    logits = torch.tensor([[0.0, -math.inf, 3.0, 3.0]])
    uniforms = torch.tensor([0.4]).double()
    token, logprob = draw(logits.clone(), uniforms, Sampling(**settings))
    odds = {1e-5: [0, 0, 1, 1], 1e300: [1, 0, 1, 1]}  # of the four tokens
    of_each = odds.get(settings.get("temperature", 0.0), [1, 0, math.exp(3), math.exp(3)])
    assert int(token) == 2
    assert logprob.exp().item() == pytest.approx(of_each[2] / sum(of_each))


@pytest.mark.parametrize("make", [DecodeEngine, GenerateEngine])
def test_logits_that_are_not_finite_end_the_rollout_in_words(make) -> None:
    policy, engine, scored = tiny_policy(), make(), []
    engine.setup(policy)
    sampling = Sampling(group_size=2, max_new_tokens=6)
    add = lambda row, completion: scored.append(row)  # noqa: E731
    engine.generate(PROMPTS, sampling, seed=0, step=0, on_completion=add)
    assert len(scored) == 2 * len(PROMPTS)
    scored.clear()
    policy.model.get_output_embeddings().weight.data[3] = float("nan")
    told = r"base is in torch.float32, are not finite, .* prompt \d and 0 tokens.*model.dtype"
    with pytest.raises(FloatingPointError, match=told):
        engine.generate(PROMPTS, sampling, seed=0, step=0, on_completion=add)
    assert not scored, "what comes of such logits is no answer"
    with pytest.raises(FloatingPointError, match=told):
        engine.setup(policy)
