"""What the evaluation job tells before it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning.data import PlainTemplate
from steer_lightning.evaluation.job import Evaluation
from steer_lightning.rollout import Sampling
from tests.no_eos import Questions, save_without_eos

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
