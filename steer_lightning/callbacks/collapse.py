"""The course of rewards and entropy over a run, and the signs of its collapse.

A step is one `Point`. Its prompts are the independent observations, so the reward of a step is the
mean over prompts of their mean rewards. Windows are the last steps that hold at least 16 prompts,
for a sudden collapse, or 64, for a slow one, and at least 3 steps.

The reward has collapsed if the mean of a last window lies below the mean of the best window so far,
of either length, by more than chance explains, and by at least half of what the best one was above
the lowest prompt.
With n and m prompts, and the variance v of all of them around their common mean, chance explains
`DEVIATIONS * sqrt(v * (1 / n + 1 / m))`.

The entropy has collapsed if it is at most a tenth of the first step's, nine in ten prompts have
completions of equal advantage, and the reward lies in the lower half of what prompts have reached.
Entropy alone is no sign: it falls as far in a run that has solved its problems.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from steer_lightning.system.figures import rounded
from steer_lightning.training.step import Step

FEW_PROMPTS, MANY_PROMPTS = 16, 64
"""Smallest numbers of prompts in the two windows."""

FEW_STEPS = 3
"""Smallest number of steps in a window."""

DEVIATIONS = 5.5
"""Standard deviations by which a reward must have fallen. With 5 instead, 14 of 300 made-up runs of
1,000 steps of constant chance were taken for collapses, with 5.5 none."""

LOST = 0.5
"""Share of a reward that must be lost."""

LOW_ENTROPY, ALIKE, POOR = 0.1, 0.9, 0.5
"""Share of the first step's entropy, share of prompts without signal, and place of the reward
between the lowest and the highest prompt, at which the entropy counts as collapsed."""


LOWER = 5
"""Factor by which the learning rate to try is lower: between 3 and 10, of which docs speak."""


class Point(NamedTuple):
    """What a step tells about a collapse."""

    prompts: int
    """Number of prompts with a scored completion."""
    total: float
    """Sum of the mean rewards of those prompts."""
    squares: float
    """Sum of their squares."""
    lowest: float
    """Lowest mean reward of a prompt."""
    highest: float
    """Highest mean reward of a prompt."""
    entropy: float
    """Mean of minus the log-probability of the sampled tokens, in nats per token."""
    silent: float
    """Share of prompts whose completions all have advantage 0."""


class Fall(NamedTuple):
    """What has fallen: its mean then and now, and the number of steps behind both."""

    before: float
    now: float
    num_steps: int
    entropy_before: float
    entropy: float


def point_of(step: Step) -> Point:
    """Reads the point of a step; all its numbers are the same on every process."""
    means = step.rewards.double().nanmean(dim=1)
    means = means[~means.isnan()]
    entropy = -float(step.logprob_sums.sum()) / max(1, int(step.num_tokens.sum()))
    return Point(
        prompts=len(means),
        total=float(means.sum()),
        squares=float((means**2).sum()),
        lowest=float(means.min()) if len(means) else math.inf,
        highest=float(means.max()) if len(means) else -math.inf,
        entropy=entropy,
        silent=float((step.advantages == 0).all(1).double().mean()),
    )


class Window(NamedTuple):
    """Several steps in a row."""

    prompts: int
    total: float
    squares: float
    num_steps: int
    entropy: float

    @property
    def mean(self) -> float:
        """Mean reward of the prompts."""
        return self.total / self.prompts


def joined(points: Sequence[Point]) -> Window:
    """Joins steps in a row to a window."""
    return Window(
        prompts=sum(point.prompts for point in points),
        total=math.fsum(point.total for point in points),
        squares=math.fsum(point.squares for point in points),
        num_steps=len(points),
        entropy=math.fsum(point.entropy for point in points) / len(points),
    )


class Course:
    """The course of a run, as far as it is needed to notice a collapse.

    It keeps the steps of the longer window, and the best window so far of each length.
    """

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=MANY_PROMPTS)
        self._best: dict[int, Window] = {}
        self._lowest, self._highest = math.inf, -math.inf
        self._first_entropy: float | None = None

    def add(self, point: Point) -> Fall | None:
        """Adds a step; returns how far the reward has fallen if it has collapsed."""
        self._points.append(point)
        self._lowest = min(self._lowest, point.lowest)
        self._highest = max(self._highest, point.highest)
        if self._first_entropy is None:
            self._first_entropy = point.entropy
        windows = {least: self._last(least) for least in (FEW_PROMPTS, MANY_PROMPTS)}
        found = [
            Fall(best.mean, window.mean, window.num_steps, best.entropy, window.entropy)
            for window in windows.values()
            for best in self._best.values()
            if window is not None and _has_fallen(best, window, self._lowest)
        ]
        for least, window in windows.items():
            best = self._best.get(least)
            if window is not None and (best is None or window.mean > best.mean):
                self._best[least] = window
        return found[0] if found else None

    def entropy_fall(self) -> Fall | None:
        """Returns how far the entropy has fallen if it has collapsed."""
        window, first = self._last(FEW_PROMPTS), self._first_entropy
        spread = self._highest - self._lowest
        if window is None or first is None or not spread > 0 or window.num_steps < FEW_STEPS:
            return None
        silent = [point.silent for point in list(self._points)[-window.num_steps :]]
        place = (window.mean - self._lowest) / spread
        alike = math.fsum(silent) / len(silent) >= ALIKE
        if window.entropy > LOW_ENTROPY * first or not alike or place >= POOR:
            return None
        return Fall(first, window.entropy, window.num_steps, first, window.entropy)

    def _last(self, least: int) -> Window | None:
        """Returns the last steps with enough prompts; None while there are too few.

        At the start of a run, fewer steps than `FEW_STEPS` are a window: they may be the best.
        """
        num_steps = prompts = 0
        for point in reversed(self._points):
            if prompts >= least and num_steps >= FEW_STEPS:
                break
            num_steps, prompts = num_steps + 1, prompts + point.prompts
        return joined(list(self._points)[-num_steps:]) if prompts >= least else None

    def state_dict(self) -> dict[str, Any]:
        """Returns everything as plain numbers, for a checkpoint."""
        return {
            "points": [tuple(point) for point in self._points],
            "best": {least: tuple(window) for least, window in self._best.items()},
            "range": (self._lowest, self._highest),
            "first_entropy": self._first_entropy,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` has returned."""
        self._points.clear()
        self._points.extend(Point(*values) for values in state["points"])
        self._best = {least: Window(*values) for least, values in state["best"].items()}
        self._lowest, self._highest = state["range"]
        self._first_entropy = state["first_entropy"]


