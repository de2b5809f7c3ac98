"""The page: what is on it, and what happens when a person touches it."""

from __future__ import annotations

import asyncio
import html
import math
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from steer_lightning.endpoint.api_error import ApiError
from steer_lightning.endpoint.call import LARGEST_TEMPERATURE
from steer_lightning.errors import ConfigError
from steer_lightning.inference.service import Closed, TooManyRequests
from steer_lightning.play.controls import (
    AS_PROMPT,
    AS_QUESTION,
    LARGEST_SCALE,
    SMALLEST_SCALE,
    Parts,
    known_names,
    layer_controls,
    mixing_controls,
    number_controls,
    prompt_controls,
    step_slider,
)
from steer_lightning.play.mixture import Mixture, read_expression
from steer_lightning.play.playground import Playground, Question, Side, Sides
from steer_lightning.play.session import Session, until
from steer_lightning.system.printable import one_line, printable

MANY_AT_ONCE = 16
"""Number of visitors whose answers stream at the same time; those of others wait."""

SECONDS_STILL = 0.15
"""Time in seconds that a slider stands still before it is answered to."""

TOLD = (ApiError, ConfigError, Closed, TooManyRequests, FloatingPointError, TimeoutError)
"""Errors whose messages are for the person in front of the page."""

TOKENS = """<div class="sl-scale" aria-hidden="true">0.001 nats <i></i> 3 nats</div>
<div class="sl-tokens" role="group" aria-label="Tokens of the steered answer"></div>"""
PLACE = '<div class="sl-place"></div>'


def asset(name: str) -> str:
    """Returns the content of a file of this folder."""
    return files(__package__).joinpath(name).read_text("utf-8")


def told(error: Exception) -> gr.Error:
    """Returns an error as the page shows it."""
    # the page reads the message as HTML, and it may name files and texts
    return gr.Error(html.escape(one_line(error)), duration=None, print_exception=False)


def telling(handler: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., Any]:
    """Makes a handler show errors that are meant for people."""

    @wraps(handler)
    async def shown(*args: Any) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(handler(*args)) as pictures:
                async for picture in pictures:
                    yield picture
        except TOLD as error:
            raise told(error) from error

    return shown


