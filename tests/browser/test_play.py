"""The page of `play`, used by a person: in a real browser, on real models."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from steer_lightning.play.server import Play
from steer_lightning.steering import load_vectors
from tests import played
from tests.browser.conftest import CONTRAST

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

# Gradio uses what pandas is about to drop
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SECONDS = 60
"""Longer than anything here takes; only a fault lets a test wait for so long."""


class Opened:
    """A tab with the page of a playground, which may neither fail nor ask for anything else."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        width: int = 1280,
        height: int = 1000,
        scheme: Literal["light", "dark"] = "light",
    ) -> None:
        self.url, self.told = url, list[str]()
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, color_scheme=scheme
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.page.on("pageerror", lambda error: self.told.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.told.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self._note(request.url))
        self.page.goto(url)
        self.page.get_by_role("button", name="Answer", exact=True).wait_for()

    def _note(self, url: str) -> None:
        if not url.startswith((self.url, "data:", f"blob:{self.url}")):
            self.told.append(f"request: {url}")

    def field(self, name: str) -> Locator:
        return self.page.get_by_label(name, exact=True)

    @property
    def base(self) -> str:
        return self.page.locator("#sl-base textarea").input_value()

    @property
    def steered(self) -> str:
        return self.page.locator("#sl-steered textarea").input_value()

    @property
    def status(self) -> str:
        return self.field("Status").input_value()

    @property
    def tokens(self) -> Locator:
        return self.page.locator(".sl-tokens > span")

    def ask(self, prompt: str) -> None:
        """Types a prompt and sends it by the keyboard; the answer is complete afterwards."""
        self.field("Prompt").fill(prompt)
        self.forget_status()
        self.field("Prompt").press("Shift+Enter")
        self.wait_for_answer()

    def forget_status(self) -> None:
        """Empties the status on the page, so that an earlier one is not read for the next."""
        self.field("Status").evaluate("x => { x.value = '' }")

    def wait_for_answer(self) -> None:
        until(lambda: "nats a token" in self.status)

    def toast(self) -> str:
        return self.page.locator(".toast-wrap").inner_text()


