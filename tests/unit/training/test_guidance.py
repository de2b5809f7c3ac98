"""Guided completions: their weights, their gradient, and groups that have not failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError, PromptDataModule, SteeringModule
from steer_lightning.advantages import GRPO, RLOO, MovingAverage
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.losses import (
    CISPO,
    Clip,
    KLToBase,
    PolicyGradient,
    PrefixLikelihood,
    SequenceClip,
    TruncatedImportance,
)
from steer_lightning.model.head import token_logprobs
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import Quantization
from steer_lightning.rewards import FormatReward, RewardSum, Scores, WeightedReward
from steer_lightning.rollout import DecodeEngine, Sampling, VLLMEngine
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import make_prompts, save_tiny, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.guidance import (
    Guidance,
    make_hints,
    replaced_rows,
    with_guided_scores,
)
from steer_lightning.training.kl_in_reward import KLInReward
from steer_lightning.training.length_in_reward import LengthInReward
from steer_lightning.training.sample import Sampler, who_takes_part
from steer_lightning.training.step import Sampled
from steer_lightning.types import Completion
from tests.unit.training.helpers import quiet_trainer

NAN = float("nan")
PROMPTS = make_prompts(["a", "two words", "z9"])
HINTS = {
    prompt.id: replace(hint, id=prompt.id, problem=prompt.problem)
    for prompt, hint in zip(
        PROMPTS, make_prompts(["think: a", "think: two words", "think: z9"]), strict=True
    )
}
SAMPLING = Sampling(group_size=4, max_new_tokens=6, temperature=0.8)
GUIDANCE = Guidance(text="think: {question}", num_guided=2)


@pytest.fixture(scope="module")
def policy() -> Policy:
    found = tiny_policy("gemma2", SteeringVectors(layers=[1]))  # on which a hint has some effect
    found.steering.set_vectors(torch.randn(1, 32, generator=torch.Generator().manual_seed(1)) * 0.1)
    return found


def fails_on(*questions: str) -> Any:
    """A reward by the question: 0 for these, and 1 for others."""

    def reward(completions: Sequence[Completion]) -> list[float]:
        return [float(x.question not in questions) for x in completions]

    return reward


def sample(policy: Policy, reward: Any, guidance: Guidance | None, step: int = 0) -> Sampled:
    engine = DecodeEngine()
    engine.setup(policy)
    rewards = RewardSum([WeightedReward(reward=reward)])
    sampler = Sampler(policy, engine, rewards, SAMPLING, guidance=guidance, hints=HINTS)
    return sampler.sample(PROMPTS, step)


@pytest.fixture(scope="module")
def guided(policy: Policy) -> Sampled:
    """The second group fails, even with hints."""
    return sample(policy, fails_on("two words"), GUIDANCE)


# ---- which groups fail, and what takes whose place


def test_a_group_fails_if_nothing_in_it_passes() -> None:
    rewards = torch.tensor([[0.0, 0.4], [0.0, 0.5], [0.0, NAN], [NAN, NAN], [NAN, 1.0]])
    assert GUIDANCE.failed(rewards).tolist() == [True, False, True, False, False]
    strict = replace(GUIDANCE, passes_at=1.0)
    assert strict.failed(rewards).tolist() == [True, True, True, False, False]


def test_the_last_completions_of_a_group_are_replaced() -> None:
    assert replaced_rows([0, 2], group_size=4, num_guided=3).tolist() == [1, 2, 3, 9, 10, 11]
    own = Scores(total=[0.0, 0.1], parts={"r": [0.0, 0.2]}, outcomes={"r": {"wrong": 2}})
    two = Scores(total=[None], parts={"r": [1.0]}, outcomes={"r": {"right": 1}})
    found = with_guided_scores(own, two, torch.tensor([1]))
    assert (found.total, found.parts) == ([0.0, None], {"r": [0.0, 1.0]})
    assert found.outcomes == own.outcomes


def test_guided_completions_are_those_of_the_prompt_with_its_hint(
    policy: Policy, guided: Sampled
) -> None:
    plain = sample(policy, fails_on("two words"), None)
    assert guided.guided.tolist() == [[False] * 4, [False, False, True, True], [False] * 4]
    rollouts, engine = guided.rollouts, DecodeEngine()
    engine.setup(policy)
    assert rollouts.prompts == plain.rollouts.prompts, "prompts have no hint"
    for n in (*range(6), *range(8, 12)):  # not replaced
        mask = plain.rollouts.completion_mask[n]
        assert torch.equal(rollouts.completion_mask[n, : len(mask)], mask)
        for name in ("completion_ids", "logprobs"):
            one, two = (getattr(x, name)[n, : len(mask)][mask] for x in (rollouts, plain.rollouts))
            assert torch.equal(one, two)
    alone = engine.generate(
        [HINTS[1]], replace(SAMPLING, group_size=2), seed=2**32, step=0, on_completion=lambda *_: 0
    )
    assert rollouts.texts[6:8] == alone.texts
    assert set(alone.texts).isdisjoint(plain.rollouts.texts), "random numbers of their own"
    assert torch.equal(guided.num_tokens[1, 2:], alone.completion_mask.sum(1))
    assert torch.equal(guided.finished[1, 2:], alone.finished)


def test_figures_of_the_policy_stay_those_without_hints(policy: Policy) -> None:
    told: list[str] = []

    def by_hint(completions: Sequence[Completion]) -> list[float]:
        told.extend(x.question for x in completions)
        return [float(len(told) > 12) for _ in completions]  # the first round fails as a whole

    found = sample(policy, by_hint, GUIDANCE)
    assert set(told) == {"a", "two words", "z9"}, "rewards never see the hint"
    assert found.rewards.tolist() == [[0.0] * 4] * 3
    assert found.learned_rewards.tolist() == [[0.0, 0.0, 1.0, 1.0]] * 3
    assert found.scores.total == [0.0, 0.0, 1.0, 1.0] * 3
    assert found.parts["by_hint"].sum() == 0
    assert who_takes_part(found, 3, mask_overlong=False).all(), "the groups have signal now"


def test_a_run_in_which_nothing_fails_is_untouched(policy: Policy) -> None:
    plain, found = (sample(policy, fails_on(), x, step=3) for x in (None, GUIDANCE))
    assert found.rollouts.guided is None
    for name in ("completion_ids", "completion_mask", "logprobs", "finished"):
        assert torch.equal(getattr(found.rollouts, name), getattr(plain.rollouts, name))
    assert torch.equal(found.learned_rewards, plain.rewards)


def test_a_prompt_without_a_hint_is_not_guided(policy: Policy) -> None:
    engine = DecodeEngine()
    engine.setup(policy)
    rewards = RewardSum([WeightedReward(reward=fails_on("a", "two words"))])
    hints = {0: HINTS[0]}
    sampler = Sampler(policy, engine, rewards, SAMPLING, guidance=GUIDANCE, hints=hints)
    assert sampler.sample(PROMPTS, 0).guided.any(1).tolist() == [True, False, False]


# ---- weights and gradient, against plain passes


def plain_logprobs(policy: Policy, prompt: Sequence[int], tokens: torch.Tensor) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *tokens.tolist()]])
    logits = policy.model(ids).logits[:, len(prompt) - 1 : -1]
    return token_logprobs(logits, tokens[None], SAMPLING.temperature)[0]


def ratios_of(policy: Policy, sampled: Sampled, n: int) -> torch.Tensor:
    """pi(y_t | x) / pi_old(y_t | x with or without hint) of row n, (T,), by two plain passes."""
    rollouts = sampled.rollouts
    tokens = rollouts.completion_ids[n][rollouts.completion_mask[n]]
    prompt = rollouts.prompts[n // 4]
    read = HINTS[prompt.id] if n in (6, 7) else prompt
    below = plain_logprobs(policy, read.token_ids, tokens).detach()
    return (plain_logprobs(policy, prompt.token_ids, tokens) - below).exp()


def batch_of(sampled: Sampled, advantages: torch.Tensor) -> Batch:
    everyone = torch.ones_like(sampled.guided)
    facts: Any = {"own": sampled.own, "num_tokens": sampled.num_tokens, "takes_part": everyone}
    return Batch(rollouts=sampled.rollouts, advantages=advantages, **facts)


def test_the_ratio_is_that_of_two_plain_passes(policy: Policy, guided: Sampled) -> None:
    seen: dict[tuple[int, int], Any] = {}

    class Records:
        uses_ratio = True

        def __call__(self, inputs: Any) -> Any:
            ratios = (inputs.logprobs - inputs.old_logprobs).exp().detach()
            for n, ratio in enumerate(ratios):
                seen[int(inputs.advantages[n])] = ratio[inputs.mask[n]]
            return PolicyGradient(objective=Clip())(inputs)

    gradient = BatchGradient(policy=policy, loss=Records(), temperature=0.8, max_tokens=60)
    advantages = torch.arange(1.0, 13.0).view(3, 4)  # which tell rows apart
    gradient.accumulate(gradient.plan(batch_of(guided, advantages)))
    for n in range(12):
        expected = ratios_of(policy, guided, n)
        torch.testing.assert_close(seen[n + 1], expected, rtol=1e-4, atol=1e-5)
    assert (seen[7] - 1).abs().max() > 0.01, "hints change something"


def plain_gradient(
    policy: Policy, sampled: Sampled, advantages: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """- mean_i sum_t min(rho A, clip(rho) A), one row at a time, straight from the formula."""
    weight = policy.steering.weight
    weight.grad = None
    total = torch.zeros(())
    for n, advantage in enumerate(advantages.flatten()):
        ratio = ratios_of(policy, sampled, n)
        bounded = ratio.clamp(1 - low, 1 + high)
        total = total + torch.minimum(ratio * advantage, bounded * advantage).sum()
    (-total / advantages.numel()).backward()
    assert weight.grad is not None
    return weight.grad.clone()


@pytest.mark.parametrize("high", [0.005, 0.2])
def test_the_gradient_is_that_of_the_formula(policy: Policy, guided: Sampled, high: float) -> None:
    loss = PolicyGradient(objective=Clip(high, high), correction=TruncatedImportance())
    advantages = torch.tensor([[1.0, -1, 0, 0], [-0.5, -0.5, 1, 2], [0, 0, 0, 0]])
    gradient = BatchGradient(policy=policy, loss=loss, temperature=0.8, max_tokens=40)
    totals = gradient.accumulate(gradient.plan(batch_of(guided, advantages)))
    found = policy.steering.weight.grad
    assert found is not None
    expected = plain_gradient(policy, guided, advantages, high, high)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    unguided = replace(guided, rollouts=replace(guided.rollouts, guided=None))
    gradient.loss = PolicyGradient(objective=Clip(high, high))
    gradient.accumulate(gradient.plan(batch_of(unguided, advantages)))
    wrong = policy.steering.weight.grad
    assert wrong is not None
    assert (wrong - expected).abs().max() > 1e-3, "without ratios the gradient is another one"
    assert totals.mismatch["max"] < 1e-5, "guided tokens are no mismatch"
    ratios = torch.cat([ratios_of(policy, guided, n).detach() for n in (6, 7)])
    assert totals.guidance["ratio"] == pytest.approx(float(ratios.mean()), abs=1e-4)
    assert totals.guidance["kl"] == pytest.approx(-float(ratios.log().mean()), abs=1e-4)


def test_later_mini_batches_have_the_same_ratios(policy: Policy, guided: Sampled) -> None:
    gradient = BatchGradient(
        policy=policy, loss=PolicyGradient(objective=Clip()), temperature=0.8, max_tokens=999
    )
    plan = gradient.plan(batch_of(guided, torch.ones(3, 4)))
    gradient.measure(plan)
    (kept,) = plan.micro_batches
    assert kept.old_logprobs is not None
    rows = kept.micro_batch.rows
    is_guided = guided.guided.flatten()[rows]
    sampled = kept.micro_batch.sampling_logprobs
    assert torch.equal(kept.old_logprobs[is_guided], sampled[is_guided])
    gaps = (kept.old_logprobs - sampled)[~is_guided].abs() * kept.micro_batch.completion_mask[
        ~is_guided
    ]
    assert gaps.max() < 1e-5


# ---- refusals


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"text": "{solution}", "num_guided": 1},
            r"text = '\{solution\}': must contain \{question\}",
        ),
        ({"text": " {question}\n", "num_guided": 1}, "must contain a hint beside the question"),
        ({"text": "{question}!", "num_guided": 0}, "num_guided = 0: must be at least 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Guidance(**settings)


CLIPPED = PolicyGradient(objective=Clip())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"loss": PolicyGradient()},
            "model.guidance = 'on': needs an objective with a ratio, which model.loss.objective = "
            "ScoreFunction does not have",
        ),
        ({"loss": lambda inputs: inputs}, "model.guidance = 'on': needs an objective with a ratio"),
        ({"loss": PrefixLikelihood(num_tokens=2)}, "model.guidance = .*null with model.loss = Pre"),
        ({"advantage": MovingAverage()}, "model.guidance = .*model.advantage = MovingAverage"),
        ({"kl_in_reward": KLInReward(weight=0.1)}, "model.guidance = .*model.kl_in_reward: null"),
        (
            {"length_in_reward": LengthInReward(right="FormatReward")},
            "model.guidance = .*model.length_in_reward: null",
        ),
        (
            {"loss": PolicyGradient(objective=Clip(), terms=[KLToBase(0.1)])},
            "model.guidance = .*model.loss.terms without KLToBase",
        ),
        (
            {
                "quantization": Quantization(bits=4, where="rollouts"),
                "loss": PolicyGradient(objective=Clip(), correction=TruncatedImportance()),
            },
            "model.guidance = .*model.quantization.where: both",
        ),
        ({"exact": True}, "model.guidance = .*model.exact: false"),
        (
            {
                "max_staleness": 1,
                "engine": VLLMEngine(),
                "loss": PolicyGradient(objective=Clip(), correction=TruncatedImportance()),
            },
            "model.guidance = .*model.max_staleness: 0",
        ),
        (
            {
                "sampling": Sampling(group_size=2),
                "guidance": Guidance(text="!{question}", num_guided=3),
            },
            "model.guidance.num_guided = 3: must be at most model.sampling.group_size = 2",
        ),
        (
            {"guidance": Guidance(text="!{question}", num_guided=1, passes_at=1.5)},
            "model.guidance.passes_at = 1.5: must be above 0 and at most 1, .*model.rewards",
        ),
    ],
)
def test_settings_that_guidance_contradicts(settings: dict[str, Any], told: str) -> None:
    rewards = (
        [] if "Prefix" in told or "null with" in told else [WeightedReward(reward=FormatReward())]
    )
    own = {"loss": CLIPPED, "guidance": GUIDANCE, "rewards": rewards, "advantage": RLOO()}
    if not rewards:
        own["advantage"] = None
    with pytest.raises(ConfigError, match=told):
        SteeringModule(**{**own, **settings})


@pytest.mark.parametrize("objective", [Clip(), SequenceClip(), CISPO()])
def test_objectives_with_a_ratio_take_one_step_with_guidance(objective: Any) -> None:
    SteeringModule(loss=PolicyGradient(objective=objective), guidance=GUIDANCE, advantage=GRPO())
    with pytest.raises(ConfigError, match="needs several optimizer steps"):
        SteeringModule(loss=PolicyGradient(objective=objective))


def test_a_data_module_without_a_template_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.guidance = 'on': needs a data module with templ"):
        make_hints(GUIDANCE, object(), None)
    assert make_hints(None, object(), None) == {}


@pytest.mark.parametrize(
    ("text", "tokens", "told"),
    [
        ("{question} {hint}", 99, r"\{hint\} is neither text nor a number in problem 1 of data.tr"),
        ("{question} {solution}", 30, "data.max_prompt_tokens = 30: all 4 prompts are longer with"),
    ],
)
def test_hints_that_cannot_be_given_are_refused_before_the_model_loads(
    text: str, tokens: int, told: str, tmp_path: Path
) -> None:
    guidance = Guidance(text=text, num_guided=1)
    module = SteeringModule(base=save_tiny(tmp_path), loss=CLIPPED, guidance=guidance)
    data = PromptDataModule(
        train=Arithmetic(num_problems=4),
        template=PlainTemplate("{question}="),
        batch_size=2,
        max_prompt_tokens=tokens,
    )
    with pytest.raises(ConfigError, match=told):
        quiet_trainer(max_steps=1, default_root_dir=tmp_path).fit(module, data)
    assert module.policy.model is None


def test_hints_that_leave_no_room_for_an_answer_are_refused(tmp_path: Path) -> None:
    module = SteeringModule(
        base=save_tiny(tmp_path),  # 256 positions
        loss=CLIPPED,
        guidance=Guidance(text="{question}" + "!" * 100, num_guided=1),
        sampling=Sampling(group_size=2, max_new_tokens=200),
    )
    data = PromptDataModule(
        train=Arithmetic(num_problems=4), template=PlainTemplate("{question}="), batch_size=2
    )
    with pytest.raises(ConfigError, match=r"max_new_tokens = 200.*256 positions"):
        quiet_trainer(max_steps=1, default_root_dir=tmp_path).fit(module, data)
