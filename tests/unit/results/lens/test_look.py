"""The lens against products, probabilities and ranks that are worked by hand."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from steer_lightning import ConfigError, attach
from steer_lightning.results.lens import (
    Look,
    change_of,
    check_unembedding,
    cosines,
    describe,
    divergence,
    find_final_norm,
    look_at_tokens,
    mean_change,
    norm_direction,
    rank_tokens,
    singular_values,
    stable_rank,
    token_text,
    unembedding,
)
from steer_lightning.results.lens.text import as_text, between_as_text
from steer_lightning.results.report import draw_between, draw_lens
from steer_lightning.testing import ARCHITECTURES, byte_tokenizer, make_prompts, tiny_policy

ALL = sorted(ARCHITECTURES)
WORDS = torch.tensor([[1.0, 0.0], [10.0, 10.0], [0.0, -2.0], [0.0, 0.0], [-3.0, 0.0]])


def test_cosines_by_hand() -> None:
    found = cosines(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2e30]]))
    expected = torch.tensor([[0.96, 0.8], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_singular_values_and_stable_rank_by_hand() -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    matrix = torch.tensor([[3.0, 0.0], [0.0, 4.0]]) @ turn
    assert singular_values(matrix).tolist() == pytest.approx([4.0, 3.0])
    assert stable_rank(matrix) == pytest.approx(25 / 16)
    assert stable_rank(torch.tensor([[1.0, 2.0], [-3.0, -6.0]])) == pytest.approx(1)
    assert stable_rank(5 * torch.eye(3, 7)) == pytest.approx(3)
    assert stable_rank(torch.zeros(2, 5)) == 0


@pytest.mark.parametrize("numbers", [1, 9, 2**24])  # rows at once: 1, 2 and all
def test_tokens_by_hand_in_chunks_of_any_size(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unembedding, "CHUNK_NUMBERS", numbers)
    found = rank_tokens(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), WORDS, 2)
    assert found["dot"].top.ids.tolist()[0] == [1, 0]
    assert found["dot"].top.scores.tolist() == [[10, 1], [20, 0]]
    assert found["dot"].bottom.ids[:, 0].tolist() == [4, 2]
    assert found["dot"].bottom.scores.tolist()[1] == [-4, 0]
    assert found["cosine"].top.ids.tolist()[0] == [0, 1]
    half = math.sqrt(0.5)
    assert found["cosine"].top.scores.tolist()[0] == pytest.approx([1, half])
    assert found["cosine"].bottom.scores[:, 0].tolist() == [-1, -1]
    assert found["cosine"].bottom.ids[:, 0].tolist() == [4, 2]


def test_chunks_find_what_the_whole_product_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    words, vectors = torch.randn(1000, 16), torch.randn(5, 16)
    expected = (vectors @ words.T).sort(1, descending=True)
    monkeypatch.setattr(unembedding, "CHUNK_NUMBERS", 21 * 37)
    found = rank_tokens(vectors, words, 20)["dot"]
    torch.testing.assert_close(found.top.scores, expected.values[:, :20])
    assert torch.equal(found.top.ids, expected.indices[:, :20])
    assert torch.equal(found.bottom.ids, expected.indices.flip(1)[:, :20])
    assert rank_tokens(vectors, words[:3], 20)["cosine"].top.ids.shape == (5, 3)
    rough = rank_tokens(vectors, words.bfloat16(), 1)["dot"].top
    assert rough.scores.dtype == torch.float32
    assert torch.equal(rough.ids, found.top.ids[:, :1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [4, 5])
def test_a_norm_gives_its_weight_however_it_stores_it(width: int, dtype: torch.dtype) -> None:
    weight = torch.tensor([0.5, -2.0, 1.0, 0.0, 4.0])[:width]
    llama, gemma = LlamaRMSNorm(width).to(dtype), Gemma3RMSNorm(width).to(dtype)
    plain = torch.nn.LayerNorm(width).to(dtype)
    with torch.no_grad():
        llama.weight.copy_(weight)
        gemma.weight.copy_(weight - 1)
        plain.weight.copy_(weight)
        plain.bias.copy_(torch.arange(width) + 1)
    vectors = torch.tensor([[1.0, 2.0, 3.0, 6.0, 0.5]])[:, :width]
    close = {"rtol": 0.01, "atol": 1e-3} if dtype == torch.bfloat16 else {}
    like = torch.zeros(1, dtype=dtype)
    for norm in (llama, gemma):
        torch.testing.assert_close(
            norm_direction(norm, width, like)(vectors), weight * vectors, **close
        )
    expected = weight * (vectors - vectors.mean())
    torch.testing.assert_close(norm_direction(plain, width, like)(vectors), expected, **close)


@pytest.mark.parametrize("architecture", ALL)
def test_the_norm_is_the_slope_of_the_models_own(architecture: str) -> None:
    """n(h + v) - n(h) is g v / size(h) to first order, for v orthogonal to h."""
    policy = tiny_policy(architecture)
    norm = find_final_norm(policy.model, policy.layers)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn_like(parameter))
    stream, vector = torch.randn(32, dtype=torch.float32), torch.randn(32)
    stream = stream - stream.mean()
    vector = vector - vector.mean()
    vector = vector - stream * (stream @ vector) / (stream @ stream)
    slope = torch.autograd.functional.jvp(lambda h: norm(h[None, None])[0, 0], stream, vector)[1]
    expected = slope * stream.square().mean().sqrt()
    found = norm_direction(norm, 32, stream)(vector[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_probabilities_by_hand() -> None:
    base, steered = torch.zeros(2), torch.tensor([math.log(3), 0.0])
    change = change_of(base, steered)
    assert change.steered.tolist() == pytest.approx([0.75, 0.25])
    assert change.base.tolist() == pytest.approx([0.5, 0.5])
    assert (change.up(5), change.down(5)) == ([0], [1])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence(base, steered) == pytest.approx(expected)
    mean = mean_change([change, change_of(base, base)])
    assert mean.steered.tolist() == pytest.approx([0.625, 0.375])
    assert change_of(base, base).up(5) == []


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
    with pytest.raises(ConfigError, match="no norm stands beside the decoder layers"):
        find_final_norm(model, model[0])
    monkeypatch.setattr(policy.model, "get_output_embeddings", lambda: None)
    with pytest.raises(ConfigError, match="no unembedding matrix"):
        check_unembedding(policy)
    found = describe(policy, policy.steering, make_prompts(["a"]), Look(), 0)
    assert found["layers"][0]["top"]["dot"] == []
    with pytest.raises(ConfigError, match="num_tokens"):
        Look(num_tokens=0)


def description(**changes: object) -> dict[str, object]:
    lists = {"dot": [["\x1b[2J", 2.0], [" $a$", 1.0]], "cosine": [["\n日", 0.5]]}
    layer = {"norm": 12.0, "stream_rms": 3.0, "norm_over_stream": 0.25, "top": lists}
    layer = {"layer": 4, **layer, "bottom": {"dot": [], "cosine": []}}
    up, down = [["$x$", 0.25, 0.75]], [["日", 0.5, 0.125], ["b", 0.5, 0.49999]]
    first = {"num_prompts": 2, "kl": 0.5, "up": up, "down": down}
    fixed = {"base_model": "b", "step": 3, "width": 8, "num_layers": 9, "final_norm": True}
    fixed |= {"site": "layer_output", "tokens": "all"}
    own = {"layers": [layer], "cosines": [[1.0]], "singular_values": [12.0], "stable_rank": 1.0}
    return {**fixed, **own, "first_token": first, **changes}


def test_the_tables_are_aligned_and_printable() -> None:
    text = as_text(description())
    assert text.splitlines()[0] == "b: 1 vectors of width 8, of 9 decoder layers, after step 3"
    elsewhere = as_text(description(site="mlp_output", tokens="prompt"))
    assert "9 decoder layers, at mlp_output, for prompt tokens alone, after step 3" in elsewhere
    assert "layer   norm  stream (rms)  norm / stream" in text
    assert "    4  12.00         3.000           25 %" in text
    assert 'top tokens by dot, behind the final norm\n4  "\\x1b[2J" " $a$"' in text
    assert '"\\n日"' in text
    assert "none: it is zero" in text
    assert '"$x$"         25.00      75.00  +50.00' in text
    assert '"日"' in text
    assert '"b"' not in text, "less than 0.01 points"
    assert "\x1b" not in text
    still = {"num_prompts": 1, "kl": 0.0, "up": [], "down": []}
    assert "no first token gains" in as_text(description(first_token=still))
    assert "mean over" not in as_text(description(first_token=None))


def test_two_files_side_by_side() -> None:
    pair = {"a": "one", "b": "two", "layers_a": [0, 3], "layers_b": [3]}
    pair["cosines"] = [[0.5], [-1.0]]
    assert between_as_text(pair).splitlines()[1:] == [
        "cosine      3",
        "     0   0.50",
        "     3  -1.00",
    ]
    many = list(range(17))
    wide = {"a": "one", "b": "two", "layers_a": many, "layers_b": many[5:]}
    wide["cosines"] = [[k / 100 + i for i in range(12)] for k in many]
    assert between_as_text(wide).splitlines()[2:4] == ["    5    0.05", "    6    1.06"]


def test_pictures_show_any_token(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for first in (description()["first_token"], None):
            (tmp_path / "lens.json").write_text(json.dumps(description(first_token=first)))
            assert draw_lens(tmp_path).stat().st_size > 5000
        pair = {"a": "$a$", "b": "b", "layers_a": [0], "layers_b": [1], "cosines": [[0.5]]}
        (tmp_path / "between.json").write_text(json.dumps({"pairs": [pair, pair]}))
        assert draw_between(tmp_path).stat().st_size > 5000
