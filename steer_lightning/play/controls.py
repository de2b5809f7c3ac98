"""The controls of the page, and the values that make up a question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from steer_lightning.play.mixture import expression_of
from steer_lightning.play.playground import Playground

SMALLEST_SCALE, LARGEST_SCALE = -2.0, 3.0
AS_QUESTION, AS_PROMPT = "question, in the template of the training", "whole prompt, as it is"


@dataclass(frozen=True)
class Parts:
    """The parts of the page that others read or change."""

    prompt: gr.Textbox
    kind: gr.Radio
    expression: gr.Textbox
    step: gr.Slider
    scale: gr.Slider
    temperature: gr.Slider
    seed: gr.Number
    length: gr.Number
    acting: gr.CheckboxGroup
    factors: Sequence[gr.Slider]
    base: gr.Textbox
    steered: gr.Textbox
    status: gr.Textbox
    tokens: gr.HTML
    place: gr.HTML

    @property
    def shown(self) -> list[Any]:
        """What an answer changes."""
        return [self.base, self.steered, self.status, self.tokens, self.place]

    @property
    def asked(self) -> list[Any]:
        """What makes up a question, in the order of `Page._question`."""
        few = [self.prompt, self.kind, self.expression, self.step, self.scale]
        return [*few, self.temperature, self.seed, self.length, self.acting, *self.factors]


def prompt_controls(playground: Playground) -> tuple[gr.Dropdown, gr.Textbox, gr.Radio]:
    """Makes the list of problems, the prompt, and what kind of prompt it is."""
    problems = list(playground.questions.problems)
    has_template = playground.models.template is not None
    chosen = gr.Dropdown(
        [("", ""), *((line, line) for line in problems)],
        value="",
        label="Problem whose answer is known",
        visible=bool(problems),
    )
    prompt = gr.Textbox(label="Prompt", placeholder="Shift+Enter answers", lines=2, max_lines=12)
    kind = gr.Radio(
        [AS_QUESTION, AS_PROMPT],
        value=AS_QUESTION if has_template else AS_PROMPT,
        label="The prompt is a",
        visible=has_template,
    )
    return chosen, prompt, kind


def number_controls(playground: Playground) -> tuple[gr.Number, gr.Number]:
    """Makes the seed and the largest number of tokens."""
    most = playground.service.max_length - 1
    usual = min(playground.sampling.max_new_tokens, most)
    seed = gr.Number(0, label="Seed of both answers", precision=0, minimum=0)
    length = gr.Number(
        usual, label="Largest number of tokens", precision=0, minimum=1, maximum=most
    )
    return seed, length


def step_slider(playground: Playground) -> gr.Slider:
    """Makes the slider over the steps of the training, which only shows if there are several."""
    steps = playground.checkpoints.steps
    first, last = (steps[0], steps[-1]) if len(steps) > 1 else (0, 1)
    gap = math.gcd(*(step - first for step in steps)) if len(steps) > 1 else 1
    return gr.Slider(
        *(first, last, last),
        step=gap,
        label="Step of the training",
        visible=len(steps) > 1,
    )


class Mixing(NamedTuple):
    """The controls of the mixture: its expression, the weight of one part, and files."""

    expression: gr.Textbox
    part: gr.Dropdown
    weight: gr.Slider
    load: gr.UploadButton
    save: gr.Button
    saved: gr.File


def mixing_controls(playground: Playground) -> Mixing:
    """Makes the controls of the mixture."""
    names = list(playground.models.vectors)
    with gr.Accordion("Mixture of vectors", open=len(names) > 1):
        expression = gr.Textbox(
            expression_of(((names[0], 1.0),)),
            label="Weighted sum of vectors",
            placeholder="such as 0.5 * a + 0.3 * b",
        )
        part = gr.Dropdown(names, value=names[0], label="Vectors")
        weight = gr.Slider(
            *(SMALLEST_SCALE, LARGEST_SCALE, 1.0), step=0.05, label="Weight of these vectors"
        )
        with gr.Row():
            load = gr.UploadButton(
                "Load vectors", file_types=[".safetensors"], file_count="multiple"
            )
            save = gr.Button("Save this mixture")
        saved = gr.File(label="Vectors file", visible=False, interactive=False)
    return Mixing(expression, part, weight, load, save, saved)


def layer_controls(playground: Playground) -> tuple[gr.CheckboxGroup, list[gr.Slider]]:
    """Makes the switches and the factors of single layers."""
    every = [str(layer) for layer in range(playground.num_layers)]
    with gr.Accordion("Layers", open=False):
        acting = gr.CheckboxGroup(every, value=every, label="Layers whose vectors act")
        with gr.Row():
            factors = [
                gr.Slider(
                    *(SMALLEST_SCALE, LARGEST_SCALE, 1.0),
                    step=0.05,
                    label=f"Factor on layer {layer}",
                    min_width=220,
                )
                for layer in every
            ]
    return acting, factors
