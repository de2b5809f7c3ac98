"""Under `generate` the prompt is what it was given, in whatever way the tokens are read."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import CompileConfig, DynamicCache, GenerationConfig

from steer_lightning import ConfigError, attach
from steer_lightning.steering import FullFinetune, Steering, SteeringVectors, find_layers
from steer_lightning.testing import tiny_model
from tests.odd_places import LAYERS, WIDTH, odd_model

TOKENS = ["prompt", "completion", "last_prompt"]
IDS = torch.randint(3, 259, (1, 12), generator=torch.Generator().manual_seed(0))
NEW = 6
SETTINGS = {
    "max_new_tokens": NEW,
    "do_sample": False,
    "eos_token_id": None,
    "pad_token_id": 0,
    "return_dict_in_generate": True,
    "output_logits": True,
}


def lively_model(architecture: str = "llama") -> Any:
    """A tiny model whose logits differ much between texts."""
    model = tiny_model(architecture, seed=3).requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.mul_(6)
    return model


def vectors_for(tokens: str, width: int = 32, layers: int = 3, seed: int = 1) -> SteeringVectors:
    vectors = SteeringVectors(tokens=tokens, scale="none").shaped(width, layers)
    draw = torch.Generator().manual_seed(seed)
    vectors.set_vectors(torch.randn(layers, width, generator=draw) * 0.5)
    return vectors.requires_grad_(False)


def by_hand(model: Any, vectors: SteeringVectors, ids: torch.Tensor, border: int) -> torch.Tensor:
    """Logits of one text, read at once, whose completion begins at `border`."""
    columns = torch.arange(ids.shape[1])
    chosen = {
        "prompt": columns < border,
        "completion": columns >= border,
        "last_prompt": columns == border - 1,
    }[vectors.tokens][:, None]

    def add(row: int, output: Any) -> Any:
        if torch.is_tensor(output):
            return output + chosen * vectors.vectors[row]
        return type(output)([output[0] + chosen * vectors.vectors[row], *output[1:]])

    handles = [
        layer.register_forward_hook(lambda m, x, y, row=row: add(row, y))
        for row, layer in enumerate(find_layers(model))
    ]
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return logits


def check_call(
    model: Any, vectors: SteeringVectors, found: Any, border: int = IDS.shape[1]
) -> None:
    """The logits of a call's tokens are those of its text read at once."""
    ids = found.sequences
    if ids.shape[1] == NEW:  # of a prompt without ids
        ids = torch.cat([IDS, ids], 1)
    logits = torch.stack(found.logits, 1)[0]
    expected = by_hand(model, vectors, ids, border)[0, border - 1 : -1]
    torch.testing.assert_close(logits, expected[: len(logits)], atol=1e-4, rtol=1e-4)
    plain = model(input_ids=ids, use_cache=False).logits[0, border - 1 : -1]
    assert (expected - plain).abs().max() > 0.1


WAYS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "plain": lambda model: {},
    "static cache": lambda model: {"cache_implementation": "static"},
    "no cache": lambda model: {"use_cache": False},
    "in chunks of 5": lambda model: {"prefill_chunk_size": 5},
    "in chunks of 6": lambda model: {"prefill_chunk_size": 6},
    "in one chunk": lambda model: {"prefill_chunk_size": 50},
    "drafts from the prompt": lambda model: {"prompt_lookup_num_tokens": 3},
    "drafts from the lower layers": lambda model: {"assistant_early_exit": 2},
    "a model that drafts": lambda model: {"assistant_model": lively_model()},
}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("way", WAYS)
def test_the_prompt_is_what_generate_was_given(way: str, tokens: str) -> None:
    model, vectors = lively_model(), vectors_for(tokens)
    with attach(model, vectors):
        found = model.generate(IDS, **SETTINGS, **WAYS[way](model))
    check_call(model, vectors, found)


@pytest.mark.parametrize("tokens", TOKENS)
def test_the_prompt_may_be_embeddings(tokens: str) -> None:
    model, vectors = lively_model(), vectors_for(tokens)
    embeddings = model.get_input_embeddings()(IDS)
    with attach(model, vectors):
        found = model.generate(inputs_embeds=embeddings, **SETTINGS)
    check_call(model, vectors, found)