def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played.make_run(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def quickstart(run: Path) -> Iterator[tuple[Play, str]]:
    """A playground on the quickstart, with its address."""
    play = played.play_quickstart(run)
    with played.served(play) as url:
        yield play, url


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Play, str]]:
    """A playground on a model that writes hostile text without an end, with its address."""
    base, file = played.save_hostile(tmp_path_factory.mktemp("work"))
    play = Play([file], base, port=0, device="cpu", max_length=16384, max_rows=4)
    with played.served(play) as url:
        yield play, url


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Opens pages; at the end none may have failed or asked for anything but itself."""
    pages: list[Opened] = []

    def open_page(url: str, **options: Any) -> Opened:
        pages.append(Opened(browser, url, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()
        assert not page.told


Open = Callable[..., Opened]


def test_sliders_change_the_answer_by_the_keyboard(
    quickstart: tuple[Play, str], opened: Open
) -> None:
    _, url = quickstart
    tab = opened(url)
    tab.ask("59+63")
    first = tab.steered
    assert first != tab.base, "the vectors change the answer"
    scale = tab.page.get_by_label("range slider for Scale")
    scale.focus()
    for _ in range(20):  # steps of 0.05, from 1 to 0
        tab.page.keyboard.press("ArrowLeft")
    until(lambda: tab.steered == tab.base != "")
    tab.wait_for_answer()
    # the tokens are those of the last place of the slider, once it has been answered
    until(lambda: "; 0 nats a token" in tab.status)
    moved = [token.get_attribute("aria-label") or "" for token in tab.tokens.all()]
    assert moved
    assert all("moved by 0.00 nats" in label for label in moved)
    for _ in range(20):
        tab.page.keyboard.press("ArrowRight")
    until(lambda: tab.steered == first)  # the same seed draws the same numbers


def test_tokens_are_coloured_by_their_kl_and_tell_what_layers_do(
    quickstart: tuple[Play, str], opened: Open
) -> None:
    _, url = quickstart
    tab = opened(url)
    tab.ask("59+63")
    labels = [token.get_attribute("aria-label") or "" for token in tab.tokens.all()]
    kls = [float(re.findall(r"moved by (\S+) nats", label)[0]) for label in labels]
    shown = float(re.findall(r"([\d.e-]+) nats a token", tab.status)[0])
    assert shown == pytest.approx(sum(kls) / len(kls), rel=0.01)
    text = "".join(tab.tokens.all_text_contents()).replace("·", "")  # · for a part of a character
    assert text == f"{tab.steered}<eos>"
    most = max(range(len(kls)), key=kls.__getitem__)
    colours = [
        float(tab.tokens.nth(k).evaluate("x => x.style.getPropertyValue('--moved')"))
        for k in range(len(kls))
    ]
    assert colours[most] == max(colours) > 0

    tab.tokens.first.focus()  # by the keyboard alone: the arrows lead to the token
    for _ in range(most):
        tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Enter")
    tables = tab.page.locator(".sl-place table")
    tables.nth(1).wait_for()
    until(lambda: "to go" not in tables.nth(1).inner_text())
    assert tab.tokens.nth(most).get_attribute("aria-pressed") == "true"
    drawn = tables.nth(0).locator(".sl-drawn").inner_text().split("\t")
    base, steered = (float(text.split(" %")[0]) for text in drawn[1:])
    told = re.findall(r"probability (\S+) % -> (\S+) %", labels[most])[0]
    assert (base, steered) == pytest.approx(tuple(map(float, told)), rel=0.06)
    assert tables.nth(1).locator("tbody tr").count() == 4


def test_the_step_of_the_training_and_a_mixture(
    quickstart: tuple[Play, str], opened: Open, run: Path, tmp_path: Path
) -> None:
    _, url = quickstart
    tab = opened(url)
    tab.page.get_by_label("number input for Step of the training").fill("20")
    tab.page.get_by_label("number input for Step of the training").press("Enter")
    tab.ask("59+63")
    at_step_20 = tab.steered
    tab.page.get_by_label("number input for Step of the training").fill("30")
    tab.page.get_by_label("number input for Step of the training").press("Enter")
    until(lambda: tab.steered != at_step_20 and "nats a token" in tab.status)
    tab.page.get_by_role("button", name="Mixture of vectors").click()
    tab.page.locator("input[type=file]").first.set_input_files(
        str(run / "vectors/step_000020.safetensors")
    )
    until(lambda: tab.field("Vectors").input_value() == "step_000020")
    weight = tab.page.get_by_label("number input for Weight of these vectors")
    weight.fill("2")
    tab.forget_status()
    weight.press("Enter")
    expression = tab.page.get_by_label("Weighted sum of vectors")
    until(lambda: expression.input_value() == "run-1 + 2 * step_000020")
    tab.wait_for_answer()
    # the vectors of step 20 are two thirds of those of step 30
    tab.page.get_by_label("Weighted sum of vectors").fill("2 * step_000020 - 0.6666666667 * run-1")
    tab.ask("59+63")
    until(lambda: tab.steered == at_step_20)
    tab.page.get_by_role("button", name="Save this mixture").click()
    link = tab.page.locator("a[download]")
    with tab.page.expect_download() as waiting:
        link.first.click()
    waiting.value.save_as(tmp_path / "mixture.safetensors")
    found = load_vectors(tmp_path / "mixture.safetensors")
    whole = load_vectors(run / "steering_vectors.safetensors").vectors
    assert (found.vectors - whole * 2 / 3).abs().max() < 1e-4
    assert "2 * step_000020 - 0.6666666667 * run-1" in found.metadata["origin"]


def test_a_known_problem_gets_its_verdict(quickstart: tuple[Play, str], opened: Open) -> None:
    play, url = quickstart
    problem = next(iter(play.playground.questions.problems.values()))
    tab = opened(url)
    chosen = tab.field("Problem whose answer is known")
    chosen.fill(problem.question)
    chosen.press("Enter")
    until(lambda: tab.field("Prompt").input_value() == problem.question)
    tab.ask(problem.question)
    told = tab.page.get_by_text(f"the answer is {problem.answer}").or_(
        tab.page.get_by_text("Base: right")
    )
    assert told.count() >= 1


def test_hostile_text_is_text(hostile: tuple[Play, str], opened: Open) -> None:
    _, url = hostile
    tab = opened(url)
    tab.field("Largest number of tokens").fill("130")
    tab.page.get_by_label("range slider for Temperature").press("Home")
    tab.ask("<img src=y onerror=alert(5)>${alert(6)}")
    tab.ask("<")
    shown = tab.steered
    assert "onerror=alert(1)> {{value}} ${alert(2)} \\x1b[31m\\u202e\\r" in shown
    assert tab.tokens.count() == 130
    texts = re.sub("[·⏎]", "", "".join(tab.tokens.all_text_contents()))
    assert texts == shown
    tab.tokens.nth(1).click()
    tab.page.locator(".sl-place table").nth(1).wait_for()
    assert tab.page.locator("img[src=x], img[src=y]").count() == 0
    assert tab.page.locator(".sl-tokens script, textarea script").count() == 0
    # the name of the vectors, and what a message quotes
    tab.page.get_by_role("button", name="Mixture of vectors").click()
    assert tab.field("Vectors").input_value() == "<b>&vectors"
    tab.page.get_by_label("Weighted sum of vectors").fill("<img src=x onerror=alert(7)>")
    tab.page.get_by_role("button", name="Answer", exact=True).click()
    until(lambda: "<img src=x onerror=alert(7)>" in tab.toast())
    assert "<b>&vectors" in tab.toast()
    assert tab.page.locator("img[src=x]").count() == 0


def long_answer(tab: Opened) -> None:
    """Asks for an answer that takes longer than a test, and waits until it streams."""
    tab.field("Largest number of tokens").fill("16000")
    tab.field("Prompt").fill("<")
    tab.field("Prompt").press("Shift+Enter")
    until(lambda: len(tab.steered) > 20)


def test_the_stop_button_frees_the_rows(hostile: tuple[Play, str], opened: Open) -> None:
    play, url = hostile
    tab = opened(url)
    long_answer(tab)
    assert play.playground.service.num_open == 2
    tab.page.get_by_role("button", name="Stop").click()
    until(lambda: tab.status == "stopped")
    until(lambda: play.playground.service.num_open == 0)
    assert len(tab.steered) < 12000


@pytest.mark.parametrize("leaves", ["close", "reload"])
def test_a_tab_that_is_left_frees_its_rows(
    hostile: tuple[Play, str], opened: Open, leaves: str
) -> None:
    play, url = hostile
    tab = opened(url)
    long_answer(tab)
    if leaves == "close":
        tab.page.close()
    else:
        tab.page.reload()
    until(lambda: play.playground.service.num_open == 0)
    if leaves == "reload":
        tab.field("Largest number of tokens").fill("20")
        tab.ask("<")
        assert tab.steered


def test_two_tabs_at_once_get_what_each_gets_alone(
    quickstart: tuple[Play, str], opened: Open
) -> None:
    _, url = quickstart
    alone = opened(url)
    answers = {}
    for prompt in ("59+63", "12+34"):
        alone.ask(prompt)
        answers[prompt] = (alone.base, alone.steered)
    tabs = {prompt: opened(url) for prompt in answers}
    for prompt, tab in tabs.items():
        tab.field("Prompt").fill(prompt)
    for tab in tabs.values():
        tab.field("Prompt").press("Shift+Enter")
    for prompt, tab in tabs.items():
        tab.wait_for_answer()
        assert (tab.base, tab.steered) == answers[prompt]


def test_a_phone_needs_no_sideways_scrolling_and_names_all_controls(
    quickstart: tuple[Play, str], opened: Open
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    _, url = quickstart
    tab = opened(url, width=390, height=844)
    tab.ask("59+63")
    tab.tokens.first.click()
    tab.page.locator(".sl-place table").nth(1).wait_for()
    width = tab.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    rules = {"runOnly": ["button-name", "label", "aria-allowed-attr", "aria-required-children"]}
    assert Axe().run(tab.page, options=rules).violations_count == 0


CONTRASTS = (
    f"() => {{{CONTRAST}"
    + """
  const style = (selector) => getComputedStyle(document.querySelector(selector));
  const paper = style("body").backgroundColor, token = style(".sl-tokens > span");
  const block = "var(--block-background-fill)";
  return {
    paper: luminance(paper),
    text: {
      token: contrast(token.color, paper, token.backgroundColor),
      placeholder: contrast("var(--input-placeholder-color)", "var(--input-background-fill)"),
    },
    shapes: {
      chosen: contrast(style(".sl-tokens > [aria-pressed=true]").outlineColor, paper),
      base: contrast(style(".sl-bar.sl-base").backgroundColor, paper),
      steered: contrast(style(".sl-bar.sl-steered").backgroundColor, paper),
      slider: contrast("var(--slider-color)", block),
      box: contrast("var(--checkbox-background-color-selected)", block),
    },
  };
}"""
)


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_colours_have_contrast_and_axe_finds_nothing(
    quickstart: tuple[Play, str], opened: Open, scheme: str, dark: bool
) -> None:
    """Contrast of AA, also of shapes, which axe does not judge, and on the strongest colour."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    _, url = quickstart
    tab = opened(url, scheme=scheme)
    tab.ask("59+63")
    tab.tokens.first.click()
    tab.page.locator(".sl-place table").nth(1).wait_for()
    for name, inside in (
        ("Mixture of vectors", "Weighted sum"),
        ("Layers", "Layers whose vectors"),
    ):
        tab.page.get_by_role("button", name=name).click()
        tab.page.get_by_text(inside).wait_for()
    tab.page.locator(".sl-tokens").evaluate(
        "x => [...x.children].forEach((token) => token.style.setProperty('--moved', 1))"
    )
    found = tab.page.evaluate(CONTRASTS)
    assert (found["paper"] < 0.1) is dark
    assert min(found["text"].values()) >= 4.5, found
    assert min(found["shapes"].values()) >= 3, found
    violations = axe.run(tab.page).response["violations"]
    assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in violations]
