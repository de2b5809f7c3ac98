"""The arms of an evaluation: names, facts, and what does not fit the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.evaluation.arms import (
    Arm,
    check_fit,
    check_quantization,
    further_facts,
    load_files,
    make_arms,
)
from steer_lightning.evaluation.budget import Budget
from steer_lightning.evaluation.refinement import Refinement
from steer_lightning.evaluation.truncation import Truncation
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import Quantization
from steer_lightning.rollout import DecodeEngine, Sampling, VLLMEngine
from steer_lightning.steering import (
    AdaptiveVectors,
    FullFinetune,
    LoRA,
    LowRankVectors,
    Steering,
    SteeringVectors,
    save_vectors,
)
from steer_lightning.testing import save_tiny, tiny_model

HALF = Truncation(share=0.5)


def test_arms() -> None:
    vectors = SteeringVectors([1, 3]).shaped(2, 4)
    vectors.set_vectors(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    made = make_arms({"s": vectors}, [1.0, 0.5], "each")
    arms = {arm.name: (arm.steering, arm.scale) for arm in made}
    assert list(arms) == ["base", "s", "s x 0.5", "s without layer 1", "s without layer 3"]
    assert arms["s"] == (vectors, 1.0)
    assert arms["s x 0.5"] == (vectors, 0.5)
    rest, scale = arms["s without layer 1"]
    assert isinstance(rest, SteeringVectors)
    assert scale == 1.0
    assert (rest.layers, rest.num_layers) == ((1, 3), 4)
    assert rest.vectors.tolist() == [[0, 0], [3, 4]]
    assert vectors.vectors.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ConfigError, match=r"leave_out_layers = \[0\].*It steers 1, 3"):
        make_arms({"s": vectors}, [1.0], [0, 1])
    with pytest.raises(ConfigError, match="two arms would be called base"):
        make_arms({"base": vectors}, [1.0], None)
    for kind in (LowRankVectors(), AdaptiveVectors()):
        with pytest.raises(ConfigError, match=r"leave_out_layers = \[1\].*holds .*width 2"):
            make_arms({"s": kind.shaped(2, 4)}, [1.0], [1])


def test_each_arm_answers_with_each_truncation() -> None:
    vectors = SteeringVectors().shaped(2, 4)
    late = Truncation(layers=[3], rank=1)
    budgets = {"short": Budget(max_thinking_tokens=3)}
    made = make_arms({"s": vectors}, [0.5], None, budgets, truncations={"late": late, "half": HALF})
    names = ["base", "s x 0.5", "base, late", "base, half", "s x 0.5, late", "s x 0.5, half"]
    assert [arm.name for arm in made] == [*names, *(f"{name}, short" for name in names)]
    kinds = [None, None, late, HALF, late, HALF]
    assert [arm.truncation and arm.truncation.truncation for arm in made] == kinds * 2
    assert made[2].truncation is made[4].truncation, "the decomposition is computed once"
    assert [arm.is_base for arm in made] == [True, False, True, True, False, False] * 2
    assert [arm.result for arm in made[:6]] == ["", "s", "", "", "", ""]
    assert len({arm.facts for arm in made}) == 12
    assert "rank=1" in made[2].facts
    with pytest.raises(ConfigError, match=r"truncations\.a b = 'a b': is no name"):
        make_arms({}, [1.0], None, truncations={"a b": HALF})


def test_layers_are_left_out_at_any_place() -> None:
    vectors = SteeringVectors(site="mlp_output", tokens="prompt").shaped(2, 2)
    vectors.set_vectors(torch.ones(2, 2))
    _, rest = make_arms({"s": vectors}, [], [1])
    assert isinstance(rest.steering, SteeringVectors)
    assert (rest.steering.site, rest.steering.tokens) == ("mlp_output", "prompt")
    assert rest.steering.vectors.tolist() == [[1, 1], [0, 0]]


def test_arms_of_the_same_name_are_told_apart() -> None:
    """By what they hold, where it acts, and by how much: no evaluation goes on as another one."""
    plain = SteeringVectors().shaped(2, 2)
    plain.set_vectors(torch.ones(2, 2))
    others: list[Steering] = [SteeringVectors().shaped(2, 2), AdaptiveVectors().shaped(2, 2)]
    others.append(SteeringVectors(tokens="prompt").shaped(2, 2))
    for vectors in others[1:]:
        vectors.set_vectors(torch.ones(2, 2))  # type: ignore[attr-defined]
    arms = [make_arms({"s": steering}, [0.5], None)[1] for steering in (plain, *others)]
    arms.append(make_arms({"s": plain}, [0.5000001], None)[1])
    assert {arm.name for arm in arms} == {"s x 0.5"}
    assert len({arm.facts for arm in arms}) == 5
    assert make_arms({"s": plain}, [0.5], None)[1].facts == arms[0].facts


def test_files_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    for name in ("base.safetensors", "one.safetensors", "run-1/steering_vectors.safetensors"):
        save_vectors(torch.ones(2, 2), tmp_path / name, base_model="b")
    path = {name: str(tmp_path / name) for name in ("base.safetensors", "one.safetensors", "run-1")}
    assert list(load_files([path["run-1"]])) == ["steered"]
    assert list(load_files([path["run-1"], path["one.safetensors"]])) == ["run-1", "one"]
    both = [path["base.safetensors"], path["one.safetensors"]]
    assert list(load_files(both)) == both, "`base` is the name of the base"


def test_results_that_do_not_fit_the_base_are_named(tmp_path: Path) -> None:
    policy = Policy(save_tiny(tmp_path, "llama"))
    (tmp_path / "model.safetensors").unlink()
    vectors = SteeringVectors().shaped(2, 3)
    with pytest.raises(ConfigError, match=r"vectors = 's': does not fit .*width 2.*has width 32"):
        check_fit({"s": vectors}, policy)
    tuned = FullFinetune()
    tuned.build(tiny_model("qwen2"))  # with biases, which this base has not
    with pytest.raises(ConfigError, match=r"vectors = 't': does not fit .*q_proj\.bias"):
        check_fit({"s": SteeringVectors().shaped(32, 3), "t": tuned}, policy)


def test_files_lose_their_ending_and_folders_keep_their_whole_name(tmp_path: Path) -> None:
    model = tiny_model()
    lora, vectors = LoRA(rank=1), SteeringVectors()
    for steering in (lora, vectors):
        steering.build(model)
    run, adapter, file = tmp_path / "lr-0.1", tmp_path / "lr-0.2", tmp_path / "half.safetensors"
    vectors.save(run / vectors.file_name, base_model="tiny")
    lora.save(adapter, base_model="tiny")
    vectors.save(file, base_model="tiny")
    found = load_files([str(run), str(adapter), str(file)])
    assert {name: type(steering) for name, steering in found.items()} == {
        "lr-0.1": SteeringVectors,
        "lr-0.2": LoRA,
        "half": SteeringVectors,
    }


def test_vectors_of_a_quantised_base_are_not_used_on_another_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_tiny(tmp_path / "base")
    quantised, plain = Policy(folder, quantization=Quantization(bits=4)), Policy(folder)
    for policy, name in ((quantised, "in_4_bits"), (plain, "plain")):
        policy.prepare()
        policy.steering.save(tmp_path / f"{name}.safetensors", base_model=folder)
    told = []
    for policy in (quantised, plain):
        for name in ("in_4_bits", "plain"):
            caplog.clear()
            check_fit(load_files([str(tmp_path / f"{name}.safetensors")]), policy)
            told.append(caplog.messages)
    four, none = "a base in 4 bits", "a base that is not quantised"
    assert told == [
        [],
        [f"these vectors were trained on {none}, and are used on {four}"],
        [f"these vectors were trained on {four}, and are used on {none}"],
        [],
    ]


def test_what_an_evaluation_on_a_quantised_base_refuses() -> None:
    policy = Policy("quickstart", quantization=Quantization(bits=4))
    check_quantization(policy, [SteeringVectors(), LoRA()], DecodeEngine())
    with pytest.raises(ConfigError, match=r"model.engine = VLLMEngine"):
        check_quantization(policy, [], VLLMEngine())
    with pytest.raises(ConfigError, match="FullFinetune"):
        check_quantization(policy, [FullFinetune()], DecodeEngine())
    for_rollouts = Policy("quickstart", quantization=Quantization(where="rollouts"))
    with pytest.raises(ConfigError, match=r"where = 'rollouts': must be both outside of training"):
        check_quantization(for_rollouts, [], DecodeEngine())
    check_quantization(Policy("quickstart"), [FullFinetune()], VLLMEngine())


@pytest.mark.parametrize(
    ("sampling", "is_base", "scale", "weight", "passes"),
    [
        ({}, False, 1.0, 0.0, 0),
        ({}, False, 0.5, 2.0, 1),
        ({}, False, 0.0, 2.0, 0),
        ({}, True, 1.0, 2.0, 0),
        ({"temperature": 0.7}, True, 1.0, 2.0, 1),
        ({"temperature": 0.7}, False, 1.0, 2.0, 2),
        ({"top_p": 0.9}, False, 1.0, 0.0, 1),
    ],
)
def test_passes_that_score_a_plain_sample(
    sampling: dict[str, float], is_base: bool, scale: float, weight: float, passes: int
) -> None:
    """The log-likelihood comes with plain sampling; the reward of the base and of scale 0 is 0."""
    arm = Arm(
        name="a, r",
        steering=SteeringVectors(),
        scale=scale,
        is_base=is_base,
        refinement=Refinement(reward_weight=weight),
        unrefined="a",
    )
    own, other = Sampling(**sampling), Sampling(temperature=0.3, top_k=3)
    found = further_facts([arm], *((other, own) if is_base else (own, other)))
    assert [x["score_passes"] for x in found["refinements"]] == [passes]
    assert found["budgets"] == []
