"""Vectors: where they are added, what they change, and what they leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from steer_lightning import ConfigError, attach, load_vectors, save_vectors
from steer_lightning.model.policy import Policy
from steer_lightning.steering import (
    SteeringVectors,
    find_layers,
    measure_rms,
    parse_layers,
)
from steer_lightning.testing import ARCHITECTURES, make_prompts, save_tiny, tiny_model, tiny_policy

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])
ALL = sorted(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ALL)
def test_finds_the_layers_and_steers_their_output(architecture: str) -> None:
    model = tiny_model(architecture)
    layers = find_layers(model)
    assert len(layers) == 3
    seen: dict[int, torch.Tensor] = {}
    for k, layer in enumerate(layers):
        layer.register_forward_hook(
            lambda m, x, o, k=k: seen.__setitem__(
                k, (o if torch.is_tensor(o) else o[0]).detach().clone()
            )
        )
    model(IDS)
    before = dict(seen)
    vectors = torch.zeros(3, 32)
    vectors[1] = torch.randn(32)
    with attach(model, vectors):
        inner: dict[int, torch.Tensor] = {}
        handle = layers[1].register_forward_hook(
            lambda m, x, o: inner.__setitem__(
                1, (o if torch.is_tensor(o) else o[0]).detach().clone()
            )
        )
        steered = model(IDS).logits
        handle.remove()
    torch.testing.assert_close(seen[0], before[0])  # below: untouched
    torch.testing.assert_close(
        inner[1], before[1] + vectors[1]
    )  # the layer itself: shifted by v at every token
    assert (steered - model(IDS).logits).abs().max() > 1e-4
    assert torch.equal(model(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("architecture", ALL)
def test_zero_vectors_equal_the_base_bit_for_bit(architecture: str) -> None:
    model = tiny_model(architecture)
    base = model(IDS).logits
    with attach(model, torch.zeros(3, 32)):
        assert torch.equal(model(IDS).logits, base)


@pytest.mark.parametrize("architecture", ALL)
def test_gradient_is_the_sum_over_tokens_of_the_streams_gradient(architecture: str) -> None:
    policy = tiny_policy(architecture, SteeringVectors(scale="none"))
    streams: dict[int, torch.Tensor] = {}

    def keep(row: int, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        stream = output if isinstance(output, torch.Tensor) else output[0]
        stream.retain_grad()
        streams[row] = stream

    for row, layer in enumerate(
        policy.layers
    ):  # behind the policy's own hook: sees the steered stream
        layer.register_forward_hook(lambda m, x, o, row=row: keep(row, o))
    policy.logits(IDS, torch.ones_like(IDS), 5).float().pow(2).mean().backward()
    gradient = policy.steering.weight.grad
    assert gradient is not None
    assert gradient.shape == (3, 256)
    for row in range(3):
        torch.testing.assert_close(
            gradient[row, :32], streams[row].grad.sum((0, 1)), rtol=1e-4, atol=1e-7
        )
        assert gradient[row, :32].abs().max() > 0
    assert (gradient[:, 32:] == 0).all()  # the padding learns nothing
    assert all(p.grad is None for p in policy.model.parameters())


@pytest.mark.parametrize("architecture", ALL)
def test_activation_checkpointing_gives_the_same_gradient(architecture: str) -> None:
    gradients, vectors = [], torch.randn(3, 32)
    for enabled in (False, True):
        policy = tiny_policy(architecture)
        policy.steering.set_vectors(vectors)
        with policy.checkpointed(enabled):
            policy.logits(IDS, torch.ones_like(IDS), 4).float().pow(2).mean().backward()
        gradients.append(policy.steering.weight.grad)
        assert not any(module.training for module in policy.model.modules())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-8)


def test_checkpointing_recomputes_the_layers() -> None:
    policy = tiny_policy()
    calls = []
    policy.layers[1].self_attn.register_forward_hook(lambda *_: calls.append(1))
    with policy.checkpointed():
        policy.logits(IDS, torch.ones_like(IDS), 4).float().sum().backward()
    assert len(calls) == 2


def test_the_base_stays_in_eval_mode() -> None:
    policy = tiny_policy("gpt2")
    policy.train()
    assert policy.training
    assert not any(module.training for module in policy.model.modules())


def test_a_model_without_known_layers_is_an_error_that_names_paths_and_option() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = nn.ModuleList([nn.Linear(2, 2)])

    with pytest.raises(ConfigError, match=r"model\.layers.*transformer\.h.*tower.*layers_path"):
        find_layers(Odd())
    assert len(find_layers(Odd(), "tower")) == 1


def test_steering_is_cast_to_the_streams_dtype() -> None:
    model = tiny_model().to(torch.bfloat16)
    with attach(model, torch.randn(3, 32)):
        assert model(IDS).logits.dtype == torch.bfloat16


def test_scale_multiplies_and_can_be_changed() -> None:
    model = tiny_model()
    vectors = torch.randn(3, 32)
    with attach(model, 2 * vectors):
        expected = model(IDS).logits
    attachment = attach(model, vectors, scale=2.0)
    torch.testing.assert_close(model(IDS).logits, expected)
    attachment.scale = 0.0
    base = model(IDS).logits
    attachment.remove()
    attachment.remove()
    torch.testing.assert_close(model(IDS).logits, base)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", (0, 1, 2, 3)), ("1-2", (1, 2)), ("3", (3,)), ([3, 0], (0, 3))],
)
def test_layer_choices(layers: str | list[int], expected: tuple[int, ...]) -> None:
    assert parse_layers(layers, 4) == expected


@pytest.mark.parametrize("layers", ["2-1", "x", "1-", [], [1, 1], [4], "2-4", [-1], ""])
def test_wrong_layer_choices(layers: str | list[int]) -> None:
    with pytest.raises(ConfigError, match="layers"):
        parse_layers(layers, 4)


def test_units_are_the_median_over_tokens_of_the_rms() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Identity()])

        def forward(self, input_ids: torch.Tensor, **_: object) -> None:
            first = float(input_ids[0, 0])
            # a huge first token, and a padded last one
            sizes = torch.tensor([[1000.0, 2.0, first, 4.0, 99.0]])
            self.layers[0](sizes[..., None].expand(1, 5, 7))

    model = Fixed()
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    ids = torch.full((1, 5), 3)
    # of 2, 3, 4, 1000 torch takes the lower median
    assert measure_rms(model, model.layers, [(ids, mask)]).tolist() == [3.0]
    # and of 2, 2, 3, 4, 4, 5, 1000, 1000 over two batches, too
    batches = [(ids, mask), (ids + 2, mask)]
    assert measure_rms(model, model.layers, batches).tolist() == [4.0]


def test_units_do_not_depend_on_how_prompts_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [prompt.token_ids for prompt in make_prompts(["a", "two words", "a longer prompt"])]
    units = []
    for tokens in (8192, 20, 1):
        monkeypatch.setattr("steer_lightning.model.policy.UNIT_TOKENS", tokens)
        policy = tiny_policy("qwen2")
        policy.measure_units(prompts)
        units.append(policy.steering.unit)
    torch.testing.assert_close(units[1], units[0])
    torch.testing.assert_close(units[2], units[0])


def test_units_scale_the_vectors_and_their_gradient() -> None:
    vectors = SteeringVectors([0, 1]).shaped(2, 2)
    vectors.set_unit(torch.tensor([2.0, 10.0]))
    vectors.weight.data[:, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert vectors.vectors.tolist() == [[2.0, 4.0], [30.0, 40.0]]
    vectors.vectors.sum().backward()
    assert vectors.weight.grad[:, :2].tolist() == [[2.0, 2.0], [10.0, 10.0]]
    vectors.set_vectors(torch.tensor([[2.0, 2.0], [5.0, 5.0]]))
    assert vectors.weight[:, :2].tolist() == [[1.0, 1.0], [0.5, 0.5]]
    with pytest.raises(ConfigError, match=r"layers \[0\] have no usable size"):
        vectors.set_unit(torch.tensor([0.0, 1.0]))


def test_policy_measures_once_and_keeps_what_it_started_from(tmp_path) -> None:
    start = torch.randn(3, 32)
    save_vectors(start, tmp_path / "v.safetensors", base_model="tiny")
    policy = tiny_policy(steering=SteeringVectors(init_from=str(tmp_path / "v.safetensors")))
    policy.measure_units([(1, 5, 6), (1, 7)])
    unit = policy.steering.unit.clone()
    fresh = tiny_policy()
    fresh.measure_units([(1, 5, 6), (1, 7)])
    torch.testing.assert_close(unit, fresh.steering.unit)  # measured without the vectors
    torch.testing.assert_close(policy.steering.vectors, start)
    policy.measure_units([(9, 9, 9)])
    assert torch.equal(policy.steering.unit, unit)


def test_init_from_other_layers_is_refused(tmp_path) -> None:
    save_vectors(torch.randn(3, 32), tmp_path / "v.safetensors", base_model="tiny")
    config = SteeringVectors(layers=[1], init_from=str(tmp_path / "v.safetensors"))
    with pytest.raises(ConfigError, match=r"holds layers \[0, 1, 2\].*trains layers \[1\]"):
        tiny_policy(steering=config)


def test_two_lines_of_plain_python_steer_generate(tmp_path) -> None:
    model = tiny_model("qwen2")
    path = tmp_path / "v.safetensors"
    save_vectors(torch.randn(3, 32) * 5, path, base_model="tiny")
    plain = model.generate(IDS, max_new_tokens=8, do_sample=False)
    with attach(model, path):
        steered = model.generate(IDS, max_new_tokens=8, do_sample=False)
    assert not torch.equal(plain, steered)
    with attach(model, load_vectors(path)):
        assert torch.equal(model.generate(IDS, max_new_tokens=8, do_sample=False), steered)
    assert torch.equal(model.generate(IDS, max_new_tokens=8, do_sample=False), plain)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.zeros(2, 32), "3 decoder layers"),
        (torch.zeros(3, 16), "width 16.*width 32"),
        (torch.zeros(32), "two dimensions"),
        (SteeringVectors([0]).shaped(32, 5), "decoder layers 5.*decoder layers 3"),
    ],
)
def test_vectors_of_another_model_show_both_sides(vectors: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attach(tiny_model(), vectors)


def test_a_base_in_float16_is_refused_before_its_weights_are_read(tmp_path) -> None:
    folder = save_tiny(tmp_path, "llama")
    config = AutoConfig.from_pretrained(folder)
    config.dtype = torch.float16
    config.save_pretrained(folder)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"stored in float16.*bfloat16 or float32"):
        Policy(folder).load()


def test_a_stream_without_size_is_no_unit() -> None:
    policy = tiny_policy()
    policy.model.model.embed_tokens.weight.data.zero_()
    with pytest.raises(ConfigError, match=r"layers \[0, 1, 2\] have no usable size"):
        policy.measure_units([[1, 2, 3]])


def test_prompt_and_completion_must_fit_the_positions() -> None:
    policy = tiny_policy()
    policy.model_config = policy.model.config
    prompts = make_prompts(["a", "four"])  # 5 tokens with BOS
    policy.check_length(prompts, 251, "key")
    with pytest.raises(ConfigError, match=r"key = 252: .* 5 tokens .* 256 positions.*251 or less"):
        policy.check_length(prompts, 252, "key")


@pytest.mark.parametrize("architecture", ALL)
def test_constant_vectors_are_biases_where_a_layer_allows_it(architecture: str) -> None:
    policy = tiny_policy(architecture)
    policy.steering.set_vectors(torch.randn(3, 32))
    logits = policy.model(IDS).logits
    before, digest = set(policy.model.state_dict()), policy.base_sha256()
    with torch.no_grad(), policy.constant_vectors():
        folded = set(policy.model.state_dict()) - before
        torch.testing.assert_close(policy.model(IDS).logits, logits, atol=1e-5, rtol=1e-4)
    allows = architecture in ("llama", "mistral", "phi3", "qwen2", "qwen3")
    names = {f"model.layers.{k}.mlp.down_proj.bias" for k in range(3)}
    assert folded == (names if allows else set())
    assert policy.base_sha256() == digest
    assert torch.equal(policy.model(IDS).logits, logits)


def test_vectors_of_a_model_of_another_name_are_warned_of(tmp_path, caplog) -> None:
    model = tiny_model()
    model.name_or_path = "org/one"
    for base, told in (("elsewhere/one", False), ("org/two", True)):
        save_vectors(torch.zeros(3, 32), tmp_path / "v.safetensors", base_model=base)
        caplog.clear()
        attach(model, tmp_path / "v.safetensors").remove()
        assert ("were trained on org/two" in caplog.text) == told


def test_a_damaged_weights_file_is_one_message(tmp_path) -> None:
    folder = save_tiny(tmp_path, "llama")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"model.base = .* can't be loaded"):
        Policy(folder).load()


def test_vectors_to_start_from_are_checked_before_the_weights_are_read(tmp_path) -> None:
    folder = save_tiny(tmp_path / "model", "llama")
    (tmp_path / "model/model.safetensors").unlink()
    save_vectors(torch.zeros(3, 8), tmp_path / "v.safetensors", base_model="x")
    steering = SteeringVectors(init_from=str(tmp_path / "v.safetensors"))
    with pytest.raises(ConfigError, match=r"width\s+8; this run trains .* width 32"):
        Policy(folder, steering=steering).load()
