"""The rollout engine whose completions come from vLLM, in processes of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import Completions, set_up
from steer_lightning.rollout.engine import OnCompletion, ignore
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.sent_vectors import (
    SentVectors,
    check_sendable,
    check_steerable,
    vectors_of,
)
from steer_lightning.rollout.served_check import why_not_served
from steer_lightning.rollout.served_rows import ServedRows
from steer_lightning.rollout.server_link import LostServer, Message, ServerLink
from steer_lightning.rollout.server_start import connected
from steer_lightning.rollout.stop_text import StopText
from steer_lightning.steering import Steering
from steer_lightning.system.printable import one_line
from steer_lightning.types import Prompt, Rollouts

log = logging.getLogger(__name__)

ATTEMPTS = 20
"""Number of times that a server is given the vectors of a rollout before this counts as a quarrel
with another run. Processes of one run may disagree for a moment."""


class VLLMEngine:
    """Samples completions with vLLM, on rollout servers that keep running.

    A server runs `steer_lightning/serving/rollout_server.py` in an environment of its own, since
    vLLM needs other versions of torch and transformers. Only the vectors that have changed travel
    to it after an update, and every completion comes back with the version of the vectors that it
    was sampled with. The page on engines has the commands.

    A completion depends on (seed, step, prompt, sample), but within the rounding of vLLM's kernels,
    which depends on the batch: unlike with `DecodeEngine`, the same seed may give another text.

    Args:
        addresses: Addresses of the servers; the prompts of a rollout are shared out among them.
        command: Command that starts a server, once for each address; it ends with the run. Null
            expects running servers. `{server}` stands for the path of `rollout_server.py`, `{base}`
            and `{dtype}` for those of the trainer, `{port}` for the port of the address, and
            `{number}` for the number of the server, from 0 on.
        start_timeout: Seconds within which a server must answer for the first time; loading a large
            model takes minutes.
        timeout: Seconds after which a server that samples nothing counts as lost, from when it has
            taken the request. Taking it may take as long again, while completions that other
            processes asked for end.
        on_lost_server: Whether the run ends with an error if a server is lost, or continues with
            the remaining ones.

    Attributes:
        links: Connections to the servers that have not been lost.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self,
        addresses: list[str] = ["http://127.0.0.1:8765"],  # noqa: B006  # never changed
        command: str | None = None,
        start_timeout: float = 900.0,
        timeout: float = 300.0,
        on_lost_server: Literal["fail", "continue"] = "fail",
    ) -> None:
        _check_settings(addresses, command, start_timeout, timeout)
        self.addresses, self.command = addresses, command
        self.start_timeout, self.timeout = start_timeout, timeout
        self.on_lost_server = on_lost_server
        self.links: list[ServerLink] = []
        self._commands: Any = []
        self._longest = 0  # number of tokens of the longest text that the servers can hold
        self._policy: Policy | None = None
        self._ahead: ServedRows | None = None
        self._sync = {"sync_bytes": 0.0, "sync_seconds": 0.0}

    # ---- setting up

    def before_load(self, policy: Policy, steerings: Sequence[Steering], longest: int) -> None:
        """Connects to the servers, and refuses what they can't do, before the base is loaded.

        Args:
            policy: Policy, whose weights may not be loaded yet.
            steerings: Everything that is going to steer it.
            longest: Number of tokens of the longest text of the run, prompt included.

        Raises:
            ConfigError: If the servers can't steer this way or can't be reached, or if their base,
                dtype or vocabulary is not the policy's.
        """
        for steering in steerings:
            check_sendable(steering)
        check_steerable(policy)
        if not self.links:
            self.links, self._commands, self._longest = connected(
                policy, self.addresses, self.command, self.start_timeout, self.timeout
            )
        self._check_length(longest)

    def _check_length(self, longest: int) -> None:
        if longest > self._longest:
            raise ConfigError(
                "model.engine.addresses",
                self.addresses,
                rule=f"the servers take texts of up to {self._longest} tokens, but this run has "
                f"some of {longest}",
                fix=f"Start them with --max-model-len {longest}, or lower "
                "model.sampling.max_new_tokens",
            )

    def setup(self, policy: Policy) -> None:
        """Compares the servers with the policy, by completions with made-up vectors.

        Raises:
            ConfigError: If the servers don't sample as the policy does.
        """
        self.before_load(policy, [policy.steering], 0)
        self._policy = policy
        for link in list(self.links):
            reason = why_not_served(policy, self._longest, partial(self._answer, policy, [link]))
            if reason is not None:
                raise ConfigError(
                    "model.engine.addresses",
                    link.address,
                    rule=f"the rollout server does not sample as the policy does: {reason}",
                    why="Its weights or its way to steer are not those of the trainer",
                    fix="Start it with the same base, revision and dtype, or use "
                    "steer_lightning.rollout.DecodeEngine",
                )
        self.sync(policy.steering)

    # ---- vectors

    def sync(self, steering: Steering) -> None:
        """Sends the vectors that have changed, once the rows that are sampled ahead have ended."""
        start = time.perf_counter()
        sent = self._send(vectors_of(set_up(self._policy, type(self).__name__)))
        self._sync = {"sync_bytes": float(sent), "sync_seconds": time.perf_counter() - start}

    def _send(self, vectors: SentVectors) -> int:
        """Sends vectors to all servers; returns the number of bytes sent."""
        if self._ahead is not None:  # they are to be sampled with the vectors of before
            self._ahead.finish()
        sent = 0
        for link in list(self.links):
            try:
                sent += vectors.send(link)
            except LostServer as error:
                self._lose(link, str(error))
        return sent

    def metrics(self) -> dict[str, float]:
        """Returns the bytes and seconds of the last `sync`."""
        return self._sync

    def _lose(self, link: ServerLink, reason: str) -> Sequence[ServerLink]:
        """Notes that a server is lost; returns those that are left."""
        if link in self.links:
            self.links.remove(link)
            if self.on_lost_server == "continue" and self.links:
                log.warning(
                    "the rollout server at %s is lost (%s): the run continues with the other %d",
                    one_line(link.address),
                    one_line(reason),
                    len(self.links),
                )
        if self.on_lost_server == "continue" and self.links:
            return self.links
        raise ConfigError(
            "model.engine.addresses",
            link.address,
            rule=f"the rollout server is lost ({one_line(reason)})",
            why=f"on_lost_server is {self.on_lost_server}, and {len(self.links)} other servers are "
            "left",
            fix="See the server's own output, start it again, and continue the run with the same "
            "command. Set model.engine.init_args.on_lost_server: continue to go on with the others",
        )

    # ---- sampling

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
        asked: dict[str, Any] = {"prompts": prompts, "sampling": sampling, "seed": seed}
        request = Request(**asked, step=step, on_completion=on_completion)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and _is_same(ahead.request, request):
            return self._collect(policy, request, ahead)
        if ahead is not None:
            self._ahead = ahead
        return self._answer(policy, self.links, vectors_of(policy), request)

    def sample_ahead(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int
    ) -> None:
        """Lets the servers begin with a rollout that `generate` is going to be asked for.

        It is sampled with the vectors of now, even if they change in the meantime.

        Args:
            prompts: Prompts of the rollout.
            sampling: Settings of the rollout.
            seed: Seed of the run.
            step: Number of the step whose rollout it is.
        """
        policy = set_up(self._policy, type(self).__name__)
        if self._ahead is not None:
            self._ahead.abandon()
            self._ahead = None
        request = Request(prompts=prompts, sampling=sampling, seed=seed, step=step)
        self._ahead = self._begun(policy, self.links, vectors_of(policy), request)

    def _answer(
        self,
        policy: Policy,
        links: Sequence[ServerLink],
        vectors: SentVectors,
        request: Request,
    ) -> Rollouts:
        """Answers a request by some servers, with given vectors."""
        return self._collect(policy, request, self._begun(policy, links, vectors, request))

    def _begun(
        self,
        policy: Policy,
        links: Sequence[ServerLink],
        vectors: SentVectors,
        request: Request,
    ) -> ServedRows:
        longest = max(len(prompt.token_ids) for prompt in request.prompts)
        self._check_length(longest + request.sampling.max_new_tokens)
        self._send(vectors)

        def start(
            link: ServerLink, content: Message, tell: Callable[[Message], None]
        ) -> Callable[[], None]:
            for _ in range(ATTEMPTS):
                vectors.send(link)
                abandon = link.start(content, tell)
                if abandon is not None:
                    return abandon
                link.version = ""
            raise LostServer("another run changes its vectors all the time")

        eos = policy.eos_token_ids
        return ServedRows(request, eos, vectors.version, links, start, self._lose)

    def _collect(self, policy: Policy, request: Request, rows: ServedRows) -> Rollouts:
        """Takes the completions as they end."""
        completions = _ServedCompletions(policy, request)
        try:
            for message in rows:
                if message["version"] != rows.version:
                    raise RuntimeError(
                        f"a completion was sampled with the vectors {message['version']} instead "
                        f"of {rows.version}"
                    )
                completions.take(message)
        except BaseException:  # a reward's error, for instance, or Ctrl-C
            rows.abandon()
            raise
        return completions.rollouts()


