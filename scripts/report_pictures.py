"""Takes the pictures of a report that the documentation shows, in a headless Chromium.

    pip install -e ".[test]"     # and a Chromium: apt-get install chromium fonts-roboto
    steer-lightning report runs/quickstart/run-1 --overwrite
    steer-lightning report runs/quickstart/run-1 runs/quickstart/run-2 --overwrite
    steer-lightning sweep --config quickstart --experiments sweep/quickstart-layers
    cd runs/quickstart
    python ../../scripts/report_pictures.py run-1/report.html report.html sweep.html

Writes `docs/images/report.png` (light), `report_phone.png` (a phone in dark mode),
`report_vectors.png` and `report_completions.png`, of the comparison `report_comparison.png`, and of
the sweep `sweep_layers.png`. A page given as `-` is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs/images"


def main() -> None:
    """Opens the page for each picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, help="the HTML file of a run")
    parser.add_argument("comparison", type=Path, help="the HTML file of several runs")
    parser.add_argument("sweep", type=Path, help="the HTML file of a sweep over layers")
    options = parser.parse_args()
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])

        def take(
            name: str, width: int, height: int, show: Any, file: Path = options.report, **how: Any
        ) -> None:
            if str(file) == "-":
                return
            size = {"width": width, "height": height}
            page = browser.new_context(viewport=size, **how).new_page()
            page.goto(file.resolve().as_uri())
            page.wait_for_selector("html[data-drawn]")
            show(page)
            page.screenshot(path=IMAGES / name)
            page.context.close()

        take("report.png", 1200, 1380, lambda page: None)
        phone = {"color_scheme": "dark", "device_scale_factor": 2, "reduced_motion": "reduce"}
        take("report_phone.png", 390, 844, show_vectors, **phone)
        take("report_vectors.png", 1200, 900, show_vectors, reduced_motion="reduce")
        take("report_completions.png", 1200, 900, show_completions, reduced_motion="reduce")
        take(
            "report_comparison.png", 1200, 760, show_curves, options.comparison, color_scheme="dark"
        )
        take("sweep_layers.png", 1200, 700, show_layers, options.sweep)
        browser.close()


def show_layers(page: Page) -> None:
    """Accuracy layer by layer, with the end of the reward curves above it."""
    page.evaluate("document.querySelector('#layers').scrollIntoView()")
    page.wait_for_timeout(500)


def show_curves(page: Page) -> None:
    """Reward and accuracy over each other, along time."""
    page.get_by_role("radio", name="time").check()
    page.evaluate("document.getElementById('curves').scrollIntoView()")
    page.wait_for_timeout(500)


def show_vectors(page: Page) -> None:
    """What the vectors say, layer by layer."""
    page.evaluate("document.querySelector('#vectors h3').scrollIntoView()")


def show_completions(page: Page) -> None:
    """A step in the middle of the run, where some of a group are right and some are not."""
    page.locator("#place").select_option(index=2)
    page.locator("#completions").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('completions').scrollIntoView()")


if __name__ == "__main__":
    main()
