"""What the next attention and MLP make of vectors, against products and means of a plain model."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.model.attention import open_weights
from steer_lightning.model.policy import Policy
from steer_lightning.results.lens.inside import MOST_TOKENS, check_inside, look_inside
from steer_lightning.results.lens.look import Look
from steer_lightning.steering import AdaptiveVectors, SteeringVectors
from steer_lightning.testing import byte_tokenizer, make_prompts, tiny_model, tiny_policy
from tests.odd_places import LAYERS, WIDTH, odd_policy

TEXTS = make_prompts(["1+23=", "ab"])


def looked(policy: Any, vectors: torch.Tensor, look: Look | None = None) -> dict[str, Any]:
    policy.steering.set_vectors(vectors)
    found = look_inside(policy, policy.steering, TEXTS, look or Look(num_tokens=3))
    json.dumps(found, allow_nan=False)
    return found


def test_figures_are_means_over_all_tokens_but_the_first_of_each_text() -> None:
    torch.manual_seed(2)
    vectors = torch.zeros(3, 32)
    vectors[0] = torch.randn(32)
    found = looked(tiny_policy(), vectors)
    assert (found["num_texts"], found["num_tokens"]) == (2, 5 + 2)
    assert (found["without_attention"], found["without_mlp"]) == ([], [])
    nothing = [{"layer": k, "attention": None, "mlp": None} for k in (1, 2)]
    assert found["alone"][1:] == nothing, "vectors of zeros do nothing"

    model = tiny_model()
    moves, firsts, digits, changes, outputs = [], [], [], [], []
    for prompt in TEXTS:
        ids, pair = torch.tensor([prompt.token_ids]), []
        for scale in (0.0, 1.0):
            seen: list[torch.Tensor] = []
            layer = model.model.layers[0]
            hooks = [
                layer.register_forward_hook(lambda m, x, y, s=scale: y + s * vectors[0]),
                model.model.layers[1].mlp.register_forward_hook(
                    lambda m, x, y, to=seen: to.append(y[0])
                ),
            ]
            with torch.no_grad(), open_weights(model):
                weights = model(ids, output_attentions=True).attentions[1][0]
            for hook in hooks:
                hook.remove()
            pair.append((weights, seen[0]))
        (a, m), (b, n) = pair
        moves.append((b - a).abs().sum(-1)[:, 1:] / 2)
        firsts.append((b - a)[:, 1:, 0])
        number = [False, *(character.isdigit() for character in prompt.text)]
        digits.append((b - a)[:, 1:, torch.tensor(number)].sum(-1))
        changes.append((n - m)[1:])
        outputs.append(m[1:])
    attention, mlp = found["alone"][0]["attention"], found["alone"][0]["mlp"]
    assert (attention["layer"], mlp["layer"]) == (1, 1)
    assert attention["variation"] == pytest.approx(torch.cat(moves, 1).mean(1).tolist(), rel=1e-3)
    first = torch.cat(firsts, 1).mean(1).tolist()
    assert attention["moved"]["first"] == pytest.approx(first, rel=1e-3, abs=1e-7)
    expected = torch.cat(digits, 1).mean(1).tolist()
    assert attention["moved"]["digits"] == pytest.approx(expected, rel=1e-3, abs=1e-7)
    change, output = torch.cat(changes), torch.cat(outputs)
    shares = (change.norm(dim=1) / output.norm(dim=1)).mean()
    assert mlp["relative"] == pytest.approx(float(shares), rel=1e-3)
    along = (change @ vectors[0] / vectors[0].square().sum()).mean()
    assert mlp["along"] == pytest.approx(float(along), rel=1e-3)
    products = model.get_output_embeddings().weight.detach() @ change.mean(0)
    scores = [score for _, score in mlp["top"]["dot"]]
    assert scores == pytest.approx(products.topk(3).values.tolist(), rel=1e-3)
    # with one vector that is not zero, alone and together are the same
    (together,) = [row for row in found["together"]["attention"] if row["layer"] == 1]
    assert together == attention
    mlps = {row["layer"]: row["relative"] for row in found["together"]["mlp"]}
    assert (mlps[0], mlps[1]) == (0, mlp["relative"])


@pytest.mark.parametrize(
    ("site", "compared"),
    [("layer_output", True), ("mlp_output", True), ("input_norm", False)],
)
def test_only_vectors_in_the_stream_are_compared_with_what_an_mlp_adds(
    site: Any, compared: bool
) -> None:
    policy = tiny_policy(steering=SteeringVectors(site=site))
    mlp = looked(policy, torch.ones(3, 32))["alone"][0]["mlp"]
    assert mlp["relative"] > 0
    for key in ("size", "along", "cosine"):
        assert (mlp[key] is not None) == compared
    behind_norm = tiny_policy("gemma3", SteeringVectors(site="mlp_output"))
    assert looked(behind_norm, torch.ones(3, 32))["alone"][0]["mlp"]["along"] is None


def test_a_vector_before_the_norm_of_its_mlp_is_judged_by_the_mlp_of_the_layer_after() -> None:
    torch.manual_seed(2)
    vectors = torch.zeros(3, 32)
    vectors[0] = torch.randn(32)
    found = looked(tiny_policy("gemma3", SteeringVectors(site="mlp_output")), vectors)
    model = tiny_model("gemma3")
    changes, outputs, shares = [], [], []
    for prompt in TEXTS:
        pair, maps = [], []
        for scale in (0.0, 1.0):
            seen: list[torch.Tensor] = []
            hooks = [
                model.model.layers[0].mlp.register_forward_hook(
                    lambda m, x, y, s=scale: y + s * vectors[0]
                ),
                model.model.layers[1].post_feedforward_layernorm.register_forward_hook(
                    lambda m, x, y, to=seen: to.append(y[0])
                ),
            ]
            with torch.no_grad(), open_weights(model):
                read = model(torch.tensor([prompt.token_ids]), output_attentions=True)
            for hook in hooks:
                hook.remove()
            pair.append(seen[0][1:])
            maps.append(read.attentions[1][0])
        changes.append(pair[1] - pair[0])
        outputs.append(pair[0])
        shares.append((maps[1] - maps[0]).abs().sum(-1)[:, 1:] / 2)
    row = found["alone"][0]
    assert (row["attention"]["layer"], row["mlp"]["layer"]) == (1, 1)
    expected = torch.cat(shares, 1).mean(1).tolist()
    assert row["attention"]["variation"] == pytest.approx(expected, rel=1e-3, abs=1e-7)
    change, output = torch.cat(changes), torch.cat(outputs)
    relative = float((change.norm(dim=1) / output.norm(dim=1)).mean())
    assert row["mlp"]["relative"] == pytest.approx(relative, rel=1e-3)
    head = model.get_output_embeddings().weight.detach()
    cosines = torch.nn.functional.cosine_similarity(head, change.mean(0)[None])
    scores = [score for _, score in row["mlp"]["top"]["cosine"]]
    assert scores == pytest.approx(cosines.topk(3).values.tolist(), rel=1e-3)
    assert row["mlp"]["along"] is None, "a norm lies between the vector and the stream"
    changed = {one["layer"]: one["relative"] for one in found["together"]["mlp"]}
    assert (changed[0], changed[1]) == (0, row["mlp"]["relative"])


def test_models_and_layers_that_lack_parts() -> None:
    found = looked(tiny_policy("opt"), torch.ones(3, 32))
    assert (found["without_attention"], found["without_mlp"]) == ([], [0, 1, 2])
    assert found["alone"][0]["mlp"] is None
    assert len(found["alone"][0]["attention"]["variation"]) == 4
    found = looked(tiny_policy("qwen3_5"), torch.ones(3, 32))
    assert found["without_attention"] == [0, 2]
    assert [row["layer"] for row in found["together"]["attention"]] == [1]
    mamba = odd_policy("mamba", SteeringVectors())
    with pytest.raises(ConfigError, match="neither attention nor MLP of MambaForCausalLM"):
        looked(mamba, torch.ones(LAYERS, WIDTH))


def test_a_sliding_window_and_sinks() -> None:
    for architecture in ("gemma3", "gpt_oss"):
        found = looked(tiny_policy(architecture), torch.ones(3, 32))
        shares = [x for row in found["together"]["attention"] for x in row["variation"]]
        assert all(0 <= share <= 1 for share in shares)
        assert max(shares) > 0


class Repeating(nn.Module):
    """A layer whose MLP adds the stream once more: what a vector adds comes back as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Identity()

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return hidden_states + self.mlp(hidden_states)


