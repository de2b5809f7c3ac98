"""The page: what is on it, and what happens when a person touches it."""

from __future__ import annotations

import asyncio
import html
import math
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from steer_lightning.endpoint.call import LARGEST_TEMPERATURE
from steer_lightning.errors import ConfigError
from steer_lightning.inference.service import Closed
from steer_lightning.play.controls import (
    AS_PROMPT,
    AS_QUESTION,
    LARGEST_SCALE,
    SMALLEST_SCALE,
    Mixing,
    Parts,
    layer_controls,
    mixing_controls,
    number_controls,
    prompt_controls,
    step_slider,
)
from steer_lightning.play.mixture import Mixture, check_names, read_expression, with_weight
from steer_lightning.play.moves import Move
from steer_lightning.play.playground import Playground, Question, Side, Sides
from steer_lightning.play.session import Session, Sessions, until
from steer_lightning.play.telling import Pictures, telling, told
from steer_lightning.system.printable import one_line, printable

MANY_AT_ONCE = 16
"""Number of visitors whose answers stream at the same time; those of others wait."""

SECONDS_STILL = 0.15
"""Time in seconds that a slider stands still before it is answered to."""

MOST_FILES, MOST_BYTES = 16, 64 * 2**20
"""Largest number of files that a tab may load, and largest size of each."""

TOKENS = """<div class="sl-scale" aria-hidden="true">0.001 nats <i></i> 3 nats</div>
<div class="sl-tokens" role="group" aria-label="Tokens of the steered answer"></div>"""
PLACE = '<div class="sl-place"></div>'


def asset(name: str) -> str:
    """Returns the content of a file of this folder."""
    return files(__package__).joinpath(name).read_text("utf-8")


