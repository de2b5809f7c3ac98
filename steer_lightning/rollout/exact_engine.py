"""The engine for `model.exact`: its log-probabilities equal those of the update to the last bit.

The last bits depend on the order of operations, which depends on the shape of the batch. So engine
and update read the same blocks of whole completions. Another engine drafts the completions. Each
block is then read once, exactly as the update will read it, and the tokens are drawn again from
these logits with the same random numbers. A drawn token differs from the draft only if its random
number is within a rounding error of the border between two tokens. In that case the row is sampled
again from this token on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.head import token_states_of_logits
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import Completions, draw, set_up
from steer_lightning.rollout.decode_engine import DecodeEngine
from steer_lightning.rollout.engine import OnCompletion, RolloutEngine, ignore
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sampling import GREEDY_BELOW, Sampling
from steer_lightning.rollout.vllm_engine import VLLMEngine
from steer_lightning.steering import Steering
from steer_lightning.types import Prompt, Rollouts

MOST_READS = 8
"""Maximum number of times that a block is read; a second time is rare, about once in a million
tokens."""


class ExactEngine:
    """Redraws the drafts of another engine, with exactly the log-probabilities of the update.

    Args:
        drafts: Engine that drafts the completions.
        max_tokens: Maximum number of tokens in a block, the same as in a micro-batch of the update.
    """

    def __init__(self, drafts: RolloutEngine, max_tokens: int = 16384) -> None:
        self.drafts, self.max_tokens = drafts, max_tokens
        self._policy: Policy | None = None

    def setup(self, policy: Policy) -> None:
        """Keeps the policy, and sets up the engine that drafts."""
        self._policy = policy
        self.drafts.setup(policy)

    def sync(self, steering: Steering) -> None:
        """Hands the trained parameters to the engine that drafts."""
        self.drafts.sync(steering)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        seed: int,
        step: int,
        on_completion: OnCompletion = ignore,
    ) -> Rollouts:
        """Answers prompts; see `RolloutEngine.generate`.

        For greedy and truncated sampling, from which no update learns, the drafts are returned as
        they are.
        """
        policy = set_up(self._policy, type(self).__name__)
        drafted: Rollouts = self.drafts.generate(
            prompts, sampling, seed=seed, step=step, on_completion=on_completion
        )
        if sampling.truncates or sampling.temperature < GREEDY_BELOW:
            return drafted
        request = Request(
            prompts=prompts, sampling=sampling, seed=seed, step=step, on_completion=on_completion
        )
        completions = RedrawnCompletions(policy, request)
        completions.take(drafted)
        with policy.sharding.without_gradients():
            for group in range(len(prompts)):
                self._settle(policy, completions, group)
        return completions.rollouts()

    def _settle(self, policy: Policy, completions: RedrawnCompletions, group: int) -> None:
        """Redraws the completions of a prompt until they agree with their own logits."""
        for _ in range(MOST_READS):
            rollouts, differ = completions.rollouts(), False
            for rows in blocks(rollouts, group, self.max_tokens):
                for n, logits in zip(rows, read(policy, rollouts, rows), strict=True):
                    differ |= _redraw(policy, completions, rollouts, n, logits)
            if not differ:
                return
        raise RuntimeError(
            f"the completions of prompt {group} differ each time they are read: the model's "
            "kernels are not deterministic, but model.exact requires deterministic kernels. Try "
            "trainer.deterministic: warn"
        )


class RedrawnCompletions(Completions):
    """Completions that another engine has sampled, of which some tokens are drawn again."""

    def sample_row(self, logits: torch.Tensor, row: int, count: int) -> tuple[int, bool]:
        """Draws the next token of one row that has not ended; see `sample`.

        Args:
            logits: Logits after its last token, (V,).
            row: Number of the row.
            count: Number of tokens that it keeps; later ones are discarded.
        """
        device = logits.device
        tokens, ended = self.sample(
            logits[None].clone(), torch.tensor([row]).to(device), torch.tensor([count]).to(device)
        )
        return int(tokens), bool(ended)

    def redraw(self, row: int, logits: torch.Tensor) -> torch.Tensor:
        """Draws the first T tokens of a row again, each from given logits, (T,) int64.

        Args:
            row: Number of the row.
            logits: Logits (T, V) that predict these tokens.
        """
        uniforms = self.drawn.uniforms[row, : len(logits)]
        return draw(logits.clone(), uniforms, self.sampling)[0]

    def note_logprobs(self, row: int, logprobs: torch.Tensor) -> None:
        """Replaces the log-probabilities of a row that has ended by others, (T,)."""
        self.drawn.logprobs[row, : len(logprobs)] = logprobs

    def cut(self, row: int, length: int) -> None:
        """Discards old tokens after the end of a row that was sampled again."""
        self.drawn.logprobs[row, length:] = 0.0
        self.drawn.tokens[row, length:] = self.policy.pad_token_id

    def take(self, rollouts: Rollouts) -> None:
        """Takes over completions of the same prompts, all of which have ended."""
        drawn, width = self.drawn, rollouts.completion_ids.shape[1]
        drawn.tokens[:, :width] = rollouts.completion_ids
        drawn.logprobs[:, :width] = rollouts.logprobs
        drawn.lengths[:] = rollouts.completion_mask.sum(1)
        drawn.finished[:] = rollouts.finished
        self._texts = dict(enumerate(rollouts.texts))


def engine_of(engine: RolloutEngine | None, exact_tokens: int | None) -> RolloutEngine:
    """Returns the engine of a run.

    Args:
        engine: Engine of the configuration; None uses `DecodeEngine`.
        exact_tokens: Maximum number of tokens in a micro-batch if the engine must be exact, else
            None.

    Raises:
        ConfigError: If the engine can't be exact.
    """
    found = engine or DecodeEngine()
    if exact_tokens is None:
        return found
    if isinstance(found, VLLMEngine):
        raise ConfigError(
            "model.exact",
            True,
            rule="can't be combined with VLLMEngine",
            why="vLLM draws with random numbers of its own, so every completion would have to be "
            "sampled again",
            fix="Set model.exact: false, or use steer_lightning.rollout.DecodeEngine",
        )
    return ExactEngine(found, exact_tokens)


def blocks(rollouts: Rollouts, group: int, max_tokens: int) -> Iterator[list[int]]:
    """Yields the numbers of the rows of one prompt that are read together.

    Args:
        rollouts: Completions.
        group: Number of the prompt.
        max_tokens: Maximum number of tokens in a block; a longer row gets a block of its own.
    """
    size = rollouts.group_size
    rows = list(range(group * size, (group + 1) * size))
    width = len(rollouts.prompts[group].token_ids) + int(
        rollouts.completion_mask.sum(1)[rows].max()
    )
    count = max(1, max_tokens // width)
    for start in range(0, size, count):
        yield rows[start : start + count]


def read(policy: Policy, rollouts: Rollouts, rows: Sequence[int]) -> torch.Tensor:
    """Reads a block; returns the logits that predict its completions, (n, T, V)."""
    index = list(rows)
    width = int(rollouts.completion_mask.sum(1)[index].max())
    prompt = torch.tensor(rollouts.prompts[index[0] // rollouts.group_size].token_ids)
    prompts = prompt.expand(len(index), -1)
    ids = torch.cat([prompts, rollouts.completion_ids[index, :width]], 1)
    real = rollouts.completion_mask[index, :width].long()
    mask = torch.cat([torch.ones_like(prompts), real], 1)
    return policy.logits(ids.to(policy.device), mask.to(policy.device), width + 1)[:, :-1]


def _redraw(
    policy: Policy,
    completions: RedrawnCompletions,
    rollouts: Rollouts,
    n: int,
    logits: torch.Tensor,
) -> bool:
    """Draws a row again; stores its log-probabilities if it is unchanged, and else the new row.

    Returns:
        Whether the row has changed.
    """
    tokens = rollouts.completion_ids[n][rollouts.completion_mask[n]].to(logits.device)
    logits, temperature = logits[: len(tokens)], completions.sampling.temperature
    drawn = completions.redraw(n, logits)
    other = (drawn != tokens).nonzero().flatten()
    if not len(other):
        states = token_states_of_logits(logits, tokens, temperature)
        completions.note_logprobs(n, states.logprobs)
        return False
    prompt = rollouts.prompts[n // rollouts.group_size].token_ids
    known: list[int] = []
    ended = False
    while not ended:
        if len(known) <= int(other[0]):
            behind = logits[len(known)]
        else:  # rows drawn here are read again as a whole
            ids = torch.tensor([[*prompt, *known]], device=logits.device)
            behind = policy.logits(ids, torch.ones_like(ids), 1)[0, -1]
        token, ended = completions.sample_row(behind, n, len(known))
        known.append(token)
    completions.cut(n, len(known))
    return True