@pytest.mark.parametrize("tokens", ["all", "prompt", "last_prompt"])
@pytest.mark.parametrize("kind", [SteeringVectors, AdaptiveVectors])
def test_what_was_added_comes_back_once(kind: Any, tokens: Any) -> None:
    policy = Policy("tiny", steering=kind(tokens=tokens))
    policy.tokenizer = byte_tokenizer()
    model = tiny_model()
    for k in range(3):
        model.model.layers[k] = Repeating()
    policy.adopt(model)
    if kind is AdaptiveVectors:
        with torch.no_grad():
            gates: Any = policy.steering.gates
            gates.normal_(generator=torch.Generator().manual_seed(0)).mul_(2)
    found = looked(policy, torch.randn(3, 32, generator=torch.Generator().manual_seed(1)))
    assert found["num_tokens"] == (2 if tokens == "last_prompt" else 5 + 2)
    for row in found["alone"][:2]:
        assert row["mlp"]["layer"] == row["layer"] + 1
        for key in ("size", "along", "cosine"):
            assert row["mlp"][key] == pytest.approx(1, rel=1e-3), key


def test_only_steered_tokens_count() -> None:
    torch.manual_seed(2)
    vectors = torch.zeros(3, 32)
    vectors[0] = torch.randn(32)
    found = looked(tiny_policy(steering=SteeringVectors(tokens="last_prompt")), vectors)
    assert (found["num_texts"], found["num_tokens"]) == (2, 2)
    model = tiny_model()
    shares, changes = [], []
    for prompt in TEXTS:
        seen: list[torch.Tensor] = []
        hook = model.model.layers[1].mlp.register_forward_hook(
            lambda m, x, y, to=seen: to.append(y[0, -1])
        )
        maps = []
        for scale in (0.0, 1.0):
            last = torch.zeros(len(prompt.token_ids), 32)
            last[-1] = scale * vectors[0]
            steer = model.model.layers[0].register_forward_hook(lambda m, x, y, v=last: y + v)
            with torch.no_grad(), open_weights(model):
                read = model(torch.tensor([prompt.token_ids]), output_attentions=True)
            maps.append(read.attentions[1][0, :, -1])
            steer.remove()
        hook.remove()
        shares.append((maps[1] - maps[0]).abs().sum(-1) / 2)
        changes.append(seen[1] - seen[0])
    row = found["alone"][0]
    expected = torch.stack(shares).mean(0).tolist()
    assert row["attention"]["variation"] == pytest.approx(expected, rel=1e-3)
    along = (torch.stack(changes) @ vectors[0]).mean() / vectors[0].square().sum()
    assert row["mlp"]["along"] == pytest.approx(float(along), rel=1e-3)
    size = torch.stack(changes).norm(dim=1).mean() / vectors[0].norm()
    assert row["mlp"]["size"] == pytest.approx(float(size), rel=1e-3)
    (together,) = [one for one in found["together"]["attention"] if one["layer"] == 1]
    assert together == row["attention"]


