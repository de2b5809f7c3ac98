"""Evaluations: settings that make no sense, how each arm is sampled, batches, verdicts, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.evaluation import AIME24
from steer_lightning.evaluation.base_sampling import BaseSampling
from steer_lightning.evaluation.budget import Budget
from steer_lightning.evaluation.job import Evaluation
from steer_lightning.evaluation.refinement import Refinement
from steer_lightning.evaluation.store import COSTS, read_rows, row_of
from steer_lightning.rollout import Sampling
from steer_lightning.steering import save_vectors
from steer_lightning.testing import make_prompts
from steer_lightning.types import Completion
from tests.no_eos import Questions, save_without_eos


def evaluation(tmp_path: Path, **settings: Any) -> Evaluation:
    given = {"benchmarks": {"sums": Arithmetic()}, "base": "quickstart", "output": str(tmp_path)}
    return Evaluation(**{**given, **settings})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"benchmarks": {}}, "benchmarks = {}: must name at least one source"),
        ({"batch_size": 0}, "batch_size = 0: must be at least 1"),
        ({"num_samples": 0}, "num_samples = 0: must be at least 1"),
        ({"scales": [1.0, float("nan")]}, r"scales = \[1.0, nan\]: must be finite"),
        ({"scales": [float("-inf")]}, "must be finite"),
        ({"scales": [1.0, 2.0, 1.0]}, "names a scale twice"),
        ({"strata": [0.5, 0.2]}, r"strata = \[0.5, 0.2\]: must be ascending"),
        ({"strata": [0.5]}, r"strata = \[0.5\]: needs at least 2 samples"),
        (
            {"strata": [0.5], "num_samples": 4, "base_sampling": BaseSampling(temperature=0)},
            "needs base_sampling: null",
        ),
        ({"pass_at": [1, 0]}, r"pass_at = \[1, 0\]: must contain numbers of at least 1"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        evaluation(tmp_path, **settings)


def test_the_base_alone_has_one_arm(tmp_path: Path) -> None:
    assert [arm.name for arm in evaluation(tmp_path).arms] == ["base"]


SAMPLING, GREEDY = Sampling(group_size=3, max_new_tokens=7), BaseSampling(temperature=0)
HOT = BaseSampling(temperature=2)


@pytest.mark.parametrize(
    ("settings", "sums", "aime", "of_base"),
    [
        ({}, 3, 32, 3),  # AIME sets its own number
        ({"num_samples": 5}, 5, 5, 5),
        ({"base_sampling": GREEDY}, 3, 32, 1),
        ({"base_sampling": GREEDY, "num_samples": 5}, 5, 5, 1),
        ({"base_sampling": HOT, "num_samples": 5}, 5, 5, 5),
    ],
)
def test_how_often_each_benchmark_is_sampled(
    tmp_path: Path, settings: dict[str, Any], sums: int, aime: int, of_base: int
) -> None:
    (tmp_path / "aime.jsonl").write_text("{}")
    benchmarks = {"sums": Arithmetic(), "aime": AIME24(path=str(tmp_path / "aime.jsonl"))}
    job = evaluation(tmp_path, benchmarks=benchmarks, sampling=SAMPLING, **settings)
    found = [job._sampling(*at) for at in (("sums", False), ("aime", False), ("sums", True))]
    assert [sampling.group_size for sampling in found] == [sums, aime, of_base]
    assert [sampling.max_new_tokens for sampling in found] == [7, 7, 7]
    own = settings.get("base_sampling", BaseSampling(temperature=1))
    assert found[2].temperature == own.temperature
    at_32 = job._sampling("aime", True).group_size
    assert at_32 == (1 if own is GREEDY else aime), "as often as the other arms"


def test_budgets_count_for_the_longest_completions(tmp_path: Path) -> None:
    """The longer of two limits of thinking, 9 and 7, and an answer of 3 + 2 tokens."""
    budgets = {
        "waits": Budget(num_waits=1, wait="1"),
        "short": Budget(max_thinking_tokens=4, answer_prefix="123", max_answer_tokens=2),
    }
    longer = Sampling(group_size=3, max_new_tokens=9)
    job = evaluation(
        tmp_path, sampling=longer, base_sampling=BaseSampling(max_new_tokens=7), budgets=budgets
    )
    assert job._longest() == {
        "sampling.max_new_tokens": 9,
        "base_sampling.max_new_tokens": 7,
        "budgets.waits, tokens in all": 9,
        "budgets.short, tokens in all": 9,
    }
    assert [arm.name for arm in job.arms] == ["base", "base, waits", "base, short"]
    assert [arm.is_base for arm in job.arms] == [True] * 3
    with pytest.raises(ConfigError, match="a/b = 'a/b': is no name"):
        evaluation(tmp_path, budgets={"a/b": Budget(num_waits=1)})


def test_refinements_are_arms_beside_budgets(tmp_path: Path) -> None:
    both = {"budgets": {"w": Budget(num_waits=1)}, "refinements": {"mine": Refinement()}}
    job = evaluation(tmp_path, **both)
    assert [arm.name for arm in job.arms] == ["base", "base, w", "base, mine"]
    assert [arm.is_base for arm in job.arms] == [True] * 3
    assert [arm.is_plain for arm in job.arms] == [True, False, False]
    assert [arm.unrefined for arm in job.arms] == ["", "", "base"]
    assert len({arm.facts for arm in job.arms}) == 3
    other = evaluation(tmp_path, refinements={"mine": Refinement(steps=5)})
    assert other.arms[1].facts != job.arms[2].facts, "other settings, other answers"
    with pytest.raises(ConfigError, match=r"refinements.a/b = 'a/b': is no name"):
        evaluation(tmp_path, refinements={"a/b": Refinement()})
    with pytest.raises(ConfigError, match="two arms would be called base, w"):
        evaluation(tmp_path, budgets=both["budgets"], refinements={"w": Refinement()})
    with pytest.raises(ConfigError, match=r"contradicts base_sampling.stop_strings"):
        evaluation(tmp_path, **both, base_sampling=BaseSampling(stop_strings=["a"]))


def test_completions_that_are_verified_again_keep_their_arms(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the settings say of budgets and refinements, the rows know nothing of it."""
    both = {"budgets": {"w": Budget(num_waits=1)}, "refinements": {"mine": Refinement(steps=9)}}
    job, cost = evaluation(tmp_path, **both), dict.fromkeys(COSTS, 1.0)
    rows = [{**row, **cost} for arm in job.arms for row in rows_of(arm.name, 0, [0.0, 0.0])]
    before = job._results(rows, None, {})
    job.store.finish(rows, before)
    other = {"refinements": {"other": Refinement()}}
    for settings in ({}, other):
        found = evaluation(tmp_path, rescore=True, **settings).run()
        assert found["budgets"] == before["budgets"] != []
        assert [(x["arm"], x["steps"]) for x in found["refinements"]] == [("base, mine", 9)]
        assert (before["refinements"][0]["value"], found["refinements"][0]["value"]) == (0, 1)
        assert ("no completions of base, other" in caplog.text) == (settings == other)
    job.store.results.write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        evaluation(tmp_path, rescore=True).run()


