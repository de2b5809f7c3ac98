"""The rollout engine that runs `transformers.generate`. Tested with transformers 5.23."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import Completions, left_padded, longest_text, set_up
from steer_lightning.rollout.engine import OnCompletion, ignore
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.selfcheck import RealTexts, why_not
from steer_lightning.steering import Steering
from steer_lightning.system.printable import one_line
from steer_lightning.types import Prompt, Rollouts

log = logging.getLogger(__name__)


class GenerateEngine:
    """Samples completions with `transformers.generate`.

    The engine checks that the model is correct in a padded batch: in `setup` on made-up prompts,
    and in `generate` on the first texts and whenever texts grow longer. If it is not, completions
    are sampled for one prompt at a time, with a warning.

    Args:
        max_rows: Maximum number of completions generated at the same time. It limits the memory of
            the key-value cache and does not change the completions. Prompts of similar length are
            batched together, and a group that is larger is generated in parts.

    Raises:
        ConfigError: If `max_rows` is less than 1.
    """

    def __init__(self, max_rows: int = 512) -> None:
        if max_rows < 1:
            raise ConfigError("model.engine.max_rows", max_rows, rule="must be at least 1")
        self.max_rows = max_rows
        self._policy: Policy | None = None
        self._real_texts: RealTexts
        self._pads = True

    def setup(self, policy: Policy) -> None:
        """Keeps the policy; its vectors are read live.

        Raises:
            ConfigError: If the base is sharded in a way that `generate` can't read, or `generate`
                is wrong for it even without padding.
        """
        reason = policy.sharding.why_not_generate
        if reason is not None:
            raise ConfigError(
                "model.engine",
                type(self).__name__,
                rule="can't sample from a base that is sharded this way",
                why=reason[0].upper() + reason[1:],
                fix="Set trainer.strategy: fsdp2, or use steer_lightning.rollout.DecodeEngine",
            )
        self._policy, self._pads = policy, True
        sample = partial(self._generate, policy, seed=0, step=0)
        self._real_texts = RealTexts(policy, sample, type(self).__name__)
        for _ in range(2):
            reason = why_not(policy, sample)
            if reason is None:
                return
            self._fall_back(reason)

    def _fall_back(self, reason: str) -> None:
        """Samples without padding from now on; raises a ConfigError if it already does."""
        kind = type(self._policy.model).__name__ if self._policy else ""
        if not self._pads:
            raise ConfigError(
                "model.base",
                kind,
                rule="can't be sampled correctly by transformers' generate, not even without "
                "padding",
                why=f"Its {reason}",
                fix="Use another base: these completions would not be samples of the model",
            )
        log.warning(
            "%s does not read padded batches correctly (%s): the completions are sampled for one "
            "prompt at a time, which is slower",
            one_line(kind),
            one_line(reason),
        )
        self._pads = False

    def sync(self, steering: Steering) -> None:
        """Does nothing, since rollouts use the trained parameters themselves."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        seed: int,
        step: int,
        on_completion: OnCompletion = ignore,
    ) -> Rollouts:
        """Answers prompts; see `RolloutEngine.generate`."""
        policy = set_up(self._policy, type(self).__name__)
        call = partial(
            self._generate, policy, prompts, sampling, seed=seed, step=step, done=on_completion
        )
        rollouts = call()
        while longest_text(rollouts) > self._real_texts.longest:
            reason = self._real_texts.why_not(rollouts, sampling)
            if reason is not None:
                self._fall_back(reason)
                rollouts = call()
        return rollouts

    @torch.no_grad()
    def _generate(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        seed: int,
        step: int,
        done: OnCompletion = ignore,
    ) -> Rollouts:
        size = sampling.group_size
        request = Request(
            prompts=prompts, sampling=sampling, seed=seed, step=step, on_completion=done
        )
        completions = Completions(policy, request)
        by_length = sorted(range(len(prompts)), key=lambda b: len(prompts[b].token_ids))
        at_once = max(1, self.max_rows // size) if self._pads else 1
        for start in range(0, len(by_length), at_once):
            chosen = by_length[start : start + at_once]
            ids, mask = left_padded([prompts[b].token_ids for b in chosen], policy.pad_token_id)
            rows = torch.tensor([b * size + k for b in chosen for k in range(size)])
            batch = ids.repeat_interleave(size, 0), mask.repeat_interleave(size, 0), rows
            for part in zip(*(torch.split(x, self.max_rows) for x in batch), strict=True):
                _fill(policy, completions, *part)
        return completions.rollouts()


def _fill(
    policy: Policy,
    completions: Completions,
    ids: torch.Tensor,
    mask: torch.Tensor,
    rows: torch.Tensor,
) -> None:
    """Samples some rows until they end.

    Args:
        policy: Policy that samples.
        completions: Table of all rows.
        ids: Tokens of these rows' prompts, (n, T) int64, left-padded.
        mask: Mask of `ids`, (n, T) int64, 0 where padded.
        rows: Numbers of the rows in the table, (n,) int64.
    """
    draws = _Draws(completions, rows.to(policy.device), policy.pad_token_id)
    policy.model.generate(
        input_ids=ids.to(policy.device),
        attention_mask=mask.to(policy.device),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=completions.sampling.max_new_tokens,
            eos_token_id=None,  # `_HasEnded` reports which rows have ended
            pad_token_id=policy.pad_token_id,
        ),
        logits_processor=LogitsProcessorList([draws]),
        stopping_criteria=StoppingCriteriaList([_HasEnded(draws)]),
        synced_gpus=False,  # a sharded base synchronises itself, see `sharding`
    )


class _Draws(LogitsProcessor):
    """Draws the token of each row from the row's own random stream, and keeps its log-probability.

    `generate` itself can only sample a whole batch from one stream, and returns log-probabilities
    only with all scores (T, N, V). So tokens are drawn here, and `generate` takes the "most likely"
    token of the scores that this processor returns.

    Attributes:
        ended: Whether each row has ended, (n,) bool.
    """

    def __init__(self, completions: Completions, rows: torch.Tensor, pad: int) -> None:
        self.completions, self.rows, self.pad = completions, rows, pad
        self.counts = torch.zeros_like(rows)
        self.ended = torch.zeros_like(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Takes scores (n, V); returns 0 for each row's token and -inf for the others."""
        open_rows = (~self.ended).nonzero().flatten()
        tokens = torch.full_like(self.rows, self.pad)
        drawn, ended = self.completions.sample(
            scores[open_rows], self.rows[open_rows], self.counts[open_rows]
        )
        tokens[open_rows], self.ended[open_rows] = drawn, ended
        self.counts += 1
        chosen = torch.full_like(scores, float("-inf"))
        return chosen.scatter_(-1, tokens.unsqueeze(-1), 0.0)  # type: ignore[return-value]


class _HasEnded(StoppingCriteria):
    """Tells `generate` which rows have ended; others read padding until the last one has."""

    def __init__(self, draws: _Draws) -> None:
        self.draws = draws

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        """Returns whether each row has ended, (n,) bool."""
        return self.draws.ended  # type: ignore[return-value]
