"""The engine of `model.exact`: its log-probabilities are those of the update, to the last bit.

The order of operations decides the last bits, and it depends on the shape of what is read together.
An update that is exact therefore reads one row at a time, as plain text. Another engine drafts the
completions. Each is then read once as the update is going to read it, and its tokens are drawn
again from these logits with the same random numbers. Where a draft differs in a token, which takes
a random number within rounding of a border between two tokens, the row goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer_lightning.model.head import token_states_of_logits
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import Completions, set_up
from steer_lightning.rollout.engine import OnCompletion, RolloutEngine, ignore
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.steering import Steering
from steer_lightning.types import Prompt, Rollouts

MOST_READS = 8
"""Most times that a completion is read; twice is rare, once in a million tokens or so."""


class ExactEngine:
    """Samples what another engine drafts, with exactly the log-probabilities of the update.

    Args:
        drafts: Engine that drafts the completions.
    """

    def __init__(self, drafts: RolloutEngine) -> None:
        self.drafts = drafts
        self._policy: Policy | None = None

    def setup(self, policy: Policy) -> None:
        """Takes the policy, and sets up the engine that drafts."""
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

        Greedy and truncated sampling, from which no update learns, is left to the engine that
        drafts.
        """
        policy = set_up(self._policy, type(self).__name__)
        call = {"seed": seed, "step": step, "on_completion": on_completion}
        drafted: Rollouts = self.drafts.generate(prompts, sampling, **call)
        if sampling.truncates or sampling.temperature == 0:
            return drafted
        completions = Completions(
            policy, prompts, sampling, seed=seed, step=step, on_completion=on_completion
        )
        with policy.sharding.without_gradients():
            for n, mask in enumerate(drafted.completion_mask):
                row = _Row(policy, completions, n, sampling)
                row.settle(drafted.completion_ids[n][mask].tolist())
        return completions.rollouts()


class _Row:
    """One completion, which is read and drawn until it is what its own logits say."""

    def __init__(
        self, policy: Policy, completions: Completions, number: int, sampling: Sampling
    ) -> None:
        self._policy, self._completions, self._number = policy, completions, number
        self._temperature = sampling.temperature
        self._prompt = completions.prompts[number // sampling.group_size].token_ids

    def settle(self, tokens: list[int]) -> None:
        """Draws the completion again, from a draft of it, and stores it in the table."""
        for _ in range(MOST_READS):
            logits = self._logits(tokens)
            logprobs = token_states_of_logits(
                logits, torch.tensor(tokens, device=logits.device), self._temperature
            ).logprobs
            drawn = self._draw(logits, tokens)
            if drawn == tokens:
                self._completions.note_logprobs(self._number, logprobs)
                return
            tokens = drawn
        raise RuntimeError(
            f"completion {self._number} is another one each time that it is read: the model's "
            "kernels are not deterministic, and model.exact needs that they are. Try "
            "trainer.deterministic: warn"
        )

    def _draw(self, logits: torch.Tensor, tokens: list[int]) -> list[int]:
        """Draws tokens to the end of the completion; beyond the first other one, one by one."""
        drawn: list[int] = []
        ended = False
        while not ended:
            count = len(drawn)
            same = count < len(tokens) and drawn == tokens[:count]
            behind = logits[count] if same else self._logits([*drawn, 0])[count]
            token, ended = self._completions.sample_row(behind, self._number, count)
            drawn.append(token)
        return drawn

    def _logits(self, tokens: list[int]) -> torch.Tensor:
        """Reads the row as an update reads a micro-batch of it alone; returns logits (T, V)."""
        ids = torch.tensor([[*self._prompt, *tokens]], device=self._policy.device)
        return self._policy.logits(ids, torch.ones_like(ids), len(tokens) + 1)[0, :-1]