def reward_collapse(fall: Fall, step: int, rate: float, best_step: int | None = None) -> str:
    """Says that the reward has collapsed, with the likely cause and the settings to change."""
    sign = "fell" if fall.entropy < fall.entropy_before else "rose"
    return (
        f"step {step}: the reward has collapsed, from {rounded(fall.before)} to "
        f"{rounded(fall.now)} (means of prompts over {fall.num_steps} steps); the entropy {sign} "
        f"from {rounded(fall.entropy_before)} to {rounded(fall.entropy)} nats per token. "
        f"Likely cause: {_too_high(rate)}. {_kept(best_step)}"
    )


def entropy_collapse(fall: Fall, step: int, rate: float, best_step: int | None = None) -> str:
    """Says that the entropy has collapsed, with the likely cause and the settings to change."""
    return (
        f"step {step}: the entropy has collapsed, from {rounded(fall.before)} to "
        f"{rounded(fall.now)} nats per token (completion/entropy): the completions of a prompt are "
        "all alike, few of them are good, and nothing is left to learn from. "
        f"Likely cause: {_too_high(rate)}. A higher model.sampling.temperature, or the term "
        f"EntropyBonus in model.loss, keeps completions apart. {_kept(best_step)}"
    )


def _kept(best_step: int | None) -> str:
    """Says what can be used of a run that has collapsed."""
    if best_step is None:
        return "No result from before is kept: none had been judged yet"
    return f"The best result so far, of step {best_step}, is kept as best"


def _too_high(rate: float) -> str:
    return (
        f"the learning rate {rate:g} is too high. Start again with model.optimizer's lr "
        f"{rate / LOWER:.2g}, or with the term KLToBase in model.loss, which holds the policy near "
        "the base"
    )


def _has_fallen(best: Window, now: Window, lowest: float) -> bool:
    """Whether a window lies far below the best one, by more than chance explains."""
    fall = best.mean - now.mean
    if fall < LOST * (best.mean - lowest) or fall <= 0:
        return False
    count = best.prompts + now.prompts
    mean = (best.total + now.total) / count
    variance = max(0.0, (best.squares + now.squares) / count - mean**2)
    return fall >= DEVIATIONS * math.sqrt(variance * (1 / best.prompts + 1 / now.prompts))
