"""The page of a sweep: curves with emphasis, a table that sorts, layers, and a grid."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from steer_lightning.results.report import write_sweep
from steer_lightning.sweep.experiments import Experiment, from_grid
from tests import made_up_sweep
from tests.browser.conftest import Open, open_all
from tests.browser.test_hostile import PAYLOADS, SHOWN, nothing_ran
from tests.browser.test_page import OVERFLOW

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

LR, SEED = made_up_sweep.LR, made_up_sweep.SEED


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return write_sweep(made_up_sweep.make_grid(tmp_path / "rates"))


def column(page: Page, number: int) -> list[str]:
    cells = page.locator(f"#experiments tbody tr > :nth-child({number})")
    return [text.split("\n")[0] for text in cells.all_inner_texts()]


def strong(page: Page) -> str | None:
    """The curve with emphasis."""
    line = page.locator("#curves .strong")
    return None if line.get_attribute("hidden") is not None else line.get_attribute("d")


def test_the_head_says_what_came_out(grid: Path, opened: Open) -> None:
    page = opened(grid)
    assert page.inner_text("h1") == "rates: 6 experiments"
    assert page.inner_text("#lead") == f"They differ in {LR}, {SEED}."
    facts = page.locator("#facts > div").all_inner_texts()
    assert facts[0].split("\n") == ["Ended", "6 of 6"]
    assert facts[1].replace("\u202f", "").split("\n")[-1] == (
        "50.0% lr=0.08_seed_everything=1; 95%: 40.0\u201360.0; 20.0% before"
    )
    assert page.locator("#status").is_hidden()
    assert "could not be drawn" not in page.inner_text("main")
    assert page.locator("nav a:visible").all_inner_texts() == ["Curves", "Grid", "Experiments"]


def test_pointing_gives_a_curve_emphasis(grid: Path, opened: Open) -> None:
    page = opened(grid)
    assert strong(page) is None
    picture = page.locator("#curves svg")
    picture.scroll_into_view_if_needed()
    # the curves end at 1/6, ..., 6/6 of nearly 1; the axis has 1 at 20 and 0 at 282 pixels
    height = 282 - 262 * 0.81
    picture.hover(position={"x": picture.bounding_box()["width"] - 25, "y": height})  # type: ignore[index]
    assert page.inner_text("#curves .reading").split() == [
        *("lr=0.08_seed_everything=0", "0.81", "step", "20")
    ]
    drawn = strong(page)
    assert drawn
    assert drawn.count("L") == 19
    assert page.locator("#experiments tr.marked th").inner_text() == "lr=0.08_seed_everything=0"
    assert page.locator("#curves svg.quiet g.lines").count() == 6
    page.mouse.move(5, 5)
    assert strong(page) is None
    assert page.locator("#experiments tr.marked").count() == 0


def test_focus_gives_a_curve_emphasis(grid: Path, opened: Open) -> None:
    page = opened(grid)
    names = page.locator("#curves .legend button")
    assert names.count() == 6
    names.nth(1).focus()
    first = strong(page)
    assert first
    assert "lr=0.005_seed_everything=1" in page.inner_text("#curves .reading")
    page.keyboard.press("Tab")
    assert "lr=0.02_seed_everything=0" in page.inner_text("#curves .reading")
    assert strong(page) not in (None, first)
    page.locator("#experiments tbody a").nth(5).focus()
    assert "lr=0.08_seed_everything=1" in page.inner_text("#curves .reading")
    page.locator("#experiments tbody tr").nth(0).hover()
    assert "lr=0.005_seed_everything=0" in page.inner_text("#curves .reading")


def test_the_table_is_sorted_by_its_headings(grid: Path, opened: Open) -> None:
    page = opened(grid)
    heads = page.locator("#experiments thead th")
    assert [text.strip() for text in heads.all_inner_texts()] == [
        *("experiment", "lr", SEED, "accuracy before", "after", "gain in points"),
        *("first reward", "last reward", "length", "steps", "status"),
    ]
    assert column(page, 2) == ["0.005", "0.005", "0.02", "0.02", "0.08", "0.08"]
    after = ["8.3", "16.7", "25.0", "33.3", "41.7", "50.0"]
    assert column(page, 5) == [f"{value}\u202f%" for value in after]
    assert column(page, 6) == ["\u221211.7", "\u22123.3", "+5.0", "+13.3", "+21.7", "+30.0"]
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    gain = page.get_by_role("button", name="gain in points")
    gain.focus()
    page.keyboard.press("Enter")
    assert column(page, 5) == [f"{value}\u202f%" for value in after[::-1]], "the highest first"
    assert heads.nth(5).get_attribute("aria-sort") == "descending"
    assert page.locator("#experiments [aria-sort]").count() == 1
    page.keyboard.press("Space")  # the heading has kept the focus
    assert heads.nth(5).get_attribute("aria-sort") == "ascending"
    assert column(page, 5) == [f"{value}\u202f%" for value in after]
    page.get_by_role("button", name=SEED, exact=True).click()
    assert column(page, 3) == ["0", "0", "0", "1", "1", "1"]
    page.locator("#experiments tbody tr").nth(2).hover()
    assert "lr=0.08_seed_everything=0" in page.inner_text("#curves .reading")


def test_the_table_can_be_saved_with_whole_keys(grid: Path, opened: Open) -> None:
    page = opened(grid)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download experiments").click()
    with Path(saved.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert saved.value.suggested_filename == "rates-experiments.csv"
    assert [row[LR] for row in rows] == ["0.005", "0.005", "0.02", "0.02", "0.08", "0.08"]
    assert rows[5]["after"] == "0.5 0.4 0.6"
    assert float(rows[5]["gain in points"]) == pytest.approx(0.3)


def test_links_lead_to_the_reports(grid: Path, opened: Open) -> None:
    page = opened(grid)
    links = [str(link.evaluate("(a) => a.href")) for link in page.locator("#experiments a").all()]
    root = grid.parent
    assert links[3] == (root / "lr=0.02_seed_everything=1/run-1/report.html").as_uri().replace(
        "=", "%3D"
    )
    assert len(links) == 6


def test_a_grid_is_a_heat_map(grid: Path, opened: Open) -> None:
    page = opened(grid)
    rows = [row.inner_text().split() for row in page.locator("#grid tbody tr").all()]
    assert rows[0] == ["0.005", "8.3", "%", "[\u22121.7,", "18.3]", "16.7", "%", "[6.7,", "26.7]"]
    assert rows[2] == ["0.08", "41.7", "%", "[31.7,", "51.7]", "50.0", "%", "[40.0,", "60.0]"]
    assert page.locator("#grid thead th").all_inner_texts() == ["lr / seed_everything", "0", "1"]
    colours = page.locator("#grid .token").evaluate_all(
        "all => all.map((x) => x.style.backgroundColor)"
    )
    parts = [float(text.split("%")[0].split()[-1]) for text in colours]
    assert parts == [0, 20, 40, 60, 80, 100]
    page.select_option("#grid-measure", label="Reward of the last steps")
    cells = page.locator("#grid .token").all_inner_texts()
    assert cells == ["0.162", "0.324", "0.486", "0.648", "0.81", "0.972"]
    page.locator("#grid .token").nth(3).hover()
    assert "lr=0.02_seed_everything=1" in page.inner_text("#curves .reading")


def test_layers_are_bars(tmp_path: Path, opened: Open) -> None:
    page = opened(write_sweep(made_up_sweep.make_layers(tmp_path / "layers")))
    assert page.locator("nav a:visible").all_inner_texts() == ["Curves", "Layers", "Experiments"]
    picture = page.locator("#layers svg")
    assert picture.get_attribute("aria-label") == (
        "Accuracy on sums by layer: 0: 12.5\u202f%, 1: 25.0\u202f%, 2: 37.5\u202f%, "
        "3: 50.0\u202f%. Before training: 20.0\u202f%."
    )
    bars = page.locator("#layers svg rect").evaluate_all(
        "all => all.map((x) => [x, x.closest('[fill]')].map((y) => y.getAttribute('fill')))"
    )
    assert len(bars) == 4
    heights = page.locator("#layers svg rect").evaluate_all(
        "all => all.map((x) => Number(x.getAttribute('height')))"
    )
    assert [height / heights[0] for height in heights] == pytest.approx(
        [1, 5 / 7.5, 17.5 / 7.5, 30 / 7.5], rel=0.02
    ), "from 20 % to 12.5, 25, 37.5 and 50 %"
    assert page.inner_text("#layers .reading").startswith("layer 3")
    picture.hover(position={"x": 150, "y": 100})
    assert page.inner_text("#layers .reading").startswith("layer 0")
    assert "layer-0" in page.inner_text("#curves .reading")


def test_without_benchmarks_there_is_the_reward(tmp_path: Path, opened: Open) -> None:
    root = made_up_sweep.make_grid(tmp_path / "rates", benchmark=False)
    page = opened(write_sweep(root))
    heads = [text.strip() for text in page.locator("#experiments thead th").all_inner_texts()]
    assert heads == [
        *("experiment", "lr", SEED, "first reward", "last reward", "length", "steps", "status")
    ]
    assert page.locator("#grid .token").all_inner_texts()[5] == "0.972"
    assert page.locator("#facts dt").all_inner_texts() == ["Ended", "Highest reward, last steps"]


def test_what_failed_or_has_not_begun_is_said(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "mixed"
    experiments = [
        Experiment(name=name, settings={LR: value})
        for name, value in (("one", 1), ("nan", "1e-3"), ("two", None), ("gone", [3]))
    ]
    made_up_sweep.write_run(root / "one/run-1", steps=1)
    nan = made_up_sweep.write_run(root / "nan/run-1", benchmark=False)
    (nan / "metrics.csv").write_text("step,reward/mean\n1,nan\n2,nan\n")
    statuses = ("ended", "failed", "stopped", "waiting")
    rows = [
        made_up_sweep.entry(root, one, status=status)
        for one, status in zip(experiments, statuses, strict=True)
    ]
    rows[1]["reason"] = "FloatingPointError: the loss is NaN"
    page = opened(write_sweep(made_up_sweep.write_file(root, rows)))
    told = page.inner_text("#status")
    assert "1 experiment failed: nan." in told
    assert "2 experiments were stopped: two, gone." in told, "whose process is gone"
    assert page.inner_text("#experiments .reasons").split("\n") == [
        *("nan", "FloatingPointError: the loss is NaN")
    ]
    assert column(page, 10) == ["ended", "failed", "stopped", "stopped"]
    assert column(page, 7) == ["0.163", "\u2013", "\u2013", "\u2013"], "0.9 (1 - exp(-1 / 5))"
    assert page.locator("#experiments tbody a").all_inner_texts() == ["one", "nan"]
    page.get_by_role("button", name="last reward").click()
    assert column(page, 1) == ["one", "nan", "two", "gone"], "what is unknown comes last"
    page.get_by_role("button", name="last reward").click()
    assert column(page, 1) == ["one", "nan", "two", "gone"]
    page.locator("#curves .legend button").hover()
    assert strong(page), "a single step"
    assert "could not be drawn" not in page.inner_text("main")


def test_one_experiment_that_has_not_begun(tmp_path: Path, opened: Open) -> None:
    one = Experiment(name="one", settings={LR: 1})
    root = made_up_sweep.write_file(
        tmp_path, [made_up_sweep.entry(tmp_path, one, run=None, status="waiting")]
    )
    page = opened(write_sweep(root))
    assert page.inner_text("h1").endswith(": 1 experiment")
    assert "no experiment has taken a step" in page.inner_text("#curves")
    assert "could not be drawn" not in page.inner_text("main")


def test_text_is_text(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "hostile"
    valid = [text.encode("utf-8", "replace").decode() for text in PAYLOADS]
    rows = []
    for k, text in enumerate(valid):
        one = Experiment(name=text, settings={LR: text, text: k})
        benchmarks = {text: {"before": None, "after": {"value": k / 20, "low": 0.1, "high": 0.9}}}
        run = f"r{k}" if k else "javascript:owned=1//evil.example/x"
        made_up_sweep.write_run(root / run)
        summary = {"accuracy_after": {text: k / 20}, "versions": {}}
        (root / run / "summary.json").write_text(json.dumps(summary))
        rows.append(
            made_up_sweep.entry(
                root, one, run=run, status="failed", reason=text, benchmarks=benchmarks
            )
        )
    page = opened(write_sweep(made_up_sweep.write_file(root, rows)))
    names, reasons = page.locator("#experiments tbody th"), page.locator(".reasons dd")
    open_all(page)
    head = page.locator("#experiments thead").text_content()
    for k, text in enumerate(valid):
        shown = SHOWN.get(text, text)
        assert names.nth(k).text_content() == shown
        assert reasons.nth(k).text_content() == shown
        assert shown in str(head)
    assert "could not be drawn" not in page.inner_text("main")
    link = str(page.locator("#experiments tbody a").first.evaluate("(a) => a.href"))
    assert link.startswith(root.as_uri())
    page.wait_for_timeout(50)
    assert nothing_ran(page)


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "dark"), (1280, "light"), (390, "light"), (1280, "dark")]
)
def test_the_page_is_for_everyone(tmp_path: Path, opened: Open, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    word = "Donaudampfschifffahrt" * 9
    grid = {LR: [0.005, 0.02, 0.08], "model.rewards": [["a", {word: 1}], ["b", {word: 2}]]}
    path = write_sweep(made_up_sweep.make_grid(tmp_path / word, grid))
    page = opened(path, width=width, color_scheme=scheme, reduced_motion="reduce")
    page.locator("#curves .legend button").first.focus()
    assert page.evaluate(OVERFLOW) == 0
    found = axe.run(page).response["violations"]
    assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in found]
    layers = write_sweep(made_up_sweep.make_layers(tmp_path / "layers", 20))
    page = opened(layers, width=width, color_scheme=scheme, reduced_motion="reduce")
    assert page.evaluate(OVERFLOW) == 0
    found = axe.run(page).response["violations"]
    assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in found]


def test_more_curves_than_colours_are_chosen_from_a_list(tmp_path: Path, opened: Open) -> None:
    page = opened(write_sweep(made_up_sweep.make_layers(tmp_path / "layers", 20)))
    assert page.locator("#curves .legend").count() == 0
    options = page.locator("#curve option").all_inner_texts()
    assert options[:2] == ["none", "0.972  layer-19"]
    page.select_option("#curve", index=20)
    assert page.inner_text("#curves .reading").split()[0] == "layer-00"
    assert strong(page)
    page.select_option("#curve", label="none")
    assert strong(page) is None


@pytest.mark.slow
def test_a_thousand_experiments(tmp_path: Path, opened: Open) -> None:
    grid = {LR: [k / 1000 for k in range(1, 51)], SEED: list(range(20))}
    assert len(from_grid(grid)) == 1000
    root = made_up_sweep.make_grid(tmp_path / "large", grid, steps=200)
    start = time.perf_counter()
    path = write_sweep(root)
    print(f"written in {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.1f} MB")
    assert path.stat().st_size < 4e6
    page = opened(path)
    drawn = page.evaluate("performance.getEntriesByName('drawn')[0].startTime") / 1000
    print(f"opened and drawn in {drawn:.2f} s")
    assert drawn < 3
    assert "200 of 1,000 curves" in page.inner_text("#curves .intro")
    assert page.locator("#experiments tbody tr").count() == 200
    assert page.locator("#grid .token").count() == 1000
    page.get_by_role("button", name="after").click()
    assert column(page, 5)[0] == "50.0\u202f%", "all are sorted, and then some are shown"
    moved = "for (let k = 0; k < 100; k++) emphasis.set(k)"
    took = page.evaluate(
        f"() => {{ const t = performance.now(); {moved}; return performance.now() - t }}"
    )
    assert took < 1000, "10 ms for each movement of the pointer"
    page.get_by_role("button", name="Show the other 800 rows").click()
    assert page.locator("#experiments tbody tr").count() == 1000
