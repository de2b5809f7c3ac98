"""Playgrounds that are loaded: on the quickstart, and on a tiny model that writes hostile text."""

from __future__ import annotations

import asyncio
import gc
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import gradio as gr
import torch

from steer_lightning import save_vectors
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.play.server import Play
from steer_lightning.rollout import Sampling
from steer_lightning.system.run_files import CONFIG, SUMMARY
from steer_lightning.testing import byte_tokenizer, tiny_model

T = TypeVar("T")

HOSTILE = (
    "<img src=x onerror=alert(1)> {{value}} ${alert(2)} \x1b[31m\u202e\r **b** "
    "[a](javascript:alert(3)) <script>alert(4)</script></span>\n"
)


def make_run(folder: Path, steps: tuple[int, ...] = (10, 20, 30)) -> Path:
    """Makes the folder of a run of the quickstart, with random vectors that grow at each step."""
    run = folder / "run-1"
    rows = 60 * torch.randn(4, 192, generator=torch.Generator().manual_seed(1))
    save_vectors(rows, run / "steering_vectors.safetensors", base_model="quickstart")
    for step in steps:
        path = run / f"vectors/step_{step:06d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_vectors(rows * step / steps[-1], path, base_model="quickstart", step=step)
    shutil.copy(Path(__file__).parents[1] / "configs/quickstart.yaml", run / CONFIG)
    (run / SUMMARY).write_text("{}")
    return run


def play_quickstart(run: Path, **options: object) -> Play:
    """A playground on the quickstart with 20 problems, not loaded yet."""
    settings: dict[str, object] = {
        "vectors": [str(run)],
        "template": PlainTemplate("{question}=?\n"),
        "benchmarks": {"arithmetic": Arithmetic(num_problems=20, split="test")},
        "sampling": Sampling(group_size=1, max_new_tokens=64),
        "dtype": "float32",
        "device": "cpu",
        "port": 0,
        "max_length": 512,
        **options,
    }
    return Play(**settings)  # type: ignore[arg-type]


def save_hostile(folder: Path) -> list[str]:
    """Trains a tiny model to write `HOSTILE` again and again; returns its folder and vectors."""
    model, tokenizer = tiny_model("llama", layers=2, width=64), byte_tokenizer()
    batch = torch.tensor([tokenizer(HOSTILE * 3)["input_ids"]])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        loss = model(input_ids=batch, labels=batch).loss
        if loss < 0.01:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.config.max_position_embeddings = 16384  # so that an answer may go on for long
    model.save_pretrained(folder / "hostile")
    tokenizer.save_pretrained(folder / "hostile")
    file = folder / "<b>&vectors.safetensors"
    save_vectors(torch.full((2, 64), 1e-4), file, base_model=str(folder / "hostile"))
    return [str(folder / "hostile"), str(file)]


@contextmanager
def without_loops() -> Iterator[None]:
    """Collects the event loops that Gradio leaves open, before another test is blamed for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            yield
        finally:
            asyncio.set_event_loop(None)
            gc.collect()


@contextmanager
def served(play: Play) -> Iterator[str]:
    """Loads a playground and serves its page; yields the address."""
    play.playground.load()
    with ExitStack() as stack:
        stack.callback(play.playground.close)
        with without_loops():
            url, _ = stack.enter_context(play.served())
        try:
            yield url
        finally:
            with without_loops():
                stack.close()


def in_blocks(make: Callable[[], T]) -> T:
    """Makes parts of a page as on a page."""

    async def made() -> T:
        with gr.Blocks():
            return make()

    return asyncio.run(made())