def test_batches_are_of_one_benchmark_and_one_arm(tmp_path: Path) -> None:
    job = evaluation(tmp_path, batch_size=2)
    job.arms = job.arms * 2
    prompts = {"five": make_prompts(list("abcde")), "one": make_prompts(["z"])}
    found = [
        (x.benchmark, x.arm, x.number, [p.id for p in x.prompts]) for x in job._batches(prompts)
    ]
    of_five = [(0, [0, 1]), (1, [2, 3]), (2, [4])]
    assert found == [
        *(("five", arm, number, ids) for arm in (0, 1) for number, ids in of_five),
        *(("one", arm, 0, [0]) for arm in (0, 1)),
    ]


def test_names_of_benchmarks_are_parts_of_file_names(tmp_path: Path) -> None:
    for name in ("a/b", "..", "a b", ""):
        with pytest.raises(ConfigError, match="letters, digits, - and _"):
            evaluation(
                tmp_path, benchmarks={name: Arithmetic()}, template=PlainTemplate("{question}=")
            ).run()


def rows_of(arm: str, problem: int, verdicts: list[float]) -> list[dict[str, Any]]:
    done = Completion(text=r"\boxed{1}", question="q", answer="1", num_tokens=4, finished=True)
    place = {"benchmark": "sums", "arm": arm, "problem": problem}
    return [row_of({**place, "sample": n}, done, x, "") for n, x in enumerate(verdicts)]


def test_an_arm_votes_over_scales(tmp_path: Path) -> None:
    """Sample 0 of the first scale and sample 1 of the second: 1 and 0, then 0 and 1."""
    save_vectors(torch.ones(4, 192), tmp_path / "v.safetensors", base_model="quickstart")
    given = {"vectors": str(tmp_path / "v.safetensors"), "scales": [0.5, 1.0]}
    job = evaluation(tmp_path, **given, vote_over_scales=True)
    rows = [
        *(*rows_of("base", 0, [0.0, 0.0]), *rows_of("base", 1, [0.0, 1.0])),
        *(*rows_of("steered x 0.5", 0, [1.0, 1.0]), *rows_of("steered x 0.5", 1, [0.0, 1.0])),
        *(*rows_of("steered", 0, [1.0, 0.0]), *rows_of("steered", 1, [0.0, 1.0])),
    ]
    found = {(x["arm"], x["metric"]): x for x in job._results(rows, None, {})["rows"]}
    joined = found["steered, all scales", "avg@2"]
    assert (joined["value"], joined["difference"]) == (0.5, 0.25)
    own = evaluation(tmp_path, **given)._results(rows, None, {})["rows"]
    alone = {x["arm"] for x in own}
    assert alone == {"base", "steered x 0.5", "steered"}
    with pytest.raises(ConfigError, match="of arithmetic has 1 samples to measure"):
        evaluation(
            tmp_path,
            benchmarks={"arithmetic": Arithmetic()},
            template=PlainTemplate("{question}="),
            sampling=Sampling(group_size=1, max_new_tokens=8),
            **given,
            vote_over_scales=True,
        )._prompts()


