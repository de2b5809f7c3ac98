"""The contrast of kinds of thoughts, worked by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import byte_tokenizer, make_prompts, tiny_policy
from steer_lightning.training import ThoughtContrast
from steer_lightning.types import Rollouts


def ids(text: str) -> list[int]:
    return list(byte_tokenizer().encode(text, add_special_tokens=False))


def found(text: str, separator: str = "\n\n") -> list[tuple[int, str]]:
    return list(ThoughtContrast(separator).thoughts(ids(text), byte_tokenizer()))


def test_thoughts_lie_between_blank_lines() -> None:
    """The third begins behind four line breaks, of which the second pair is no thought."""
    text = "ab\n\nc\nd\n\n\n\ne"
    assert found(text) == [(0, "ab\n\n"), (4, "c\nd\n\n"), (11, "e")]
    assert found("\n\nab") == [(2, "ab")]
    assert found("ab") == [(0, "ab")]
    assert found(" \n\n ") == found("") == []
    assert found("a. b.c", ".") == [(0, "a."), (2, " b."), (5, "c")]


@pytest.mark.parametrize(
    ("thought", "kind"),
    [
        ("First, 3 + 4 = 7.", "execution"),
        ("\nWait, that is wrong.", "reflection"),
        ("They wait for 3 hours.", "execution"),
        ("Let me CHECK this.", "reflection"),
        ("I double-verify.", "reflection"),
        ("Alternatively, use 4.", "transition"),
        ("Use another approach.", "transition"),
        ("Wait, another way is", "reflection"),
    ],
)
def test_kinds_by_the_words_of_the_paper(thought: str, kind: str) -> None:
    assert ThoughtContrast().kind_of(thought) == kind


def rollouts() -> Rollouts:
    """Two completions of each of two prompts; the last ends with EOS."""
    lines = ["a\n\nWait", "bc", "\n\nd", "e\n\nf\n\nhold on"]
    rows = [ids(line) for line in lines]
    rows[-1].append(int(byte_tokenizer().eos_token_id))
    width = max(map(len, rows))
    return Rollouts(
        prompts=tuple(make_prompts(["xy", "z"])),
        group_size=2,
        completion_ids=torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        completion_mask=torch.tensor([[n < len(row) for n in range(width)] for row in rows]),
        logprobs=torch.zeros(4, width),
        finished=torch.ones(4, dtype=torch.bool),
        texts=tuple(lines),
    )


def test_thoughts_are_read_at_the_blank_line_in_front_of_them() -> None:
    """Prompts have 3 and 2 tokens, BOS included, so `Wait` is predicted from place 3 + 2."""
    contrast, policy = ThoughtContrast(), tiny_policy()
    texts, marks, kinds = contrast.marked(rollouts(), policy)
    assert marks == [[5], [], [3], [4, 7]]
    assert kinds == ["reflection", "execution", "execution", "reflection"]
    newline = ids("\n")[0]
    assert {text[at] for text, places in zip(texts, marks, strict=True) for at in places} == {
        newline
    }
    assert texts[1] == [*make_prompts(["xy"])[0].token_ids, *ids("bc")]
    assert contrast.facts()["mean_length"] == (7 + 2 + 3 + 14) / 4
    texts, marks, kinds = ThoughtContrast(reads_first=True).marked(rollouts(), policy)
    assert marks == [[2, 5], [2], [3], [1, 4, 7]]
    assert kinds[:3] == ["execution", "reflection", "execution"]


def test_the_difference_by_hand() -> None:
    """Execution: (1, 3) and (3, 5), mean (2, 4); others: (1, 0), (0, 0) and (5, 3), mean (2, 1)."""
    states = torch.tensor([[1.0, 3.0], [1.0, 0.0], [0.0, 0.0], [3.0, 5.0], [5.0, 3.0]])
    kinds = ["execution", "reflection", "transition", "execution", "reflection"]
    contrast = ThoughtContrast()
    layers = torch.stack([states, 10 * states])
    contrast.add(layers[:, :2], kinds[:2])
    contrast.add(layers[:, 2:], kinds[2:])
    assert contrast.direction().tolist() == [[0.0, 3.0], [0.0, 30.0]]
    told = "thoughts of 0 completions: 2 execution, 2 reflection, 1 transition"
    assert contrast.summary() == told


def test_it_reads_completions_that_it_samples() -> None:
    """States of the blank lines, by a sampler whose completions are known."""

    class Known:
        def sample(self, prompts: object, step: int) -> object:
            return type("Sampled", (), {"rollouts": rollouts()})

    policy = tiny_policy(steering=SteeringVectors(layers=[1]))
    contrast = ThoughtContrast()
    reading = type("Reading", (), {"policy": policy, "sampler": Known(), "max_tokens": 40})
    contrast.read(list(rollouts().prompts), reading)  # type: ignore[arg-type]
    states = []
    for row, at in ((0, 5), (2, 3), (3, 4), (3, 7)):
        text = [*rollouts().prompts[row // 2].token_ids, *rollouts().completion_ids[row].tolist()]
        hidden = policy.model(torch.tensor([text]), output_hidden_states=True).hidden_states
        states.append(hidden[2][0, at])
    expected = (states[1] + states[2]) / 2 - (states[0] + states[3]) / 2
    torch.testing.assert_close(contrast.direction()[0], expected)


def test_one_kind_alone_has_no_direction() -> None:
    for kind, told in (("execution", "1 execution, 0"), ("transition", "0 execution, 0")):
        contrast = ThoughtContrast()
        contrast.add(torch.zeros(1, 1, 2), [kind])
        with pytest.raises(ConfigError, match=f"thoughts of one kind only.*{told}"):
            contrast.direction()
    with pytest.raises(ConfigError, match="0 execution, 0 reflection, 0 transition"):
        ThoughtContrast().direction()


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"contrast.init_args.separator = ''"):
        ThoughtContrast("")
    with pytest.raises(ConfigError, match=r"init_args.transition = '\(': is no regular expression"):
        ThoughtContrast(transition="(")
