"""Properties that hold for whatever comes in."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steer_lightning import ConfigError, load_vectors
from steer_lightning.advantages import RLOO
from steer_lightning.callbacks.checkpoint_file import DamagedCheckpointError, load_checkpoint
from steer_lightning.cli import main
from steer_lightning.data import PlainTemplate
from steer_lightning.data.templates import check_template
from steer_lightning.rewards import FormatReward, MathReward, RewardSum, WeightedReward
from steer_lightning.rewards.math import find_answer, last_boxed, plain_number
from steer_lightning.rollout import Sampling
from steer_lightning.steering.layers import parse_layers
from steer_lightning.system.printable import printable
from steer_lightning.system.yaml_size import JSONARGPARSE, load_bounded
from steer_lightning.testing import byte_tokenizer, make_prompts
from steer_lightning.training import packing
from steer_lightning.training.batch import packed_micro_batches, padded_micro_batches
from steer_lightning.training.packing import Packing
from steer_lightning.types import Rollouts
from tests.reliability.conftest import Figure
from tests.reliability.hostile import boxed, make

ROOT = Path(__file__).parents[2]
EXAMPLES = 300
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TEXT = st.text() | st.text(r"\boxed{}$0123456789.,- frac", max_size=200)
REWARD = st.floats(-100, 100, width=32) | st.just(math.nan)
LENGTH = st.integers(1, 9)
CONTENT = st.text("abc012 +-", min_size=1).map(str.strip).filter(bool)


def groups(size: int) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(REWARD, min_size=size, max_size=size), min_size=1)


@fuzz
@given(st.integers(1, 5).flatmap(groups))
def test_advantages(rows: list[list[float]]) -> None:
    rewards = torch.tensor(rows)
    found = RLOO()(rewards)
    assert found.shape == rewards.shape
    assert bool(found.isfinite().all())
    assert bool((found[rewards.isnan()] == 0).all()), "no score, no advantage"
    assert torch.allclose(found.sum(1), torch.zeros(len(rows)), atol=1e-2), "they cancel out"
    for row, advantages in zip(rows, found.tolist(), strict=True):
        scored = [value for value in row if not math.isnan(value)]
        for value, advantage in zip(row, advantages, strict=True):
            if not math.isnan(value) and len(scored) > 1:  # r - mean of the others
                others = (sum(scored) - value) / (len(scored) - 1)
                assert advantage == pytest.approx(value - others, abs=1e-3)
        if len(set(scored)) <= 1:
            assert max(map(abs, advantages)) < 1e-4, "equal rewards have no signal"


@pytest.mark.parametrize("cut", [padded_micro_batches, packed_micro_batches])
@fuzz
@given(
    lengths=st.lists(st.tuples(LENGTH, LENGTH, LENGTH), min_size=1),
    budget=st.integers(1, 60),
    data=st.data(),
)
def test_masks_and_micro_batches(
    cut: Any, lengths: list[tuple[int, int, int]], budget: int, data: st.DataObject
) -> None:
    prompts = make_prompts(["x" * prompt for prompt, _, _ in lengths])
    sizes = torch.tensor([size for _, *both in lengths for size in both])
    mask = torch.arange(int(sizes.max())) < sizes[:, None]
    ids = torch.where(mask, torch.arange(mask.numel()).view(mask.shape) + 10, 0)
    rollouts = Rollouts(
        prompts=tuple(prompts),
        group_size=2,
        completion_ids=ids,
        completion_mask=mask,
        logprobs=-ids.float() * mask,
        finished=torch.ones(len(sizes), dtype=torch.bool),
        texts=("",) * len(sizes),
    )
    chosen = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    seen = []
    for part in cut(rollouts, torch.tensor(sorted(chosen), dtype=torch.long), budget, 0):
        size = part.ids.numel() if cut is padded_micro_batches else int(part.mask.sum())
        assert size <= budget or len(part.rows) == 1
        assert part.mask.any(0).all(), "no column that is padding alone"
        for row, tokens, kept in zip(part.rows.tolist(), part.ids, part.mask.bool(), strict=True):
            seen.append(row)
            expected = [*prompts[row // 2].token_ids, *ids[row][mask[row]].tolist()]
            assert tokens[kept].tolist() == expected
        width = part.completion_mask.shape[1]
        assert torch.equal(part.sampling_logprobs, rollouts.logprobs[part.rows, :width])
    assert sorted(seen) == sorted(chosen)


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)  # few, so that beginnings are shared


@pytest.mark.parametrize("shortest", [1, 3, packing.SHORTEST_SHARED])
@fuzz
@given(groups=st.lists(st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1))
def test_packing_has_each_beginning_once_and_each_prediction_in_its_place(
    shortest: int, groups: list[tuple[list[int], list[list[int]]]]
) -> None:
    rows = [(g, prompt, row) for g, (prompt, its) in enumerate(groups) for row in its]
    numbers, prompts, completions = map(list, zip(*rows, strict=True))
    with patch.object(packing, "SHORTEST_SHARED", shortest):
        packed = Packing(prompts, numbers, completions, torch.device("cpu"))
    ids, positions = packed.ids[0].tolist(), packed.positions[0].tolist()
    apart = shortest == packing.SHORTEST_SHARED  # longer than these prompts
    texts = [(group * apart, [*prompt, *row[:-1]]) for group, prompt, row in rows]
    beginnings = {(group, *text[: k + 1]) for group, text in texts for k in range(len(text))}
    assert len(ids) == len(beginnings) if apart else len(ids) >= len(beginnings)
    copies = iter(packed.copies.tolist())
    for _, prompt, row in rows:
        for n, token in enumerate(row):  # what predicts token n of the completion
            pair, before = next(copies), [*prompt, *row[:n]]
            place = int(packed.predictors[pair])
            assert (ids[place], positions[place]) == (before[-1], len(before) - 1)
            assert int(packed.targets[pair]) == token
    assert next(copies, None) is None
    shown = set()
    for block in packed.attended.all:
        width = block.places.shape[1]
        mask = block.mask(None)
        mask = torch.ones(width, width).tril().bool() if mask is None else mask[:, 0]
        for places, sees, length in zip(
            block.places, mask.expand(len(block.places), -1, -1), block.lengths, strict=True
        ):
            for place, seen in zip(places[:length].tolist(), sees, strict=False):
                group = positions[: place + 1].count(0) - 1  # each group has one first token
                shown.add((group * apart, *(ids[k] for k in places[seen].tolist())))
    assert shown == beginnings, "each token sees its text up to itself, and nothing else"
    read = packed.attended.put_back([block.places.flatten() for block in packed.attended.all])
    assert read[0].tolist() == list(range(len(ids))), "attention's way back"


@fuzz
@given(TEXT, TEXT)
def test_templates_hold_the_question_whatever_it_is(question: str, rest: str) -> None:
    template = PlainTemplate(rest.replace("{question}", "") + "{question}")
    assert question in template.render(question, None)
    check_template(template, None)
    if not any("\ud800" <= character <= "\udfff" for character in question):
        tokenizer = byte_tokenizer()
        ids = template.encode(question, tokenizer)
        assert all(0 <= token < len(tokenizer) for token in ids)


@fuzz
@given(TEXT, st.sampled_from(["boxed", "boxed_or_last_number", "last_number"]))
def test_answer_extraction(text: str, answer_in: str) -> None:
    found = find_answer(text, answer_in)  # type: ignore[arg-type]
    assert found is None or (found and found in text)
    box = last_boxed(text)
    assert box is None or box in text
    assert last_boxed(text.replace("{", "").replace("}", "")) is None
    plain_number(text)
    printable(text).encode()


@fuzz
@given(CONTENT, st.text("xyz \\{}", max_size=30), st.lists(CONTENT.map(boxed), max_size=3))
def test_the_last_box_is_the_answer(content: str, before: str, earlier: list[str]) -> None:
    whole = " ".join([*earlier, before.replace("\\boxed{", ""), boxed(content)])
    closed = before.count("{") <= before.count("}")
    if closed:
        assert last_boxed(whole) == content


@fuzz
@given(st.integers(-(10**25), 10**25), st.integers(-1, 1), st.booleans())
def test_plain_answers_are_compared_exactly(gold: int, beside: int, decimals: bool) -> None:
    given = gold + beside
    text = boxed(f"{given:,}.0" if decimals else str(given))
    (verdict,) = MathReward()([make(text, str(gold))])
    assert verdict == float(gold == given)
    (verdict,) = MathReward()([make(boxed(f"{gold:,}"), f"so it is {boxed(str(gold))}")])
    assert verdict == 1.0


@fuzz
@given(TEXT, TEXT)
def test_what_is_told_quickly_is_what_is_told_in_full(text: str, gold: str) -> None:
    completion = make(text, gold or "42")
    quick = MathReward().quickly(completion)
    if quick is not NotImplemented:
        assert quick in (0.0, 1.0)
        assert MathReward().compare(completion) == quick
    scores = RewardSum([WeightedReward(reward=FormatReward(), weight=2.0)])([completion])
    assert scores.total in ([0.0], [2.0])


@fuzz
@given(st.text() | st.lists(st.integers(-3, 40)) | st.text("0123456789- ²٤", max_size=20))
def test_layers(layers: str | list[int]) -> None:
    try:
        found = parse_layers(layers, 32)
    except ConfigError:
        return
    assert found == tuple(sorted(set(found)))
    assert all(0 <= layer < 32 for layer in found)


NUMBER = st.integers() | st.floats() | st.booleans()


@fuzz
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "group_size": st.integers(),
            "max_new_tokens": st.integers(),
            "temperature": st.floats(),
            "top_p": st.floats(),
            "top_k": st.integers(),
            "min_p": st.floats(),
        },
    )
)
def test_sampling_is_in_range_or_refused(values: dict[str, float]) -> None:
    try:
        sampling = Sampling(**values)  # type: ignore[arg-type]
    except ConfigError:
        return
    assert sampling.group_size >= 1
    assert sampling.max_new_tokens >= 1
    assert 0 <= sampling.temperature < math.inf
    assert 0 <= sampling.top_p <= 1
    assert sampling.top_k >= 0
    assert 0 <= sampling.min_p <= 1


ANYTHING = st.recursive(
    st.none() | st.text() | NUMBER,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@fuzz
@example("?")  # a mapping of nothing, at which jsonargparse raises a TypeError
@given(st.text() | st.text("&*ab:[]{}, \n-1") | ANYTHING.map(yaml.safe_dump))
def test_any_yaml_is_read_as_jsonargparse_does_or_refused(content: str) -> None:
    found: list[object] = []
    for load in (JSONARGPARSE, load_bounded):
        try:
            found.append(repr(load(content)))
        except (yaml.YAMLError, ValueError, TypeError) as error:  # as a date that there is not
            found.append(type(error))
    assert found[0] == found[1]


@fuzz
@given(st.binary(max_size=300), st.dictionaries(st.text(), st.text()))
def test_any_vectors_file_is_refused_in_words(
    tmp_path: Path, data: bytes, metadata: dict[str, str]
) -> None:
    path = tmp_path / "any.safetensors"
    tensor = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    text = json.dumps({"__metadata__": metadata, "vectors": tensor}).encode()
    for content in (data, len(text).to_bytes(8, "little") + text + data[:4].ljust(4, b"0")):
        path.write_bytes(content)
        with pytest.raises(ConfigError):
            load_vectors(path)


@fuzz
@given(st.data())
def test_any_pickle_in_a_checkpoint_is_read_or_refused_in_words(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "any.ckpt"
    content = {"state_dict": {"w": torch.zeros(2, 3)}, "steps": [1, (2.5, None)], "kind": "adam"}
    torch.save(content, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    changed = bytearray(parts[name])
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with zipfile.ZipFile(path, "w") as file:
        for other, part in {**parts, name: bytes(changed)}.items():
            file.writestr(other, part)
    found = content_or_refusal(path)
    if isinstance(found, str):
        assert re.fullmatch(r"(is|holds|unfolds|can't be read) [^\n]+", found)
    else:
        assert isinstance(found, dict)
    if changed == parts[name]:
        assert isinstance(found, dict), "what torch has written is read"
        assert torch.equal(found["state_dict"].pop("w"), torch.zeros(2, 3))
        assert found == {"state_dict": {}, "steps": [1, (2.5, None)], "kind": "adam"}


def content_or_refusal(path: Path) -> dict[str, Any] | str:
    """What is read of a checkpoint, or the words in which it is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of the pickle's protocol
        try:
            return load_checkpoint(path)
        except DamagedCheckpointError as refusal:
            return str(refusal)