def test_memory_does_not_grow_with_the_number_of_texts() -> None:
    """While the base reads a text, tensors hold as many numbers as for the text before it."""
    policy, held = tiny_policy(), []

    def count(*_: object) -> None:
        if policy.attachment.scale == 0:
            gc.collect()
            held.append(sum(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor))

    policy.layers[0].register_forward_hook(count)
    vectors: Any = policy.steering
    vectors.set_vectors(torch.ones(3, 32))
    gc.freeze()  # what is there already need not be looked through
    try:
        found = look_inside(policy, vectors, make_prompts(["1+23="] * 4), Look())
    finally:
        gc.unfreeze()
    assert found["num_texts"] == 4
    assert len(set(held[-3:])) == 1, held


def test_adaptive_vectors_act_with_their_gates() -> None:
    policy = tiny_policy(steering=AdaptiveVectors())
    plain = looked(policy, torch.ones(3, 32))["alone"][0]["mlp"]
    with torch.no_grad():
        policy.steering.gates.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore
    assert looked(policy, torch.ones(3, 32))["alone"][0]["mlp"]["relative"] != plain["relative"]


def test_what_can_not_be_read() -> None:
    vectors = {"v": SteeringVectors().shaped(2, 2)}
    with pytest.raises(ConfigError, match=r"inside = True: needs texts of at least two tokens"):
        check_inside([], vectors)
    with pytest.raises(ConfigError, match="at least two tokens"):
        check_inside(make_prompts([""]), vectors)
    with pytest.raises(ConfigError, match=f"a text of {MOST_TOKENS + 1} tokens: it reads at most"):
        check_inside(make_prompts(["a" * MOST_TOKENS]), vectors)
    check_inside(make_prompts(["a" * (MOST_TOKENS - 1)]), vectors)
    late = {"late": SteeringVectors(tokens="completion").shaped(2, 2)}
    with pytest.raises(ConfigError, match="contradicts the vectors late"):
        check_inside(TEXTS, late)
