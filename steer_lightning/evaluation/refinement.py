"""Refinement of sampled completions by gradient ascent on the logits of their tokens.

Source: nabla-Reasoner (arXiv 2603.04948). With an objective S that is differentiable in the tokens,
and a completion y of a prompt x with tokens y_t drawn from the logits z_t (Gumbel-max),

    y_t = argmax z_t,  z_t = log pi(. | x, y_<t) / temperature + noise      as it is sampled,
    y~_t = y_t + softmax(z_t) - sg(softmax(z_t)),  z_t <- Adam(z_t, dS / dz_t)      in each step,
    y'_t = argmax z_t after the steps,

where sg stops the gradient (straight-through). If y'_t differs from y_t, the rest is sampled again,
y'_>t ~ pi(. | x, y_<t, y'_t), and y' takes the place of y if S(y') > S(y). So it goes on
for t from the first token to the last. `max_confidence` leaves out tokens that are nearly certain.

The paper's S is `log pi(y | x) + w r(x, y)` with the r of a reward model. There is none here, and
the verifier must not take its place, since it knows the right answer. The reward is the one that
the vectors have learned, as DPO reads it out of a policy (arXiv 2305.18290):

    r(x, y) = log pi(y | x) - log pi_base(y | x).

It is 0 for the base. With w = 0 the likelihood alone is raised, which makes a policy more decided.

As the forward pass has hard tokens, the slope `dS / dy~_t` is constant until a token changes. So
all steps of all tokens of a completion share one backward pass, which the paper calls gradient
caching, and the steps of a token end when it changes. The noise is drawn so that y_t is the argmax,
with the distribution that Gumbel noise has given that. So without steps nothing changes.

Degenerate cases: a greedy sampling has no noise, so that only what follows can speak against a
token. A completion whose tokens are all certain stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.continued import check_steers_all_tokens
from steer_lightning.rollout import RolloutEngine, Sampling
from steer_lightning.rollout.completions import warp
from steer_lightning.rollout.sampling import GREEDY_BELOW
from steer_lightning.steering import Steering

KEY = "refinements"


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Settings of a refinement by gradients (nabla-Reasoner, arXiv 2603.04948).

    Attributes:
        steps: Largest number of steps for a token; 0 changes nothing.
        learning_rate: Learning rate of Adam. The logits of a token move by at most about `steps`
            times as much.
        temperature: Temperature of the softmax in the backward pass.
        reward_weight: Weight w of the reward that the vectors have learned,
            `log pi(y | x) - log pi_base(y | x)`, beside the likelihood; 0 is the likelihood alone.
        max_confidence: Tokens stay if the model gives its most likely token a larger probability,
            at temperature 1 and without truncation, however answers are sampled.
        max_rollouts: Largest number of continuations that are sampled for a completion, after the
            completion itself.
    """

    steps: int = 100
    learning_rate: float = 0.01
    temperature: float = 1.0
    reward_weight: float = 0.0
    max_confidence: float = 0.97
    max_rollouts: int = 7

    def __post_init__(self) -> None:
        """Raises a ConfigError for a value out of range."""
        above_0 = "must be a number above 0"
        rules = {
            "steps": (self.steps >= 0, "must be 0 or more"),
            "learning_rate": (0 < self.learning_rate < math.inf, above_0),
            "temperature": (0 < self.temperature < math.inf, above_0),
            "reward_weight": (0 <= self.reward_weight < math.inf, "must be 0 or more"),
            "max_confidence": (0 < self.max_confidence <= 1, "must be above 0, and at most 1"),
            "max_rollouts": (self.max_rollouts >= 1, "must be at least 1"),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"{KEY}.{key}", getattr(self, key), rule=rule)


