"""The rollout engine over `transformers.generate`."""

from __future__ import annotations

from collections.abc import Sequence
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
from steer_lightning.rollout.draw import draw
from steer_lightning.rollout.engine import OnCompletion, ignore
from steer_lightning.rollout.sampling import Sampling, row_uniforms
from steer_lightning.rollout.stop import StopText
from steer_lightning.steering import Steering
from steer_lightning.types import Completion, Prompt, Rollouts


class SeededSampler(LogitsProcessor):
    """Draws each row's token from its own random stream, and keeps the token's log-probability.

    `generate` itself can only sample a whole batch from one stream, and hands back
    log-probabilities only with all (T, N, V) scores. So the draw happens here, and `generate` takes
    the "most likely" token of what is returned.
    """

    def __init__(self, uniforms: torch.Tensor, sampling: Sampling) -> None:
        self.uniforms = uniforms  # (N, T)
        self.sampling = sampling
        self.logprobs: list[torch.Tensor] = []  # T of (N,)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Takes scores (N, V); returns 0 for each row's drawn token and -inf for the others."""
        token, logprob = draw(scores, self.uniforms[:, len(self.logprobs)], self.sampling)
        self.logprobs.append(logprob)
        chosen = torch.full_like(scores, float("-inf"))
        return chosen.scatter_(-1, token.unsqueeze(-1), 0.0)  # type: ignore[return-value]


class StopTextCriteria(StoppingCriteria):
    """Ends rows by a stop string, and keeps how long they were then.

    Args:
        stop: Told a completion's tokens.
        prompt_width: Columns before the completions.
        num_rows: N.
    """

    def __init__(self, stop: StopText, prompt_width: int, num_rows: int) -> None:
        self.stop, self.prompt_width = stop, prompt_width
        self.lengths: list[int | None] = [None] * num_rows

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        """Bool (N,), True for rows that have ended."""
        for n, row in enumerate(input_ids[:, self.prompt_width :].tolist()):
            if self.lengths[n] is None and self.stop(row):
                self.lengths[n] = len(row)
        ended = [length is not None for length in self.lengths]
        return torch.tensor(ended, device=input_ids.device)  # type: ignore[return-value]


