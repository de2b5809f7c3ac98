"""The life of the playground, from the loaded base to the last answer."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Literal

from steer_lightning.data import Template
from steer_lightning.endpoint.server import LOCAL, bound_socket, check_ranges, is_local
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.inference.loaded_models import LoadedModels
from steer_lightning.play.playground import Playground
from steer_lightning.play.questions import Questions
from steer_lightning.rewards import Reward
from steer_lightning.rollout import Sampling
from steer_lightning.system.extras import install_command
from steer_lightning.system.printable import one_line
from steer_lightning.types import Source

if TYPE_CHECKING:
    import gradio as gr

log = logging.getLogger(__name__)

SECONDS_TO_SHOW = 1.0
"""Time in seconds that the page has to show the end of the last answers."""


class Play:
    """Opens a page on which a person tries vectors out.

    Args:
        vectors: File of vectors, or folder of a run; or a list of these.
        base: Base model: hub id, local folder or `quickstart`; null takes the one that the files
            name.
        template: Template that renders questions; null takes that of the run, or otherwise the
            model's own chat template.
        benchmarks: Sources of problems whose answers are known, by name.
        sampling: Settings of answers; the page sets temperature and length.
        verifier: Reward that judges answers to these problems; null takes `MathReward`.
        host: Address at which the page is served. Whoever reaches another one than this machine's
            own can use the model.
        port: Port at which the page is served; 0 takes a free one.
        share: Whether to make a public link by Gradio's servers, through which texts then pass.
        max_length: Largest number of tokens of a prompt with its answer; null takes the smaller of
            the base's positions and 4,096.
        max_rows: Largest number of answers that are sampled at the same time; others wait.
        max_requests: Largest number of answers that wait or are sampled; further ones are refused.
        timeout: Largest number of seconds from a question to the end of its answers.
        device: Device of the model; `auto` takes a GPU if there is one.
        dtype: Dtype of the base.
        revision: Revision of the base on the hub.
        trust_remote_code: Whether to run code that comes with the base; `base` must then be given.

    Raises:
        ConfigError: If a setting is out of range, the port is in use, or vectors do not fit the
            base; all before the base loads.
    """

    def __init__(
        self,
        vectors: str | list[str],
        base: str | None = None,
        template: Template | None = None,
        benchmarks: dict[str, Source] | None = None,
        sampling: Sampling = Sampling(group_size=1, max_new_tokens=256),  # noqa: B008  # frozen
        verifier: Reward | None = None,
        host: str = "127.0.0.1",
        port: int = 7860,
        share: bool = False,
        max_length: int | None = None,
        max_rows: int = 16,
        max_requests: int = 64,
        timeout: float = 600.0,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        _check_extra()
        check_ranges(port, timeout)
        if max_requests < 2:
            rule = "must be at least 2"
            why = "A question has two answers, with and without vectors"
            raise ConfigError("max_requests", max_requests, rule=rule, why=why)
        paths = [vectors] if isinstance(vectors, str) else list(vectors)
        if not paths:
            raise ConfigError("vectors", paths, rule="must name a file of vectors, or a run")
        models = LoadedModels(
            paths,
            base,
            template=template,
            max_length=max_length,
            max_rows=max_rows,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        questions = Questions(benchmarks or {}, verifier)
        self.playground = Playground(
            models,
            paths,
            questions,
            sampling=sampling,
            max_requests=max_requests,
            timeout=timeout,
        )
        self.host, self.share = host, share
        with bound_socket(host, port) as free:
            self.port: int = free.getsockname()[1]

    def run(self, on_ready: Callable[[str, str | None], None]) -> None:
        """Loads the base and serves the page until SIGTERM or Ctrl-C; then lets answers end.

        Args:
            on_ready: Function that is called with the address and the public link, if any, as soon
                as the page is served.

        Raises:
            ConfigError: If the port has been taken meanwhile.
        """
        if not is_local(self.host):
            log.warning(
                "the page is served at %s: whoever reaches this machine can use the model. Texts "
                "are sent unencrypted",
                one_line(self.host),
            )
        if self.share:
            log.warning(
                "share: whoever has the link can use the model, and all texts pass through "
                "Gradio's servers"
            )
        self.playground.load()
        ended = threading.Event()
        try:
            with _signals(ended), self.served() as (url, link):
                on_ready(url, link)
                ended.wait()
                self.playground.close()
                time.sleep(SECONDS_TO_SHOW)
        finally:
            self.playground.close()

    @contextmanager
    def served(self) -> Iterator[tuple[str, str | None]]:
        """Serves the page within the block; yields its address and the public link, if any.

        Raises:
            ConfigError: If the port has been taken meanwhile.
        """
        prepare_gradio()
        from starlette.middleware import Middleware

        from steer_lightning.play.guard import Guard
        from steer_lightning.play.page import MOST_BYTES, Page, asset

        hosts = frozenset({self.host, *LOCAL}) if is_local(self.host) and not self.share else None
        guard = [Middleware(Guard, hosts=hosts)]
        with TemporaryDirectory() as folder:
            blocks = Page(self.playground, Path(folder)).blocks()
            try:
                _, url, link = blocks.launch(
                    server_name=f"[{self.host}]" if ":" in self.host else self.host,
                    server_port=self.port,
                    share=self.share,
                    quiet=True,
                    prevent_thread_lock=True,
                    footer_links=[],
                    run_history=False,
                    ssr_mode=False,
                    enable_monitoring=False,
                    app_kwargs={"middleware": guard},
                    max_file_size=MOST_BYTES,
                    allowed_paths=[folder],
                    theme=_theme(),
                    css=asset("page.css"),
                )
            except OSError as error:
                rule = f"can't be taken at {self.host} ({one_line(error)})"
                raise ConfigError("port", self.port, rule=rule) from error
            try:
                yield url, link
            finally:
                blocks.close(verbose=False)


def _theme() -> gr.themes.Base:
    """Returns Gradio's look, with text of a contrast of 4.5 and controls of 3 (WCAG AA)."""
    import gradio as gr

    return gr.themes.Default(font=["system-ui"], font_mono=["monospace"]).set(
        body_text_color_subdued="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        checkbox_background_color_selected="*primary_600",
        checkbox_border_color_selected="*primary_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        slider_color="*primary_600",
    )


class _signals:
    """Sets an event at SIGTERM or Ctrl-C, within the block; the second one ends the process.

    Args:
        ended: Event to set.
    """

    def __init__(self, ended: threading.Event) -> None:
        self._ended = ended

    def __enter__(self) -> None:
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._ended.is_set():  # whoever asks twice does not want to wait for answers
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._ended.set()

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@cache
def prepare_gradio() -> None:
    """Sets what Gradio reads from the environment when it is imported."""
    folder = TemporaryDirectory(prefix="steer-lightning-play-")
    atexit.register(folder.cleanup)
    os.environ["GRADIO_TEMP_DIR"] = folder.name  # else files of visitors outlive the program
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Gradio looks whether its own page answers, which a proxy can't tell
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), *LOCAL]))


def _check_extra() -> None:
    """Raises a ConfigError if the libraries of the page are not installed."""
    if find_spec("gradio") is None:
        raise ConfigError(
            "play", UNKNOWN, rule="needs gradio", fix=f"Run {install_command('play')}"
        )