class Page:
    """The page of a playground.

    Args:
        playground: Playground whose models are loaded.
        folder: Folder for files that visitors save.
    """

    def __init__(self, playground: Playground, folder: Path) -> None:
        self.playground, self._folder = playground, folder
        self._names = list(playground.models.vectors)

    def blocks(self) -> gr.Blocks:
        """Builds the page."""
        with ThreadPoolExecutor(1) as thread:  # this one may have a running loop already
            return thread.submit(asyncio.run, self._blocks()).result()

    async def _blocks(self) -> gr.Blocks:
        """Builds the page in a running loop: else Gradio makes loops, and never closes them."""
        blocks: gr.Blocks
        with gr.Blocks(title="steer-lightning play", analytics_enabled=False) as blocks:
            self._build()
        blocks.queue(max_size=4 * MANY_AT_ONCE, default_concurrency_limit=MANY_AT_ONCE)
        return blocks

    # ---- what is on the page

    def _build(self) -> None:
        base = html.escape(one_line(self.playground.models.policy.base))
        gr.HTML(f"<h1>steer-lightning play</h1><p>{base}, without and with vectors</p>")
        session = gr.State(Session(), delete_callback=Session.stop)
        # the answers come first, so that they do on a phone, where the columns follow each other
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                chosen, prompt, kind = prompt_controls(self.playground)
                with gr.Row():
                    ask = gr.Button("Answer", variant="primary")
                    stop = gr.Button("Stop")
                with gr.Row():
                    base_answer, steered = (
                        gr.Textbox(
                            label=label,
                            lines=6,
                            max_lines=20,
                            interactive=False,
                            elem_id=f"sl-{label.lower()}",
                        )
                        for label in ("Base", "Steered")
                    )
                status = gr.Textbox(label="Status", max_lines=2, interactive=False)
                gr.HTML("<h2>How far the vectors moved each token</h2>")
                tokens = gr.HTML({}, html_template=TOKENS, js_on_load=asset("tokens.js"))
                place = gr.HTML({}, html_template=PLACE, js_on_load=asset("place.js"))
            with gr.Column(scale=2, min_width=320):
                scale = gr.Slider(SMALLEST_SCALE, LARGEST_SCALE, 1.0, step=0.05, label="Scale")
                step = step_slider(self.playground)
                temperature = gr.Slider(0, LARGEST_TEMPERATURE, 1.0, step=0.05, label="Temperature")
                seed, length = number_controls(self.playground)
                expression, loaded, saved, save = mixing_controls(self.playground)
                acting, factors = layer_controls(self.playground)
        parts = Parts(
            *(prompt, kind, expression, step, scale, temperature, seed, length, acting, factors),
            *(base_answer, steered, status, tokens, place, session),
        )
        self._wire(parts, chosen, ask, stop)
        loaded.upload(self._load, [loaded, session], [expression])
        save.click(self._save, [*parts.asked, session], [saved])

    # ---- what happens

    def _wire(self, parts: Parts, chosen: gr.Dropdown, ask: gr.Button, stop: gr.Button) -> None:
        shown = [parts.base, parts.steered, parts.status, parts.tokens, parts.place]
        chosen.input(self._of_problem, [chosen], [parts.prompt, parts.kind])
        moved = [parts.scale, parts.step, parts.temperature, *parts.factors]
        gr.on(
            [ask.click, parts.prompt.submit],
            telling(self._answer),
            [*parts.asked, parts.session],
            shown,
            trigger_mode="multiple",  # a new question ends the one before
            show_progress="hidden",
            api_visibility="private",
        )
        gr.on(
            [slider.input for slider in moved],
            telling(self._answer_soon),
            [*parts.asked, parts.session],
            shown,
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
        )
        stop.click(Session.stop, [parts.session], None, queue=False, api_visibility="private")
        parts.tokens.select(
            telling(self._choose),
            [parts.session],
            [parts.place],
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
        )

    def _of_problem(self, line: str) -> tuple[Any, Any]:
        problem = self.playground.questions.problems.get(line)
        has_template = self.playground.models.template is not None
        if problem is None:
            return gr.skip(), gr.skip()
        return problem.question, AS_QUESTION if has_template else gr.skip()

    def _question(self, session: Session, values: Sequence[Any]) -> Question:
        """Reads a question from the values of `Parts.asked`."""
        text, kind, expression, step, scale, temperature, seed, length, acting, *factors = values
        for key, value in (("seed", seed), ("length", length)):
            if value is None:
                raise ConfigError(key, value, rule="must be a number")
        names = [*self._names, *session.others]
        acts = set(acting)
        mixture = Mixture(
            weights=read_expression(expression, names),
            layer_factors=tuple(
                float(x) if str(layer) in acts else 0.0 for layer, x in enumerate(factors)
            ),
        )
        return Question(
            text=text,
            is_prompt=kind == AS_PROMPT,
            mixture=mixture,
            step=int(step) if self.playground.checkpoints.steps else None,
            scale=float(scale),
            temperature=float(temperature),
            seed=int(seed),
            most_tokens=int(length),
        )

    async def _answer_soon(self, *values: Any) -> AsyncGenerator[tuple[Any, ...], None]:
        """Answers as soon as a slider stands still, if there has been an answer before."""
        session: Session = values[-1]
        if session.sides is None:
            return
        moved = session.begin()
        await asyncio.sleep(SECONDS_STILL)
        if not moved.is_set():
            async with aclosing(self._answer(*values)) as pictures:
                async for picture in pictures:
                    yield picture

    async def _answer(self, *values: Any) -> AsyncGenerator[tuple[Any, ...], None]:
        """Streams both answers, then their verdicts and the colours of the tokens."""
        session: Session = values[-1]
        question = self._question(session, values[:-1])
        sides = self.playground.start(question, session.others)
        stopped, session.sides = session.begin(), sides
        yield *_shown(sides), "", {}, {}
        async for _ in until(stopped, self.playground.answer(sides)):
            yield *_shown(sides), "answering", gr.skip(), gr.skip()
        if stopped.is_set():
            yield *_shown(sides), "stopped", gr.skip(), gr.skip()
            return
        await self.playground.judge(sides)
        yield *_shown(sides), "reading how far the tokens moved", gr.skip(), gr.skip()
        found = await self.playground.token_moves(sides)
        texts = self.playground.texts_of(sides.steered.ids)
        left_out = self.playground.models.policy.ids_without_text
        tokens = [
            {
                "text": printable(text),
                "special": token in left_out,
                "kl": move.kl if math.isfinite(move.kl) else None,
                "base": _finite(move.base),
                "steered": _finite(move.steered),
            }
            for token, text, move in zip(sides.steered.ids, texts, found, strict=True)
        ]
        yield *_shown(sides), _summary(sides, [x.kl for x in found]), {"tokens": tokens}, {}

    async def _choose(
        self, session: Session, event: gr.EventData
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Shows what could stand at a place, and then what each layer does there."""
        sides, index = session.sides, event.index
        if sides is None or not isinstance(index, int) or not 0 <= index < len(sides.steered.ids):
            return
        drawn = sides.steered.ids[index]
        choices = [
            {
                "text": printable(self.playground.token_text(choice.id)),
                "base": choice.base,
                "steered": choice.steered,
                "is_drawn": choice.id == drawn,
            }
            for choice in await self.playground.choices(sides, index)
        ]
        shown = {"index": index, "choices": choices}
        num_layers = len(sides.vectors.layers)
        yield {**shown, "layers": [], "num_left": num_layers}
        async for found in self.playground.layer_moves(sides, index):
            if session.sides is not sides:
                return
            layers = [{"layer": x.layer, "kl": x.kl, "gain": _finite(x.gain)} for x in found]
            yield {**shown, "layers": layers, "num_left": num_layers - len(found)}

    def _load(self, paths: list[str], session: Session) -> Any:
        """Loads further files of vectors for this tab, and adds them to the sum."""
        try:
            for path in map(Path, paths):
                name = stem = one_line(path.stem)
                taken, number = {*self._names, *session.others}, 2
                while name in taken:
                    name, number = f"{stem} ({number})", number + 1
                session.others[name] = self.playground.load_file(path)
        except TOLD as error:
            raise told(error) from error
        return gr.Textbox(info=known_names([*self._names, *session.others]))

    def _save(self, *values: Any) -> Any:
        """Writes the mixture, with the scale, as a file to download."""
        session: Session = values[-1]
        try:
            question = self._question(session, values[:-1])
            path = Path(tempfile.mkdtemp(dir=self._folder)) / "mixture.safetensors"
            self.playground.save(path, question, session.others)
        except TOLD as error:
            raise told(error) from error
        return gr.File(str(path), visible=True)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _shown(sides: Sides) -> tuple[Any, Any]:
    """Returns both answers, with their verdicts in the labels."""
    return _box(sides.base, "Base"), _box(sides.steered, "Steered")


def _box(side: Side, name: str) -> Any:
    label = name if side.verdict is None else f"{name}: {side.verdict.text}"
    return gr.Textbox(printable(side.found.text), label=label)


def _summary(sides: Sides, kls: Sequence[float]) -> str:
    """Says how the answers ended, and how far the vectors moved the steered one."""
    mean = sum(kls) / len(kls)
    ends = [
        f"{name}: {len(side.ids)} tokens{'' if side.found.finish == 'stop' else ', cut off'}"
        for name, side in (("base", sides.base), ("steered", sides.steered))
    ]
    return f"{'; '.join(ends)}; {mean:.3g} nats a token, {max(kls):.3g} at most"
