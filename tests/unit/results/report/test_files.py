"""The page of a run without a browser: which numbers, which completions, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from steer_lightning import ConfigError
from steer_lightning.cli import main
from steer_lightning.results.report import write_report
from steer_lightning.results.report.contents import read_contents
from steer_lightning.results.report.page import SCRIPTS, as_json
from steer_lightning.results.report.samples import evenly
from steer_lightning.results.report.series import as_curve, joined, read_series
from steer_lightning.results.report.texts import shortened, within_budget
from tests import made_up_run

REPORT = Path(__file__).parents[4] / "steer_lightning/results/report"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_up_run.make_run(tmp_path / "runs/run-1")


def contents(folder: Path) -> dict[str, Any]:
    """What the page of a run holds, read back from the page."""
    page = write_report(folder, overwrite=True).read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    found: dict[str, Any] = json.loads(data)
    return found


# ---- numbers


def test_a_short_curve_is_each_step_and_a_trailing_mean() -> None:
    curve = as_curve([(1, 1.0), (2, 2.0), (4, 6.0), (5, float("nan"))])
    assert curve == {"width": 1, "x": [1, 2, 4], "y": [1, 2, 6], "smooth": [1, 1.5, 3]}


def test_a_long_curve_keeps_mean_and_range() -> None:
    # steps 3 to 9 are 7, at most 3 points: 3 steps a point
    points = [(3, 1.0), (4, 5.0), (5, 3.0), (6, 2.0), (8, 4.0), (9, -7.0)]
    assert as_curve(points, most=3) == {
        "width": 3,
        "x": [4, 7, 10],
        "y": [3, 3, -7],
        "low": [1, 2, -7],
        "high": [5, 4, -7],
    }


def test_no_extreme_is_lost_in_a_long_curve() -> None:
    points = [(step, float(step % 11)) for step in range(5000)] + [(5000, 99.0)]
    curve = as_curve(points)
    assert len(curve["x"]) <= 500
    assert max(curve["high"]) == 99
    assert min(curve["low"]) == 0
    assert as_curve([]) == {"width": 1, "x": [], "y": [], "smooth": []}


def test_stages_of_an_interrupted_run_are_joined() -> None:
    first = {"a": [(1, 1.0), (2, 2.0), (3, 3.0)], "b": [(3, 0.0)]}
    second = {"a": [(3, 3.5), (4, 4.0)], "c": [(4, 9.0)]}
    assert joined([first, {}, second]) == {
        "a": [(1, 1.0), (2, 2.0), (3, 3.5), (4, 4.0)],
        "c": [(4, 9.0)],
    }


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,reward/mean\n1,0.25\n2,0.5\n3,0.7")
    assert read_series(tmp_path) == {"reward/mean": [(1, 0.25), (2, 0.5)]}


# ---- which completions


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (3, 5, [0, 1, 2]),
        (5, 5, [0, 1, 2, 3, 4]),
        (60, 4, [0, 19, 39, 59]),
        (60, 1, [59]),
        (0, 3, []),
    ],
)
def test_evenly(count: int, most: int, expected: list[int]) -> None:
    assert evenly(range(count), most) == expected


def test_a_long_text_loses_its_middle_alone() -> None:
    text = "a" * 20 + "b" * 1000 + "c" * 10
    assert shortened(text, 30) == "a" * 20 + "\n[... 1,000 characters left out ...]\n" + "c" * 10
    assert shortened("x" * 30, 30) == "x" * 30


def test_the_budget_is_shared_by_the_steps() -> None:
    def group(name: str, size: int) -> dict[str, Any]:
        return {"prompt": name, "completions": [{"text": "x" * size}]}

    piles = [[group("a", 9), group("b", 9)], [group("c", 9), group("d", 9)]]
    names = [found["prompt"] for found in within_budget(piles, budget=30)]
    assert names == ["a", "b", "c"], "the first of both before the second of any"
    assert [x["prompt"] for x in within_budget(piles, budget=1)] == ["a"], "one in any case"
    assert len(within_budget(piles, budget=40)) == 4


def test_completions_of_some_steps_by_the_rule_that_the_page_states(run: Path) -> None:
    write_report(run, num_steps=3, num_prompts=2)
    training = read_contents(run, 3, 2)["training"]
    assert training["rule"] == (
        "3 of 40 steps, evenly spaced; of each the first 2 of 4 prompts of the batch with all 4 "
        "completions"
    )
    groups = training["groups"]
    assert [(g["step"], g["prompt_id"]) for g in groups] == [
        *((1, 0), (1, 1), (20, 0), (20, 1), (40, 0), (40, 1))
    ]
    assert groups[2]["prompt"] == "What is 20+0?"
    assert groups[2]["answer"] == "20"
    first = groups[2]["completions"]
    assert [c["reward"] for c in first] == [1, 0, 0, 0]
    assert [c["advantage"] for c in first] == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert [c["finished"] for c in first] == [True, True, True, False]
    assert first[3]["text"] == r"So \boxed{3} of step 20"


def test_more_completions_than_a_card_holds_are_cut_and_told(tmp_path: Path) -> None:
    made_up_run.write_rollouts(tmp_path, [1, 2], prompts=1, group=20)
    training = read_contents(tmp_path, 12, 8)["training"]
    assert training["rule"] == (
        "all 2 steps; of each the only prompt of the batch with 16 of 20 completions"
    )
    assert [len(g["completions"]) for g in training["groups"]] == [16, 16]
    assert [g["num_completions"] for g in training["groups"]] == [20, 20]


def test_only_the_chosen_steps_are_read(run: Path) -> None:
    path = run / "rollouts.parquet"
    metadata = pq.ParquetFile(path).metadata
    data = bytearray(path.read_bytes())
    chosen = {1, 20, 40}
    for k in range(metadata.num_row_groups):
        if k + 1 not in chosen:
            column = metadata.row_group(k).column(0)
            start = column.dictionary_page_offset or column.data_page_offset
            data[start : start + metadata.row_group(k).total_byte_size // 2] = b"\xff" * (
                metadata.row_group(k).total_byte_size // 2
            )
    path.write_bytes(data)
    groups = read_contents(run, 3, 1)["training"]["groups"]
    assert [group["step"] for group in groups] == [1, 20, 40]
    with pytest.raises(ConfigError, match=r"rollouts\.parquet.*is damaged"):
        read_contents(run, 4, 1)


def test_rollouts_of_a_run_under_way_and_of_several_processes(tmp_path: Path) -> None:
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for step in (1, 2):
        for process in (0, 1):
            table = made_up_run.rollouts(step, 2, 2, f"by {process}", "p{b}")
            pq.write_table(table, folder / f"step_{step:06d}.process_{process:04d}.parquet")
    training = read_contents(tmp_path, 12, 3)["training"]
    assert "the first 3 of 4 prompts of the batch" in training["rule"]
    texts = [group["completions"][0]["text"] for group in training["groups"]]
    assert texts == ["by 0", "by 0", "by 1"] * 2


def test_steps_in_one_row_group_are_found_without_statistics(tmp_path: Path) -> None:
    tables = [made_up_run.rollouts(step, 2, 2, "{step}", "p") for step in (5, 6, 7)]
    whole = pa.concat_tables(tables)
    pq.write_table(whole, tmp_path / "rollouts.parquet", write_statistics=False)
    groups = read_contents(tmp_path, 2, 1)["training"]["groups"]
    assert [(g["step"], g["completions"][0]["text"]) for g in groups] == [(5, "5"), (7, "7")]


def test_base_and_steered_stand_side_by_side(run: Path) -> None:
    answers = read_contents(run, 1, 2)["answers"]
    assert [group["prompt"] for group in answers["groups"]] == ["problem 0", "problem 1"]
    first = answers["groups"][0]["completions"]
    assert [(c["arm"], c["reward"]) for c in first] == [
        *(("base", None), ("base", None), ("steered", 1), ("steered", 1))
    ]


# ---- before and after


def test_accuracy_before_and_after_with_intervals(run: Path) -> None:
    (benchmark,) = contents(run)["benchmarks"]
    assert benchmark["before"] == {"step": 0, "value": 0.2, "low": 0.15, "high": 0.9}
    assert benchmark["after"] == {"step": 40, "value": 0.7, "low": 0.15, "high": 0.9}


def test_without_metrics_they_come_from_the_summary(run: Path) -> None:
    (run / "metrics.csv").unlink()
    made_up_run.write_summary(run, interval_after={"sums": [0.6, 0.8]})
    (benchmark,) = contents(run)["benchmarks"]
    assert benchmark["before"] == {"step": 0, "value": 0.2, "low": None, "high": None}
    assert benchmark["after"] == {"step": None, "value": 0.7, "low": 0.6, "high": 0.8}


def test_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    first, second = tmp_path / "runs/run-1", tmp_path / "runs/run-2"
    for folder, steps in ((first, range(1, 26)), (second, range(21, 41))):
        folder.mkdir(parents=True)
        made_up_run.write_metrics(folder, steps, seen=lambda step, top=steps[-1]: top)
        made_up_run.write_config(folder, ckpt_path="runs/run-1/checkpoints/last.ckpt")
    made_up_run.write_config(first)
    made_up_run.write_rollouts(second, range(21, 41))
    (first / "rollouts").mkdir()
    for step in range(1, 26):
        table = made_up_run.rollouts(step, 1, 2, "earlier", "p")
        pq.write_table(table, first / f"rollouts/step_{step:06d}.parquet")
    found = read_contents(second, 40, 1)
    assert found["stages"] == ["run-1", "run-2"]
    curve = found["curves"]["seen"]
    assert curve["x"] == list(range(1, 41))
    assert curve["y"] == [25] * 20 + [40] * 20, "steps 21 to 25 were done again"
    assert [group["step"] for group in found["training"]["groups"]] == list(range(1, 41))
    earlier = [g["completions"][0]["text"] == "earlier" for g in found["training"]["groups"]]
    assert earlier == [True] * 20 + [False] * 20
    assert read_contents(first, 1, 1)["stages"] == ["run-1"]


def test_the_lens_of_the_command_stands_before_that_of_the_run(run: Path) -> None:
    assert contents(run)["lens"]["width"] == 256
    lens = json.loads((run / "lens.json").read_text())
    (run / "lens").mkdir()
    (run / "lens/lens.json").write_text(json.dumps({**lens, "width": 7}))
    assert contents(run)["lens"]["width"] == 7


def test_what_has_a_place_of_its_own_is_no_curve(tmp_path: Path) -> None:
    names = ["lens/norms/layer_3", "lens/stable_rank", "benchmark/a/b/accuracy"]
    made_up_run.write_metrics(tmp_path, [1], **dict.fromkeys(names, lambda step: 0.5))
    found = read_contents(tmp_path, 1, 1)
    assert "lens/stable_rank" in found["curves"]
    assert not {"lens/norms/layer_3", "benchmark/a/b/accuracy"} & set(found["curves"])
    assert [row["name"] for row in found["benchmarks"]] == ["sums", "a/b"]


def test_the_settings_that_matter_by_name(tmp_path: Path) -> None:
    made_up_run.write_metrics(tmp_path, [1])
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.02}}
    steering = {
        "class_path": "steer_lightning.steering.SteeringVectors",
        "init_args": {"layers": [1]},
    }
    rewards = [
        {"reward": {"class_path": "a.MathReward"}, "weight": 1.0},
        {"reward": "my.brevity", "weight": 0.5},
    ]
    model = {"optimizer": optimizer, "steering": steering, "rewards": rewards, "base": "b"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": model, "trainer": None}))
    assert dict(read_contents(tmp_path, 1, 1)["settings"]) == {
        "Base": "b",
        "What is trained": "SteeringVectors",
        "Steered layers": "1",
        "Rewards": "MathReward x 1.0, brevity x 0.5",
        "Optimizer": "AdamW",
        "Learning rate": 0.02,
    }


# ---- the file


def test_the_policy_lets_nothing_run_but_the_pages_own_scripts(run: Path) -> None:
    page = write_report(run).read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    directives = dict(part.split(" ", 1) for part in html.unescape(policy).split("; "))
    assert directives["default-src"] == "'none'"
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() for x in scripts]
    assert directives["script-src"] == " ".join(f"'sha256-{value}'" for value in hashes)
    assert len(scripts) == len(SCRIPTS)
    assert "unsafe" not in policy
    assert "http://" not in re.sub(r"http://www\.w3\.org/[\w./]+", "", "".join(scripts[2:]))
    assert not re.search(r"<(link|img|iframe)|\bsrc=", page.partition("<script")[0])


def test_text_can_not_end_the_data() -> None:
    hostile = "</script><!-- & \u2028 \x1b[2J \ud800 \u202e"
    text = as_json({"key<": [hostile, float("nan"), float("inf"), 1, True, None, 0.5]})
    assert not set("<>&\u2028\u202e\x1b") & set(text)
    found = json.loads(text)
    assert found == {
        "key<": [
            r"</script><!-- & \u2028 \x1b[2J \ud800 \u202e",
            *(None, None, 1, True, None, 0.5),
        ]
    }


def test_the_libraries_are_those_that_the_table_names() -> None:
    table = (REPORT / "vendor/README.md").read_text()
    files = sorted((REPORT / "vendor").glob("*.js"))
    assert files
    for file in files:
        assert f"`{hashlib.sha256(file.read_bytes()).hexdigest()}`" in table, file.name
        assert "</script" not in file.read_text().lower()


def test_the_page_stays_small_whatever_the_run_holds(tmp_path: Path) -> None:
    long = "{step}{n}" + "x" * 30_000
    made_up_run.write_rollouts(tmp_path, range(1, 14), prompts=10, group=20, text=long)
    made_up_run.write_metrics(tmp_path, range(1, 14))
    path = write_report(tmp_path)
    assert path.stat().st_size < 5e6
    groups = contents(tmp_path)["training"]["groups"]
    per_step = {step: sum(g["step"] == step for g in groups) for step in range(1, 14)}
    assert set(per_step.values()) <= {0, 3, 4}, "the budget is shared by the steps"
    assert "characters left out" in groups[0]["completions"][0]["text"]


# ---- damage and mistakes


@pytest.mark.parametrize("name", ["metrics.csv", "summary.json", "lens.json", "lens.jsonl"])
def test_a_run_without_a_file_gives_a_page_all_the_same(run: Path, name: str) -> None:
    (run / name).unlink()
    assert contents(run)["base"] == "a/model"


@pytest.mark.parametrize(
    "name", ["metrics.csv", "summary.json", "lens.json", "lens.jsonl", "rollouts.parquet"]
)
def test_any_single_file_is_enough(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    (run / name).rename(tmp_path / "other" / name)
    if name == "lens.jsonl":  # the lens alone is no run
        made_up_run.write_metrics(tmp_path / "other", [1])
    assert write_report(tmp_path / "other").stat().st_size > 1e5


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metrics.csv", "a,b\n1,2\n", "no column `step`"),
        ("metrics.csv", "step,a\n1,2\n2,x\n", "Line 3"),
        ("metrics.csv", "step,a\n1,2,3\n", "Line 2"),
        ("metrics.csv", "step,a\n1.5,2\n", "Line 2"),
        ("summary.json", "{", "Expecting property name"),
        ("summary.json", "[]", "no JSON object"),
        ("summary.json", "{}", "lacks `versions`"),
        ("summary.json", "[" * 100_000, "is damaged"),
        ("lens.json", '{"layers": 3, "width": 1}', "lacks `layers`"),
        ("lens.jsonl", '{"step": 1}\n', "Line 1: It lacks `norms`"),
        ("config.yaml", "a: [", "config.yaml"),
        ("config.yaml", "[" * 1000, "config.yaml"),
        ("rollouts.parquet", "no parquet", "rollouts.parquet"),
        ("evaluation/results.json", '{"rows": [{}]}', "A row lacks arm, benchmark, metric, value"),
        ("evaluation/completions.parquet", "", "completions.parquet"),
    ],
)
def test_a_damaged_file_is_named(run: Path, name: str, text: str, told: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(ConfigError) as raised:
        write_report(run)
    assert told in str(raised.value)
    assert str(run / name) in str(raised.value)
    assert not (run / "report.html").exists()


def test_binary_rubbish_is_named(run: Path) -> None:
    for name in ("metrics.csv", "summary.json", "config.yaml"):
        before = (run / name).read_bytes()
        (run / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match=f"{name}.*is damaged"):
            write_report(run)
        (run / name).write_bytes(before)


def test_a_table_of_other_columns_is_named(run: Path) -> None:
    pq.write_table(pa.table({"step": [1]}), run / "rollouts.parquet")
    with pytest.raises(ConfigError, match="lacks the columns advantage, completion"):
        write_report(run)


def test_a_checkpoint_of_elsewhere_is_no_earlier_stage(run: Path) -> None:
    for path in ("/other/place/run-2/checkpoints/last.ckpt", "last.ckpt", "runs/run-9/x/last.ckpt"):
        (run / "config.yaml").write_text(yaml.safe_dump({"ckpt_path": path}))
        assert read_contents(run, 1, 1)["stages"] == ["run-1"]
    own = "runs/run-1/checkpoints/last.ckpt"
    (run / "config.yaml").write_text(yaml.safe_dump({"ckpt_path": own}))
    assert read_contents(run, 1, 1)["stages"] == ["run-1"], "no circle"


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    before = (run / "report.html").read_bytes()
    assert main(["report", "--run", str(run)]) == 2
    assert "report.html': exists. Name another file, or give --overwrite" in capsys.readouterr().err
    assert (run / "report.html").read_bytes() == before
    assert main(["report", "--num_steps", "1", str(run), "--overwrite"]) == 0
    assert (run / "report.html").read_bytes() != before
    (run.parent / "run-2").mkdir()  # holds nothing yet
    made_up_run.make_run(run.parent / "run-10")
    capsys.readouterr()
    assert main(["report", str(run.parent), f"--output={tmp_path / 'out.html'}"]) == 0
    told = capsys.readouterr().out
    assert f"{run.parent / 'run-10'} is the newest of 2 runs" in told
    assert "runs/run-10</title>" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{tmp}/nowhere"], "there is no such folder"),
        (["{tmp}"], "holds no run"),
        (["{run}", "--num_steps=0"], "num_steps = 0: must be at least 1"),
        (["{run}", "--num_prompts=0"], "num_prompts = 0: must be at least 1"),
        (["{run}", "--output={tmp}"], "It is a folder"),
        (["{run}", "--outptu=x"], "Did you mean output"),
        ([], "run = None: must be set. Set it by --run"),
    ],
)
def test_mistakes_are_told(
    run: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(tmp=tmp_path, run=run) for word in words]
    run.parent.rename(tmp_path / "elsewhere") if words == [str(tmp_path)] else None
    assert main(["report", *words]) == 2
    assert told in capsys.readouterr().err
