"""Shared code of all engines: drawing tokens, detecting ends, and storing completions."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from steer_lightning.model.policy import Policy
from steer_lightning.model.rotary import check_switch
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sampling import GREEDY_BELOW, Sampling
from steer_lightning.rollout.stop_text import StopText
from steer_lightning.types import Completion, Problem, Prompt, Rollouts

BLOCK = 512
"""Number of tokens in a block of the vocabulary. Probabilities are summed block by block, because a
plain cumulative sum over 262,144 tokens would take long."""


def row_uniforms(
    seed: int, step: int, prompt_ids: Sequence[int], group_size: int, length: int
) -> torch.Tensor:
    """Draws a stream of random numbers per row, from (seed, step, prompt, sample) only.

    A row's stream does not depend on the other rows of its batch, so neither batching nor the
    number of processes changes the completions.

    Args:
        seed: Seed of the run.
        step: Number of the training step.
        prompt_ids: Ids of the B prompts.
        group_size: Number of completions of each prompt, G.
        length: Number of random numbers per row, T.

    Returns:
        Random numbers in [0, 1), (B * G, T) float64.
    """
    rows = [
        np.random.Generator(
            np.random.Philox(np.random.SeedSequence((seed, step, prompt, sample)))
        ).random(length)
        for prompt in prompt_ids
        for sample in range(group_size)
    ]
    return torch.from_numpy(np.stack(rows))


def warp(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Returns the logits of the sampled distribution, up to a constant per row.

    Args:
        logits: Logits of the model, (N, V).
        sampling: Settings that are not greedy, applied in this order: temperature, top-k, min-p and
            top-p.

    Returns:
        Logits (N, V) float32; -inf for excluded tokens.
    """
    logits = logits.float()
    if sampling.temperature != 1:
        # a larger one would be infinite in float32, and leave NaN of excluded tokens
        logits = logits / min(sampling.temperature, torch.finfo(logits.dtype).max)
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if sampling.min_p > 0:
        least = logits.amax(-1, keepdim=True) + torch.tensor(sampling.min_p).log()
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        surplus = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        surplus[:, 0] = False  # also if `top_p` is 0, or is rounded to it
        cut = surplus.scatter(-1, order, surplus)
        logits = logits.masked_fill(cut, float("-inf"))
    return logits


