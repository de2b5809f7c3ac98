"""Checks of engines against plain passes over single texts, on made-up and on real prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from steer_lightning.model.plain_pass import (
    LONGEST_MADE_UP,
    gap_of,
    lengths_that_matter,
    logprobs_of,
    made_up_tokens,
    plain_logits,
    tolerance,
)
from steer_lightning.model.policy import Policy
from steer_lightning.model.precision import checked_in_float32, misfits
from steer_lightning.rollout.completions import longest_text, text_lengths, warp
from steer_lightning.rollout.sampling import GREEDY_BELOW, Sampling
from steer_lightning.system.printable import one_line
from steer_lightning.types import Problem, Prompt, Rollouts

log = logging.getLogger(__name__)

Generate = Callable[[Sequence[Prompt], Sampling], Rollouts]
"""Function that samples completions."""

SHORT = (0, LONGEST_MADE_UP)
"""Range of lengths to check before the first step."""


def made_up_prompts(policy: Policy, between: tuple[int, int] = SHORT) -> list[Prompt]:
    """Makes up prompts of different lengths; see `made_up_tokens`.

    Args:
        policy: Policy that reads them.
        between: Length above which lengths matter, and the longest one that does.
    """
    problem = Problem(question="", answer="")
    return [
        Prompt(id=k, problem=problem, text="", token_ids=tokens)
        for k, tokens in enumerate(made_up_tokens(policy.model.config, *between))
    ]


def passes_length(policy: Policy, between: tuple[int, int]) -> bool:
    """Returns whether texts have passed a length that matters and is not a short one.

    Args:
        policy: Policy that reads them.
        between: Number of tokens of the longest text before, and now.
    """
    above, up_to = max(between[0], LONGEST_MADE_UP), between[1]
    return any(above < length <= up_to for length in lengths_that_matter(policy.model.config))


def why_not(policy: Policy, generate: Generate, between: tuple[int, int] = SHORT) -> str | None:
    """Samples a few tokens for made-up prompts, and compares them with plain passes.

    Args:
        policy: Policy that samples.
        generate: Function that samples, with several rows at once.
        between: Length above which lengths matter, and the longest one that does.

    Returns:
        None if they agree, else the reason why the model can't be sampled this way.

    Raises:
        FloatingPointError: If not even a plain pass has finite logits.
    """
    return checked_in_float32(policy, partial(_why_not, policy, generate, between))


def _why_not(policy: Policy, generate: Generate, between: tuple[int, int]) -> str | None:
    sampling, prompts = Sampling(group_size=3, max_new_tokens=6), made_up_prompts(policy, between)
    try:
        with misfits() as errors:
            rollouts = generate(prompts, sampling)
    except FloatingPointError as error:
        with policy.sharding.without_gradients():
            logits = plain_logits(policy, prompts[0].token_ids, [0])
        if not bool(logits.isfinite().all()):
            raise  # the base itself is at fault
        return str(error)
    if errors:
        return errors[0]
    return _difference(compare(policy, rollouts, sampling, range(len(rollouts.texts))), policy)


def compare(policy: Policy, rollouts: Rollouts, sampling: Sampling, rows: Sequence[int]) -> float:
    """Compares the log-probabilities of some completions with those of plain passes.

    Args:
        policy: Policy that has sampled them.
        rollouts: Completions.
        sampling: Settings by which they were sampled.
        rows: Numbers of the completions to compare.

    Returns:
        The largest value of `gap_of`, over the last tokens of each completion. If top-k, top-p or
        min-p exclude tokens, only nine of ten tokens count, because rounding may decide whether a
        token is excluded.
    """
    share = 0.9 if sampling.truncates else 1.0
    worst = 0.0
    for n in rows:
        mask = rollouts.completion_mask[n]
        prompt = rollouts.prompts[n // rollouts.group_size].token_ids
        completion = rollouts.completion_ids[n][mask].tolist()
        with policy.sharding.without_gradients():
            logits = plain_logits(policy, prompt, completion)
            is_greedy = sampling.temperature < GREEDY_BELOW
            warped = logits.float() if is_greedy else warp(logits, sampling)
            expected = logprobs_of(warped, completion)
        worst = max(worst, gap_of(policy, rollouts.logprobs[n][mask], expected, share))
    return worst


def _difference(gap: float, policy: Policy) -> str | None:
    allowed = tolerance(policy)
    if gap <= allowed:
        return None
    return f"log-probabilities differ from a plain pass by {gap:.2g}, more than {allowed:g}"


class RealTexts:
    """Compares completions of real batches with plain passes whenever texts get longer.

    The first batch is therefore always compared. If texts pass a length that matters to the model,
    such as its window, made-up prompts of about that length are compared first.

    Args:
        policy: Policy that samples.
        generate: Function that samples for made-up prompts, with several rows at once.
        name: Name of the engine, for the log.
    """

    def __init__(self, policy: Policy, generate: Generate, name: str) -> None:
        self._policy, self._generate, self._name = policy, generate, name
        self.longest = 0
        """Number of tokens of the longest text of a batch that has been compared."""

    def why_not(self, rollouts: Rollouts, sampling: Sampling) -> str | None:
        """Compares a batch whose texts are longer than all before.

        Args:
            rollouts: Completions of at least one prompt.
            sampling: Settings by which they were sampled.

        Returns:
            None if they agree, else the reason why the model can't be sampled this way.
        """
        between = self.longest, longest_text(rollouts)
        reason = None
        if passes_length(self._policy, between):
            reason = why_not(self._policy, self._generate, between)
        reason = reason or _why_not_real(self._policy, rollouts, sampling, self._name)
        if reason is None:
            self.longest = between[1]
        return reason


def _why_not_real(policy: Policy, rollouts: Rollouts, sampling: Sampling, name: str) -> str | None:
    """Compares the longest, the shortest and a middle completion of a batch with plain passes."""
    lengths = text_lengths(rollouts)
    order = lengths.argsort().tolist()
    rows = sorted({order[-1], order[0], order[len(order) // 2]})
    gap = compare(policy, rollouts, sampling, rows)
    reason = _difference(gap, policy)
    if reason is None:
        log.info(
            "%s: %d completions, with texts of up to %d tokens, agree with plain passes of the "
            "model to within %.1g nats",
            one_line(name),
            len(rows),
            int(lengths.max()),
            gap,
        )
    return reason
