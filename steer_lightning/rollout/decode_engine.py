"""The package's own rollout engine: it reads each prompt once and never waits for a long row."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import Completions, left_padded, longest_text, set_up
from steer_lightning.rollout.cuda_graphs import CAPTURE_AFTER, CapturedPasses, CudaGraphs, Pass
from steer_lightning.rollout.engine import OnCompletion, ignore
from steer_lightning.rollout.flight import Flight, Parting, View, part
from steer_lightning.rollout.generate_engine import GenerateEngine
from steer_lightning.rollout.joint_completions import JointCompletions
from steer_lightning.rollout.kv_cache import FEW_SLOTS, FlightCache, Plan, plan_flight, smaller
from steer_lightning.rollout.live_completions import LiveCompletions
from steer_lightning.rollout.prefill import plan_passes
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.selfcheck import RealTexts, why_not
from steer_lightning.steering import Steering
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.system.printable import one_line
from steer_lightning.types import Prompt, Rollouts

log = logging.getLogger(__name__)

REFILL_SHARE = 8
"""Waiting rows are admitted once one slot in this many is free, to read prompts in batches."""


class DecodeEngine:
    """Samples completions with its own loop, several times as fast as `transformers.generate`.

    Each prompt is read once for its whole group, and completions that have drawn the same tokens so
    far share a row. Keys and values are preallocated. Rows that have ended leave the batch, and
    waiting rows take their place. The model's forward pass is that of transformers. The engine
    checks that the model decodes correctly this way: in `setup` on made-up prompts, and in
    `generate` on the first texts and whenever texts grow longer. If it does not, `GenerateEngine`
    takes over, with a warning.

    Args:
        max_tokens_in_flight: Maximum number of tokens whose keys and values are kept at the same
            time. It limits memory use and does not change the completions. If memory still runs
            out, the rollout restarts with half as many tokens, with a warning.
        cuda_graphs: Whether to capture and replay the passes over one token per row as CUDA graphs
            on a GPU, instead of launching about a thousand small operations for each token. If that
            does not work for a model, decoding continues without graphs, with a warning.

    Raises:
        ConfigError: If `max_tokens_in_flight` is less than 1.
    """

    def __init__(self, max_tokens_in_flight: int = 262_144, cuda_graphs: bool = True) -> None:
        if max_tokens_in_flight < 1:
            raise ConfigError(
                "model.engine.max_tokens_in_flight",
                max_tokens_in_flight,
                rule="must be at least 1",
            )
        self.max_tokens_in_flight, self.cuda_graphs = max_tokens_in_flight, cuda_graphs
        self._fitting: int | None = None  # number of tokens in flight after memory has run out
        self._graphs: Callable[[], Callable[[Pass], Pass]] | None = None
        self.fallback: GenerateEngine | None = None
        self._policy: Policy | None = None
        self._real_texts: RealTexts

    def setup(self, policy: Policy) -> None:
        """Keeps the policy, whose vectors are read live, and checks that it decodes correctly."""
        self.keep(policy)
        reason = why_not(policy, partial(self._decode_made_up, policy))
        if reason is not None:
            self.fall_back(policy, reason)

    def keep(self, policy: Policy) -> None:
        """Keeps the policy, and checks nothing yet; see `setup`."""
        self._policy, self.fallback = policy, None
        # a sharded base is gathered in the middle of a pass, which a graph can't do
        can_capture = policy.device.type == "cuda" and not policy.sharding.shards
        self._graphs = CudaGraphs if self.cuda_graphs and can_capture else None
        sample = partial(self._decode_made_up, policy)
        self._real_texts = RealTexts(policy, sample, type(self).__name__)

    def _decode_made_up(
        self, policy: Policy, prompts: Sequence[Prompt], sampling: Sampling
    ) -> Rollouts:
        request = Request(prompts=prompts, sampling=sampling, seed=0, step=0)
        return self.decode(policy, request, FEW_SLOTS, capture_after=0)

    def fall_back(self, policy: Policy, reason: str) -> None:
        """Lets `GenerateEngine` answer from now on, with a warning that gives the reason."""
        log.warning(
            "%s does not decode correctly in DecodeEngine (%s): GenerateEngine takes its place, "
            "which is slower",
            type(policy.model).__name__,
            one_line(reason),
        )
        self.fallback = GenerateEngine()
        self.fallback.setup(policy)

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
        asked: dict[str, Any] = {"seed": seed, "step": step, "on_completion": on_completion}
        if self.fallback is None:
            request = Request(prompts=prompts, sampling=sampling, **asked)
            rollouts: Rollouts = self.in_memory(
                lambda plan: self.decode(policy, request, plan), policy, [request]
            )
            if self.is_right(rollouts, sampling):
                return rollouts
        assert self.fallback is not None
        return self.fallback.generate(prompts, sampling, **asked)

    def is_right(self, rollouts: Rollouts, sampling: Sampling) -> bool:
        """Compares completions with plain passes, if their texts are longer than all before.

        Returns:
            Whether they agree; if not, the engine has fallen back to `GenerateEngine`.
        """
        if longest_text(rollouts) <= self._real_texts.longest:
            return True
        reason = self._real_texts.why_not(rollouts, sampling)
        if reason is not None:
            self.fall_back(set_up(self._policy, type(self).__name__), reason)
        return reason is None

    def in_memory(
        self,
        decode: Callable[[Plan], Any],
        policy: Policy,
        requests: Sequence[Request],
        num_flights: int = 1,
    ) -> Any:
        """Decodes with as many tokens in flight as fit into memory.

        Args:
            decode: Function that decodes within a plan.
            policy: Policy whose base answers.
            requests: Requests that share the flight.
            num_flights: Number of flights at the same time.
        """
        while True:
            plan = plan_flight(requests, self.max_tokens_in_flight, self._fitting, num_flights)
            try:
                return decode(plan)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(plan, policy, error)

    def _shrink(self, plan: Plan, policy: Policy, error: RuntimeError) -> None:
        try:
            self._fitting = smaller(plan, self.max_tokens_in_flight, policy.sharding.in_step)
        except ConfigError as refusal:
            raise refusal from error
        log.warning(
            "out of memory with %d tokens in flight: the rollout restarts with %d. Set "
            "model.engine.max_tokens_in_flight to that number to skip the failed attempt",
            plan.tokens,
            self._fitting,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def decode(
        self, policy: Policy, request: Request, plan: Plan, *, capture_after: int = CAPTURE_AFTER
    ) -> Rollouts:
        """Decodes within a plan, without falling back to `GenerateEngine`."""
        completions = Completions(policy, request)
        self.fly(policy, completions, plan, capture_after=capture_after)
        return completions.rollouts()

    def fly(
        self,
        policy: Policy,
        completions: Completions | JointCompletions,
        plan: Plan,
        *,
        capture_after: int = CAPTURE_AFTER,
    ) -> None:
        """Samples completions to their ends, in one flight.

        Args:
            policy: Base with the steering of all completions.
            completions: Completions to sample.
            plan: Number of rows and prompts in flight.
            capture_after: Number of passes before a capture, see `CAPTURE_AFTER`.
        """
        flight = Flight(
            [len(prompt.token_ids) for prompt in completions.prompts],
            completions.prompt_of,
            completions.owner_of,
            max_rows=plan.max_rows,
            max_prompts=plan.max_prompts,
            max_columns=completions.most_tokens,
            device=policy.device,
        )
        cache = FlightCache(policy.model, flight, is_recurrent=bool(policy.mixers))
        length_of = [flight.lengths[prompt] for prompt in completions.prompt_of]
        waiting = deque(sorted(range(len(length_of)), key=lambda n: -length_of[n]))  # longest first
        with policy.sharding.without_gradients(), policy.constant_vectors(), cache.decoding():
            decoder = Decoder(policy, flight, completions, cache)
            if self._graphs is not None:
                decoder.captured = CapturedPasses(flight, cache, self._graphs(), capture_after)
            while waiting or flight.num_rows:
                decoder.refill(waiting)
                if flight.num_rows:  # all new rows may have ended with their first token
                    decoder.step()
            self._note(decoder.captured)

    def _note(self, captured: CapturedPasses | None) -> None:
        if captured is not None and captured.failure is not None:
            self._graphs = None
            log.warning(
                "passes of this model can't be captured as CUDA graphs (%s): they run without "
                "graphs, which is slower. Set model.engine.init_args.cuda_graphs: false to skip "
                "the attempt",
                one_line(captured.failure),
            )


class Decoder:
    """The state of the decoding loop: the flight, and the last token of each row."""

    def __init__(
        self,
        policy: Policy,
        flight: Flight,
        completions: Completions | JointCompletions | LiveCompletions,
        cache: FlightCache,
    ) -> None:
        self.policy, self.flight = policy, flight
        self.completions, self.cache = completions, cache
        self.tokens = torch.zeros(0, dtype=torch.long, device=policy.device)  # (N,), by slot
        self.captured: CapturedPasses | None = None
        self.least_room = max(1, flight.max_rows // REFILL_SHARE)

    def refill(self, waiting: deque[int]) -> None:
        """Admits waiting completions if at least `least_room` slots are free."""
        flight = self.flight
        room = flight.max_rows - flight.num_completions
        if not waiting or (flight.num_rows and room < self.least_room):
            return
        known = set(flight.prompts)
        free = flight.max_prompts - len(known)
        chosen: list[int] = []
        while waiting and len(chosen) < room:
            if self.completions.has_failed(waiting[0]):
                waiting.popleft()
                continue
            prompt = flight.prompt_of[waiting[0]]
            if prompt not in known:
                if free == 0:
                    break
                known.add(prompt)
                free -= 1
            chosen.append(waiting.popleft())
        if chosen:
            self._admit(chosen)

    def _admit(self, completions: list[int]) -> None:
        flight, before = self.flight, self.flight.num_rows
        continued = {flight.prompt_of[n] for n in completions} & set(flight.prompts)
        new = flight.admit(completions)
        first = flight.num_prompts - len(new)
        slots = [flight.prompts.index(prompt) for prompt in continued]
        slots += range(first, flight.num_prompts)
        by_prompt = self._prefill(slots)
        flight.settle()
        logits = torch.stack([by_prompt[prompt] for prompt in flight.prompt_by_slot[before:]])
        self._draw(logits, flight.counts[before:] - 1, before)

    def _prefill(self, slots: list[int]) -> dict[int, torch.Tensor]:
        """Reads the prompts in some slots; returns the logits (V,) after each prompt."""
        flight, policy = self.flight, self.policy
        found: dict[int, torch.Tensor] = {}
        prompts = {n: self.completions.prompts[flight.prompts[n]].token_ids for n in slots}
        owners = {n: flight.owner_of[flight.prompts[n]] for n in slots}
        # keys of a beginning are of no use with states, to layers that read those of others, nor
        # where they depend on the length of the text; padding would change states
        may_share = not (policy.mixers or self.cache.shares_keys or policy.switches_rotary)
        passes = plan_passes(prompts, owners, may_share=may_share, may_pad=not policy.mixers)
        for chosen, shared, reads_shared in passes:
            flight.prefilling = prefill = flight.prefill_of(chosen, shared, reads_shared)
            rows = prefill.rows_of([prompts[n] for n in chosen])
            ids, mask = left_padded(rows, policy.pad_token_id)
            positions = (mask.cumsum(1) - 1).clamp(min=0) + (0 if reads_shared else shared)
            role = None if reads_shared else 0
            logits = self._forward(ids, positions, prefill.owners, num_completion=role)
            if not reads_shared:
                found.update(zip((flight.prompts[n] for n in chosen), logits, strict=True))
        flight.prefilling = None
        return found

    def step(self) -> None:
        """Draws one more token for each completion in flight."""
        flight, logits = self.flight, None
        if self.captured is not None:
            logits = self.captured.logits(self.tokens, self._one_token)
        if logits is None:
            logits = self._one_token(self.tokens, flight)
        counts = flight.counts
        flight.advance()
        self._draw(logits, counts, 0)

    def _one_token(self, tokens: torch.Tensor, view: View) -> torch.Tensor:
        """Returns the logits (N, V) after one token (N,) of each row."""
        positions = view.positions[:, None]
        return self._forward(tokens[:, None], positions, view.owners, num_completion=1)

    def _draw(self, logits: torch.Tensor, counts: torch.Tensor, first: int) -> None:
        """Draws a token for each completion in the rows from slot `first` on."""
        flight = self.flight
        rows = flight.rows[first:]
        start = sum(map(len, flight.rows[:first]))
        if flight.is_shared:
            sizes = torch.tensor([len(row) for row in rows], device=logits.device)
            logits, counts = (x.repeat_interleave(sizes, 0) for x in (logits, counts))
        tokens, ended = self.completions.sample(logits, flight.completions[start:], counts)
        if self.completions.broken:
            self.cache.clear(self.completions.broken)
        if flight.is_shared:
            parting = part(rows, tokens.tolist(), ended.tolist())
            self._part(parting, first)
            if parting.rows != rows:
                self.release([first + slot for slot in parting.ended])
        else:
            self.tokens = torch.cat([self.tokens[:first], tokens])
            if bool(ended.any()):
                self.release([first + slot for slot in ended.nonzero().flatten().tolist()])

    def _part(self, parting: Parting, first: int) -> None:
        """Gives completions that leave a row their own row, with a copy of the old row's tail."""
        flight, device = self.flight, self.policy.device
        flight.rows[first:] = parting.rows
        leaving = [first + slot for slot, _, _ in parting.split]
        tokens = [*parting.tokens, *(token for _, _, token in parting.split)]
        self.tokens = torch.cat([self.tokens[:first], torch.tensor(tokens, device=device)])
        if leaving:
            target = flight.split(leaving, [row for _, row, _ in parting.split])
            self.cache.copy_rows(
                torch.tensor(leaving, device=device), torch.tensor(target, device=device)
            )

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        owners: torch.Tensor,
        *,
        num_completion: int | None,
    ) -> torch.Tensor:
        """Returns the logits (rows, V) after the last token."""
        policy, ids = self.policy, ids.to(self.policy.device)
        last: int | torch.Tensor = 1
        if self.cache.shares_keys and not num_completion:
            # with a plain number, Gemma 4 would leave the other tokens out of its upper layers
            last = torch.tensor([ids.shape[1] - 1], device=ids.device)
        with policy.with_owners(owners), policy.with_text_roles(ids, num_completion):
            output = policy.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),  # not read, but some models warn without it
                position_ids=positions.to(ids.device),
                past_key_values=self.cache.past,
                use_cache=True,
                logits_to_keep=last,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def release(self, ended: list[int]) -> None:
        """Removes rows that have ended, and closes the gaps."""
        flight, device = self.flight, self.policy.device
        source, target = (torch.tensor(x, device=device) for x in flight.release(ended))
        if len(source):
            self.tokens[target] = self.tokens[source]
            self.cache.copy_rows(source, target)
        self.tokens = self.tokens[: flight.num_rows]
        source, target = (torch.tensor(x, device=device) for x in flight.release_prompts())
        if len(source):
            self.cache.move_prompts(source, target)
        flight.settle()
