"""KL to the base and perplexity on neutral text, by hand and against a plain model."""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steer_lightning import ConfigError, attach
from steer_lightning.evaluation import side_effects
from steer_lightning.evaluation.arms import Arm
from steer_lightning.evaluation.side_effects import (
    NeutralText,
    SideEffects,
    measure_side_effects,
    read_neutral_text,
    side_effects_as_text,
)
from steer_lightning.evaluation.truncation import TruncatedWeights, Truncation
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.arithmetic import plain_vectors
from steer_lightning.testing import tiny_model, tiny_policy


def letters(begin: list[int]) -> Any:
    """A tokenizer with one token for each letter."""

    def read(text: str, add_special_tokens: bool = True) -> Any:
        ids = [ord(letter) for letter in text]
        return SimpleNamespace(input_ids=[*begin, *ids] if add_special_tokens else ids)

    return read


@pytest.mark.parametrize("begin", [[], [1]])
def test_windows_by_hand(begin: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_effects, "WINDOW", 3)
    monkeypatch.setattr(side_effects, "MOST_WINDOWS", 2)
    (tmp_path / "text").write_text("abcdefghijk")
    text = read_neutral_text(str(tmp_path / "text"), letters(begin))
    expected = [[*begin, 97, 98, 99], [*begin, 100, 101, 102]]
    assert text.windows == expected, "the third is one too many"
    assert text.num_tokens == 2 * (2 + len(begin))
    (tmp_path / "text").write_text("abcde")
    (only,) = read_neutral_text(str(tmp_path / "text"), letters(begin)).windows
    assert only == expected[0], "the rest is shorter than a window"
    (tmp_path / "text").write_text("ab")
    assert read_neutral_text(str(tmp_path / "text"), letters(begin)).windows == [[*begin, 97, 98]]


def test_a_text_ships_with_the_package() -> None:
    policy = tiny_policy()
    text = read_neutral_text("shipped", policy.tokenizer)
    assert len(text.windows) > 5
    assert {len(window) for window in text.windows} == {len(text.windows[0])}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe\xff", "must be a text file in UTF-8, `shipped` or null"),
        (None, "must be a text file in UTF-8, .* No such file"),
        (b"x", "must have at least 2 tokens, not 1"),
    ],
)
def test_texts_that_can_not_be_read(content: bytes | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"neutral_text = .*{told}"):
        read_neutral_text(str(path), letters([]))


def arms() -> list[Arm]:
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    vectors = plain_vectors(rows, (0, 1), 3)
    return [
        Arm(name="base", steering=SteeringVectors()),
        Arm(name="half", steering=vectors, scale=0.5, result="v"),
        Arm(name="zero", steering=vectors, scale=0.0, result="v"),
    ]


def test_figures_are_those_of_a_plain_model() -> None:
    windows = [[3, 4, 5, 6], [7, 8, 9, 10]]
    found = measure_side_effects(tiny_policy(), arms(), NeutralText(name="mine", windows=windows))
    base_model, steered_model = tiny_model(), tiny_model()
    attach(steered_model, arms()[1].steering, scale=0.5)
    kl, surprise, of_base = [], [], []
    for window in windows:
        ids = torch.tensor([window])
        with torch.no_grad():
            p, q = (m(ids).logits[0, :-1].log_softmax(-1) for m in (base_model, steered_model))
        chosen = range(3), window[1:]
        kl.append(float((q.exp() * (q - p)).sum(-1).mean()))
        surprise.append(-float(q[chosen].mean()))
        of_base.append(-float(p[chosen].mean()))
    base, half, zero = found["rows"]
    assert found["num_tokens"] == 6
    assert half["kl"] == pytest.approx(np.mean(kl), rel=1e-3)
    assert half["kl"] > 0.01
    assert half["perplexity"] == pytest.approx(math.exp(np.mean(surprise)), rel=1e-4)
    assert base["perplexity"] == pytest.approx(math.exp(np.mean(of_base)), rel=1e-4)
    assert half["perplexity_ratio"] == pytest.approx(half["perplexity"] / base["perplexity"])
    for row in (base, zero):
        assert (row["kl"], row["perplexity_ratio"]) == (0, 1)
        assert row["perplexity"] == base["perplexity"]
    assert [row["scale"] for row in found["rows"]] == [0, 0.5, 0]
    assert [row["result"] for row in found["rows"]] == ["", "v", "v"]
    assert half["kl_low"] <= half["kl"] <= half["kl_high"]


def test_truncated_weights_have_side_effects_of_their_own() -> None:
    window = [3, 4, 5, 6]
    ids, model = torch.tensor([window]), tiny_model()
    with torch.no_grad():
        p = model(ids).logits[0, :-1].log_softmax(-1)
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
        q = model(ids).logits[0, :-1].log_softmax(-1)
    base, *rest = arms()
    weights = TruncatedWeights(Truncation(rank=0, modules=["down_proj"]))
    every = [base, replace(base, name="base, none", truncation=weights), *rest]
    found = measure_side_effects(tiny_policy(), every, NeutralText(name="", windows=[window]))
    expected = float((q.exp() * (q - p)).sum(-1).mean())
    assert found["rows"][1]["kl"] == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-5
    assert found["rows"][3]["kl"] == 0, "the weights are whole again"