class Page:
    """The page of a playground.

    Args:
        playground: Playground whose models are loaded.
        folder: Folder for files that visitors save.
    """

    def __init__(self, playground: Playground, folder: Path) -> None:
        self.playground, self._folder, self.sessions = playground, folder, Sessions()
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
            blocks.unload(self._leave)
        # all calls pass through the queue, which has limits
        limits = {"max_size": 4 * MANY_AT_ONCE, "default_concurrency_limit": MANY_AT_ONCE}
        blocks.queue(api_open=False, **limits)
        return blocks

    # ---- what is on the page

    def _build(self) -> None:
        base = html.escape(one_line(self.playground.models.policy.base))
        gr.HTML(f"<h1>steer-lightning play</h1><p>{base}, without and with vectors</p>")
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
                mixing = mixing_controls(self.playground)
                acting, factors = layer_controls(self.playground)
        parts = Parts(
            *(
                prompt,
                kind,
                mixing.expression,
                step,
                scale,
                temperature,
                seed,
                length,
                acting,
                factors,
            ),
            *(base_answer, steered, status, tokens, place),
        )
        self._wire(parts, chosen, ask, stop)
        self._wire_mixing(parts, mixing)

    # ---- what happens

    def _wire(self, parts: Parts, chosen: gr.Dropdown, ask: gr.Button, stop: gr.Button) -> None:
        chosen.input(
            self._of_problem, [chosen], [parts.prompt, parts.kind], api_visibility="private"
        )
        typed: list[Any] = [parts.prompt, parts.seed, parts.length, parts.expression]
        moved: list[Any] = [parts.scale, parts.step, parts.temperature, parts.acting]
        gr.on(
            [ask.click, *(field.submit for field in typed)],
            telling(self._answer),
            parts.asked,
            parts.shown,
            trigger_mode="multiple",  # a new question ends the one before
            show_progress="hidden",
            api_visibility="private",
        )
        gr.on(
            [control.input for control in (*moved, *parts.factors)],
            telling(self._answer_soon),
            parts.asked,
            parts.shown,
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
        )
        stop.click(self._stop, None, None, queue=False, api_visibility="private")
        parts.tokens.select(
            telling(self._choose),
            None,
            [parts.place],
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
        )

    def _wire_mixing(self, parts: Parts, mixing: Mixing) -> None:
        expression, part, weight = mixing.expression, mixing.part, mixing.weight
        mixing.load.upload(self._load, [mixing.load], [part, weight], api_visibility="private")
        mixing.save.click(self._save, parts.asked, [mixing.saved], api_visibility="private")
        part.input(self._weight_of, [expression, part], [weight], api_visibility="private")
        weight.input(
            self._weigh,
            [expression, part, weight],
            [expression],
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        ).then(
            telling(self._answer_soon),
            parts.asked,
            parts.shown,
            show_progress="hidden",
            api_visibility="private",
        )

    def _weight_of(self, request: gr.Request, expression: str, name: str) -> Any:
        """Returns the weight that vectors have in the expression, if it can be read."""
        try:
            weights = dict(read_expression(expression, self._known(request)))
        except ConfigError:  # the person may be typing it
            return gr.skip()
        return min(max(weights.get(name, 0.0), SMALLEST_SCALE), LARGEST_SCALE)

    def _weigh(self, request: gr.Request, expression: str, name: str, weight: float) -> str:
        """Gives vectors another weight in the expression."""
        try:
            return with_weight(expression, name, weight, self._known(request))
        except ConfigError as error:
            raise told(error) from error

    def _known(self, request: gr.Request) -> list[str]:
        return [*self._names, *self._session(request).others]

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
            step=int(step) if len(self.playground.checkpoints.steps) > 1 else None,
            scale=float(scale),
            temperature=float(temperature),
            seed=int(seed),
            most_tokens=int(length),
        )

    def _session(self, request: gr.Request) -> Session:
        return self.sessions.of(str(request.session_hash))

    def _leave(self, request: gr.Request) -> None:
        """Frees what a tab that has gone had."""
        self.sessions.end(str(request.session_hash))

    async def _stop(self, request: gr.Request) -> None:
        self._session(request).stop()

    async def _answer_soon(self, request: gr.Request, *values: Any) -> Pictures:
        """Answers as soon as a control stands still, if there has been an answer before."""
        session = self._session(request)
        if session.sides is None:
            return
        moved = session.begin()
        await asyncio.sleep(SECONDS_STILL)
        if not moved.is_set():
            async with aclosing(self._answer(request, *values)) as pictures:
                async for picture in pictures:
                    yield picture

    async def _answer(self, request: gr.Request, *values: Any) -> Pictures:
        """Streams both answers, then their verdicts and the colours of the tokens."""
        session, playground = self._session(request), self.playground
        question = self._question(session, values)
        sides = await playground.api.aside(playground.start, question, dict(session.others))
        stopped, session.sides = session.begin(), sides
        same = (gr.skip(), gr.skip())
        yield *_shown(sides), "", {}, {}
        async for _ in until(stopped, playground.answer(sides)):
            yield *_shown(sides), "answering", *same
        if not stopped.is_set():
            await playground.judge(sides)
        if not stopped.is_set():
            yield *_shown(sides), "reading how far the tokens moved", *same
            try:
                found = await playground.token_moves(sides)
            except Closed:  # the program ends, and the answers are whole
                yield *_shown(sides), "the program has ended", *same
                return
            texts = await playground.api.aside(playground.texts_of, sides.steered.ids)
        if not stopped.is_set():
            tokens = self._tokens(sides, texts, found)
            yield *_shown(sides), _summary(sides, [x.kl for x in found]), {"tokens": tokens}, {}
        elif session.sides is sides:  # else another answer is shown by now
            yield *_shown(sides), "stopped", *same

    def _tokens(
        self, sides: Sides, texts: Sequence[str], found: Sequence[Move]
    ) -> list[dict[str, Any]]:
        left_out = self.playground.models.policy.ids_without_text
        return [
            {
                "text": printable(text),
                "special": token in left_out,
                "kl": _finite(move.kl),
                "base": _finite(move.base),
                "steered": _finite(move.steered),
            }
            for token, text, move in zip(sides.steered.ids, texts, found, strict=True)
        ]

    async def _choose(self, request: gr.Request, event: gr.EventData) -> Pictures:
        """Shows what could stand at a place, and then what each layer does there."""
        session = self._session(request)
        sides, index = session.sides, event.index
        if sides is None or not isinstance(index, int) or not 0 <= index < len(sides.steered.ids):
            return
        session.num_chosen += 1
        mine = session.num_chosen
        drawn = sides.steered.ids[index]
        choices = [
            {
                "text": printable(self.playground.token_text(choice.id)),
                "base": _finite(choice.base),
                "steered": _finite(choice.steered),
                "is_drawn": choice.id == drawn,
            }
            for choice in await self.playground.choices(sides, index)
        ]
        shown = {"index": index, "choices": choices}
        num_layers = len(sides.vectors.layers)
        layers: list[dict[str, Any]] = []
        if session.sides is sides and session.num_chosen == mine:
            yield {**shown, "layers": layers, "num_left": num_layers}
        async with aclosing(self.playground.layer_moves(sides, index)) as groups:
            async for found in groups:
                if session.sides is not sides or session.num_chosen != mine:
                    return
                layers = [
                    {"layer": x.layer, "kl": _finite(x.kl), "gain": _finite(x.gain)} for x in found
                ]
                yield {**shown, "layers": layers, "num_left": num_layers - len(found)}

    def _load(self, request: gr.Request, paths: list[str]) -> Any:
        """Loads further files of vectors for this tab."""
        session = self._session(request)
        try:
            if len(paths) + len(session.others) > MOST_FILES:
                rule = f"a tab may load {MOST_FILES} files"
                raise ConfigError("vectors", len(paths), rule=rule, fix="Reload the page")
            for path in map(Path, paths):
                name = stem = one_line(path.stem)
                taken, number = {*self._names, *session.others}, 2
                while name in taken:
                    name, number = f"{stem} ({number})", number + 1
                check_names({*taken, name})
                session.others[name] = self.playground.load_file(path)
        except Exception as error:  # whatever it is, the page goes on
            raise told(error) from error
        finally:
            for path in map(Path, paths):
                path.unlink(missing_ok=True)
        names = [*self._names, *session.others]
        return gr.Dropdown(names, value=names[-1]), 0.0

    def _save(self, request: gr.Request, *values: Any) -> Any:
        """Writes the mixture, with the scale, as a file to download."""
        session = self._session(request)
        try:
            question = self._question(session, values)
            path = Path(tempfile.mkdtemp(dir=self._folder)) / "mixture.safetensors"
            self.playground.save(path, question, session.others)
        except Exception as error:  # whatever it is, the page goes on
            raise told(error) from error
        return gr.File(str(path), visible=True)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _shown(sides: Sides) -> tuple[Any, Any]:
    """Returns both answers, with their verdicts in the labels."""
    return _box(sides.base, "Base"), _box(sides.steered, "Steered")


def _box(side: Side, name: str) -> Any:
    label = name if side.verdict is None else f"{name}: {side.verdict.text}"
    return gr.Textbox(printable(side.text), label=label)


def _summary(sides: Sides, kls: Sequence[float]) -> str:
    """Says how the answers ended, and how far the vectors moved the steered one."""
    mean = sum(kls) / len(kls)
    ends = [
        f"{name}: {len(side.ids)} tokens{'' if side.found.finish == 'stop' else ', cut off'}"
        for name, side in (("base", sides.base), ("steered", sides.steered))
    ]
    return f"{'; '.join(ends)}; {mean:.3g} nats a token, {max(kls):.3g} at most"
