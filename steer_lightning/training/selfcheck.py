"""Checks of the reading methods for micro-batches against plain passes over single texts.

From the fastest to the slowest, the methods are packed rows, padded rows, and one row at a time. A
run uses the fastest one that is correct.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.padding import COMPLETION_LENGTHS, leaks
from steer_lightning.model.plain_pass import (
    gap_of,
    logprobs_of,
    plain_logits,
    tolerance,
)
from steer_lightning.model.policy import Policy
from steer_lightning.model.precision import checked_in_float32, misfits
from steer_lightning.rollout.selfcheck import SHORT, made_up_prompts, passes_length
from steer_lightning.system.collectives import gather_objects
from steer_lightning.system.printable import one_line
from steer_lightning.training.batch import MicroBatch, padded_micro_batches
from steer_lightning.training.forward import Forward
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.packing import PackedForward
from steer_lightning.training.skipped_layers import KeptStream, SkippedLayers
from steer_lightning.types import Rollouts

log = logging.getLogger(__name__)


def made_up_rollouts(policy: Policy, between: tuple[int, int] = SHORT) -> Rollouts:
    """Makes up completions of the prompts of `made_up_prompts`."""
    prompts = made_up_prompts(policy, between)
    size, width = len(COMPLETION_LENGTHS), max(COMPLETION_LENGTHS)
    vocabulary = policy.model.config.get_text_config().vocab_size
    shape = (len(prompts) * size, width)
    ids = torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor(COMPLETION_LENGTHS * len(prompts))
    return Rollouts(
        prompts=tuple(prompts),
        group_size=size,
        completion_ids=ids,
        completion_mask=torch.arange(width) < lengths[:, None],
        logprobs=torch.zeros(shape),
        finished=torch.ones(len(ids), dtype=torch.bool),
        texts=("",) * len(ids),
    )


def made_up_rows(policy: Policy) -> MicroBatch:
    """Returns the made-up rows, as one micro-batch."""
    rollouts = made_up_rollouts(policy)
    rows = torch.arange(len(rollouts.texts))
    return next(padded_micro_batches(rollouts, rows, max_tokens=2**62, pad=policy.pad_token_id))


def logprobs_by(forward: Forward, rows: MicroBatch) -> torch.Tensor:
    """Reads a micro-batch; returns the log-probabilities of its completions, (n, T)."""
    with torch.no_grad(), forward.passes():
        prepared = forward.prepare(rows)
        with forward.token_states(prepared, temperature=1.0) as found:
            return found.logprobs


def gap_to_plain(
    policy: Policy, rows: MicroBatch, logprobs: torch.Tensor, chosen: list[int], temperature: float
) -> float:
    """Compares rows of a micro-batch with plain passes.

    Args:
        policy: Policy that has read the rows.
        rows: Micro-batch of n rows.
        logprobs: Computed log-probabilities, (n, T).
        chosen: Numbers of the rows to compare.
        temperature: Temperature of the distribution.

    Returns:
        The largest value of `gap_of`.
    """
    worst = 0.0
    for n in chosen:
        mask = rows.completion_mask[n]
        completion = rows.completion_ids[n][mask].tolist()
        with torch.no_grad():
            logits = plain_logits(policy, rows.prompts[n], completion).float() / temperature
            expected = logprobs_of(logits, completion)
        worst = max(worst, gap_of(policy, logprobs[n][mask.to(logprobs.device)], expected))
    return worst


def why_not_by(policy: Policy, forward: Forward, rows: MicroBatch) -> str | None:
    """Compares a reading method with plain passes, on made-up rows.

    Args:
        policy: Policy that reads.
        forward: Reading method.
        rows: Made-up rows.

    Returns:
        None if they agree, else the reason why the model can't be read this way.
    """
    with misfits() as errors:
        logprobs = logprobs_by(forward, rows)
    if errors:
        return errors[0]
    gap = gap_to_plain(policy, rows, logprobs, list(range(len(rows.groups))), temperature=1.0)
    return _difference(gap, policy)


def _difference(gap: float, policy: Policy) -> str | None:
    allowed = tolerance(policy)
    return None if gap <= allowed else f"log-probabilities differ by {gap:.2g}"


def _leak(policy: Policy, forward: Forward, rows: MicroBatch) -> str | None:
    """Checks whether rows depend on other rows of the micro-batch.

    Rounding hides a weak dependence from a comparison with plain passes, especially in 16 bits. But
    a row must stay the same to the last bit if tokens that it must not see are exchanged, with the
    exceptions of `leaks`.

    Args:
        policy: Policy that reads.
        forward: Reading method.
        rows: Rows of an odd number of groups.
    """
    last = max(rows.groups)
    kept = torch.tensor([group % 2 == 1 for group in rows.groups])
    mask = rows.completion_mask[kept].to(policy.device)
    own = logprobs_by(forward, rows)

    def change(groups: set[int]) -> float:
        other = logprobs_by(forward, _exchanged(policy, rows, groups))
        return float((own - other)[kept.to(own.device)][mask].abs().mean())

    gap = change(set(range(0, last + 1, 2)))
    if not leaks(policy.model, gap, lambda: change({last})):
        return None
    return f"a text changes with the other texts in the batch, by {gap:.2g}"


def _exchanged(policy: Policy, rows: MicroBatch, groups: set[int]) -> MicroBatch:
    """Exchanges all tokens of some groups."""
    vocabulary = policy.model.config.get_text_config().vocab_size
    chosen = [group in groups for group in rows.groups]
    shift = torch.tensor(chosen).long()[:, None]  # a shift keeps equal beginnings equal
    prompts = [
        tuple((token + 1) % vocabulary for token in prompt) if other else prompt
        for prompt, other in zip(rows.prompts, chosen, strict=True)
    ]
    shifted = (rows.completion_ids + shift) % vocabulary
    ids = (rows.ids + shift) % vocabulary
    return replace(rows, prompts=prompts, completion_ids=shifted, ids=ids)


def why_not_packed(policy: Policy) -> str | None:
    """Compares packed rows with plain passes, and checks that rows do not affect each other.

    Args:
        policy: Policy that reads.

    Returns:
        None if they agree, else the reason why rows can't be packed.
    """
    if policy.sharding.why_not_packed is not None:
        return policy.sharding.why_not_packed
    forward, rows = PackedForward(policy), made_up_rows(policy)

    def check() -> str | None:
        return why_not_by(policy, forward, rows) or _leak(policy, forward, rows)

    return checked_in_float32(policy, check)


def why_not_made_up(gradient: BatchGradient, between: tuple[int, int] = SHORT) -> str | None:
    """Compares made-up rows, read in micro-batches as the update reads them, with plain passes.

    Args:
        gradient: Gradient that reads the rows.
        between: Length above which lengths matter, and the longest one that does.

    Returns:
        None if they agree, else the reason why an update would be wrong.
    """
    policy, rollouts = gradient.policy, made_up_rollouts(gradient.policy, between)
    cut = list(gradient.micro_batches_of(rollouts, torch.arange(len(rollouts.texts))))

    def check() -> str | None:
        reasons = (why_not_by(policy, gradient.forward, rows) for rows in cut)
        return next(filter(None, reasons), None)

    return checked_in_float32(policy, check)


def fastest(gradient: BatchGradient) -> BatchGradient:
    """Returns a gradient with the fastest reading method that is correct on made-up rows.

    Args:
        gradient: Gradient with the settings of a run.

    Raises:
        ConfigError: If not even single rows agree with plain passes.
    """
    policy = gradient.policy
    if gradient.exact:
        return gradient  # rows are padded on the right only, or read one at a time
    reason = why_not_packed(policy)
    if reason is None:
        kept = gradient.kept_tokens if can_skip_layers(policy) else 0
        return replace(gradient, packed=True, kept_tokens=kept)
    found = slower(replace(gradient, packed=True), reason)
    if policy.takes_padding:
        return found
    found = replace(found, max_tokens=1)
    reason = why_not_made_up(found)
    return found if reason is None else slower(found, reason)


def slower(gradient: BatchGradient, reason: str) -> BatchGradient:
    """Returns a gradient with the next slower reading method, and warns with the reason.

    Args:
        gradient: Gradient whose reading method is wrong.
        reason: Reason why it is wrong.

    Raises:
        ConfigError: If there is no slower method, or `exact` determines the method.
    """
    kind = type(gradient.policy.model).__name__
    if gradient.exact:
        raise ConfigError(
            "model.exact",
            True,
            rule=f"can't be used with {kind}: rows read for the update differ from plain passes "
            "of the model",
            why=f"The {reason}",
            fix="Set model.exact: false, so that a correct reading method is selected",
        )
    if gradient.packed:
        log.warning(
            "rows of %s can't be packed for the update (%s): they are padded, which is slower",
            one_line(kind),
            one_line(reason),
        )
        return replace(gradient, packed=False, kept_tokens=0)
    if gradient.max_tokens > 1:
        log.warning(
            "rows of %s can't be padded for the update (%s): they are read one at a time, which "
            "is slower",
            one_line(kind),
            one_line(reason),
        )
        return replace(gradient, max_tokens=1)
    raise ConfigError(
        "model.base",
        kind,
        rule="can't be trained: rows read for the update differ from plain passes of the model",
        why=f"The {reason}",
        fix="Use another base: the gradient would not be that of the model",
    )


class RealRows:
    """Compares rows of real batches with plain passes whenever texts get longer.

    The first batch is therefore always compared. If texts pass a length that matters to the model,
    such as its window, made-up rows of about that length are compared first.
    """

    def __init__(self) -> None:
        self.longest = 0
        """Number of tokens of the longest text of a batch that has been compared."""

    def right(self, gradient: BatchGradient, rollouts: Rollouts, longest: int) -> BatchGradient:
        """Returns a gradient that is correct for a batch: the same, or a slower one with a warning.

        All processes must call this together.

        Args:
            gradient: Gradient that will read the batch.
            rollouts: Completions of this process.
            longest: Number of tokens of the longest text of all processes, prompt included.

        Raises:
            ConfigError: If no reading method is correct.
        """
        while (reason := self._why_not(gradient, rollouts, longest)) is not None:
            gradient = slower(gradient, reason)
        self.longest = longest
        return gradient

    def _why_not(self, gradient: BatchGradient, rollouts: Rollouts, longest: int) -> str | None:
        """Compares three rows on each process, since a sharded base needs equally many passes."""
        policy, between = gradient.policy, (self.longest, longest)
        if passes_length(policy, between):
            # memory may have run out in float32 on one process only, so all decide together
            reasons = gather_objects(why_not_made_up(gradient, between))
            reason = next(filter(None, reasons), None)
            if reason is not None:
                return reason
        rows, logprobs = gradient.read_longest(rollouts)
        order = rows.mask.sum(1).argsort().tolist()
        chosen = [order[-1], order[len(order) // 2], order[0]]
        gap = gap_to_plain(policy, rows, logprobs, chosen, gradient.temperature)
        worst = max(gather_objects(gap))
        reason = _difference(worst, policy)
        if reason is None:
            log.info(
                "update: rows of a micro-batch, with texts of up to %d tokens, agree with plain "
                "passes of the model to within %.1g nats",
                longest,
                worst,
            )
        return reason


@torch.no_grad()
def can_skip_layers(policy: Policy) -> bool:
    """Returns whether a packed pass is the same, bit for bit, without the unsteered first layers.

    It is not the same if layers pass on more than their stream, or are called several times in a
    pass. There is nothing to skip if the trained parameters act on the first layer.
    """
    if policy.steering.first_layer == 0:
        return False
    forward = PackedForward(policy)
    packing = forward.prepare(made_up_rows(policy))
    skipped = SkippedLayers(policy.layers, policy.steering.first_layer, packing.ids.numel())
    stream = KeptStream(skipped, num_passes=2)
    with misfits() as errors, forward.passes(), forward.attending(packing):
        whole, _ = forward.head_states(packing)
        for _ in range(2):  # the first pass keeps the stream, the second one skips the layers
            with stream.one_pass():
                found, _ = forward.head_states(packing)
            if not torch.equal(found, whole):
                return False
    return not errors
