"""Which completions go into the page."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steer_lightning import ConfigError
from steer_lightning.results.report import write_report
from steer_lightning.results.report.contents import read_contents
from steer_lightning.results.report.samples import evenly
from tests import made_up_run


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


def test_completions_of_some_steps_by_the_rule_that_the_page_states(run: Path) -> None:
    write_report(run, num_steps=3, num_prompts=2)
    training = read_contents(run, 3, 2)["training"]
    assert training["rule"] == (
        "3 of 40 steps, evenly spaced; for each step, the first 2 of 4 prompts of the batch "
        "with all 4 completions"
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
        "all 2 steps; for each step, the only prompt of the batch with 16 of 20 completions"
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


def test_a_table_of_other_columns_is_named(run: Path) -> None:
    pq.write_table(pa.table({"step": [1]}), run / "rollouts.parquet")
    with pytest.raises(ConfigError, match="lacks the columns advantage, completion"):
        write_report(run)


def test_completions_with_a_hint_are_told(tmp_path: Path) -> None:
    table = made_up_run.rollouts(1, 1, 3, "x", "p")
    guided = pa.array([False, True, True])
    pq.write_table(table.append_column("guided", guided), tmp_path / "rollouts.parquet")
    (group,) = read_contents(tmp_path, 1, 1)["training"]["groups"]
    assert [found.get("guided") for found in group["completions"]] == [None, True, True]
