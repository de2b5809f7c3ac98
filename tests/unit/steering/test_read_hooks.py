"""The hooks of READ: states within one pass, and passes in which they can't be right."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from steer_lightning import ConfigError, attach
from steer_lightning.steering import READ
from steer_lightning.testing import tiny_model
from tests.unit.steering.helpers import IDS
from tests.unit.steering.test_read import disturb


def test_a_token_alone_and_a_pass_left_halfway() -> None:
    """Nothing is kept from other tokens, of a cache, nor from another pass."""
    model, read = tiny_model("llama").requires_grad_(False), READ(rank=3)
    read.build(model)
    disturb(read)

    def stop(module: object, args: object) -> None:
        raise KeyboardInterrupt

    with attach(model, read), torch.no_grad():
        whole = model(IDS).logits
        cached = model(IDS[:, :3], use_cache=True)
        rest = model(IDS[:, 3:], past_key_values=cached.past_key_values).logits
        torch.testing.assert_close(torch.cat([cached.logits, rest], dim=1), whole)
        handle = model.model.layers[1].register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            model(IDS[:1, :2])
        handle.remove()
        assert torch.equal(model(IDS).logits, whole)


@pytest.mark.skipif(
    torch.__version__.startswith("2.6"),
    reason="torch 2.6 can't compile models of transformers 5.23",
)
def test_layers_that_are_compiled_each_hand_on_the_state() -> None:
    model, read = tiny_model("llama", layers=2).requires_grad_(False), READ(rank=3)
    read.build(model)
    disturb(read)
    with attach(model, read), torch.no_grad():
        expected = model(IDS, use_cache=False).logits
    torch._dynamo.reset()
    for layer in model.model.layers:
        layer.compile(backend="eager")
    with torch.no_grad():
        base = model(IDS, use_cache=False).logits  # compiles
        with attach(model, read):
            torch.testing.assert_close(model(IDS, use_cache=False).logits, expected)
        assert torch.equal(model(IDS, use_cache=False).logits, base)
    torch._dynamo.reset()


def test_the_checkpointing_of_transformers_changes_no_gradient() -> None:
    """It runs a layer again without its hooks."""
    model, read = tiny_model("llama").requires_grad_(False), READ(rank=3)
    found = []
    with attach(model, read):
        disturb(read)
        model.train()
        for prepare in (lambda: None, model.activation_checkpointing_enable):
            prepare()
            logits = model(IDS, use_cache=False).logits
            found.append(torch.autograd.grad(logits.square().sum(), list(read.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().max() > 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_whose_hooks_run_again_in_the_backward_pass_are_refused(reentrant: bool) -> None:
    model, read = tiny_model("llama").requires_grad_(False), READ()
    with attach(model, read):
        disturb(read)
        hidden = model.model.embed_tokens(IDS).requires_grad_(True)
        place = model.model.rotary_emb(hidden, torch.arange(5)[None])
        for layer in model.model.layers:
            run = partial(layer, position_embeddings=place)
            hidden = checkpoint(run, hidden, use_reentrant=reentrant)
        with pytest.raises(ConfigError, match=r"once and in order.*checkpoint\(layer"):
            hidden.sum().backward()


def test_skipped_and_shared_layers_are_refused() -> None:
    model, read = tiny_model("llama").requires_grad_(False), READ()
    with attach(model, read):
        hidden, middle = model.model.embed_tokens(IDS), model.model.layers[1]
        place = model.model.rotary_emb(hidden, torch.arange(5)[None])
        with pytest.raises(ConfigError, match="each layer to be called once and in order"):
            middle(hidden, position_embeddings=place)
    model.model.layers[1] = model.model.layers[0]
    with pytest.raises(ConfigError, match="same module at several places"):
        attach(model, read)


def test_other_streams_and_missing_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="layers that share keys"):
        READ().build(tiny_model("gemma4"))
    model, read = tiny_model("llama").requires_grad_(False), READ()
    for change, told in (
        (lambda output: output[None], "layers that pass on one stream"),
        (lambda output: output[:, -1:], "states of 5 tokens, but a layer returns 1"),
    ):
        with attach(model, read):
            handle = model.model.layers[1].register_forward_hook(
                lambda _, args, output, change=change: change(output), prepend=True
            )
            with pytest.raises(ConfigError, match=told):
                model(IDS)
            handle.remove()