def test_an_arm_votes_over_scales_in_strata(tmp_path: Path) -> None:
    """Of six samples, the last three are measured: of the first scale, the second, the first."""
    save_vectors(torch.ones(4, 192), tmp_path / "v.safetensors", base_model="quickstart")
    given: dict[str, Any] = {
        "vectors": str(tmp_path / "v.safetensors"),
        "scales": [0.5, 1.0],
        "vote_over_scales": True,
        "strata": [0.5],
    }
    job = evaluation(tmp_path, **given, num_samples=6)
    rows = [
        *rows_of("base", 0, [0.0] * 6),
        *(*rows_of("steered x 0.5", 0, [1.0] * 6), *rows_of("steered", 0, [0.0] * 6)),
    ]
    found = {(x["arm"], x["metric"]): x for x in job._results(rows, None, {})["strata"]}
    joined = found["steered, all scales", "avg@3"]
    assert joined["benchmark"] == "sums, base 0-50 %"
    assert (joined["value"], joined["difference"]) == (pytest.approx(2 / 3),) * 2
    few = of_two(tmp_path, **given, num_samples=3)
    evaluation(tmp_path, **few)._prompts()
    with pytest.raises(ConfigError, match="of sums has 1 samples to measure, fewer than the 2"):
        evaluation(tmp_path, **{**few, "num_samples": 2})._prompts()


ENDLESS, STOPPED = Sampling(max_new_tokens=2), Sampling(max_new_tokens=2, stop_strings=["a"])


@pytest.mark.parametrize(
    ("sampling", "base_sampling", "told"),
    [
        (ENDLESS, None, "sampling"),
        (STOPPED, BaseSampling(stop_strings=[]), "base_sampling"),
        (STOPPED, None, None),
    ],
)
def test_answers_that_nothing_ends_are_told(
    tmp_path: Path,
    sampling: Sampling,
    base_sampling: BaseSampling | None,
    told: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = Evaluation(
        {"q": Questions()},
        base=save_without_eos(tmp_path / "base"),
        template=PlainTemplate("{question}="),
        sampling=sampling,
        base_sampling=base_sampling,
        output=str(tmp_path / "out"),
        device="cpu",
    )
    job._load()
    assert ("names an EOS token: every completion runs to" in caplog.text) == (told is not None)
    if told:
        assert f"Set eos_token_ids or stop_strings of {told}.\n" in caplog.text


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets arms answer without a model; those in the list are interrupted."""
    stopped: list[str] = []

    def answered(job: Evaluation, batch: Any, arm: Any, path: Path, judge: Any) -> None:
        if arm.name in stopped:
            raise KeyboardInterrupt
        rows = [row for prompt in batch.prompts for row in rows_of(arm.name, prompt.id, [1.0])]
        job.store.write_part(path, rows)

    monkeypatch.setattr(Evaluation, "_answer", answered)
    monkeypatch.setattr(Evaluation, "_load", lambda job: job.policy)
    return stopped


def of_two(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """Settings of an evaluation of two problems, from which no model answers."""
    return {
        "benchmarks": {"sums": Arithmetic(num_problems=2)},
        "template": PlainTemplate("{question}="),
        "sampling": Sampling(group_size=1, max_new_tokens=8),
        "neutral_text": None,
        "output": str(tmp_path / "out"),
        **settings,
    }


def test_an_interrupted_evaluation_resumes_with_its_arms_in_another_order(
    tmp_path: Path, answering: list[str]
) -> None:
    for value, name in enumerate("ab"):
        save_vectors(
            torch.full((4, 192), value + 1.0),
            tmp_path / f"{name}.safetensors",
            base_model="quickstart",
        )
    paths = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    answering.append("b")
    with pytest.raises(KeyboardInterrupt):
        evaluation(tmp_path, **of_two(tmp_path, vectors=paths)).run()
    answering.clear()
    job = evaluation(tmp_path, **of_two(tmp_path, vectors=paths[::-1]))
    job.run()
    found = sorted((row["arm"], row["problem"]) for row in read_rows(job.store.completions))
    assert found == [(arm, problem) for arm in ("a", "b", "base") for problem in (0, 1)]
