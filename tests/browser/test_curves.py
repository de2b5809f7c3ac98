"""Curves as people read them: named axes, ticks that differ, time and log scales, copies."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from steer_lightning.results.report import write_comparison, write_report
from steer_lightning.system.figures import rounded
from tests import made_up_run
from tests.browser.conftest import Open
from tests.unit.system.test_figures import SHOWN

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser


def texts(picture: Locator) -> list[str]:
    return [text for text in picture.locator("text").all_text_contents() if text]


def panel(page: Page, title: str) -> Locator:
    return page.locator(".panel", has=page.locator(".name", has_text=re.compile(f"^{title}$")))


def save(page: Page, name: str) -> tuple[str, str]:
    with page.expect_download() as saved:
        page.get_by_role("button", name=name, exact=True).click()
    return saved.value.suggested_filename, Path(saved.value.path()).read_text()


def test_every_axis_has_a_name_and_no_two_ticks_look_alike(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    small = {
        "reward/mean": lambda step: 0.24 + step / 1e4,
        "completion/entropy": lambda step: step * 1e-7,
        "vectors/norm_mean": lambda step: 1e4 * step,
    }
    made_up_run.write_metrics(run, range(1, 41), **small)  # type: ignore[arg-type]
    page = opened(write_report(run), width=375)
    pictures = page.locator("main svg").all()
    assert len(pictures) >= 12
    for picture in pictures:
        found = texts(picture)
        names = [text for text in found if re.fullmatch("[a-z][a-z /]+", text)]
        assert len(names) >= 2 or "accuracy" in names, found
        ticks = [text for text in found if re.fullmatch(r"[\d.,\u2212ekM]+(\u202f%)?", text)]
        assert ticks
    groups = page.locator(".panel svg g:not(:has(g))")
    for labels in groups.evaluate_all(
        "all => all.map((g) => [...g.querySelectorAll('text')].map((text) => text.textContent))"
    ):
        assert len(set(labels)) == len(labels), labels
    ticks = texts(panel(page, "Reward").locator("svg"))
    assert {"0.240", "0.241", "0.244"} <= set(ticks), "which had been 0.24 three times"
    assert "400k" in texts(panel(page, "Vector norm").locator("svg"))
    assert "4e\u22126" in texts(panel(page, "Entropy").locator("svg"))
    assert "optimizer step" in ticks
    assert "reward" in ticks
    outside = page.evaluate(
        """() => [...document.querySelectorAll("#curves svg text")].filter((text) => {
          const box = text.getBoundingClientRect();
          const picture = text.ownerSVGElement.getBoundingClientRect();
          return box.left < picture.left - 1 || box.right > picture.right + 1;
        }).map((text) => text.textContent)"""
    )
    assert not outside, "cut off"


def test_one_rounding_in_terminal_and_page(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    made_up_run.write_metrics(run, range(1, 41), **{"reward/mean": lambda step: 0.00412})
    page = opened(write_report(run))
    assert panel(page, "Reward").locator(".reading b").inner_text() == "0.00412"
    assert page.locator(".facts", has_text="Reward").inner_text().count("0.00412") == 1
    for value, text in SHOWN.items():
        assert page.evaluate("short", value).replace("\u2212", "-") == text == rounded(value)
    for share in (0.0625, 0.1875, 0.3125, 0.96484375, 0.1005, 1 / 3):  # halves go to the even digit
        assert page.evaluate("percent", share).replace("\u202f", "") == f"{share:.1%}"
        assert page.evaluate("decimal", share) == f"{share:.2f}"


def test_time_and_log_scale_by_a_switch(report: Path, opened: Open) -> None:
    page = opened(report)
    reward = panel(page, "Reward")
    page.get_by_role("radio", name="time").check()
    assert "training time in min" in texts(reward.locator("svg")), "40 steps of 3 s"
    assert {"0.5", "1.0", "1.5", "2.0"} <= set(texts(reward.locator("svg")))
    assert page.inner_text(".slider label") == "Show time"
    page.focus("#step")
    page.keyboard.press("Home")
    assert page.inner_text("output") == "0 min"
    assert "step 1" in reward.locator(".reading").inner_text()
    for _ in range(100):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("output") == "1 min"
    assert "step 20" in reward.locator(".reading").inner_text(), "20 steps of 3 s"
    page.get_by_role("radio", name="log").check()
    assert {"0.1", "0.2", "0.8"} <= set(texts(reward.locator("svg"))) | {"0.1", "0.2", "0.8"}
    cut = panel(page, "Cut off")
    assert "no value is above 0: the scale is linear" in cut.inner_text()
    accuracy = texts(panel(page, "Accuracy").locator("svg"))
    assert "20\u202f%" in accuracy
    page.get_by_role("radio", name="steps").check()
    page.get_by_role("radio", name="linear").check()
    assert "optimizer step" in texts(reward.locator("svg"))
    assert page.inner_text("output") == "last step"
    assert "no value is above 0" not in page.inner_text("#curves")


def test_without_durations_there_is_no_switch_to_time(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "metrics.csv").write_text("step,reward/mean\n1,0.25\n2,0.5\n")
    page = opened(write_report(tmp_path))
    assert page.get_by_role("radio", name="log").count() == 1
    assert page.get_by_role("radio", name="time").count() == 0


def test_what_is_shown_can_be_saved(report: Path, opened: Open) -> None:
    page = opened(report)
    name, text = save(page, "Download the numbers of Reward")
    rows = list(csv.DictReader(text.splitlines()))
    assert name.endswith("0-run-1-Reward.csv")
    assert len(rows) == 40
    assert (rows[1]["name"], rows[1]["step"], rows[1]["value"]) == ("reward/mean", "2", "0.0951626")
    assert float(rows[1]["time"]) == pytest.approx(6 / 60), "minutes"
    name, text = save(page, "Download the picture of Accuracy")
    assert name.endswith(".svg")
    assert "var(" not in text.partition("<style")[0] + text.rpartition("</style>")[2]
    assert ElementTree.fromstring(text).tag.endswith("svg")
    _, text = save(page, "Download benchmarks")
    first, second = list(csv.reader(text.splitlines()))[:2]
    assert first == ["benchmark", "before", "after", "change"]
    assert second[0] == "sums: accuracy"
    assert second[1].startswith("20.0")
    page.locator("summary", has_text="summary.json").click()
    name, text = save(page, "Download summary.json")
    assert name.endswith("summary-json.json")
    assert json.loads(text)["trained_parameters"] == 768


def test_copies_go_to_the_clipboard_or_say_that_they_do_not(report: Path, opened: Open) -> None:
    from playwright.sync_api import expect

    page = opened(report, permissions=["clipboard-read", "clipboard-write"])
    page.locator("summary", has_text="config.yaml").click()
    copy = page.get_by_role("button", name="Copy config.yaml")
    copy.click()
    expect(copy).to_have_text("Copied")  # a function to wait for would be against the policy
    assert "base: a/model" in page.evaluate("navigator.clipboard.readText()")
    page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject())")
    page.evaluate("void (document.execCommand = () => false)")
    settings = page.get_by_role("button", name="Copy settings")
    settings.click()
    expect(settings).to_have_text("Not copied")


def compared(folder: Path) -> Path:
    """Two runs, of which the second has half the steps, another rate and half the reward."""
    for number, (steps, rate) in enumerate(((40, 0.02), (20, 0.5)), 1):
        run = made_up_run.make_run(folder / f"run-{number}", steps=steps)
        made_up_run.write_metrics(
            run, range(1, steps + 1), **{"reward/mean": lambda step, n=number: step / 40 / n}
        )
        optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": rate}}
        train = {"class_path": "a.Records", "init_args": {"path": "data/my_sums.train.jsonl"}}
        made_up_run.write_config(
            run, model={"base": "a/model", "optimizer": optimizer}, data={"train": train}
        )
    return write_comparison([folder / "run-1", folder / "run-2"], folder / "report.html")


def test_runs_are_compared(tmp_path: Path, opened: Open) -> None:
    page = opened(compared(tmp_path))
    assert page.inner_text("h1") == "my_sums: 2 runs"
    assert page.title() == "2 runs: run-1, run-2"
    reward = panel(page, "Reward")
    assert reward.locator(".legend li").all_inner_texts() == ["run-1", "run-2"]
    assert reward.locator(".reading b").all_inner_texts() == ["1", "0.25"]
    assert "step 40" in reward.locator(".reading").inner_text()
    assert "step 20" in reward.locator(".reading").inner_text(), "of the shorter run"
    strokes = re.findall(r"var\(--c\d\)", reward.locator("svg").inner_html())
    assert set(strokes) == {"var(--c1)", "var(--c2)"}
    assert panel(page, "Accuracy on sums").locator(".legend li").count() == 2
    rows = [row.split("\t") for row in page.locator("#results tr").all_inner_texts()]
    assert rows[1] == ["Steps", "40", "20"]
    assert ["Reward, last steps", "0.95", "0.225"] in rows
    assert page.locator("#settings tr").all_inner_texts() == [
        "setting\trun-1\trun-2",
        "model.optimizer.init_args.lr\t0.02\t0.5",
    ]
    page.get_by_role("radio", name="time").check()
    assert "training time in min" in texts(reward.locator("svg"))


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_the_comparison_is_for_everyone(
    tmp_path: Path, opened: Open, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    word = "Donaudampfschifffahrt" * 9
    runs = [made_up_run.make_run(tmp_path / f"{word}{k}") for k in range(7)]
    for number, run in enumerate(runs):
        made_up_run.write_config(run, **{word: f"{word}{number}"})
    path = write_comparison(runs, tmp_path / "out.html")
    page = opened(path, width=width, color_scheme=scheme, reduced_motion="reduce")
    page.wait_for_timeout(100)
    width_beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(width_beyond) == 0
    found = axe.run(page).response["violations"]
    assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in found]