OPTIONS = (
    *("seed_everything", "ckpt_path", "model", "data", "trainer", "model.steering.layers"),
    *("model.steering", "model.sampling", "model.sampling.group_size", "model.sampling.top_p"),
    *("model.rewards", "model.engine", "model.optimizer", "model.schedule", "model.loss"),
    *("model.gradient_clip", "model.reward_pool", "model.tokens_per_micro_batch", "model.dtype"),
    *("data.train", "data.template", "data.batch_size", "data.val.init_args.path"),
    *("trainer.max_steps", "trainer.callbacks", "trainer.devices", "trainer.logger"),
    *("trainer.default_root_dir", "trainer.strategy", "trainer.plugins", "no.such"),
)
PLAUSIBLE = st.sampled_from(
    [
        *(-1, 0, 1, 2**70, 1.5, math.nan, math.inf, True, None, "", "all", "1e3", "a.b", "\x1b[2J"),
        *([], {}, [None], {"class_path": "os.system"}, {"class_path": "torch.optim.AdamW"}),
        *(
            {"class_path": "steer_lightning.data.Arithmetic", "init_args": {"x": 1}},
            {"init_args": 3},
        ),
        *(
            {"class_path": "steer_lightning.rewards.MathReward"},
            {"class_path": 3},
            {"x": {"y": []}},
        ),
    ]
)


