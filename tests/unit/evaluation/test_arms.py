"""Figures of an evaluation, by hand."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.evaluation import (
    AIME24,
    AIME25,
    AMC23,
    MATH500,
    AvgAtK,
    CompletionLength,
    CutOffShare,
    FormatShare,
    MajAtK,
    MinervaMath,
    OlympiadBench,
    PassAtK,
    Sample,
    difference,
    estimate,
)
from steer_lightning.evaluation.arms import check_fit, load_files, make_arms
from steer_lightning.evaluation.results import Voting, as_text, samples_of, table_rows
from steer_lightning.evaluation.store import Store, read_rows
from steer_lightning.evaluation.votes import compare_by, number_answers
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import MathReward, RewardSum, WeightedReward
from steer_lightning.steering import (
    AdaptiveVectors,
    FullFinetune,
    LowRankVectors,
    Steering,
    SteeringVectors,
    save_vectors,
)
from steer_lightning.testing import save_tiny, tiny_model
from tests.reliability.hostile import boxed


def samples(verdicts: list[float | None], votes: list[int | None] | None = None) -> list[Sample]:
    votes = votes or [None] * len(verdicts)
    return [
        Sample(verdict=verdict, num_tokens=10 + n, finished=n > 0, vote=vote)
        for n, (verdict, vote) in enumerate(zip(verdicts, votes, strict=True))
    ]


def test_avg_is_the_mean_over_problems_of_what_was_judged() -> None:
    metric = AvgAtK()
    metric.update(7, samples([1.0, 0.0, None, 0.0]))  # 1 / 3
    metric.update(3, samples([1.0, 1.0]))
    metric.update(5, samples([None, None]))
    problems, values = metric.by_problem()
    assert problems.tolist() == [3, 5, 7]
    np.testing.assert_allclose(values, [1, math.nan, 1 / 3])
    assert float(metric.compute()) == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_one(k: int) -> None:
    verdicts = [1.0, 0.0, 0.0, 1.0, 0.0]
    subsets = list(itertools.combinations(verdicts, k))
    metric = PassAtK(k)
    metric.update(0, samples([*verdicts, None]))
    assert float(metric.compute()) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


def test_pass_at_k_needs_k_samples() -> None:
    metric = PassAtK(3)
    metric.update(0, samples([1.0, 1.0]))
    assert math.isnan(float(metric.compute()))
    with pytest.raises(ConfigError, match=r"PassAtK\.k = 0"):
        PassAtK(0)


@pytest.mark.parametrize(
    ("verdicts", "votes", "expected"),
    [
        ([1.0, 0.0, 0.0], [0, 1, 1], 0.0),
        ([0.0, 1.0, 1.0], [0, 1, 1], 1.0),
        ([1.0, 0.0, 0.0, 1.0], [0, 1, 1, 0], 1.0),  # of equals the first that was given
        ([0.0, 1.0], [0, 1], 0.0),
        ([0.0, 0.0, 1.0], [None, None, 0], 1.0),  # no answer, no vote
        ([0.0, 0.0], [None, None], 0.0),
        ([None, None, 1.0], [0, 0, 1], math.nan),  # the chosen one can't be judged
        ([None, 1.0, 0.0], [0, 0, 1], 1.0),  # an equal one could be judged
    ],
)
def test_the_answer_of_most_samples(
    verdicts: list[float | None], votes: list[int | None], expected: float
) -> None:
    assert MajAtK().number(samples(verdicts, votes)) == pytest.approx(expected, nan_ok=True)


def test_length_and_shares() -> None:
    found = samples([1.0, 0.0, 0.0, None], [0, None, 1, None])
    assert CompletionLength().number(found) == 11.5
    assert CutOffShare().number(found) == 0.25
    assert FormatShare().number(found) == 0.5


def test_intervals_of_the_bootstrap() -> None:
    values = np.array([1.0] * 300 + [0.0] * 700)
    found = estimate(values)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)  # of the normal approximation
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half, abs=2e-3)
    assert found.high == pytest.approx(0.3 + half, abs=2e-3)
    assert estimate(values) == found, "the same each time"
    assert estimate(np.append(values, math.nan)).value == pytest.approx(0.3)
    alone = estimate(np.array([1.0]))
    assert (alone.value, alone.low, alone.high) == (1.0, None, None)
    assert math.isnan(estimate(np.array([math.nan])).value)


def test_paired_differences_know_that_the_problems_are_the_same() -> None:
    generator = np.random.default_rng(1)
    base = (generator.random(400) < 0.5).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:20]] = 1  # 20 of 400 more, none less
    found = difference(better, base)
    assert found.value == pytest.approx(0.05)
    half = 1.96 * math.sqrt(0.05 * 0.95 / 400)
    assert found.low == pytest.approx(0.05 - half, abs=3e-3)
    assert found.low > 0
    one, other = estimate(better), estimate(base)
    assert one.low < other.high, "their own intervals overlap"


def test_equal_answers_have_one_number_and_few_are_compared() -> None:
    asked = []

    def compare(pairs):  # type: ignore[no-untyped-def]
        asked.append(list(pairs))
        return [{"1/2", r"\frac{1}{2}"} == set(pair) for pair in pairs]

    found = number_answers(
        [["0.5", r"\frac{1}{2}", None, "3", "0.50", "x", "3.0"], ["7", "7"], [None]], compare
    )
    assert found == [[0, 0, None, 1, 0, 2, 1], [0, 0], [None]]
    assert asked == [[(r"\frac{1}{2}", "1/2")], [("x", "1/2")], [("x", "3")]]


def test_what_can_not_be_judged_is_compared_with_nothing() -> None:
    asked = []

    def compare(pairs):  # type: ignore[no-untyped-def]
        asked.extend(pairs)
        return [False] * len(pairs)

    answers = ["9^{9^9}", "x", "8^{8^8}", "9^{9^9}", "y"]
    rows: list[dict[str, Any]] = [
        {"problem": 0, "sample": n, "completion": boxed(answer), "verdict": verdict}
        | {"num_tokens": 1, "finished": True}
        for n, (answer, verdict) in enumerate(
            zip(answers, [None, 0.0, None, None, 1.0], strict=True)
        )
    ]
    found = samples_of(rows, Voting(answer_in="boxed", compare=compare))
    assert [sample.vote for sample in found[0]] == [0, 1, 2, 0, 3]
    assert asked == [("y", "x")]


def test_answers_are_compared_by_mathematics() -> None:
    judge = RewardSum([WeightedReward(reward=MathReward())])
    answers = [[r"\frac{1}{2}", "0.5", r"\sqrt{4}", "2", "x+1", "1+x"]]
    assert number_answers(answers, compare_by(judge)) == [[0, 0, 1, 1, 2, 2]]


def test_arms() -> None:
    vectors = SteeringVectors([1, 3]).shaped(2, 4)
    vectors.set_vectors(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    made = make_arms({"s": vectors}, [1.0, 0.5], "each")
    arms = {arm.name: (arm.steering, arm.scale) for arm in made}
    assert list(arms) == ["base", "s", "s x 0.5", "s without layer 1", "s without layer 3"]
    assert arms["s"] == (vectors, 1.0)
    assert arms["s x 0.5"] == (vectors, 0.5)
    rest, scale = arms["s without layer 1"]
    assert isinstance(rest, SteeringVectors)
    assert scale == 1.0
    assert (rest.layers, rest.num_layers) == ((1, 3), 4)
    assert rest.vectors.tolist() == [[0, 0], [3, 4]]
    assert vectors.vectors.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ConfigError, match=r"leave_out_layers = \[0\].*It steers 1, 3"):
        make_arms({"s": vectors}, [1.0], [0, 1])
    with pytest.raises(ConfigError, match="two arms would be called base"):
        make_arms({"base": vectors}, [1.0], None)
    for kind in (LowRankVectors(), AdaptiveVectors()):
        with pytest.raises(ConfigError, match=r"leave_out_layers = \[1\].*holds .*width 2"):
            make_arms({"s": kind.shaped(2, 4)}, [1.0], [1])


def test_layers_are_left_out_at_any_place() -> None:
    vectors = SteeringVectors(site="mlp_output", tokens="prompt").shaped(2, 2)
    vectors.set_vectors(torch.ones(2, 2))
    _, rest = make_arms({"s": vectors}, [], [1])
    assert isinstance(rest.steering, SteeringVectors)
    assert (rest.steering.site, rest.steering.tokens) == ("mlp_output", "prompt")
    assert rest.steering.vectors.tolist() == [[1, 1], [0, 0]]


def test_arms_of_the_same_name_are_told_apart() -> None:
    """By what they hold, where it acts, and by how much: no evaluation goes on as another one."""
    plain = SteeringVectors().shaped(2, 2)
    plain.set_vectors(torch.ones(2, 2))
    others: list[Steering] = [SteeringVectors().shaped(2, 2), AdaptiveVectors().shaped(2, 2)]
    others.append(SteeringVectors(tokens="prompt").shaped(2, 2))
    for vectors in others[1:]:
        vectors.set_vectors(torch.ones(2, 2))  # type: ignore[attr-defined]
    arms = [make_arms({"s": steering}, [0.5], None)[1] for steering in (plain, *others)]
    arms.append(make_arms({"s": plain}, [0.5000001], None)[1])
    assert {arm.name for arm in arms} == {"s x 0.5"}
    assert len({arm.facts for arm in arms}) == 5
    assert make_arms({"s": plain}, [0.5], None)[1].facts == arms[0].facts


def test_files_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    for name in ("base.safetensors", "one.safetensors", "run-1/steering_vectors.safetensors"):
        save_vectors(torch.ones(2, 2), tmp_path / name, base_model="b")
    path = {name: str(tmp_path / name) for name in ("base.safetensors", "one.safetensors", "run-1")}
    assert list(load_files([path["run-1"]])) == ["steered"]
    assert list(load_files([path["run-1"], path["one.safetensors"]])) == ["run-1", "one"]
    both = [path["base.safetensors"], path["one.safetensors"]]
    assert list(load_files(both)) == both, "`base` is the name of the base"


def test_results_that_do_not_fit_the_base_are_named(tmp_path: Path) -> None:
    policy = Policy(save_tiny(tmp_path, "llama"))
    (tmp_path / "model.safetensors").unlink()
    vectors = SteeringVectors().shaped(2, 3)
    with pytest.raises(ConfigError, match=r"vectors = 's': does not fit .*width 2.*has width 32"):
        check_fit({"s": vectors}, policy)
    tuned = FullFinetune()
    tuned.build(tiny_model("qwen2"))  # with biases, which this base has not
    with pytest.raises(ConfigError, match=r"vectors = 't': does not fit .*q_proj\.bias"):
        check_fit({"s": SteeringVectors().shaped(32, 3), "t": tuned}, policy)


def test_the_table_shows_the_difference_to_the_base() -> None:
    base = {"avg@1": np.array([0.0, 1.0, 0.0, 0.0]), "length": np.array([10.0] * 4)}
    steered = {"avg@2": np.array([1.0, 1.0, 0.5, 0.0]), "length": np.array([12.0] * 4)}
    rows = table_rows("b", {"base": base, "steered": steered})
    found = {(row["arm"], row["metric"]): row for row in rows}
    assert found["steered", "avg@2"]["difference"] == pytest.approx(0.375)
    assert found["steered", "length"]["difference"] == 2.0
    assert "difference" not in found["base", "avg@1"]
    json.dumps(rows, allow_nan=False)
    text = as_text(rows)
    assert "b (4 problems)" in text
    head, first, second = text.splitlines()[1:]
    assert head.split() == ["avg@1", "avg@2", "against", "base", "length"]
    assert first.split()[:3] == ["base", "25.0", "[0.0,"]
    assert second.split()[:3] == ["steered", "-", "62.5"]
    assert "  +37.5 [" in second, "of a base that is sampled once"
    assert "12.0 [12.0, 12.0]" in second


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        (MATH500, ("problem", "answer")),
        (AIME24, ("Problem", "Answer")),
        (AIME25, ("question", "answer")),
        (AMC23, ("problem", "answer")),
        (MinervaMath, ("problem", "solution")),
        (OlympiadBench, ("question", "answer")),
    ],
)
def test_benchmarks_from_a_local_file(kind: type, columns: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{columns[0]: f"q{k}", columns[1]: k} for k in range(3)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = kind(path=str(path), limit=2).load()
    assert [(x.question, x.answer) for x in found] == [("q0", "0"), ("q1", "1")]
    path.write_text(json.dumps({columns[0]: "q", "solved": 3}))
    with pytest.raises(ConfigError, match=f"data column = '{columns[1]}'"):
        kind(path=str(path)).load()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="holds no evaluation"):
            Store(tmp_path).open({"seed": 0}, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_an_evaluation_is_overwritten_and_what_lies_beside_it_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open({"seed": 0}, overwrite=False)
    store.finish([], {"rows": []})
    (tmp_path / "comparison.png").write_text("a picture")
    store.open({"seed": 1}, overwrite=True)
    assert not store.results.exists()
    assert (tmp_path / "comparison.png").exists()
    store.open({"seed": 1}, overwrite=False)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "completions.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ConfigError, match=r"completions\.parquet': is damaged"):
        read_rows(tmp_path / "completions.parquet")
    with pytest.raises(ConfigError, match="there is no such file"):
        read_rows(tmp_path / "nothing.parquet")
    store = Store(tmp_path / "e")
    store.open({"seed": 0}, overwrite=False)
    store.open({"seed": 0}, overwrite=False)
    with pytest.raises(ConfigError, match="other seed: 0; now 1"):
        store.open({"seed": 1}, overwrite=False)
    (tmp_path / "e/settings.json").write_text("{")
    with pytest.raises(ConfigError, match=r"settings\.json': is damaged"):
        store.open({"seed": 0}, overwrite=False)
