"""REINFORCE leave-one-out, with numbers worked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_lightning.advantages import RLOO
from steer_lightning.training.sample import as_matrix

NAN = float("nan")


def test_rloo_by_hand() -> None:
    # first group: baselines 1/3 for the right one, 1/3 * (1 + ...) for the others
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    expected = [[1.0, -1 / 3, -1 / 3, -1 / 3], [2 / 3, 2 / 3, -2 / 3, -2 / 3], [0.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(RLOO()(rewards), torch.tensor(expected))


def test_rloo_leaves_out_what_can_not_be_scored() -> None:
    rewards = torch.tensor([[1.0, NAN, 0.0], [NAN, 1.0, NAN], [NAN, NAN, NAN]])
    expected = [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert RLOO()(rewards).tolist() == expected


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 0.25, None]), min_size=4, max_size=4),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None, max_examples=100)
def test_rloo_equals_the_definition(rows: list[list[float | None]]) -> None:
    scores = [score for row in rows for score in row]
    advantages = RLOO()(as_matrix(scores, 4))
    for row, group in zip(rows, advantages.tolist(), strict=True):
        for i, reward in enumerate(row):
            others = [other for j, other in enumerate(row) if j != i and other is not None]
            expected = 0.0 if reward is None or not others else reward - sum(others) / len(others)
            assert group[i] == pytest.approx(expected, abs=1e-6)
        assert sum(group) == pytest.approx(0, abs=1e-5)
