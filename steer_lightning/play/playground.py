"""What the page asks: answers of the base and of the steered model, and how far tokens moved."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from steer_lightning.endpoint.answers import Answers, Gathered
from steer_lightning.endpoint.call import LARGEST_TEMPERATURE, Api
from steer_lightning.endpoint.chat import rendered
from steer_lightning.errors import ConfigError, own_keys
from steer_lightning.evaluation.arms import OWN_KEYS, check_fit
from steer_lightning.inference.loaded_models import LARGEST_SCALE, LoadedModels, names_of
from steer_lightning.inference.service import Service
from steer_lightning.play import moves
from steer_lightning.play.checkpoints import Checkpoints
from steer_lightning.play.mixture import Mixture, check_names, mixed, save_mixture
from steer_lightning.play.questions import Judged, Questions
from steer_lightning.rollout import Sampling
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.rollout.live_request import LiveRequest, Piece
from steer_lightning.rollout.text_stream import TextStream
from steer_lightning.steering import SiteVectors, load_steering
from steer_lightning.steering.row_vectors import steers_rows
from steer_lightning.system.printable import one_line

T = TypeVar("T")

NUM_KEPT = 64
"""Number of mixtures that are kept, so that asking again makes no new vectors."""
NUM_CHOICES = 6
"""Number of the likeliest tokens that are shown of each distribution."""
SECONDS_BETWEEN = 0.04
"""Time in seconds between two pictures of a streaming answer."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a person asks.

    Attributes:
        text: Question, or the whole prompt.
        is_prompt: Whether the text is the whole prompt, and no template renders it.
        mixture: Vectors that steer the answer.
        step: Step of the training from which vectors are taken; None takes the last ones.
        scale: Factor on all vectors.
        temperature: Number by which logits are divided; 0 takes the likeliest tokens.
        seed: Seed of both answers.
        most_tokens: Largest number of tokens of an answer.
    """

    text: str
    is_prompt: bool
    mixture: Mixture
    step: int | None = None
    scale: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    most_tokens: int = 64


@dataclass(kw_only=True)
class Side:
    """An answer while it is sampled, and its verdict."""

    found: Gathered = field(default_factory=Gathered)
    whole: str | None = None
    """Text of the finished answer, with the stop string that may have ended it."""
    verdict: Judged | None = None

    @property
    def text(self) -> str:
        """Text of the answer, so far."""
        return self.found.text if self.whole is None else self.whole

    @property
    def ids(self) -> tuple[int, ...]:
        """Tokens of the answer."""
        return tuple(token.id for token in self.found.tokens)


@dataclass(kw_only=True)
class Sides:
    """The answers of the base and of the steered model to one question."""

    question: Question
    prompt_ids: tuple[int, ...]
    vectors: SiteVectors
    base: Side = field(default_factory=Side)
    steered: Side = field(default_factory=Side)

    @property
    def answer(self) -> moves.Answer:
        """The steered answer, for `moves`."""
        return moves.Answer(
            prompt_ids=self.prompt_ids,
            ids=self.steered.ids,
            vectors=self.vectors,
            scale=self.question.scale,
        )


class Playground:
    """One loaded base, on which people try vectors out.

    Args:
        models: Base and vectors.
        paths: Files of the vectors, or folders of runs, as the models got them.
        questions: Problems with known answers.
        sampling: Settings of answers; temperature and length are given by each question.
        max_requests: Largest number of answers that wait or are sampled at the same time.
        timeout: Largest number of seconds from a question to the end of its answers.

    Raises:
        ConfigError: If a name of vectors can't be told from a mixture.
    """

    def __init__(
        self,
        models: LoadedModels,
        paths: Sequence[str],
        questions: Questions,
        *,
        sampling: Sampling,
        max_requests: int = 64,
        timeout: float = 600.0,
    ) -> None:
        self.models, self.questions = models, questions
        self.sampling = replace(sampling, group_size=1)
        self.max_requests, self.timeout = max_requests, timeout
        self.files = names_of(paths)
        check_names(self.files)
        self.checkpoints = Checkpoints(self.files, models.vectors)
        self._mixtures: OrderedDict[object, tuple[list[SiteVectors], SiteVectors]] = OrderedDict()

    def load(self) -> None:
        """Loads the base and the problems; see `LoadedModels.load`."""
        self.questions.load()
        self.service = Service(self.models.load(), self.max_requests)
        self.api = Api(self.models, self.service, self.timeout)

    def close(self) -> None:
        """Lets answers under way end."""
        self.service.close()
        self.questions.close()

    @property
    def num_layers(self) -> int:
        """Number of decoder layers of the base."""
        return next(iter(self.models.vectors.values())).num_layers

    # ---- vectors

    def load_file(self, path: Path) -> SiteVectors:
        """Loads a further file of vectors.

        Raises:
            ConfigError: If it is damaged, holds something else, does not fit the base, or is of
                another kind than the vectors with which the playground was started.
        """
        with own_keys(OWN_KEYS):
            found = load_steering(path)
            if not steers_rows(found):
                rule = f"holds {found.describe()}, which can't be tried here"
                raise ConfigError("vectors", path.name, rule=rule, fix="Choose a file of vectors")
            check_fit({path.stem: found}, self.models.policy)
            if kind_of(found) not in set(map(kind_of, self.models.vectors.values())):
                raise ConfigError(
                    "vectors",
                    path.name,
                    rule=f"are {type(found).__name__} at {found.site} on {found.tokens} tokens",
                    why="Only kinds of vectors whose answers were compared with plain passes at "
                    "the start are used",
                    fix="Start steer-lightning play with this file among --vectors",
                )
        return found.to(self.models.policy.device)

    def vectors_of(
        self, question: Question, others: Mapping[str, SiteVectors]
    ) -> Mapping[str, SiteVectors]:
        """Returns all vectors by name, those of runs at the step of the question."""
        at_step = self.checkpoints.at(question.step, self.load_file)
        return {**self.models.vectors, **at_step, **others}

    def steering_of(self, question: Question, others: Mapping[str, SiteVectors]) -> SiteVectors:
        """Returns the vectors that steer the answer to a question; see `mixed`.

        Args:
            question: Question with its mixture.
            others: Further vectors by name.
        """
        vectors = self.vectors_of(question, others)
        mixture = question.mixture
        parts = [vectors[name] for name, _ in mixture.weights]
        key = (mixture.weights, mixture.layer_factors, tuple(map(id, parts)))
        if key not in self._mixtures:
            found = mixed(mixture, vectors).to(self.models.policy.device)
            self._mixtures[key] = parts, found  # the parts, so that their ids stay theirs
        self._mixtures.move_to_end(key)
        while len(self._mixtures) > NUM_KEPT:
            self._mixtures.popitem(last=False)
        return self._mixtures[key][1]

    def save(self, path: Path, question: Question, others: Mapping[str, SiteVectors]) -> None:
        """Writes the vectors of a question as a file, with what they were made of.

        Args:
            path: File to write.
            question: Question whose mixture and scale are written.
            others: Further vectors by name.

        Raises:
            ConfigError: If a number is out of range, or the vectors can't be mixed.
        """
        _check(question, self.service.max_length)
        vectors, policy = self.vectors_of(question, others), self.models.policy
        base, revision = policy.base, policy.revision
        save_mixture(path, question.mixture, question.scale, vectors, base, revision)

    # ---- answers

    def start(self, question: Question, others: Mapping[str, SiteVectors]) -> Sides:
        """Checks a question, and reads it.

        Args:
            question: Question to answer.
            others: Further vectors by name.

        Raises:
            ApiError: If the text is empty or too long.
            ConfigError: If a number is out of range, or vectors can't be mixed.
        """
        _check(question, self.service.max_length)
        api, template = self.api, self.models.template
        api.check_text(question.text, "prompt")
        if question.is_prompt or template is None:
            tokens = api.tokens_of(question.text, "prompt")
        else:
            text = rendered(template, [{"role": "user", "content": question.text}], api.tokenizer)
            tokens = tuple(template.encode(text, api.tokenizer))
        api.check_tokens(tokens, "prompt")
        api.check_room(tokens, question.most_tokens, "length")
        vectors = self.steering_of(question, others)
        return Sides(question=question, prompt_ids=tokens, vectors=vectors)

    async def answer(self, sides: Sides) -> AsyncGenerator[None, None]:
        """Answers a question with and without vectors; yields whenever there is more to show.

        Both answers draw the same random numbers. If the caller stops before the end, the answers
        are cancelled.

        Args:
            sides: Question, whose answers grow.

        Raises:
            TooManyRequests: If too many answers wait already.
            Closed: If the program is ending.
            Exception: If an answer fails, such as a FloatingPointError for vectors that are too
                large.
        """
        question = sides.question
        sampling = replace(
            self.sampling, temperature=question.temperature, max_new_tokens=question.most_tokens
        )
        answers = Answers(self.service)
        for number, (vectors, scale) in enumerate(((None, 1.0), (sides.vectors, question.scale))):
            request = LiveRequest(
                token_ids=sides.prompt_ids,
                vectors=vectors,
                scale=scale,
                sampling=sampling,
                seed=question.seed,
                deadline=time.monotonic() + self.timeout,
            )
            answers.add(request, number)
        answers.submit()
        shown = 0.0
        async with aclosing(answers.parts()) as parts:
            async for number, piece in parts:
                assert isinstance(piece, Piece)
                (sides.steered if number else sides.base).found.add(piece)
                if time.monotonic() > shown + SECONDS_BETWEEN:
                    yield
                    shown = time.monotonic()
        yield

    async def judge(self, sides: Sides) -> None:
        """Adds whole texts and verdicts to finished answers, if the question's answer is known.

        Both are those of the training, where a stop string is part of the completion.
        """
        for side in (sides.base, sides.steered):
            side.whole = await self.api.aside(self.api.texts.whole, side.ids)
            side.verdict = await asyncio.to_thread(
                self.questions.judge,
                *(sides.question.text, side.whole, len(side.ids), side.found.finish == "stop"),
            )

    # ---- tokens

    async def token_moves(self, sides: Sides) -> list[moves.Move]:
        """Returns how far each token of the steered answer was moved."""
        return await self._call(lambda flight: moves.token_moves(flight, sides.answer))

    async def choices(self, sides: Sides, place: int) -> list[moves.Choice]:
        """Returns the likeliest tokens at a place of the steered answer."""
        return await self._call(
            lambda flight: moves.choices_at(flight, sides.answer, place, NUM_CHOICES)
        )

    async def layer_moves(
        self, sides: Sides, place: int
    ) -> AsyncGenerator[list[moves.LayerMove], None]:
        """Yields what leaving out each layer changes at a place, with ever more layers."""
        answer, found = sides.answer, list[moves.LayerMove]()
        for group in moves.layer_groups(answer, place):

            def read(flight: LiveFlight, group: list[int] = group) -> list[moves.LayerMove]:
                return moves.layer_moves(flight, answer, place, group)

            found += await self._call(read)
            yield found

    async def _call(self, function: Callable[[LiveFlight], T]) -> T:
        return await asyncio.wrap_future(self.service.call(function))

    def texts_of(self, ids: Sequence[int]) -> list[str]:
        """Returns the text of each token of an answer.

        The text of a character that several tokens make up is that of the last of them; tokens that
        are no text, such as EOS, are shown by their names.
        """
        left_out = self.models.policy.ids_without_text
        stream = TextStream(self.api.texts, left_out)
        texts = [stream.add(token) for token in ids]
        if texts:
            texts[-1] += stream.end()
        return [
            self.api.texts.of(token) if token in left_out else text
            for token, text in zip(ids, texts, strict=True)
        ]

    def token_text(self, token: int) -> str:
        """Returns the text of a token by itself."""
        return self.api.texts.of(token)


def kind_of(vectors: SiteVectors) -> tuple[object, ...]:
    """Returns what makes vectors act in another way than others."""
    return type(vectors), vectors.site, vectors.tokens, vectors.by_token


def _check(question: Question, max_length: int) -> None:
    """Raises a ConfigError for a number out of range."""
    if not 0 <= question.temperature <= LARGEST_TEMPERATURE:
        rule = f"must be from 0 to {LARGEST_TEMPERATURE:g}"
        raise ConfigError("temperature", question.temperature, rule=rule)
    if not 1 <= question.most_tokens < max_length:
        rule = f"must be from 1 to {max_length - 1}"
        raise ConfigError("length", question.most_tokens, rule=rule)
    if not 0 <= question.seed < 2**53:
        raise ConfigError("seed", question.seed, rule="must be from 0 to 2 to the power of 53")
    factors = {"scale": question.scale}
    factors |= {f"layer {k}": x for k, x in enumerate(question.mixture.layer_factors)}
    for key, value in factors.items():
        if not (math.isfinite(value) and abs(value) <= LARGEST_SCALE):
            rule = f"must be from -{LARGEST_SCALE:g} to {LARGEST_SCALE:g}"
            raise ConfigError(one_line(key), value, rule=rule)