def check_refinements(
    refinements: Mapping[str, Refinement],
    steerings: Mapping[str, Steering],
    samplings: Mapping[str, Sampling],
    engine: RolloutEngine,
) -> None:
    """Raises a ConfigError for refinements that contradict other settings.

    Args:
        refinements: Refinements by name.
        steerings: Steering of the arms by their names.
        samplings: Settings with which the arms are sampled, by their keys.
        engine: Engine that answers.
    """
    if not refinements:
        return
    check_steers_all_tokens(KEY, refinements, steerings)
    if hasattr(engine, "before_load"):
        raise ConfigError(
            KEY,
            list(refinements),
            rule=f"contradicts engine = {type(engine).__name__}, which samples in other processes",
            why="The gradient is that of the base in this process, whose numbers are not quite "
            "those of a server",
            fix=f"Leave out {KEY}, or set engine: DecodeEngine",
        )
    for key, sampling in samplings.items():
        if sampling.stop_strings:
            raise ConfigError(
                KEY,
                list(refinements),
                rule=f"contradicts {key}.stop_strings = {list(sampling.stop_strings)!r}",
                why="A stop string that begins in the part that is kept would not be found",
                fix=f"Set {key}.stop_strings: [], or leave out {KEY}",
            )
    for name, refinement in refinements.items():
        if refinement.reward_weight and not steerings:
            raise ConfigError(
                f"{KEY}.{name}.reward_weight",
                refinement.reward_weight,
                rule="contradicts vectors = null",
                why="The reward is what the vectors have learned, and that of the base is 0",
                fix="Name vectors, or set reward_weight: 0",
            )


def drawn_logits(
    logits: torch.Tensor, tokens: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling
) -> torch.Tensor:
    """Returns logits whose largest ones are the tokens that have been drawn (Gumbel-max).

    The noise has the distribution of Gumbel noise that makes each token the argmax: its own value
    is a Gumbel variable M around the logsumexp, and the others are cut off at M.

    Args:
        logits: Logits of the model, (Q, V).
        tokens: Drawn tokens, (Q,) int64.
        uniforms: Random numbers in [0, 1), (Q, V) float64.
        sampling: Settings with which the tokens were drawn; a greedy one has no noise.

    Returns:
        Logits (Q, V) float32; -inf for tokens that can't be drawn.
    """
    if sampling.temperature < GREEDY_BELOW:
        return logits.float()
    warped, index = warp(logits, sampling), tokens[:, None]
    # in float64, since a number just below 1 would be rounded to 1, whose noise is infinite
    noise = -(-uniforms.clamp(min=torch.finfo(uniforms.dtype).tiny).log()).log()
    noise = noise.to(warped)
    largest = warped.logsumexp(-1, keepdim=True) + noise.gather(1, index)
    cut_off = -torch.logaddexp(-largest, -(warped + noise))
    return cut_off.scatter(1, index, largest)


def changed_tokens(
    logits: torch.Tensor, slopes: torch.Tensor, tokens: torch.Tensor, refinement: Refinement
) -> torch.Tensor:
    """Moves the logits of each token along the gradient, until another one is the largest.

    Args:
        logits: Logits whose largest ones are the tokens, (Q, V) float32.
        slopes: Slopes of the objective with respect to the tokens as one-hot rows, (Q, V).
        tokens: Tokens, (Q,) int64.
        refinement: Settings of the steps.

    Returns:
        Tokens (Q,) int64; the same where none has become larger.
    """
    free = logits.detach().clone().requires_grad_()
    slopes = slopes.to(free).masked_fill(free.isneginf(), 0.0)  # else 0 * inf in the softmax
    adam = torch.optim.Adam([free], lr=refinement.learning_rate, maximize=True)
    found, rows = tokens.clone(), torch.arange(len(tokens), device=tokens.device)
    for _ in range(refinement.steps):
        soft = (free / refinement.temperature).softmax(-1)
        (free.grad,) = torch.autograd.grad((soft * slopes).sum(), free)
        adam.step()
        with torch.no_grad():
            largest, token = free.max(-1)
            moves = (found == tokens) & (largest > free[rows, tokens])
            found = torch.where(moves, token, found)
        if bool((found != tokens).all()):
            break
    return found
