"""Slots of the completions in flight, worked by hand."""

from __future__ import annotations

import torch

from steer_lightning.rollout.flight import Flight, part


def apart(flight: Flight) -> None:
    """Gives each completion a row of its own."""
    rows = list(flight.rows)
    flight.rows = [row[:1] for row in rows]
    for slot, row in enumerate(rows):
        flight.split([slot] * (len(row) - 1), [[n] for n in row[1:]])


def test_slots_are_kept_without_gaps() -> None:
    flight = Flight(
        [5, 3, 4],
        [0, 0, 1, 1, 2, 2],
        [0, 0, 1],
        max_rows=6,
        max_prompts=3,
        max_columns=9,
        device=torch.device("cpu"),
    )
    assert flight.admit([0, 1, 2, 3]) == [0, 1]
    assert flight.rows == [[0, 1], [2, 3]]
    apart(flight)
    assert flight.rows == [[0], [2], [1], [3]]
    flight.settle()
    flight.advance()
    assert flight.admit([4]) == [2]
    flight.settle()
    assert flight.counts.tolist() == [2, 2, 2, 2, 1]
    assert flight.positions.tolist() == [6, 4, 6, 4, 4]
    assert flight.owners.tolist() == [0, 0, 0, 0, 1]
    assert flight.column is None, "rows are not equally long"
    assert flight.release([0, 1]) == ([3, 4], [0, 1])  # the last ones move into the gaps
    assert flight.rows == [[3], [4], [1]]
    assert flight.release_prompts() == ([], [])
    assert flight.release([2]) == ([], [])
    assert flight.rows == [[3], [4]]
    assert flight.release_prompts() == ([2], [0])  # prompt 0 has no row left
    assert flight.prompts == [2, 1]
    flight.settle()
    assert flight.width == 4
    _, tails = flight.biases(None, 1)
    assert (tails[:, 0, 0] == 0).tolist() == [[True, True], [True, False]]
    prefix, _ = flight.biases(None, 1)
    assert (prefix[:, 0, 0] == 0).tolist() == [[True] * 4, [False, True, True, True]]


def test_a_group_and_its_rows_are_each_others_inverse() -> None:
    flight = Flight(
        [2, 2],
        [0, 0, 0, 1, 1, 1],
        [0, 1],
        max_rows=6,
        max_prompts=2,
        max_columns=9,
        device=torch.device("cpu"),
    )
    flight.admit(range(6))
    apart(flight)
    for ended in ([], [1], [0, 2]):
        flight.release(ended)
        flight.settle()
        query = torch.randn(flight.num_rows, 2, 4, 5)
        assert torch.equal(flight.from_groups(flight.to_groups(query), 4), query)


def test_parting_by_hand() -> None:
    parting = part(
        [[0, 1, 2], [5, 4], [7]],
        [9, 8, 9, 3, 3, 6],
        [False, False, False, True, True, False],
    )
    assert parting.rows == [[0, 2], [], [7]]  # 1 leaves the first row, the second has ended
    assert parting.tokens == [9, 0, 6]
    assert parting.split == [(0, [1], 8)]
    assert parting.ended == [1]
