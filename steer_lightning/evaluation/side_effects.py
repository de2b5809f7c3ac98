"""What vectors change besides the answers: the model's predictions on neutral text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.arms import BASE, Arm
from steer_lightning.evaluation.intervals import Estimate, Values, estimate
from steer_lightning.model.head import kl
from steer_lightning.model.policy import Policy
from steer_lightning.system.collectives import gather_objects, rank, world_size
from steer_lightning.system.printable import aligned, one_line
from steer_lightning.system.whole_files import written_aside

SHIPPED = "shipped"
WINDOW = 128
"""Number of tokens of a window, without the token that begins a text."""
MOST_WINDOWS = 128
"""Number of windows that are read at most."""
HELD_LOGPROBS = 2**28
"""Number of the base's log-probabilities that are held at once at most, in float32."""
KEY = "neutral_text"

Numbers = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class NeutralText:
    """Windows of a text on which the model was not trained.

    Attributes:
        name: Name of the text, for people.
        windows: Tokens of each window, all equally many, with the token that begins a text.
    """

    name: str
    windows: list[list[int]]

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are predicted."""
        return sum(len(window) - 1 for window in self.windows)

    @property
    def facts(self) -> str:
        """Hash of the tokens."""
        return hashlib.sha256(repr(self.windows).encode()).hexdigest()


def read_neutral_text(path: str, tokenizer: Any) -> NeutralText:
    """Cuts a text into windows.

    Args:
        path: Text file in UTF-8, or `shipped`.
        tokenizer: Tokenizer of the base.

    Raises:
        ConfigError: If the file can't be read, or has fewer than two tokens.
    """
    if path == SHIPPED:
        text = files("steer_lightning").joinpath("assets/neutral.txt").read_text("utf-8")
    else:
        try:
            text = Path(path).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            rule = "must be a text file in UTF-8, `shipped` or null"
            raise ConfigError(KEY, path, rule=rule, why=str(error)) from error
    ids = tokenizer(text, add_special_tokens=False).input_ids
    begin = tokenizer("").input_ids[:1]  # the token that begins a text, if there is one
    begin = begin if begin == tokenizer("a").input_ids[:1] else []  # or ends it
    width = min(WINDOW, len(ids))
    if width < 2:
        rule = f"must have at least 2 tokens, not {len(ids)}"
        raise ConfigError(KEY, path, rule=rule, why="Each token is predicted from those before it")
    starts = range(0, len(ids) - width + 1, width)[:MOST_WINDOWS]
    return NeutralText(
        name="the text of the package" if path == SHIPPED else path,
        windows=[[*begin, *ids[start : start + width]] for start in starts],
    )


def measure_side_effects(policy: Policy, arms: Sequence[Arm], text: NeutralText) -> dict[str, Any]:
    r"""Measures how far each arm moves the predictions on neutral text.

    With the windows w of T tokens each, the base's distribution $p$ and the arm's $q$:

    $$\mathrm{KL}_w = \frac{1}{T} \sum_t \mathrm{KL}(q_t \,\|\, p_t), \qquad
    \mathrm{perplexity} = \exp\Big(-\frac{1}{W T} \sum_{w, t} \log q_t(x_t)\Big)$$

    The first token of a window counts as the prompt, the others as the completion, as far as the
    arm distinguishes them. Intervals are bootstrapped over windows. Each of n processes reads every
    n-th window.

    Args:
        policy: Policy with the loaded base.
        arms: The base, at first, and what steers it.
        text: Windows to read.

    Returns:
        `text`, `num_tokens`, `num_windows`, `base_knows_it`, which is False if the base predicts
        the text worse than by an even guess over its vocabulary, and `rows`: a row for each arm
        with its `result` and `scale`, `kl` in nats a token, `perplexity`, and `perplexity_ratio` to
        the base, each with `_low` and `_high`, and `num_broken`, the number of windows in which
        its logits are not finite: with any, the figures are None.
    """
    own = range(len(text.windows))[rank() :: world_size()]
    found: dict[int, Numbers] = {}
    size = _windows_at_once(policy, arms, text)
    with tqdm(total=len(own), desc="neutral text", unit="window", disable=rank() > 0) as bar:
        for start in range(0, len(own), size):
            some = own[start : start + size]
            found |= zip(some, _read(policy, arms, [text.windows[n] for n in some]), strict=True)
            bar.update(len(some))
    every = {n: values for share in gather_objects(found) for n, values in share.items()}
    numbers = np.array([every[n] for n in sorted(every)])  # (W, arms, 2)
    base = numbers[:, 0, 1]
    rows = [
        {
            "arm": arm.name,
            "result": arm.result,
            "scale": 0.0 if arm.name == BASE else arm.scale,
            **_figures(numbers[:, k, 0], numbers[:, k, 1], base),
        }
        for k, arm in enumerate(arms)
    ]
    even = _vocab_size(policy)
    return {
        "text": text.name,
        "num_tokens": text.num_tokens,
        "num_windows": len(text.windows),
        "base_knows_it": float(np.exp(base.mean())) < even,
        "rows": rows,
    }


def _vocab_size(policy: Policy) -> int:
    size: int = policy.model.config.get_text_config().vocab_size
    return size


def _windows_at_once(policy: Policy, arms: Sequence[Arm], text: NeutralText) -> int:
    """Returns how many windows an arm reads before the next one.

    It is one, unless weights are truncated, which takes time: then it is as many as
    `HELD_LOGPROBS` allows, with which the arms are compared.
    """
    if all(arm.truncation is None for arm in arms):
        return 1
    return max(1, HELD_LOGPROBS // (len(text.windows[0]) * _vocab_size(policy)))


@torch.no_grad()
def _read(policy: Policy, arms: Sequence[Arm], windows: Sequence[list[int]]) -> list[Numbers]:
    """Returns the KL to the base and the negative log-likelihood, in nats a token, of each arm.

    Weights are exchanged once for each arm, not for each window.
    """
    base: list[torch.Tensor] = []
    found: list[Numbers] = [[] for _ in windows]
    for arm in arms:
        policy.steer(arm.steering, 0.0 if arm.name == BASE else arm.scale)
        with arm.on_weights_of(policy):
            for number, window in enumerate(windows):
                ids = torch.tensor([window], device=policy.device)
                logits = policy.logits(ids, torch.ones_like(ids), num_last=len(window))[0, :-1]
                logprobs = logits.float().log_softmax(-1)
                if number == len(base):  # the first arm is the base
                    base.append(logprobs)
                surprise = -logprobs.gather(1, ids[0, 1:, None]).mean()
                found[number].append((float(kl(logprobs, base[number]).mean()), float(surprise)))
    return found


def _figures(kl: Values, surprise: Values, base: Values) -> dict[str, float | None]:
    """Returns the figures of an arm; None if its numbers overflow in some window."""
    broken = int((~np.isfinite(kl + surprise)).sum())
    if broken:
        names = ("kl", "perplexity", "perplexity_ratio")
        nothing = {f"{name}{end}": None for name in names for end in ("", "_low", "_high")}
        return {"num_broken": broken, **nothing}
    return {
        "num_broken": 0,
        **_named("kl", estimate(kl)),
        **_named("perplexity", _exp(estimate(surprise))),
        **_named("perplexity_ratio", _exp(estimate(surprise - base))),
    }


def _exp(found: Estimate) -> Estimate:
    low, high = (None if end is None else float(np.exp(end)) for end in (found.low, found.high))
    return Estimate(value=float(np.exp(found.value)), low=low, high=high)


def _named(name: str, found: Estimate) -> dict[str, float | None]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


class SideEffects:
    """The side effects of the arms of an evaluation, measured once and kept in its folder.

    Args:
        path: Text file to read, or `shipped`; None measures nothing.
        file: File in which the figures are kept.
    """

    def __init__(self, path: str | None, file: Path) -> None:
        self._path, self._file = path, file
        self._text: NeutralText | None = None

    def read(self, tokenizer: Any) -> None:
        """Reads the text; see `read_neutral_text`."""
        if self._path is not None:
            self._text = read_neutral_text(self._path, tokenizer)

    def of(self, arms: Sequence[Arm], loaded: Callable[[], Policy]) -> dict[str, Any] | None:
        """Returns what `measure_side_effects` returns, from the file if it is there.

        Args:
            arms: The base, at first, and what steers it.
            loaded: Function that loads the base, if it is not loaded yet, and returns the policy.

        Returns:
            The figures; None if nothing is measured.
        """
        if self._text is None:
            return None
        facts = {"text": self._text.facts, "arms": [[arm.name, arm.facts] for arm in arms]}
        saved = self._saved()
        if saved is not None and saved["facts"] == facts:
            found: dict[str, Any] = saved["found"]
            return found
        found = measure_side_effects(loaded(), arms, self._text)
        if rank() == 0:
            with written_aside(self._file) as aside:
                aside.write_text(json.dumps({"facts": facts, "found": found}, indent=2) + "\n")
        return found

    def kept(self) -> dict[str, Any] | None:
        """Returns the figures of the file, whatever its text and arms; None if there is none."""
        saved = self._saved()
        return None if saved is None else saved["found"]

    def _saved(self) -> dict[str, Any] | None:
        """Returns the content of the file, as the first process sees it."""
        return gather_objects(self._of_file() if rank() == 0 else None)[0]

    def _of_file(self) -> dict[str, Any] | None:
        if not self._file.exists():
            return None
        try:
            saved: dict[str, Any] = json.loads(self._file.read_text())
        except ValueError as error:
            fix = "Delete the file: the figures are then measured again"
            raise ConfigError("output", str(self._file), rule="is damaged", fix=fix) from error
        return saved


def side_effects_as_text(found: dict[str, Any]) -> str:
    """Formats the figures for the console: a line for each arm, or why there are none."""
    base = found["rows"][0]
    if base["num_broken"]:
        return (
            f"The base's logits are not finite in {base['num_broken']} of {found['num_windows']} "
            f"windows of {one_line(found['text'])}, so side effects can't be seen on it. Give "
            f"--{KEY} another text, or null, or set --dtype=float32 if the base overflows in "
            "16 bits"
        )
    if not found["base_knows_it"]:
        return (
            f"The base predicts {one_line(found['text'])} worse than by an even guess (perplexity "
            f"{base['perplexity']:,.0f}), so side effects can't be seen on it. Give "
            f"--{KEY} a text that the base knows, or null"
        )
    lines = [["", "KL to base, nats a token", "perplexity", "against base"]]
    for row in found["rows"]:
        cells = [one_line(row["arm"]), "", _cell(row, "perplexity", ".1f"), ""]
        if row["arm"] != BASE and row["num_broken"]:
            cells[1], cells[2] = _cell(row, "kl", ".4f"), ""
        elif row["arm"] != BASE:
            cells[1] = _cell(row, "kl", ".4f")
            cells[3] = f"x {_cell(row, 'perplexity_ratio', '.3f')}"
        lines.append(cells)
    size = f"{found['num_tokens']:,} tokens in {found['num_windows']} windows"
    return f"{one_line(found['text'])} ({size})\n{aligned(lines)}"


def _cell(row: dict[str, Any], name: str, form: str) -> str:
    if row[name] is None:
        return f"not finite in {row['num_broken']} windows"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    shown = f"{row[name]:{form}}"
    return shown if low is None else f"{shown} [{low:{form}}, {high:{form}}]"
