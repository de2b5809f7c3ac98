"""The package's own rollout engine: prompts are read once, and no finished row holds another."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import Record
from steer_lightning.rollout.cuda_graphs import RECORD_AFTER, CudaGraphs, Pass, RecordedPasses
from steer_lightning.rollout.engine import OnCompletion, ignore
from steer_lightning.rollout.flight import Flight
from steer_lightning.rollout.generate_engine import GenerateEngine
from steer_lightning.rollout.kv_cache import KeyValues, decoding
from steer_lightning.rollout.plan import Plan, out_of_step, plan_flight
from steer_lightning.rollout.sampling import Sampling, row_uniforms
from steer_lightning.rollout.selfcheck import why_not
from steer_lightning.rollout.shared_rows import Parting, part
from steer_lightning.steering import Steering
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.types import Prompt, Rollouts

log = logging.getLogger(__name__)

PREFILL_TOKENS = 8192
"""Prompts are read in batches of so many tokens: more would not be faster, and cost memory."""

REFILL_SHARE = 8
"""Waiting rows enter once an eighth of the slots is free, so that prompts are read in batches."""


class DecodeEngine:
    """Samples completions with a loop of its own, several times as fast as `transformers.generate`.

    Each prompt is read once for its whole group, completions that have drawn the same tokens so far
    share a row, keys and values are preallocated, rows that have ended leave the batch, and waiting
    ones take their place. The model's forward pass is
    transformers' own. A model that does not decode rightly this way is noticed by a self-check in
    `setup`, and answered by `GenerateEngine`, with a warning.

    Args:
        max_tokens_in_flight: Most tokens whose keys and values are kept at once; bounds memory. It
            does not change what is sampled. Where memory runs out all the same, it is halved, with
            a warning, and the rollout begins anew.
        cuda_graphs: On a GPU, records the passes over one token a row and replays them, which
            spares launching some thousand small operations for each token. A model for which that
            does not work goes on without, with a warning.

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
        self._record: Callable[[], Callable[[Pass], Pass]] | None = None
        self.fallback: GenerateEngine | None = None
        self._policy: Policy | None = None

    def setup(self, policy: Policy) -> None:
        """Keeps the policy, whose vectors are read live, and checks that it decodes rightly."""
        self._policy, self.fallback = policy, None
        # a sharded base is gathered in the middle of a pass
        can_record = policy.device.type == "cuda" and not policy.sharding.shards
        self._record = CudaGraphs if self.cuda_graphs and can_record else None
        reason = why_not(self, policy)
        if reason is not None:
            log.warning(
                "%s does not decode in DecodeEngine (%s): GenerateEngine takes its place, which is "
                "slower",
                type(policy.model).__name__,
                reason,
            )
            self.fallback = GenerateEngine()
            self.fallback.setup(policy)

    def sync(self, steering: Steering) -> None:
        """Nothing to do: rollouts run on the very parameter that is trained."""

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
            raise RuntimeError("DecodeEngine.setup(policy) must be called before generate()")
        if self.fallback is not None:
            return self.fallback.generate(
                prompts, sampling, seed=seed, step=step, on_completion=on_completion
            )
        while True:
            plan = plan_flight(prompts, sampling, self.max_tokens_in_flight)
            try:
                return self.decode(
                    self._policy,
                    prompts,
                    sampling,
                    plan,
                    seed=seed,
                    step=step,
                    on_completion=on_completion,
                )
            except RuntimeError as error:
                if not is_out_of_memory(error) or plan.max_rows == 1:
                    raise
                if self._policy.sharding.in_step:
                    raise out_of_step(plan) from error
                self._halve(plan)

    def _halve(self, plan: Plan) -> None:
        self.max_tokens_in_flight = plan.tokens // 2
        log.warning(
            "out of memory with %d tokens in flight: the rollout begins anew with half of them. "
            "Set model.engine.max_tokens_in_flight: %d to spare the attempt",
            plan.tokens,
            self.max_tokens_in_flight,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def decode(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        plan: Plan,
        *,
        seed: int,
        step: int,
        on_completion: OnCompletion = ignore,
        record_after: int = RECORD_AFTER,
    ) -> Rollouts:
        """Decodes within a plan, without fall-back."""
        size = sampling.group_size
        flight = Flight(
            [len(prompt.token_ids) for prompt in prompts],
            size,
            max_rows=plan.max_rows,
            max_prompts=plan.max_prompts,
            max_columns=sampling.max_new_tokens,
            device=policy.device,
        )
        ids = [prompt.id for prompt in prompts]
        uniforms = row_uniforms(seed, step, ids, size, sampling.max_new_tokens)
        longest_first = sorted(range(len(prompts)), key=lambda b: -flight.lengths[b])
        waiting = deque(b * size + k for b in longest_first for k in range(size))
        with (
            policy.sharding.without_gradients(),
            policy.constant_vectors(),
            decoding(policy.model, flight) as (cache, layers),
        ):
            record = Record(policy, sampling, uniforms, prompts, on_completion)
            decoder = _Decoder(policy, prompts, flight, record, cache, layers)
            if self._record is not None:
                decoder.recorded = RecordedPasses(flight, layers, self._record(), record_after)
            while waiting or flight.num_rows:
                decoder.refill(waiting)
                if flight.num_rows:  # all that were taken in may have ended with their first token
                    decoder.step()
            self._note(decoder.recorded)
            return record.rollouts()

    def _note(self, recorded: RecordedPasses | None) -> None:
        if recorded is not None and recorded.failure is not None:
            self._record = None
            log.warning(
                "passes of this model can't be recorded as CUDA graphs (%s): each is launched "
                "anew, which is slower. model.engine.init_args.cuda_graphs: false spares the "
                "attempt",
                recorded.failure,
            )


class _Decoder:
    """The loop's state: what is in flight, and each row's last token."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        flight: Flight,
        record: Record,
        cache: Any,
        layers: list[KeyValues],
    ) -> None:
        self.policy, self.prompts, self.flight = policy, prompts, flight
        self.record, self.cache, self.layers = record, cache, layers
        self.tokens = torch.zeros(0, dtype=torch.long, device=policy.device)  # (N,) by slot
        self.recorded: RecordedPasses | None = None

    def refill(self, waiting: deque[int]) -> None:
        """Takes in waiting completions, if there is room for a fair number of them."""
        flight = self.flight
        room = flight.max_rows - flight.num_completions
        if not waiting or (flight.num_rows and room < max(1, flight.max_rows // REFILL_SHARE)):
            return
        known = set(flight.prompts)
        free = flight.max_prompts - len(known)
        chosen: list[int] = []
        while waiting and len(chosen) < room:
            prompt = waiting[0] // flight.group_size
            if prompt not in known:
                if free == 0:
                    break
                known.add(prompt)
                free -= 1
            chosen.append(waiting.popleft())
        if chosen:
            self._admit(chosen)

    def _admit(self, completions: list[int]) -> None:
        flight = self.flight
        before = flight.num_rows
        continued = {n // flight.group_size for n in completions} & set(flight.prompts)
        new = flight.admit(completions)
        first = flight.num_prompts - len(new)
        slots = [flight.prompts.index(prompt) for prompt in continued]
        slots += range(first, flight.num_prompts)
        by_prompt = self._prefill(slots)
        flight.settle()
        prompts = [row[0] // flight.group_size for row in flight.rows[before:]]
        logits = torch.stack([by_prompt[prompt] for prompt in prompts])
        self._draw(logits, flight.counts[before:] - 1, before)

    def _prefill(self, slots: list[int]) -> dict[int, torch.Tensor]:
        """Reads prompts; returns the logits (V,) behind each."""
        flight = self.flight
        found: dict[int, torch.Tensor] = {}
        slots = sorted(slots, key=lambda slot: flight.lengths[flight.prompts[slot]])
        while slots:
            width = flight.lengths[flight.prompts[slots[-1]]]
            count = max(1, PREFILL_TOKENS // width)
            chosen, slots = slots[-count:], slots[:-count]
            flight.start_prefill(chosen)
            ids = [self.prompts[flight.prompts[slot]].token_ids for slot in chosen]
            pad = self.policy.pad_token_id
            padded = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids])
            places = torch.arange(width) - torch.tensor([[width - len(row)] for row in ids])
            logits = self._forward(padded, places.clamp(min=0), num_completion=0)
            found.update(zip((flight.prompts[slot] for slot in chosen), logits, strict=True))
        flight.end_prefill()
        return found

    def step(self) -> None:
        """One token more for each completion in flight."""
        flight = self.flight
        logits = None
        if self.recorded is not None:
            logits = self.recorded.logits(self.tokens, self._read)
        if logits is None:
            logits = self._read(self.tokens[:, None], flight.positions[:, None])
        counts = flight.counts
        flight.advance()
        self._draw(logits, counts, 0)

    def _read(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) behind a token (N, 1) of each row."""
        return self._forward(tokens, positions, num_completion=1)

    def _draw(self, logits: torch.Tensor, counts: torch.Tensor, first: int) -> None:
        """Draws a token for each completion of the rows from slot `first` on."""
        flight = self.flight
        rows = flight.rows[first:]
        start = sum(map(len, flight.rows[:first]))
        if flight.is_shared:
            sizes = torch.tensor([len(row) for row in rows], device=logits.device)
            logits, counts = (x.repeat_interleave(sizes, 0) for x in (logits, counts))
        tokens, ended = self.record.sample(logits, flight.completions[start:], counts)
        if flight.is_shared:
            parting = part(rows, tokens.tolist(), ended.tolist())
            self._part(parting, first)
            if parting.rows != rows:
                self._release([first + slot for slot in parting.ended])
        else:
            self.tokens = torch.cat([self.tokens[:first], tokens])
            if bool(ended.any()):
                self._release([first + slot for slot in ended.nonzero().flatten().tolist()])

    def _part(self, parting: Parting, first: int) -> None:
        """Gives completions that leave a row a row of their own, with a copy of its tail."""
        flight, device = self.flight, self.policy.device
        flight.rows[first:] = parting.rows
        leaving = [first + slot for slot, _, _ in parting.split]
        tokens = [*parting.tokens, *(token for _, _, token in parting.split)]
        self.tokens = torch.cat([self.tokens[:first], torch.tensor(tokens, device=device)])
        if leaving:
            target = flight.split(leaving, [row for _, row, _ in parting.split])
            self._copy_rows(
                torch.tensor(leaving, device=device), torch.tensor(target, device=device)
            )

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, num_completion: int
    ) -> torch.Tensor:
        """Logits (rows, V) behind the last token."""
        ids = ids.to(self.policy.device)
        with self.policy.reading(ids, num_completion):
            output = self.policy.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),  # not read; without it some warn
                position_ids=positions.to(ids.device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _release(self, ended: list[int]) -> None:
        """Lets rows go, and closes the gaps that they leave."""
        flight, device = self.flight, self.policy.device
        source, target = (torch.tensor(x, device=device) for x in flight.release(ended))
        if len(source):
            self.tokens[target] = self.tokens[source]
            self._copy_rows(source, target)
        self.tokens = self.tokens[: flight.num_rows]
        source, target = (torch.tensor(x, device=device) for x in flight.release_prompts())
        if len(source):
            for layer in self.layers:
                layer.move_prompts(source, target)
        flight.settle()

    def _copy_rows(self, source: torch.Tensor, target: torch.Tensor) -> None:
        for layer in self.layers:
            layer.copy_rows(source, target, self.flight.num_columns)