class GenerateEngine:
    """Runs `transformers.generate` on the policy in this process.

    Args:
        max_rows: Most completions generated at once; bounds the memory of the key-value cache.
            Prompts of similar length go together. It does not change what is sampled.

    Raises:
        ConfigError: If `max_rows` is less than 1.
    """

    def __init__(self, max_rows: int = 512) -> None:
        if max_rows < 1:
            raise ConfigError("model.engine.max_rows", max_rows, rule="must be at least 1")
        self.max_rows = max_rows
        self._policy: Policy | None = None

    def setup(self, policy: Policy) -> None:
        """Keeps the policy; its vectors are read live.

        Raises:
            ConfigError: If the base lies in memory in a way that `generate` can't read.
        """
        reason = policy.sharding.why_not_generate
        if reason is not None:
            raise ConfigError(
                "model.engine",
                type(self).__name__,
                rule="can't sample from a base sharded like this",
                why=reason[0].upper() + reason[1:],
                fix="Set trainer.strategy: fsdp2, or take steer_lightning.rollout.DecodeEngine",
            )
        self._policy = policy

    def sync(self, steering: Steering) -> None:
        """Nothing to do: rollouts run on the very parameter that is trained."""

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        seed: int,
        step: int,
        on_completion: OnCompletion = ignore,
    ) -> Rollouts:
        """See `RolloutEngine.generate`."""
        if self._policy is None:
            raise RuntimeError("GenerateEngine.setup(policy) must be called before generate()")
        prompts_at_once = max(1, self.max_rows // sampling.group_size)
        by_length = sorted(range(len(prompts)), key=lambda b: len(prompts[b].token_ids))
        rows: dict[int, list[_Row]] = {}
        for start in range(0, len(by_length), prompts_at_once):
            chosen = by_length[start : start + prompts_at_once]
            made = self._batch(self._policy, [prompts[b] for b in chosen], sampling, seed, step)
            for k, b in enumerate(chosen):
                rows[b] = made[k * sampling.group_size : (k + 1) * sampling.group_size]
                for place, (tokens, _, finished, text) in enumerate(rows[b]):
                    found = Completion.of(
                        prompts[b].problem, text=text, num_tokens=len(tokens), finished=finished
                    )
                    on_completion(b * sampling.group_size + place, found)
        in_order = [row for b in range(len(prompts)) for row in rows[b]]
        return _collect(self._policy.pad_token_id, prompts, in_order, sampling.group_size)

    def _batch(
        self, policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int, step: int
    ) -> list[_Row]:
        pad = policy.pad_token_id
        width = max(len(prompt.token_ids) for prompt in prompts)
        ids = torch.tensor(
            [[pad] * (width - len(p.token_ids)) + list(p.token_ids) for p in prompts]
        )
        mask = torch.tensor(
            [[0] * (width - len(p.token_ids)) + [1] * len(p.token_ids) for p in prompts]
        )
        ids = ids.repeat_interleave(sampling.group_size, 0).to(policy.device)
        mask = mask.repeat_interleave(sampling.group_size, 0).to(policy.device)
        stops = sorted({*policy.eos_token_ids, *sampling.eos_token_ids})
        uniforms = row_uniforms(
            seed, step, [p.id for p in prompts], sampling.group_size, sampling.max_new_tokens
        )
        sampler = SeededSampler(uniforms, sampling)
        criteria = StoppingCriteriaList()
        told: list[int | None] = [None] * len(ids)
        if sampling.stop_strings:
            stop = StopText(policy.tokenizer, sampling.stop_strings)
            criteria.append(StopTextCriteria(stop, width, len(ids)))
            told = criteria[0].lengths
        sequences = policy.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=stops or None,
                pad_token_id=pad,
            ),
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=criteria,
            synced_gpus=False,  # a sharded base has its own way, see `sharding`
        )
        tokens = sequences[:, width:].cpu()
        logprobs = torch.stack(sampler.logprobs, 1).cpu()
        rows = [_cut(tokens[n], logprobs[n], stops, told[n]) for n in range(len(tokens))]
        texts = policy.tokenizer.batch_decode(
            [kept.tolist() for kept, _, _ in rows], skip_special_tokens=True
        )
        return [(*row, text) for row, text in zip(rows, texts, strict=True)]


_Row = tuple[torch.Tensor, torch.Tensor, bool, str]  # tokens, log-probabilities, ended by EOS, text


def _cut(
    tokens: torch.Tensor, logprobs: torch.Tensor, stops: list[int], told: int | None
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Cuts a row behind its first EOS token or stop string.

    What follows is padding that other rows of the batch brought.
    """
    ends = (torch.isin(tokens, torch.tensor(stops)).nonzero().flatten() + 1).tolist()
    length = min([*ends[:1], *([told] if told else [])], default=None)
    return tokens[:length], logprobs[:length], length is not None


def _collect(
    pad_token_id: int, prompts: Sequence[Prompt], rows: list[_Row], group_size: int
) -> Rollouts:
    lengths = torch.tensor([len(tokens) for tokens, *_ in rows])
    width = int(lengths.max())
    mask = torch.arange(width) < lengths[:, None]
    ids = torch.full((len(rows), width), pad_token_id)
    logprobs = torch.zeros(len(rows), width)
    ids[mask] = torch.cat([tokens for tokens, *_ in rows])
    logprobs[mask] = torch.cat([row for _, row, *_ in rows])
    return Rollouts(
        prompts=tuple(prompts),
        group_size=group_size,
        completion_ids=ids,
        completion_mask=mask,
        logprobs=logprobs,
        finished=torch.tensor([finished for _, _, finished, _ in rows]),
        texts=tuple(text for *_, text in rows),
    )
