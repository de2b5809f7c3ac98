"""A headless Chromium that opens pages from disk, and watches what they do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from steer_lightning.results.report import write_report
from tests import made_up_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
Open = Callable[..., "Page"]
OPEN_ALL = """() => Promise.all(
  [...document.querySelectorAll("details:not([open])")].map((details) => new Promise((done) => {
    details.addEventListener("toggle", done, { once: true });
    details.open = true;
  })))"""


CONTRAST = """
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = (...layers) => {  // of colours that lie on each other, the last one on top
    for (const colour of layers) {
      const probe = document.body.appendChild(document.createElement("i"));
      probe.style.color = colour;
      canvas.fillStyle = getComputedStyle(probe).color;
      probe.remove();
      canvas.fillRect(0, 0, 1, 1);
    }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (front, ...back) => {
    const [low, high] = [luminance(...back, front), luminance(...back)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
"""
"""Functions that compute the contrast of colours, as WCAG defines it."""


def find_browser() -> str | None:
    """`$CHROMIUM`, or what is on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def open_all(page: Page) -> None:
    """Opens every `details`, and waits until they are filled: browsers tell of it a task later."""
    page.evaluate(OPEN_ALL)


@pytest.fixture(scope="package")  # its event loop would be in the way of other tests
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = find_browser()
    if path is None:
        pytest.skip("needs a Chromium: apt-get install chromium, or its path in $CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Opens a file.

    At the end of the test no page may have failed, said anything on its console (a breach of the
    policy is told there), or asked for anything but itself.
    """
    pages: list[tuple[Page, list[str]]] = []

    def open_page(path: Path, *, width: int = 1280, quiet: bool = True, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        page, told = context.new_page(), []
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("console", lambda message: told.append(f"console: {message.text}"))
        page.on("dialog", lambda dialog: (told.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: told.append(f"request: {request.url}"))
        page.set_default_timeout(10_000)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]")
        assert told.pop(0) == f"request: {path.as_uri()}"
        pages.append((page, told if quiet else []))
        return page

    yield open_page
    for page, told in pages:
        page.context.close()
        assert not told


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a made-up run that has everything."""
    run = made_up_run.make_run(tmp_path_factory.mktemp("runs") / "run-1")
    return write_report(run)