@pytest.mark.parametrize("chunks", [{}, {"prefill_chunk_size": 2}])
@pytest.mark.parametrize("form", ["the whole text", "the new tokens alone"])
def test_a_second_turn_has_a_prompt_of_its_own(form: str, chunks: dict[str, int]) -> None:
    """A cache holds 7 tokens, which were read without vectors."""
    model = lively_model()
    for tokens in TOKENS:
        vectors, cache = vectors_for(tokens), DynamicCache(config=model.config)
        model(IDS[:, :7], past_key_values=cache)
        given = {"input_ids": IDS} if form == "the whole text" else {"input_ids": IDS[:, 7:]}
        given["attention_mask"] = torch.ones_like(IDS)
        with attach(model, vectors):
            found = model.generate(**given, past_key_values=cache, **SETTINGS, **chunks)
        text = torch.cat([IDS, found.sequences[:, -NEW:]], 1)
        rows = vectors.vectors.clone()

        def add(y: Any, row: int, rows: Any = rows, tokens: str = tokens) -> Any:
            columns = torch.arange(y.shape[1])
            chosen = {
                "prompt": (columns >= 7) & (columns < 12),
                "completion": columns >= 12,
                "last_prompt": columns == 11,
            }[tokens]
            return y + chosen[:, None] * rows[row]

        handles = [
            layer.register_forward_hook(lambda m, x, y, row=row: add(y, row))
            for row, layer in enumerate(find_layers(model))
        ]
        expected = model(text, use_cache=False).logits[:, 11:-1]
        for handle in handles:
            handle.remove()
        logits = torch.stack(found.logits, 1)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"use_cache": False}])
def test_prompts_of_unequal_length_are_padded_on_the_left(
    tokens: str, settings: dict[str, Any]
) -> None:
    model, vectors = lively_model("qwen2"), vectors_for(tokens)
    ids = torch.tensor([[0, 0, 0, 1, 10], [1, 10, 20, 30, 40]])
    mask = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    short = {**SETTINGS, "output_logits": False, "output_scores": True, **settings}
    with attach(model, vectors):
        found = model.generate(ids, attention_mask=mask, **short)
        alone = [
            model.generate(row[5 - length :][None], **short).sequences[0]
            for row, length in zip(ids, (2, 5), strict=True)
        ]
    for row, expected, length in zip(found.sequences, alone, (2, 5), strict=True):
        assert row[5 - length :].tolist() == expected.tolist()
        text = expected[None]
        if "num_beams" not in settings:
            greedy = by_hand(model, vectors, text, length)[0, length - 1 : -1].argmax(-1)
            assert greedy.tolist() == text[0, length:].tolist()
    with attach(model, vectors), pytest.raises(ConfigError, match=r"padded on the right.*left"):
        model.generate(ids.flip(1), attention_mask=mask.flip(1), **short)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("architecture", ["mamba", "falcon_mamba", "gpt1", "gemma4"])
def test_models_with_another_memory(architecture: str, tokens: str) -> None:
    model = odd_model(architecture)
    vectors = vectors_for(tokens, WIDTH, LAYERS)
    with attach(model, vectors):
        found = model.generate(IDS, **SETTINGS)
    check_call(model, vectors, found)


def test_several_attachments_share_a_watch_and_leave_in_any_order() -> None:
    model = lively_model()
    before = dict(vars(model))
    first, second = vectors_for("prompt"), vectors_for("prompt", seed=2)
    both = vectors_for("prompt")
    both.set_vectors(first.vectors + second.vectors)
    one, other = attach(model, first), attach(model, second)
    check_call(lively_model(), both, model.generate(IDS, **SETTINGS))
    one.remove()
    one.remove()
    check_call(lively_model(), second, model.generate(IDS, **SETTINGS))
    other.remove()
    assert vars(model) == before
    assert inspect.ismethod(model.generate)


def test_what_someone_else_put_in_place_of_generate_stays() -> None:
    model, calls = lively_model(), []
    own = model.generate
    model.generate = lambda *args, **kwargs: (calls.append(1), own(*args, **kwargs))[1]
    theirs, vectors = model.generate, vectors_for("completion")
    with attach(model, vectors):
        check_call(model, vectors, model.generate(IDS, **SETTINGS))
    assert model.generate is theirs
    assert calls == [1]


