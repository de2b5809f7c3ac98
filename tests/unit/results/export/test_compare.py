"""The difference of logits, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steer_lightning.results.export.compare import NUM_GREEDY, Probe, difference


def test_difference_by_hand() -> None:
    """One text of 1 token; what stands behind its continuation is not looked at."""
    probe = Probe(torch.zeros(1, 1 + NUM_GREEDY, dtype=torch.long), torch.tensor([1]))
    ours = torch.zeros(1, 1 + NUM_GREEDY, 2)
    ours[..., 0] = np.log(3)  # probabilities 3/4 and 1/4
    theirs = ours.clone()
    theirs[0, 2] = torch.tensor([0.0, np.log(3)])  # 1/4 and 3/4
    theirs[0, NUM_GREEDY] = torch.tensor([0.0, 100.0])  # behind the last token
    found = difference(ours, theirs, probe)
    assert found.largest == pytest.approx(np.log(3))
    assert found.largest_kl == pytest.approx(0.75 * np.log(3) + 0.25 * np.log(1 / 3))
    assert found.kl == pytest.approx(found.largest_kl / NUM_GREEDY, rel=1e-5)
    assert (found.num_tokens, found.num_equal) == (NUM_GREEDY, NUM_GREEDY - 1)
    assert found.gap == pytest.approx(np.log(3))
    assert not found.same
    assert difference(ours, ours, probe).same