def _is_same(ahead: Request, request: Request) -> bool:
    """Whether two requests ask for the same completions; their vectors may differ."""
    same = [prompt.id for prompt in ahead.prompts] == [prompt.id for prompt in request.prompts]
    return same and all(
        getattr(ahead, key) == getattr(request, key) for key in ("sampling", "seed", "step")
    )


class _ServedCompletions(Completions):
    """Completions whose tokens a server has drawn."""

    def __init__(self, policy: Policy, request: Request) -> None:
        super().__init__(policy, request)
        sampling = self.sampling
        self._ends = {*policy.eos_token_ids, *sampling.eos_token_ids}
        texts = sampling.stop_strings
        self._stop_text = StopText(policy.tokenizer, texts) if texts else None

    def take(self, message: Message) -> None:
        """Takes over a row that has ended, up to the first token that ends it."""
        row, tokens = int(message["row"]), message["tokens"]
        length = self._length(tokens)
        # a tokenizer of another version may find a stop string that ours does not
        self.drawn.finished[row] = length is not None or message["reason"] == "stop"
        tokens = tokens[:length]
        self.drawn.lengths[row] = len(tokens)
        self.drawn.tokens[row, : len(tokens)] = torch.tensor(tokens)
        self.drawn.logprobs[row, : len(tokens)] = torch.tensor(message["logprobs"][:length])
        self.hand_out(torch.tensor([row], device=self.drawn.tokens.device))

    def _length(self, tokens: Sequence[int]) -> int | None:
        """Returns the number of tokens up to the first one that ends a completion, if any does."""
        length = next((k + 1 for k, token in enumerate(tokens) if token in self._ends), None)
        if self._stop_text is None:
            return length
        behind = range(1, (length or len(tokens)) + 1)
        return next((k for k in behind if self._stop_text(tokens[:k])), length)


def _check_settings(
    addresses: list[str], command: str | None, start_timeout: float, timeout: float
) -> None:
    for address in addresses:
        scheme, _, rest = address.partition("://")
        if scheme not in ("http", "https") or not rest:
            raise ConfigError(
                "model.engine.addresses", address, rule="must look like http://127.0.0.1:8765"
            )
    if not addresses or len(set(addresses)) < len(addresses):
        raise ConfigError(
            "model.engine.addresses", addresses, rule="must name at least one server, each once"
        )
    for key, value in (("start_timeout", start_timeout), ("timeout", timeout)):
        if not 0 < value < float("inf"):
            raise ConfigError(f"model.engine.{key}", value, rule="must be seconds above 0")
    if command is not None and not command.strip():
        raise ConfigError("model.engine.command", command, rule="must not be empty")