def test_signatures_and_copies_are_those_of_the_model() -> None:
    model, vectors = lively_model(), vectors_for("prompt")
    plain = inspect.signature(model.prepare_inputs_for_generation)
    with attach(model, vectors):
        assert inspect.signature(model.prepare_inputs_for_generation) == plain
        twin = copy.deepcopy(model)
        steered = model.generate(IDS, **SETTINGS)
    for parameter in model.parameters():
        parameter.zero_()  # the copy must not read them
    found = twin.generate(IDS, **SETTINGS)
    assert torch.equal(found.sequences, steered.sequences)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_model_in_a_wrapper_is_watched() -> None:
    peft = pytest.importorskip("peft")
    model, vectors = lively_model(), vectors_for("prompt")
    vectors.layers_path = "base_model.model.model.layers"
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with attach(wrapped, vectors):
        found = wrapped.generate(input_ids=IDS, **SETTINGS)
    check_call(model, vectors, found)


def test_passes_that_nobody_prepared_are_refused() -> None:
    def loop(model: Any, input_ids: torch.Tensor, **others: Any) -> torch.Tensor:
        model(input_ids)
        return input_ids

    def goes_on(model: Any, input_ids: torch.Tensor, **others: Any) -> torch.Tensor:
        model(**model.prepare_inputs_for_generation(input_ids))
        return loop(model, input_ids[:, -1:])

    model = lively_model()
    with attach(model, vectors_for("prompt")):
        for own in (loop, goes_on):
            with pytest.raises(ConfigError, match=r"tokens whose position .* unknown.*tokens: all"):
                model.generate(IDS, custom_generate=own, **SETTINGS)
        model(IDS)  # outside of `generate` it is a prompt
    with attach(model, vectors_for("all")):
        model.generate(IDS, custom_generate=loop, **SETTINGS)


def changed_weights(model: Any) -> Steering:
    steering = FullFinetune()
    steering.build(model)
    draw = torch.Generator().manual_seed(0)
    for change in steering.parameters():
        change.data.normal_(std=0.1, generator=draw)
    return steering.requires_grad_(False)


@pytest.mark.skipif(
    torch.__version__.startswith("2.6"),
    reason="torch 2.6 can't compile models of transformers 5.23",
)
@pytest.mark.parametrize("kind", ["vectors", "weights"])
def test_generate_does_not_compile_a_steered_model(kind: str) -> None:
    """As it does for a static cache on a GPU; code compiled before would pass by the steering."""
    torch._dynamo.reset()
    model = lively_model()
    steering = vectors_for("all") if kind == "vectors" else changed_weights(model)
    compiling = CompileConfig(backend="eager", fullgraph=False, mode=None)
    compiling._compile_all_devices = True
    settings = {**SETTINGS, "max_new_tokens": 3, "cache_implementation": "static"}
    with attach(model, steering):
        expected = torch.stack(model.generate(IDS, **settings).logits)
    settings["compile_config"] = compiling
    base = torch.stack(model.generate(IDS, **settings).logits)
    assert model._compiled_call is not None
    with attach(model, steering):
        found = torch.stack(model.generate(IDS, **settings).logits)
    torch.testing.assert_close(found, expected)
    assert (found - base).abs().max() > 0.1
    assert torch.equal(torch.stack(model.generate(IDS, **settings).logits), base)


def test_a_generation_config_comes_without_settings_beside_it() -> None:
    """Transformers reports both together as deprecated."""
    model, calls = lively_model(), []
    model.generate = lambda *args, **kwargs: calls.append((args, kwargs))
    config = GenerationConfig(max_new_tokens=3)
    with attach(model, vectors_for("all")):
        model.generate(IDS, config, synced_gpus=False)
        model.generate(IDS, generation_config=config)
        model.generate(IDS, generation_config=None, max_new_tokens=3)
    (first, others), (_, second), (_, third) = calls
    assert others == {"synced_gpus": False}
    assert list(second) == ["generation_config"]
    for found in (first[1], second["generation_config"]):
        assert (found.disable_compile, found.max_new_tokens) == (True, 3)
    assert third == {"generation_config": None, "max_new_tokens": 3, "disable_compile": True}
    assert config.disable_compile is None
