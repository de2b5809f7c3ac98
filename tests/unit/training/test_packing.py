"""Packed updates: no padding, each prompt once; the same gradient."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning.losses import PolicyGradient
from steer_lightning.model.plain_pass import plain_logits
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.rollout.prefill import SHORTEST_SHARED
from steer_lightning.steering import FullFinetune, SteeringVectors
from steer_lightning.steering.tokens import Tokens
from steer_lightning.testing import ARCHITECTURES, RECENT, make_prompts, tiny_policy
from steer_lightning.training import packing
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.packing import (
    Block,
    Blocks,
    PackedForward,
    Packing,
    ancestors,
    attention_blocks,
    by_size,
    is_cheaper,
    row_blocks,
    share_beginnings,
)
from steer_lightning.training.selfcheck import why_not_packed
from tests.odd_places import odd_policy

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt, for windows of 8", "z9"])
CPU = torch.device("cpu")


def test_a_packing_by_hand() -> None:
    prompts = [[1, 2, 3], [7], [1, 2, 3], [1, 2, 3], [1, 2, 3]]
    completions = [[4, 5], [8, 9, 10], [6], [4, 5], [4, 9, 9]]
    packing = Packing(prompts, [0, 5, 0, 0, 0], completions, CPU)
    # the prompt and the 4 once, and no completion's last token
    assert packing.ids.tolist() == [[1, 2, 3, 4, 9, 7, 8, 9]]
    assert packing.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert packing.predictors.tolist() == [2, 3, 5, 6, 7, 2, 3, 4]
    assert packing.targets.tolist() == [4, 5, 8, 9, 10, 6, 9, 9]
    # rows 0 and 3 are the same; row 4 begins as they do
    assert packing.copies.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 0, 6, 7]


def test_equal_texts_of_different_groups_stay_apart() -> None:
    # a token may belong to the prompt of one and to the completion of the other
    packing = Packing([[1, 2], [1]], [0, 1], [[3], [2, 3]], CPU)
    assert packing.ids.tolist() == [[1, 2, 1, 2]]


def test_prompts_share_long_beginnings() -> None:
    examples = list(range(20, 20 + SHORTEST_SHARED))
    prompts = [[*examples, 1, 2], [*examples, 1, 3], [*examples, 1, 2], [*examples[1:], 1]]
    completions = [[4, 5], [6, 7], [8, 9], [8, 9]]
    packing = Packing(prompts, [0, 1, 0, 2], completions, CPU)
    # the last text shares nothing, and prompt 1 what it has in common with prompt 0
    assert packing.ids.tolist() == [[*examples, 1, 2, 4, 8, 3, 6, *examples[1:], 1, 8]]
    at = SHORTEST_SHARED
    depths = [*range(at), at, at + 1, at + 2, at + 2, at + 1, at + 2, *range(at + 1)]
    assert packing.positions.tolist() == [depths]
    assert packing.predictors.tolist() == [at + 1, at + 2, at + 4, at + 5, at + 1, at + 3, 37, 38]
    assert packing.roles[0, at - 1 : at + 6].tolist() == [0, 0, 1, 2, 2, 1, 2]


@pytest.mark.parametrize("end", [[], [1]])
def test_the_last_token_of_a_prompt_is_not_shared_with_another_prompt(end: list[int]) -> None:
    one = list(range(20, 40))
    packing = Packing([one, [*one, *end]], [0, 1], [[1, 5], [1, 6]], CPU)
    assert packing.ids[0].tolist().count(39) == 2
    assert packing.ids[0].tolist().count(38) == 1


@pytest.mark.parametrize("group_size", [1, 3])  # rows, and trees
@pytest.mark.parametrize("tokens", ["all", "completion", "last_prompt"])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3_next"])
def test_shared_examples_leave_the_gradient_as_it_is(
    kind: str, tokens: Tokens, group_size: int
) -> None:
    policy = tiny_policy(kind, SteeringVectors(tokens=tokens))
    with torch.no_grad():
        for weight in policy.steering.parameters():
            weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    examples = "worked examples, which all prompts share; "
    prompts = make_prompts([examples + end for end in ("a", "bc", "ad", "")])
    engine = GenerateEngine()
    engine.setup(policy)
    sampling = Sampling(group_size=group_size, max_new_tokens=5)
    rollouts = engine.generate(prompts, sampling, seed=0, step=0)
    advantages = torch.randn(4, group_size, generator=torch.Generator().manual_seed(0))
    batch = Batch.alone(rollouts, advantages)
    found = []
    for packed in (False, True):
        gradient = BatchGradient(
            policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=10_000, packed=packed
        )
        plan = gradient.plan(batch)
        gradient.accumulate(plan)
        (weight,) = policy.steering.parameters()
        assert weight.grad is not None
        found.append(weight.grad.clone())
    (kept,) = plan.micro_batches
    assert kept.prepared.ids.shape[1] < kept.micro_batch.mask.sum() / (2 * group_size)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])  # the second has tied embeddings
def test_full_fine_tuning_has_the_same_gradient_if_packed(kind: str) -> None:
    """The output layer gets its own gradient, and that of the embeddings where they are tied."""
    policy = tiny_policy(kind, FullFinetune())
    assert why_not_packed(policy) is None
    engine = GenerateEngine()
    engine.setup(policy)
    rollouts = engine.generate(PROMPTS, Sampling(group_size=3, max_new_tokens=5), seed=0, step=0)
    advantages = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for packed in (False, True):
        for parameter in policy.steering.parameters():
            parameter.grad = None
        gradient = BatchGradient(
            policy=policy, loss=PolicyGradient(), temperature=0.8, max_tokens=10_000, packed=packed
        )
        gradient.accumulate(gradient.plan(Batch.alone(rollouts, advantages)))
        grads = [parameter.grad for parameter in policy.steering.parameters()]
        found.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    assert len(found[0]) == sum(weight.numel() for weight in policy.model.parameters())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    head = dict(zip(policy.steering.names, policy.steering.parameters(), strict=True))
    name = "lm_head.weight" if "lm_head.weight" in head else "model.embed_tokens.weight"
    assert bool((head[name].grad.abs().sum(1) > 0).all()), "each token's row, by the softmax"


def blocks_of(texts: list[list[int]], groups: list[int]) -> tuple[list[list[int]], list[Block]]:
    _, positions, rows = share_beginnings(texts, groups, [0] * len(texts))
    return rows, attention_blocks(rows, groups, torch.tensor(positions))


def tree_of(texts: list[list[int]]) -> tuple[list[list[int]], Block]:
    ids, positions, rows = share_beginnings(texts, [0] * len(texts), [0] * len(texts))
    places, lengths = torch.arange(len(ids))[None], torch.tensor([len(ids)])
    return rows, Block(places=places, lengths=lengths, depths=torch.tensor([positions]))


def test_ancestors_by_hand() -> None:
    # the texts a b c, a b d e and a f; depths of a, b, c, d, e, f
    seen = ancestors(torch.tensor([[0, 1, 2, 2, 3, 1]]))
    assert [[j for j in range(6) if seen[0, i, j]] for i in range(6)] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 3],
        [0, 1, 3, 4],
        [0, 5],
    ]


def test_each_token_sees_its_own_text() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = [
        [7, *torch.randint(2, (int(size),), generator=generator).tolist()]
        for size in torch.randint(1, 6, (40,), generator=generator)
    ]
    rows, tree = tree_of(texts)
    mask = tree.mask(None)
    assert mask is not None
    found = {place: seen.nonzero().flatten().tolist() for place, seen in enumerate(mask[0, 0])}
    assert found == {row[k]: row[: k + 1] for row in rows for k in range(len(row))}


def test_masks_of_few_trees_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    depths = torch.tensor([[0, 1, 2, 2, 3, 1], [0, 1, 1, 2, 1, 2], [0, 1, 2, 3, 4, 5]])
    places, lengths = torch.arange(18).view(3, 6), torch.full((3,), 6)
    for window in (None, 2):
        found = []
        for widest in (1024, 6):
            monkeypatch.setattr(packing, "WIDEST_TREE", widest)
            block = Block(places=places, lengths=lengths, depths=depths)
            found.append(block.mask(window))
        assert found[0] is not None
        assert found[0].shape == (3, 1, 6, 6)
        assert torch.equal(*found)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_a_window_counts_tokens_of_the_text(window: int) -> None:
    texts = [[1, 2, 3, 4], [1, 2, 5, 6], [1, 2, 5, 7]]
    rows, tree = tree_of(texts)
    mask = tree.mask(window)
    assert mask is not None
    for row in rows:
        for k, place in enumerate(row):
            seen = mask[0, 0, place].nonzero().flatten().tolist()
            assert seen == row[max(0, k + 1 - window) : k + 1]


def test_rows_need_a_mask_for_a_window_only() -> None:
    (block,) = row_blocks([[0, 1, 2]], CPU)
    assert block.mask(None) is None
    assert block.bias(None, torch.float32) is None
    assert block.mask(3) is None
    found = block.mask(2)
    assert found is not None
    assert found.tolist() == [[True, False, False], [True, True, False], [False, True, True]]
    bias = block.bias(2, torch.bfloat16)
    assert bias is not None
    assert bias.dtype == torch.bfloat16
    out = -math.inf
    assert bias.tolist() == [[0, out, out], [0, 0, out], [out, 0, 0]]
    assert block.bias(2, torch.bfloat16) is bias, "made once for all layers"


def test_groups_are_trees_where_that_is_cheaper() -> None:
    shared = [[1, 2, 3, 4, n] for n in range(4)]  # a tree of 8 tokens, four rows of 5
    apart = [[n, n, n, n, n] for n in range(4)]  # a tree of 20 tokens
    rows, blocks = blocks_of([*shared, *apart], [0] * 4 + [1] * 4)
    by_rows, trees = blocks
    assert trees.places.tolist() == [list(range(8))]
    assert trees.depths is not None
    assert trees.depths.tolist() == [[0, 1, 2, 3, 4, 4, 4, 4]]
    assert sorted(by_rows.places.tolist()) == sorted(rows[4:])


@pytest.mark.parametrize(
    ("tree", "rows", "answer"),
    [(8, [5] * 4, True), (10, [5] * 4, False), (1024, [800] * 8, True), (1025, [800] * 8, False)],
)
def test_is_cheaper(tree: int, rows: list[int], answer: bool) -> None:
    assert is_cheaper(tree, rows) == answer


def test_padding_sees_itself_and_nobody_sees_it() -> None:
    texts = [[1, 2, 3, 4], [1, 2, 3, 5], [6, 7, 8], [6, 7, 8]]
    _, (block,) = blocks_of(texts, [0, 0, 1, 1])
    mask = block.mask(None)
    assert mask is not None
    assert block.lengths.tolist() == [5, 3]
    assert mask[1, 0].tolist() == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [False, False, False, True, False],
        [False, False, False, False, True],
    ]


def test_the_way_back_leaves_padding_out() -> None:
    rows = [[0, 1, 2], [0, 1, 3, 4], [5, 6]]
    blocks = Blocks(row_blocks(rows, CPU), num_tokens=7)
    outputs = [block.places.flatten() * 10 for block in blocks.all]
    assert len(outputs) == 1, "padding, which has place 0, lies behind the real tokens"
    assert blocks.put_back(outputs).tolist() == [[0, 10, 20, 30, 40, 50, 60]]
    # a token that rows share comes from the last row that holds it
    numbered = [torch.arange(12)]
    assert blocks.put_back(numbered).tolist() == [[4, 5, 6, 2, 3, 8, 9]]


def test_buckets_hold_members_of_similar_size() -> None:
    rows = [[0] * length for length in (3, 10, 4, 9, 1, 5)]
    found = [[len(row) for row in bucket] for bucket in by_size(rows)]
    assert found == [[10, 9, 5], [4, 3], [1]]
    assert list(by_size([])) == []


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("layers", [pytest.param("all", marks=pytest.mark.slow), [1]])
def test_packed_and_padded_gradients_agree(architecture: str, layers) -> None:
    policy = tiny_policy(architecture, SteeringVectors(layers=layers))
    policy.steering.set_vectors(torch.randn(len(policy.steering.layers), 32) * 0.1)
    if architecture == "falcon":
        assert "differ" in str(why_not_packed(policy))
        return
    assert why_not_packed(policy) is None
    engine = GenerateEngine()
    engine.setup(policy)
    stops = list(range(40, 80))  # rows of unequal length
    sampling = Sampling(group_size=4, max_new_tokens=14, temperature=0.8, eos_token_ids=stops)
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0)
    advantages = torch.randn(4, 4)
    advantages[1] = 0.0
    advantages[2, 0] = 0.0
    batch = Batch.alone(rollouts, advantages)
    found = []
    for settings in (
        {"packed": False},
        {"packed": True},
        {"packed": True, "max_tokens": 60},
        {"packed": True, "activation_checkpointing": True},
    ):
        plain = {"loss": PolicyGradient(), "temperature": 0.8, "max_tokens": 10_000}
        gradients = BatchGradient(policy=policy, **{**plain, **settings})
        totals = gradients.accumulate(gradients.plan(batch))
        assert totals.mismatch["max"] < 1e-5
        assert policy.steering.weight.grad is not None
        found.append((totals.loss, policy.steering.weight.grad.clone()))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-4, abs=1e-4)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-5)


def check_against_plain_rows(policy: Policy, checkpointed: bool) -> None:
    """Reads rows of several lengths, longer than the windows, some of which begin alike."""
    weight = policy.steering.weight
    weight.data += torch.randn_like(weight) * 0.1
    long, short = PROMPTS[2].token_ids, PROMPTS[3].token_ids
    prompts = [long, short, long, long, short]
    completions = [[9, 8, 7, 6], [5] * 14, [9, 8, 3], [4], [5, 5, 7, 7, 7]]
    factors = torch.rand(5, 14)
    expected = []
    for n, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        chosen = torch.tensor(completion)[:, None]
        logits = plain_logits(policy, prompt, completion)
        expected.append(logits.log_softmax(-1).gather(1, chosen)[:, 0])
        (expected[n] * factors[n, : len(completion)]).sum().backward()
    gradient, weight.grad = weight.grad.clone(), None
    forward = PackedForward(policy)
    packing = Packing(prompts, [0, 1, 0, 0, 1], completions, CPU)
    kinds = [block.depths is None for block in packing.attended.all]
    assert set(kinds) == {True, False}, "one group is read in rows, one as a tree"
    with (
        policy.checkpointed(checkpointed),
        forward.passes(),
        forward.token_states(packing, 1.0) as states,
    ):
        (states.logprobs * factors).sum().backward()
    for found, row in zip(states.logprobs, expected, strict=True):
        torch.testing.assert_close(found[: len(row)], row, atol=1e-5, rtol=0)
    torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tokens", "checkpointed"), [("all", False), ("completion", True)])
@pytest.mark.parametrize("architecture", RECENT)
def test_packed_rows_are_plain_passes(
    architecture: str, tokens: Tokens, checkpointed: bool
) -> None:
    policy = tiny_policy(architecture, SteeringVectors(tokens=tokens))
    check_against_plain_rows(policy, checkpointed)


def test_packed_rows_of_several_streams_are_plain_passes() -> None:
    check_against_plain_rows(odd_policy("gemma3n", SteeringVectors(site="mlp_output")), False)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "opt"])
def test_rows_that_begin_alike_have_the_same_gradient_as_rows_apart(architecture: str) -> None:
    policy = tiny_policy(architecture)
    policy.steering.set_vectors(torch.randn(len(policy.steering.layers), 32) * 0.1)
    engine = GenerateEngine()
    engine.setup(policy)
    rollouts = engine.generate(
        PROMPTS[:2], Sampling(group_size=4, max_new_tokens=9), seed=0, step=0
    )
    ids = rollouts.completion_ids
    ids[1] = ids[0]  # row 1 is row 0, row 2 begins as they do, and row 3 as row 2 does
    ids[2, :4] = ids[0, :4]
    ids[3, :6] = ids[2, :6]
    advantages = torch.randn(2, 4)
    found = []
    for packed in (False, True):
        gradient = BatchGradient(
            policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=10_000, packed=packed
        )
        step = gradient.plan(Batch.alone(rollouts, advantages))
        totals = gradient.accumulate(step)
        assert policy.steering.weight.grad is not None
        found.append((totals.loss, totals.mismatch["mean"], policy.steering.weight.grad.clone()))
    assert found[1][:2] == pytest.approx(found[0][:2], rel=1e-4)
    torch.testing.assert_close(found[1][2], found[0][2], rtol=1e-4, atol=1e-5)
