"""Takes the pictures of `play` that the documentation shows, in a headless Chromium.

    pip install -e ".[test]"     # and a Chromium: apt-get install chromium fonts-roboto
    steer-lightning fit --config quickstart --trainer.callbacks+=VectorCheckpoint \
        --trainer.callbacks.keep_all=true
    steer-lightning play --vectors runs/quickstart/run-1 --port 7860 &
    python scripts/play_pictures.py http://127.0.0.1:7860/

Writes `docs/images/play.png` and `play_phone.png` (a phone in dark mode).
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs/images"


def main() -> None:
    """Opens the page for each picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="the address of the page")
    options = parser.parse_args()
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1170})
        ask(page, options.url)
        page.screenshot(path=IMAGES / "play.png")
        phone = browser.new_page(
            viewport={"width": 390, "height": 844},
            color_scheme="dark",
            device_scale_factor=2,
        )
        ask(phone, options.url)
        phone.locator("#sl-base").evaluate("x => x.scrollIntoView()")
        phone.screenshot(path=IMAGES / "play_phone.png")
        browser.close()


def ask(page: Page, url: str) -> None:
    """Asks for a sum, and chooses the token that was moved most."""
    page.goto(url)
    page.get_by_label("Prompt", exact=True).fill("59+63")
    page.get_by_role("button", name="Answer", exact=True).click()
    page.locator(".sl-tokens > span").first.click()
    page.locator(".sl-place table").nth(1).wait_for()
    page.wait_for_timeout(1000)
    page.evaluate("window.scrollTo(0, 0)")


if __name__ == "__main__":
    main()
