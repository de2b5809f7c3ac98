"""The page of a run as people see and use it: with mouse, keyboard, phone and dark mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from steer_lightning.results.report import write_report
from tests import made_up_run
from tests.browser.conftest import CONTRAST, Open, open_all

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def shown(page: Page) -> str:
    """Text of the page as it is seen."""
    return page.inner_text("body")


def cards(page: Page) -> list[str]:
    return [card.inner_text() for card in page.locator(".completion").all()]


# ---- what it says


def test_the_head_says_what_came_out(report: Path, opened: Open) -> None:
    page = opened(report)
    assert page.inner_text("h1").endswith("0/run-1"), "the task is not known"
    assert page.title() == page.inner_text("h1")
    assert page.inner_text(".eyebrow") == "Steering vectors a/model"
    lead = (
        "768 trained numbers, one vector of 256 in each of 3 layers; the model itself stays frozen."
    )
    assert page.inner_text("#lead") == lead
    figures = page.locator(".figure").all_inner_texts()
    assert figures == [
        "before training\n\n20.0\u202f%\n\n95\u202f%: 15.0\u201390.0",
        "after step 40\n\n70.0\u202f%\n\n95\u202f%: 15.0\u201390.0",
    ]
    assert page.locator("#status").is_hidden()


def test_benchmarks_with_intervals(report: Path, opened: Open) -> None:
    tables = opened(report).locator("#benchmarks table")
    assert tables.nth(0).locator("tr").nth(1).inner_text().split() == [
        *("sums:", "accuracy", "20.0", "%", "[15.0,", "90.0]", "70.0", "%", "[15.0,", "90.0]"),
        *("+50.0", "points"),
    ]
    assert tables.nth(1).locator("tr").nth(2).inner_text().split() == [
        *("steered", "75.0", "%", "[70.0,", "80.0]", "+50.0", "points", "[+40.0,", "+60.0]", "30.0")
    ]


def test_arms_with_paired_differences(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    made_up_run.write_arms(run)
    page = opened(write_report(run))
    assert page.locator("#benchmarks h4").nth(0).inner_text() == "sums: arms at step 40"
    lines = page.locator("#benchmarks table").nth(1).locator("tr")
    assert [lines.nth(k).inner_text().split() for k in (1, 2, 3)] == [
        ["trained", "70.0", "%", "[15.0,", "90.0]", "21.0", "\u2013"],
        *(
            [name, value, "%", "[10.0,", "90.0]", by, "points", low, high, "13.0", "25.0", "%"]
            for name, value, by, low, high in (
                ("base", "20.0", "\u221250.0", "[\u221260.0,", "\u221240.0]"),
                ("x0.5", "40.0", "\u221230.0", "[\u221240.0,", "\u221220.0]"),
            )
        ),
    ]
    picture = page.locator("#benchmarks figure").nth(0)
    assert picture.inner_text().startswith("Accuracy by arm")
    assert "x0.5: 40.0" in picture.locator("[aria-label]").first.get_attribute("aria-label")


def test_a_base_that_answers_once_is_compared_all_the_same(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    path = run / "evaluation/results.json"
    rows = json.loads(path.read_text())["rows"]
    rows[0]["metric"] = "avg@1"
    rows.append({**rows[2], "metric": "pass@2", "value": 0.9, "difference": None})
    path.write_text(json.dumps({"rows": rows}))
    lines = opened(write_report(run)).locator("#benchmarks table").nth(1).locator("tr")
    assert lines.nth(0).inner_text().split("\t") == [
        *("arm", "avg@1", "avg@2", "against base", "pass@2", "length")
    ]
    assert lines.nth(1).inner_text().split()[:3] == ["base", "25.0", "%"]
    assert lines.nth(2).inner_text().split() == [
        *("steered", "\u2013", "75.0", "%", "[70.0,", "80.0]", "+50.0", "points"),
        *("[+40.0,", "+60.0]", "90.0", "%", "[70.0,", "80.0]", "30.0"),
    ]


def test_vectors_layer_by_layer(report: Path, opened: Open) -> None:
    page = opened(report)
    heat = page.locator("#vectors table").nth(0)
    assert heat.locator("tbody th").all_inner_texts() == ["0", "1", "2"]
    assert heat.locator("td").nth(1).inner_text() == "tok\u24231\n8"
    page.get_by_role("radio", name="bottom").check()
    assert heat.locator("td").nth(1).inner_text() == "tok\u24231\n\u22128"
    page.select_option("#history-layer", "1")
    assert "Top tokens of layer 1" in page.inner_text("#vectors")
    labels = [x.get_attribute("aria-label") for x in page.locator("#vectors svg").all()]
    assert "Norm by layer: 0: 1.5, 1: 2.5, 2: 3.5." in labels


def test_first_tokens_that_change_are_shown_and_no_others(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    lens = json.loads((run / "lens.json").read_text())
    lens["first_token"]["up"] = [["Ones", 0.175, 0.262], ["=", 0.0001, 0.0004]]
    (run / "lens.json").write_text(json.dumps(lens))
    page = opened(write_report(run), width=375)
    likelier = page.locator("#vectors table", has_text="More likely").locator("tbody tr")
    assert [row.split() for row in likelier.all_inner_texts()] == [
        ["Ones", "17.5", "%", "26.2", "%"]
    ]
    assert "Less likely: no token changes by 0.05 points or more." in page.inner_text("#vectors")
    heat = page.locator("#vectors table").nth(0)
    box = heat.locator("tbody th").first.bounding_box()
    assert box
    assert box["width"] < 60, "a phone has room for tokens"


def test_pictures_say_in_words_what_they_show(report: Path, opened: Open) -> None:
    page = opened(report)
    label = page.locator("#curves svg").nth(0).get_attribute("aria-label")
    assert label == ("Reward: 0.0488 at step 1, 0.865 at step 40, lowest 0.0488, highest 0.865.")


def test_what_is_missing_is_said(tmp_path: Path, opened: Open) -> None:
    made_up_run.write_rollouts(tmp_path, [1])
    page = opened(write_report(tmp_path))
    for section, told in (
        ("curves", "metrics.csv is missing"),
        ("benchmarks", "BenchmarkEval"),
        ("benchmarks", "steer-lightning evaluate --config"),
        ("vectors", "LensCallback"),
        ("setup", "Versions are unknown"),
        ("setup", "There is no config.yaml"),
    ):
        assert told in page.inner_text(f"#{section}")
    assert page.locator(".completion").count() == 16
    assert "could not be drawn" not in page.inner_text("main")


def test_a_run_without_vectors_says_so(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    for name in ("lens.json", "lens.jsonl"):
        (run / name).unlink()
    lora = {"class_path": "steer_lightning.steering.LoRA", "init_args": {"rank": 4}}
    made_up_run.write_config(run, model={"base": "a/model", "steering": lora})
    page = opened(write_report(run))
    assert page.inner_text("#lead") == "768 trained numbers, with LoRA."
    told = page.inner_text("#vectors")
    assert "trained LoRA, which changes weights, so there are no vectors" in told
    assert "LensCallback" not in told


def test_an_interrupted_run_says_so(tmp_path: Path, opened: Open) -> None:
    made_up_run.write_metrics(tmp_path, range(1, 26))
    made_up_run.write_config(tmp_path, trainer={"max_steps": 40})
    page = opened(write_report(tmp_path))
    assert "All figures cover the steps up to 25 of 40" in page.inner_text("#status")
    assert "There are no completions" in page.inner_text("#completions")
    assert page.locator(".figure .label").all_inner_texts() == [
        *("before training", "after step 20")
    ]
    assert "could not be drawn" not in page.inner_text("main")


def test_a_part_that_fails_leaves_the_others(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    lens = json.loads((run / "lens.json").read_text())
    (run / "lens.json").write_text(json.dumps({**lens, "layers": [1, None]}))
    page = opened(write_report(run))
    assert "This part could not be drawn" in page.inner_text("#vectors")
    assert page.locator(".completion").count() > 0


# ---- looking around in it


def test_filter_by_step_and_reward(report: Path, opened: Open) -> None:
    page = opened(report)
    count = page.locator(".count")
    assert count.inner_text() == "192 of 192 completions, of 48 prompts"  # 12 steps x 4 x 4
    page.select_option("#place", label="step 40")
    assert count.inner_text() == "16 of 192 completions, of 4 prompts"
    page.fill("#least", "0.5")
    assert count.inner_text() == "4 of 192 completions, of 4 prompts"
    assert cards(page) == [
        "reward 1\nadvantage +1.00\n7 tokens\n\nSo \\boxed{0} of step 40" for _ in range(4)
    ]
    page.fill("#least", "")
    page.fill("#most", "0")
    assert count.inner_text() == "12 of 192 completions, of 4 prompts"
    assert cards(page)[2].startswith("reward 0\nadvantage \u22120.33\n7 tokens\ncut off\n")
    page.get_by_role("button", name="Clear").click()
    assert count.inner_text() == "192 of 192 completions, of 48 prompts"


def test_search_in_prompts_and_completions(report: Path, opened: Open) -> None:
    page = opened(report)
    page.fill("#search", "BOXED{2} of step 40")
    assert page.inner_text(".count") == "4 of 192 completions, of 4 prompts"
    assert page.locator("mark").all_inner_texts() == ["boxed{2} of step 40"] * 4
    page.fill("#search", "is 40+1?")
    assert page.inner_text(".count") == "4 of 192 completions, of 1 prompts"
    page.fill("#search", "nowhere to be found")
    assert page.inner_text(".count") == "0 of 192 completions, of 0 prompts"
    assert page.get_by_role("button", name="Show more").is_hidden()


def test_base_and_steered_on_the_same_problem(report: Path, opened: Open) -> None:
    page = opened(report)
    page.get_by_role("radio", name="Evaluation").check()
    assert page.inner_text(".count") == "12 of 12 completions, of 3 prompts"
    first = page.locator(".group").first
    assert [x.split("\n")[0] for x in first.locator(".completion").all_inner_texts()] == [
        *("base", "base", "steered", "steered")
    ]
    page.select_option("#place", "steered")
    assert page.inner_text(".count") == "6 of 12 completions, of 3 prompts"


def test_pointing_at_one_curve_reads_all(report: Path, opened: Open) -> None:
    page = opened(report)
    picture = page.locator("#curves svg").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    assert box
    page.mouse.move(box["x"] + 44, box["y"] + 60)  # the left end of the scale, step 0
    readings = page.locator("#curves .reading").all_inner_texts()
    assert "step 1" in readings[0]
    assert "step 0" in readings[1], "the benchmark was measured before the first step"
    page.mouse.move(box["x"] + box["width"] - 10, box["y"] + 60)
    assert all("step 40" in text for text in page.locator("#curves .reading").all_inner_texts())


# ---- by the keyboard


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent.trim().slice(0, 40)"))


def test_everything_is_reached_by_the_keyboard(report: Path, opened: Open) -> None:
    page = opened(report)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    assert page.locator(".skip").bounding_box()["y"] >= 0, "it shows itself"  # type: ignore[index]
    names = []
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(focused(page))
    assert names == ["Curves", "Benchmarks", "Vectors", "Completions", "Setup"]
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    for group in ("along", "scale"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == group
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "step"
    for key, expected in (("ArrowLeft", "step 39"), ("Home", "step 0"), ("End", "step 40")):
        page.keyboard.press(key)
        assert page.inner_text("output") == expected
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "Download the picture of Reward"
    page.locator("#curves summary", has_text="All ").focus()
    page.keyboard.press("Enter")
    page.locator("details .panel").first.wait_for()
    assert page.locator("details .panel").count() == 6

    page.focus("input[name=lens-product]:checked")
    page.keyboard.press("ArrowRight")
    assert "Top tokens by cosine product" in page.inner_text("#vectors")

    page.get_by_role("button", name="Show more").focus()
    before = page.locator(".group").count()
    page.keyboard.press("Enter")
    assert page.locator(".group").count() == 2 * before
    assert page.evaluate("document.activeElement.matches('.group')"), "on the first new one"


def test_focus_is_seen(report: Path, opened: Open) -> None:
    page = opened(report)
    unseen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            """() => {
              const node = document.activeElement, own = getComputedStyle(node);
              if (node === document.body) return true;  // behind the last one
              const beside = node.nextElementSibling && getComputedStyle(node.nextElementSibling);
              const marked = (style) =>
                style && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
              return marked(own) || (node.type === "radio" && marked(beside));
            }"""
        )
        if not seen:
            unseen.append(focused(page))
    assert not unseen


# ---- on a phone, in the dark, for everyone


@pytest.mark.parametrize("width", [375, 768])
def test_nothing_is_wider_than_the_screen(tmp_path: Path, opened: Open, width: int) -> None:
    word = "Donaudampfschifffahrt" * 12
    run = made_up_run.make_run(tmp_path / word[:200])
    made_up_run.write_summary(run, base_model=word, accuracy_after={word: 0.5})
    made_up_run.write_rollouts(run, [1], text=word, prompt=word)
    made_up_run.write_lens(run, layers=40, token=word)
    (run / "config.yaml").write_text(f"model: {{base: {word}}}\n")
    page = opened(write_report(run), width=width)
    open_all(page)
    assert page.evaluate(OVERFLOW) == 0


@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1280, "dark")])
def test_accessible_by_the_rules_of_axe(
    report: Path, opened: Open, width: int, scheme: str
) -> None:
    """Names, roles, order of headings, contrast of AA, and what else a machine can check."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(report, width=width, color_scheme=scheme, reduced_motion="reduce")
    open_all(page)
    found = axe.run(page).response["violations"]
    assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in found]


def test_dark_mode_is_dark(report: Path, opened: Open) -> None:
    """Contrast of AA in pictures, too, whose text axe can't judge."""
    for scheme, dark in (("light", False), ("dark", True)):
        page = opened(report, color_scheme=scheme)
        found = page.evaluate(CONTRASTS)
        assert (found["paper"] < 0.1) is dark
        assert min(found["text"].values()) >= 4.5, found
        assert min(found["shapes"].values()) >= 3, found


CONTRASTS = (
    f"() => {{{CONTRAST}"
    + """
  const pairs = (front, back) => Object.fromEntries(front.flatMap((f) =>
    back.map((b) => [`${f} on ${b}`, contrast(f, b)])));
  return {
    paper: luminance("var(--paper)"),
    text: { ...pairs(["var(--ink)", "var(--muted)"], ["var(--paper)", "var(--surface)"]),
            ...pairs(["var(--ink)"], [heat(1), heat(-1), heat(0.5), "var(--mark)"]) },
    shapes: pairs(
      ["--c1", "--c2", "--c3", "--c4", "--c5", "--edge"].map((c) => `var(${c})`), ["var(--paper)"]),
  };
}"""
)
