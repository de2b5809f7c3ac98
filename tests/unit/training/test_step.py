"""Rows of several rounds and processes, joined."""

from __future__ import annotations

import torch

from steer_lightning.rewards import Scores
from steer_lightning.training.sample import no_rollouts
from steer_lightning.training.step import Sampled, gather_rows
from tests.unit.training.made_up_rounds import MIXED, PROMPTS, sampled


def test_a_process_without_a_prompt_takes_part_in_a_round() -> None:
    nothing = no_rollouts(2)
    rows = gather_rows(nothing, Scores(total=[], parts={"r": []}, outcomes={"r": {}}), 0.5)
    assert rows.rewards.shape == rows.parts["r"].shape == rows.finished.shape == (0, 2)
    own = torch.arange(0)
    empty = Sampled(
        **vars(rows), rollouts=nothing, scores=Scores(total=[], parts={"r": []}), own=own
    )
    joined = sampled(PROMPTS[:1], [MIXED]).join(empty)
    assert joined.rewards.tolist() == [MIXED]
    assert joined.rollouts.texts == ("p00", "p01")
