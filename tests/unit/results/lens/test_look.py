"""The lens against products and probabilities of a plain model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from steer_lightning import ConfigError, attach
from steer_lightning.results.lens import (
    Look,
    check_unembedding,
    describe,
    find_final_norm,
    look_at_tokens,
    stable_rank,
    token_text,
)
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import ARCHITECTURES, byte_tokenizer, make_prompts, tiny_policy
from tests.odd_places import LAYERS, WIDTH, odd_policy

ALL = sorted(ARCHITECTURES)


def test_tokens_as_text() -> None:
    tokenizer = byte_tokenizer()
    (space,), two = tokenizer(" ")["input_ids"], tokenizer("ü")["input_ids"]
    assert token_text(tokenizer, space) == " "
    assert token_text(tokenizer, two[0]) == "Ã", "half a letter has no text: its name"
    assert token_text(tokenizer, tokenizer.eos_token_id) == "<eos>"
    words = Tokenizer(models.WordLevel({"▁the": 0, "the": 1, "<0x0A>": 2}, unk_token="the"))
    words.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    pieces = PreTrainedTokenizerFast(tokenizer_object=words)
    assert [token_text(pieces, k) for k in range(3)] == [" the", "the", "\n"]


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("final_norm", [False, True])
def test_a_row_of_the_unembedding_points_to_its_token(architecture: str, final_norm: bool) -> None:
    policy = tiny_policy(architecture)
    tokens = torch.tensor([70, 199, 5])
    rows = policy.model.get_output_embeddings().weight[tokens].detach().clone()
    if not final_norm or architecture not in ("gpt2", "gpt_neox", "opt", "falcon"):
        # a fresh norm weighs all alike, and some take the mean off
        policy.steering.set_vectors(rows)
        ranks = look_at_tokens(policy, rows, Look(num_tokens=2, final_norm=final_norm))
        assert ranks["cosine"].top.ids[:, 0].tolist() == tokens.tolist()
        assert ranks["cosine"].top.scores[:, 0].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
        own = (rows * rows).sum(1)
        mine = ranks["dot"].top.ids[:, 0] == tokens
        torch.testing.assert_close(ranks["dot"].top.scores[:, 0][mine], own[mine])
    found = describe(policy, policy.steering, [], Look(final_norm=final_norm), None)
    json.dumps(found, allow_nan=False)
    assert found["first_token"] is None
    assert [layer["stream_rms"] for layer in found["layers"]] == [None] * 3


def test_what_is_described_is_what_the_model_does(tmp_path: Path) -> None:
    policy = tiny_policy("qwen2")
    vectors = torch.zeros(3, 32)
    vectors[1:] = torch.randn(2, 32)
    policy.steering.set_vectors(vectors)
    prompts = make_prompts(["ab", "cdefg"])
    found = describe(policy, policy.steering, prompts, Look(num_tokens=4), 7)
    assert (found["step"], found["width"], found["num_layers"]) == (7, 32, 3)
    assert found["layers"][0]["top"] == {"dot": [], "cosine": []}, "zeros point nowhere"
    assert found["layers"][0]["norm_over_stream"] == 0
    assert found["stable_rank"] == pytest.approx(stable_rank(vectors), rel=1e-5)

    # a model of its own, without the policy around it, steered by `attach`
    model = tiny_policy("qwen2").model
    streams: list[torch.Tensor] = []
    layer = policy.layers[2]
    with policy.at_scale(0.0):
        handle = layer.register_forward_hook(lambda m, x, output: streams.append(output[0]))
        for prompt in prompts:
            policy.model(torch.tensor([prompt.token_ids]))
        handle.remove()
    size = torch.cat(streams).detach().square().mean(1).sqrt().median()
    norm = vectors[2].norm()
    assert found["layers"][2]["stream_rms"] == pytest.approx(float(size), rel=1e-5)
    relative = float(norm / (size * math.sqrt(32)))
    assert found["layers"][2]["norm_over_stream"] == pytest.approx(relative, rel=1e-5)

    base, steered, gaps = torch.zeros(259), torch.zeros(259), []
    for prompt in prompts:
        ids = torch.tensor([prompt.token_ids])
        q = model(ids).logits[0, -1].softmax(-1).detach()
        with attach(model, vectors):
            p = model(ids).logits[0, -1].softmax(-1).detach()
        base, steered = base + q / 2, steered + p / 2
        gaps.append(float((p * (p / q).log()).sum()))
    first = found["first_token"]
    assert first["kl"] == pytest.approx(sum(gaps) / 2, rel=1e-4)
    assert [one["kl"] for one in first["prompts"]] == pytest.approx(gaps, rel=1e-4)
    order = (steered - base).sort(descending=True).indices
    tokenizer = policy.tokenizer
    for shown, ids in ((first["up"], order[:4]), (first["down"], order.flip(0)[:4])):
        assert [row[0] for row in shown] == [token_text(tokenizer, int(t)) for t in ids]
        assert [row[1] for row in shown] == pytest.approx(base[ids].tolist(), rel=1e-4)
        assert [row[2] for row in shown] == pytest.approx(steered[ids].tolist(), rel=1e-4)


def test_padding_of_the_vocabulary_is_no_token() -> None:
    policy = tiny_policy()
    policy.model.resize_token_embeddings(320)
    rows = policy.model.get_output_embeddings().weight[[300, 1, 2]].detach().clone()
    assert int(look_at_tokens(policy, rows, Look())["cosine"].top.ids.max()) < 259


def test_models_without_an_unembedding_or_norm_are_refused(monkeypatch) -> None:
    policy = tiny_policy()
    model = torch.nn.Sequential(torch.nn.ModuleList([torch.nn.Linear(2, 2)]))
    with pytest.raises(ConfigError, match="no norm was found beside the decoder layers"):
        find_final_norm(model, model[0])
    monkeypatch.setattr(policy.model, "get_output_embeddings", lambda: None)
    with pytest.raises(ConfigError, match="no unembedding matrix"):
        check_unembedding(policy)
    found = describe(policy, policy.steering, make_prompts(["a"]), Look(), 0)
    assert found["layers"][0]["top"]["dot"] == []
    with pytest.raises(ConfigError, match="num_tokens"):
        Look(num_tokens=0)


@pytest.mark.parametrize(("architecture", "told"), [("deepseek_v4", False), ("gemma4", True)])
def test_the_size_of_several_streams_is_left_out(architecture: str, told: bool) -> None:
    policy = odd_policy(architecture, SteeringVectors(site="mlp_output"))
    policy.steering.set_vectors(torch.randn(LAYERS, WIDTH))
    found = describe(policy, policy.steering, make_prompts(["ab", "cdefg"]), Look(), 7)
    for layer in found["layers"]:
        assert (layer["stream_rms"] is not None) == told
        assert (layer["norm_over_stream"] is not None) == told
        assert layer["norm"] > 0
    assert found["first_token"] is not None