def test_weights_are_exchanged_once_for_each_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """And once more for each part of the windows for which the base's numbers can't be held."""

    class Counted(TruncatedWeights):
        def within(self, model: Any) -> AbstractContextManager[None]:
            counts.append(len(counts))
            return super().within(model)

    base, half, _ = arms()
    weights = Counted(Truncation(rank=2))
    truncated = [replace(arm, name=f"{arm.name}, r", truncation=weights) for arm in (base, half)]
    text = NeutralText(name="", windows=[[3, 4, 5], [6, 7, 8], [9, 10, 11]])
    policy, found = tiny_policy(), []
    size = policy.model.config.vocab_size * 3
    for held, exchanged in ((side_effects.HELD_LOGPROBS, 2), (2 * size, 4), (1, 6)):
        monkeypatch.setattr(side_effects, "HELD_LOGPROBS", held)
        counts: list[int] = []
        found.append(measure_side_effects(policy, [base, half, *truncated], text))
        assert len(counts) == exchanged
    assert found[0] == found[1] == found[2]
    monkeypatch.setattr(side_effects, "HELD_LOGPROBS", size * 9)
    assert side_effects._windows_at_once(policy, [base, half], text) == 1


def test_vectors_of_completions_act_behind_the_first_token() -> None:
    """The first token is the prompt, whose prediction they leave as it is."""
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    policy, found = tiny_policy(), {}
    for tokens in ("all", "completion", "last_prompt"):
        vectors = plain_vectors(rows, (0, 1), 3, tokens=tokens)
        both = [arms()[0], Arm(name=tokens, steering=vectors)]
        text = NeutralText(name="", windows=[[3, 4]])
        found[tokens] = measure_side_effects(policy, both, text)["rows"][1]["kl"]
    assert found["completion"] == 0
    assert found["last_prompt"] == found["all"] > 0


def test_intervals_and_ratios_by_hand() -> None:
    """Perplexities of two windows are 1 and 4, in the geometric mean 2; those of the base 1."""
    found = side_effects._figures(
        np.array([1.0, 3.0]), np.array([0.0, math.log(4)]), np.array([0.0, 0.0])
    )
    assert found["kl"] == 2
    assert (found["kl_low"], found["kl_high"]) == (1, 3)
    for name in ("perplexity", "perplexity_ratio"):
        assert found[name] == pytest.approx(2)
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx((1, 4))


def test_an_arm_whose_logits_overflow_has_no_figures() -> None:
    """Means over the other windows would make the harm look smaller."""
    kl, surprise = np.array([1.0, np.nan, 2.0]), np.array([1.0, 1.0, np.inf])
    found = side_effects._figures(kl, surprise, np.zeros(3))
    assert found["num_broken"] == 2
    assert {found[name] for name in ("kl", "kl_low", "perplexity", "perplexity_ratio")} == {None}


def test_a_base_whose_logits_overflow_is_told_in_words() -> None:
    """Its mean is NaN, which is never below the even guess."""
    overflowing = np.array([1.0, np.nan])
    base = side_effects._figures(np.zeros(2), overflowing, overflowing)
    found = {"text": "mine", "num_tokens": 2, "num_windows": 2, "base_knows_it": False}
    told = side_effects_as_text({**found, "rows": [{"arm": "base", **base}]})
    assert told.startswith("The base's logits are not finite in 1 of 2 windows of mine, so")


def test_they_are_measured_once_and_kept(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("loaded again")

    text, file, policy = tmp_path / "text.txt", tmp_path / "out/side_effects.json", tiny_policy()
    text.write_text("a text")
    file.parent.mkdir()

    def effects() -> SideEffects:
        found = SideEffects(str(text), file)
        found.read(policy.tokenizer)
        return found

    assert effects().kept() is None
    first = effects().of(arms(), lambda: policy)
    assert first == effects().of(arms(), never) == effects().kept()
    assert first is not None
    text.write_text("another text")
    second = effects().of(arms(), lambda: policy)
    assert second is not None
    assert second["num_tokens"] > first["num_tokens"]
    with pytest.raises(AssertionError, match="loaded again"):
        effects().of(arms()[:2], never)
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"side_effects.json.: is damaged.*Delete the file"):
        effects().of(arms(), never)
    nothing = SideEffects(None, file)
    nothing.read(policy.tokenizer)
    assert nothing.of(arms(), never) is None


def test_the_table_by_hand() -> None:
    def row(arm: str, value: float, low: float | None) -> dict[str, Any]:
        names = ("kl", "perplexity", "perplexity_ratio")
        return {"arm": arm, "num_broken": 0} | {
            f"{name}{end}": number
            for name in names
            for end, number in (("", value), ("_low", low), ("_high", low))
        }

    found = {"text": "mine", "num_tokens": 1234, "num_windows": 2, "base_knows_it": True}
    found["rows"] = [row("base", 3, 2), row("steered", 1.5, None)]
    assert side_effects_as_text(found).splitlines() == [
        "mine (1,234 tokens in 2 windows)",
        "         KL to base, nats a token  perplexity      against base",
        "base                               3.0 [2.0, 2.0]",
        "steered  1.5000                    1.5             x 1.500",
    ]
    hostile = side_effects_as_text({**found, "text": "a\x1b[1m\nb"}).splitlines()[0]
    assert hostile == r"a\x1b[1m\nb (1,234 tokens in 2 windows)"
    broken = {**found["rows"][1], "kl": None, "num_broken": 2}
    last = side_effects_as_text({**found, "rows": [found["rows"][0], broken]}).splitlines()[-1]
    assert last == "steered  not finite in 2 windows"
    told = side_effects_as_text({**found, "base_knows_it": False})
    assert told.startswith("The base predicts mine worse than by an even guess (perplexity 3)")
    assert json.dumps(found)