@pytest.mark.slow
@settings(fuzz, max_examples=60)
@example({"trainer": -1})
@example({"trainer": None})
@example({"trainer.devices": 2**70})
@given(st.dictionaries(st.sampled_from(OPTIONS), PLAUSIBLE | ANYTHING, min_size=1, max_size=3))
def test_any_configuration_is_refused_in_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
) -> None:
    monkeypatch.chdir(tmp_path)
    config: dict[str, object] = {
        "model": {"base": "./no-such-model"},
        "data": {"train": {"class_path": "steer_lightning.data.Arithmetic"}},
        "trainer": {"max_steps": 1, "accelerator": "cpu"},
    }
    for option, value in changes.items():
        place: object = config
        *path, name = option.split(".")
        for key in path:
            place = place.setdefault(key, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[name] = value
    Path("any.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "any.yaml"]) == 2, changes
    told = capsys.readouterr().err
    first = next(line for line in told.splitlines() if not line.startswith("  "))
    assert first.startswith("error: ")
    assert printable(told) == told


def test_examples_are_counted(figure: Figure) -> None:
    """The figures are of all that hypothesis runs here: EXAMPLES each, of configurations fewer."""
    functions = [x for x in ast.parse(Path(__file__).read_text()).body if hasattr(x, "name")]
    decorators = {x.name: [ast.unparse(y) for y in x.decorator_list] for x in functions}
    given_any = {name for name, on in decorators.items() if any("given(" in y for y in on)}
    properties = {name for name, x in globals().items() if getattr(x, "is_hypothesis_test", False)}
    assert properties == given_any
    fewer = {name for name in properties if "fuzz" not in decorators[name]}
    assert fewer == {"test_any_configuration_is_refused_in_one_message"}
    assert fuzz.max_examples == EXAMPLES > 0
    figure("fuzzed_properties", len(properties))
    figure("fuzz_examples", EXAMPLES)