def draw(
    logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws one token per row.

    Args:
        logits: Logits (N, V). They are overwritten, because copying them for a large vocabulary
            costs as much as a layer.
        uniforms: Random numbers in [0, 1), (N,).
        sampling: Settings of the sampling; a greedy one takes the most likely token.

    Returns:
        Tokens (N,) int64, and their log-probabilities (N,) float32 in nats under the sampled
        distribution. If it is greedy, they are log-probabilities under the distribution at
        temperature 1, because greedy ones carry no information. If the logits of a row are not
        finite, its token is arbitrary and its log-probability NaN.
    """
    warped = logits.float() if sampling.temperature < GREEDY_BELOW else warp(logits, sampling)
    largest, token = warped.max(-1, keepdim=True)
    weights = warped.sub_(largest).exp_()
    # float64, because a sum over 262,144 tokens in float32 would miss 1 by more than the
    # probability of a rare token; Apple's GPUs have no float64
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    blocks = _block_sums(weights).to(exact)
    if sampling.temperature >= GREEDY_BELOW:
        token = _invert(weights, blocks, uniforms.to(blocks)[:, None])
    total = blocks.sum(-1, keepdim=True)
    logprobs = weights.gather(-1, token).log() - total.log().float()
    return token.squeeze(-1), logprobs.squeeze(-1)


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """Sums weights (N, V) within blocks, (N, number of blocks); the last may be shorter."""
    whole = weights.shape[-1] // BLOCK * BLOCK
    sums = weights[:, :whole].view(len(weights), -1, BLOCK).sum(-1)
    if whole == weights.shape[-1]:
        return sums
    return torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], -1)


def _invert(weights: torch.Tensor, blocks: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Returns the first token (N, 1) at which the cumulative weight exceeds uniform * total."""
    ends = blocks.cumsum(-1)
    target = uniforms * ends[:, -1:]
    block = _first_above(ends, target)
    # rounding must not push it below 0: then a first token of weight 0 would be taken
    rest = (target - (ends.gather(-1, block) - blocks.gather(-1, block))).clamp(min=0)
    columns = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(-1, columns.clamp(max=weights.shape[-1] - 1)).to(blocks.dtype)
    inside = inside.masked_fill(columns >= weights.shape[-1], 0.0)
    token = block * BLOCK + _first_above(inside.cumsum(-1), rest)
    return token.clamp(max=weights.shape[-1] - 1)  # with NaN, the result is the last token


def _first_above(ends: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the first place (N, 1) whose end lies above the target and whose weight is not 0."""
    last = ends[:, -1:]
    # a target that is rounded up to the last end would fall after the last token that can be drawn
    target = torch.minimum(target, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[-1] - 1)


class DrawnTokens:
    """The tokens of N rows that are drawn by the same settings, each row up to its own limit.

    Args:
        uniforms: Random numbers of the rows, (N, T), in the order in which they are used.
        limits: Largest number of tokens of each row, (N,) int64.
        policy: Policy that samples; it defines the tokens that end a row.
        sampling: Settings by which tokens are drawn.
    """

    def __init__(
        self, uniforms: torch.Tensor, limits: torch.Tensor, policy: Policy, sampling: Sampling
    ) -> None:
        self.uniforms, self.limits, self.sampling = uniforms, limits, sampling
        device = uniforms.device
        self.tokens = torch.full(uniforms.shape, policy.pad_token_id, device=device)
        self.logprobs = torch.zeros(uniforms.shape, device=device)
        self.lengths = torch.zeros_like(limits)
        self.finished = torch.zeros_like(limits, dtype=torch.bool)
        stops = sorted({*policy.eos_token_ids, *sampling.eos_token_ids})
        self._stops = torch.tensor(stops, dtype=torch.long, device=device)
        texts = sampling.stop_strings
        self._stop_text = StopText(policy.tokenizer, texts) if texts else None

    def draw(
        self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws the next token of n rows; see `Completions.sample`."""
        tokens, logprobs = draw(logits, self.uniforms[rows, counts], self.sampling)
        self.tokens[rows, counts] = tokens
        self.logprobs[rows, counts] = logprobs
        self.lengths[rows] = counts + 1
        finished = torch.isin(tokens, self._stops)
        if self._stop_text is not None:
            texts = zip(self.tokens[rows].tolist(), counts.tolist(), strict=True)
            stopped = [self._stop_text(row[: count + 1]) for row, count in texts]
            finished |= torch.tensor(stopped, device=finished.device)
        self.finished[rows] = finished
        # nothing of use follows logits that are not finite
        return tokens, finished | logprobs.isnan() | (counts + 1 == self.limits[rows])

    def rows(self, chosen: slice) -> DrawnTokens:
        """Returns some rows, in the same memory."""
        part = copy.copy(self)
        for name in ("uniforms", "limits", "tokens", "logprobs", "lengths", "finished"):
            setattr(part, name, getattr(self, name)[chosen])
        return part


class Completions:
    """The N completions of a rollout while they are sampled, one token of some rows at a time.

    Args:
        policy: Policy that samples; it defines the tokens that end a completion.
        request: B prompts and the settings by which they are answered; row n answers prompt n // G.

    Attributes:
        prompt_of: Number of the prompt that each completion answers.
        owner_of: Number of the experiment that each prompt belongs to: one owns them all.
        most_tokens: Largest number of tokens of a completion.
        drawn: Tokens of the rows.
        broken: None, see `JointCompletions`: an error is raised at once.
    """

    broken: Sequence[int] = ()

    def __init__(self, policy: Policy, request: Request) -> None:
        prompts, sampling = request.prompts, request.sampling
        if policy.switches_rotary:
            lengths = [len(prompt.token_ids) for prompt in prompts]
            key = "sampling.max_new_tokens"
            check_switch(policy.model.config, lengths, sampling.max_new_tokens, key)
        self.policy, self.sampling = policy, sampling
        self.prompts, self.on_completion = prompts, request.on_completion
        self.prompt_of = [b for b in range(len(prompts)) for _ in range(sampling.group_size)]
        self.owner_of, self.most_tokens = [0] * len(prompts), sampling.max_new_tokens
        self._texts: dict[int, str] = {}
        # Apple's GPUs have no float64
        exact = torch.float32 if policy.device.type == "mps" else torch.float64
        ids, width = [prompt.id for prompt in prompts], sampling.max_new_tokens
        uniforms = row_uniforms(request.seed, request.step, ids, sampling.group_size, width)
        uniforms = uniforms.to(exact).to(policy.device)
        limits = torch.full((len(uniforms),), width, device=policy.device)
        self.drawn = DrawnTokens(uniforms, limits, policy, sampling)

    def has_failed(self, completion: int) -> bool:
        """Returns False: an error is raised at once."""
        return False

    def sample(
        self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws the next token of n rows that have not ended.

        Args:
            logits: Logits after the last token of each row, (n, V); they are overwritten.
            rows: Numbers of the rows, (n,) int64.
            counts: Number of tokens that each row already has, (n,) int64.

        Returns:
            Tokens (n,) int64, and whether each row has ended with its token, (n,) bool.
        """
        tokens, ended = self.drawn.draw(logits, rows, counts)
        if bool(ended.any()):
            self.hand_out(rows[ended])
        return tokens, ended

    def hand_out(self, rows: torch.Tensor) -> None:
        """Decodes rows that have ended, and hands them to `on_completion`."""
        self._check_finite(rows)
        drawn = self.drawn
        lengths, tokens = drawn.lengths[rows].tolist(), drawn.tokens[rows].tolist()
        ids = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
        texts = decode_texts(self.policy.tokenizer, ids, self.policy.ids_without_text)
        finished = drawn.finished[rows].tolist()
        for row, text, length, done in zip(rows.tolist(), texts, lengths, finished, strict=True):
            self._texts[row] = text
            problem = self.prompts[row // self.sampling.group_size].problem
            self.on_completion(row, completion_of(problem, text, length, done))

    def _check_finite(self, rows: torch.Tensor) -> None:
        """Raises a FloatingPointError if the logits of a completion were not finite.

        Such a completion ends at once; the check runs when completions end, because each check
        waits for the GPU.
        """
        broken = self.drawn.logprobs[rows].isnan()
        if bool(broken.any()):
            row, place = (int(x) for x in broken.nonzero()[0])
            prompt = self.prompts[int(rows[row]) // self.sampling.group_size]
            raise FloatingPointError(
                f"the logits of the model, whose base is in {self.policy.model.dtype}, are not "
                f"finite, first after prompt {prompt.id + 1} and {place} tokens of its "
                "completion. If this happens in the first step, the base is at fault: its "
                "weights are damaged, or model.dtype must be float32 or bfloat16. If it happens "
                "later, the vectors have diverged: start again with a lower learning rate in "
                "model.optimizer"
            )

    def rollouts(self) -> Rollouts:
        """Returns all completions, in the order of the prompts; all rows must have ended."""
        drawn, lengths = self.drawn, self.drawn.lengths.cpu()
        width = int(lengths.max())
        return Rollouts(
            prompts=tuple(self.prompts),
            group_size=self.sampling.group_size,
            completion_ids=drawn.tokens[:, :width].cpu(),
            completion_mask=torch.arange(width) < lengths[:, None],
            logprobs=drawn.logprobs[:, :width].cpu(),
            finished=drawn.finished.cpu(),
            texts=tuple(self._texts[row] for row in range(len(lengths))),
        )


def decode_texts(
    tokenizer: Any, rows: Sequence[Sequence[int]], left_out: Collection[int]
) -> list[str]:
    """Decodes completions into the texts that rewards read; spaces stay as the model wrote them.

    Args:
        tokenizer: Tokenizer of the policy.
        rows: Tokens of each completion, without padding.
        left_out: Tokens to leave out because they are not text; see `ids_without_text`.
    """
    kept = [[token for token in row if token not in left_out] for row in rows]
    texts: list[str] = tokenizer.batch_decode(
        kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return texts


def completion_of(problem: Problem, text: str, num_tokens: int, finished: bool) -> Completion:
    """Returns a completion in the form that rewards receive.

    Args:
        problem: Problem that the completion answers.
        text: Decoded text.
        num_tokens: Number of its tokens, EOS included.
        finished: Whether the completion ended by itself.
    """
    return Completion(
        text=text,
        question=problem.question,
        answer=problem.answer,
        num_tokens=num_tokens,
        finished=finished,
        columns=problem.columns,
    )


def completions_of(rollouts: Rollouts) -> list[Completion]:
    """Returns the N rows of a rollout in the form that rewards receive."""
    lengths, finished = rollouts.completion_mask.sum(1).tolist(), rollouts.finished.tolist()
    return [
        completion_of(
            rollouts.prompts[n // rollouts.group_size].problem, text, lengths[n], finished[n]
        )
        for n, text in enumerate(rollouts.texts)
    ]


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads rows of tokens on the left to the length of the longest row.

    Args:
        rows: N rows of token ids.
        pad: Token id to pad with.

    Returns:
        Token ids (N, T) int64, and a mask (N, T) int64, 0 where padded.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    lengths = torch.tensor([[len(row)] for row in rows])
    return ids, (torch.arange(width) >= width - lengths).long()


def text_lengths(rollouts: Rollouts) -> torch.Tensor:
    """Returns the number of tokens of each text, prompt included, (N,) int64."""
    prompts = torch.tensor([len(p.token_ids) for p in rollouts.prompts], dtype=torch.long)
    return rollouts.completion_mask.sum(1).cpu() + prompts.repeat_interleave(rollouts.group_size)


def is_guided(rollouts: Rollouts) -> torch.Tensor:
    """Returns whether each row was sampled with a hint, (N,) bool."""
    return rollouts.finished & False if rollouts.guided is None else rollouts.guided


def longest_text(rollouts: Rollouts) -> int:
    """Returns the number of tokens of the longest text, prompt included; 0 without texts."""
    return max(text_lengths(rollouts).tolist(), default=0)


def longest_text_of(prompts: Iterable[Prompt], max_new_tokens: int) -> int:
    """Returns the number of tokens that the longest text may have, prompt included."""
    return max((len(prompt.token_ids) for prompt in prompts), default=0) + max_new_tokens


def set_up(policy: Policy | None, engine: str) -> Policy:
    """Returns the policy of an engine; raises a RuntimeError if `setup` has not been called."""
    if policy is None:
        raise RuntimeError(f"{engine}.setup(policy) must be called before generate()")
    return policy
