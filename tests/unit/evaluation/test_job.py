"""Evaluations: settings that make no sense, how each arm is sampled, batches, verdicts, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.evaluation import AIME24
from steer_lightning.evaluation.job import Evaluation, _hash, _verdicts, verifier_facts
from steer_lightning.rewards import FormatReward, MathReward, Scores
from steer_lightning.rollout import Sampling
from steer_lightning.testing import make_prompts
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
            {"strata": [0.5], "num_samples": 4, "base_sampling": Sampling(temperature=0)},
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


SAMPLING, GREEDY = Sampling(group_size=3, max_new_tokens=7), Sampling(group_size=1, temperature=0)


@pytest.mark.parametrize(
    ("settings", "sums", "aime", "of_base"),
    [
        ({}, 3, 32, 3),  # AIME sets its own number
        ({"num_samples": 5}, 5, 5, 5),
        ({"base_sampling": GREEDY}, 3, 32, 1),
        ({"base_sampling": GREEDY, "num_samples": 5}, 5, 5, 1),
    ],
)
def test_how_often_each_benchmark_is_sampled(
    tmp_path: Path, settings: dict[str, Any], sums: int, aime: int, of_base: int
) -> None:
    (tmp_path / "aime.jsonl").write_text("{}")
    benchmarks = {"sums": Arithmetic(), "aime": AIME24(path=str(tmp_path / "aime.jsonl"))}
    job = evaluation(tmp_path, benchmarks=benchmarks, sampling=SAMPLING, **settings)
    found = [job._sampling(*at) for at in (("sums", "s"), ("aime", "s"), ("sums", "base"))]
    assert [sampling.group_size for sampling in found] == [sums, aime, of_base]
    assert found[0].max_new_tokens == 7
    assert found[2].temperature == ("base_sampling" not in settings)


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


def test_the_hash_is_of_what_the_model_reads_and_of_the_answers() -> None:
    one, other = make_prompts(["a"]), make_prompts(["b"])
    assert _hash(one) == _hash(make_prompts(["a"]))
    assert len({_hash(one), _hash(other), _hash(one + other), _hash([])}) == 4


def test_facts_of_verifiers() -> None:
    found = verifier_facts(MathReward("last_number"))
    assert (found["name"], found["answer_in"]) == ("MathReward", "last_number")
    assert "class" not in found
    assert verifier_facts(FormatReward("[a-m]")) != verifier_facts(FormatReward("[a-n]"))
    assert verifier_facts(max) == {"name": "max"}


def test_verdicts_come_with_their_outcomes() -> None:
    scores = Scores(
        total=[1.0, None], parts={}, outcomes={}, each={"MathReward": ["right", "timed_out"]}
    )
    assert _verdicts(scores) == ([1.0, None], ["right", "timed_out"])


ENDLESS, STOPPED = Sampling(max_new_tokens=2), Sampling(max_new_tokens=2, stop_strings=["a"])


@pytest.mark.parametrize(
    ("sampling", "base_sampling", "told"),
    [
        (ENDLESS, None, "sampling"),
        (STOPPED, ENDLESS, "base_sampling"),
        (STOPPED, None, None),
    ],
)
def test_answers_that_nothing_ends_are_told(
    tmp_path: Path,
    sampling: Sampling,
    base_sampling: Sampling | None,
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
