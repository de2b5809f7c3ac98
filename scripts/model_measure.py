"""What the self-checks say of a small model, and how far what they accept is from plain passes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from scripts.small_models import LAYERS, small_config, small_model
from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.results.export import FORMATS, export_vectors
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.rollout.completions import longest_text
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.layers import find_layers
from steer_lightning.steering.model_parts import outputs_seen
from steer_lightning.steering.sites import find_sites
from steer_lightning.testing import BOS, VOCABULARY, byte_tokenizer
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import RealRows, fastest
from steer_lightning.types import LossInputs, LossOutput, Problem, Prompt, Rollouts

SITES = ("layer_output", "input_norm", "attention_output", "post_attention_norm", "mlp_output")
LENGTHS = (3, 44, 21, 9)
"""Numbers of tokens of the prompts, on both sides of the windows."""

SAMPLING = Sampling(group_size=3, max_new_tokens=24)
VECTORS = 0.3
"""Standard deviation of the vectors, of the order of the stream's own size."""


def prompts() -> list[Prompt]:
    """Makes prompts of random tokens."""
    ids = torch.randint(3, VOCABULARY, (sum(LENGTHS),), generator=torch.Generator().manual_seed(5))
    return [
        Prompt(id=k, problem=Problem(question="", answer=""), text="", token_ids=(BOS, *row[1:]))
        for k, row in enumerate(map(torch.Tensor.tolist, torch.split(ids, LENGTHS)))
    ]


def measure(name: str, quick: bool = False) -> dict[str, Any]:
    """Measures one architecture.

    Args:
        name: One of `scripts.small_models.NAMES` or `VARIANTS`.
        quick: Whether to measure in float32 alone, and neither units nor sites.

    Returns:
        What was found, as JSON can hold it.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        small_model(name).save_pretrained(folder)
        small_config(name).save_pretrained(folder)  # of a wrapper, transformers saves a part
        byte_tokenizer().save_pretrained(folder)
        try:
            settings = _settings(folder)
            plain = _policy(folder, "float32", settings)
            plain.check_prompts(prompts(), SAMPLING.max_new_tokens, "max_new_tokens")
        except ConfigError as error:
            return {"name": name, "refused": str(error).replace(folder, name)}
        found: dict[str, Any] = {"name": name, "kind": type(plain.model).__name__, **settings}
        found["float32"] = _ways(plain, plain)
        if quick:
            return found
        found["bfloat16"] = _ways(_policy(folder, "bfloat16", settings), plain)
        found["skipping"] = _skipping(plain)
        found["units"] = _units(plain)
        found["sites"] = [site for site in SITES if _moves(plain, site)]
        found["exports"] = [to for to in FORMATS if _exports(plain, folder, to)]
    return found


def _settings(folder: str) -> dict[str, Any]:
    """Returns the path of the layers, if a user has to set it, and the first site that fits.

    Raises:
        ConfigError: If no site fits.
    """
    settings = {"layers_path": _layers_path(folder)}
    for site in ("layer_output", "mlp_output", "attention_output"):
        try:
            policy = _policy(folder, "float32", settings | {"site": site})
            policy.model(input_ids=torch.tensor([prompts()[0].token_ids]), use_cache=False)
            return settings | {"site": site}
        except ConfigError as error:
            refusal = error
    raise refusal


def _layers_path(folder: str) -> str | None:
    model = Policy(folder).empty_base()
    try:
        find_layers(model)
    except ConfigError:
        lists = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList)}
        deep = [name for name, found in lists.items() if len(found) == LAYERS]
        deep = [name for name in deep if "image" not in name and "vision" not in name]
        return next((name for name in deep if "decoder" in name), deep[0] if deep else None)
    return None


def _policy(folder: str, dtype: Any, settings: dict[str, Any]) -> Policy:
    """Loads the small model, with vectors."""
    policy = Policy(folder, dtype=dtype, steering=SteeringVectors(scale="none", **settings))
    policy.load()
    _set_vectors(policy)
    return policy


def _set_vectors(policy: Policy) -> None:
    steering: Any = policy.steering
    shape = (len(steering.layers), steering.width)
    steering.set_vectors(torch.randn(shape, generator=torch.Generator().manual_seed(1)) * VECTORS)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects the package's warnings within the block."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler = logging.getLogger("steer_lightning"), Keep(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _ways(policy: Policy, plain: Policy) -> dict[str, Any]:
    """Measures the engine and the update of a policy against plain float32 passes."""
    found: dict[str, Any] = {}
    engine, rollouts = DecodeEngine(), None
    with _warnings() as told:
        try:
            engine.setup(policy)
            rollouts = engine.generate(prompts(), SAMPLING, seed=0, step=0)
        except ConfigError as error:
            told.append(str(error))
    found["sampling"] = _sampling_way(engine, rollouts, told)
    found["sampling_told"] = told
    if rollouts is None:
        rollouts = _made_up(plain)
    else:
        found["sampling_gap"] = _gaps(rollouts, policy, plain)
    found |= _update(policy, plain, rollouts)
    return found


def _sampling_way(engine: DecodeEngine, rollouts: Rollouts | None, told: list[str]) -> str:
    if rollouts is None:
        return "refused"
    if engine.fallback is None:
        return "fast"
    alone = any("one prompt at a time" in message for message in told)
    return "one prompt at a time" if alone else "generate"


def _made_up(policy: Policy) -> Rollouts:
    """Makes up completions, where none can be sampled."""
    rows, width = len(LENGTHS) * SAMPLING.group_size, SAMPLING.max_new_tokens
    ids = torch.randint(3, VOCABULARY, (rows, width), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([width, 5, 13] * len(LENGTHS))
    return Rollouts(
        prompts=tuple(prompts()),
        group_size=SAMPLING.group_size,
        completion_ids=ids,
        completion_mask=torch.arange(width) < lengths[:, None],
        logprobs=torch.zeros(rows, width),
        texts=tuple([""] * rows),
        finished=torch.ones(rows, dtype=torch.bool),
    )


def _rows(rollouts: Rollouts) -> Iterator[tuple[list[int], list[int]]]:
    """Yields the prompt and the completion of each row."""
    for n, mask in enumerate(rollouts.completion_mask):
        prompt = rollouts.prompts[n // rollouts.group_size].token_ids
        yield list(prompt), rollouts.completion_ids[n][mask].tolist()


def plain_logprobs(policy: Policy, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Reads one text by the model's own forward pass; returns log-probabilities, (T,)."""
    ids = torch.tensor([prompt + completion])
    logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


@torch.no_grad()
def _gaps(rollouts: Rollouts, policy: Policy, plain: Policy) -> dict[str, float]:
    """Compares sampled log-probabilities with plain passes in float32 and in the own dtype."""
    gaps, noise, own = [], [], []
    for (prompt, completion), mask, logprobs in zip(
        _rows(rollouts), rollouts.completion_mask, rollouts.logprobs, strict=True
    ):
        exact = plain_logprobs(plain, prompt, completion)
        same = plain_logprobs(policy, prompt, completion)
        gaps.append((logprobs[mask] - exact).abs())
        own.append((logprobs[mask] - same).abs())
        noise.append((same - exact).abs())
    gap, rounding, close = torch.cat(gaps), torch.cat(noise), torch.cat(own)
    return {
        "max": float(close.max()),
        "mean": float(gap.mean()),
        "noise_mean": float(rounding.mean()),
    }


def weighted(inputs: LossInputs) -> LossOutput:
    """A loss whose gradient is known: minus the mean of A_i * sum_t log pi(y_it)."""
    sums = (inputs.logprobs * inputs.mask).sum(1)
    return LossOutput(loss=-(sums * inputs.advantages).sum() / inputs.num_rows)


def _advantages(rollouts: Rollouts) -> torch.Tensor:
    shape = (len(rollouts.prompts), rollouts.group_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def _plain_gradient(policy: Policy, rollouts: Rollouts) -> torch.Tensor:
    weight = policy.steering.weight
    weight.grad = None
    advantages = _advantages(rollouts).flatten()
    for (prompt, completion), advantage in zip(_rows(rollouts), advantages, strict=True):
        loss = -advantage * plain_logprobs(policy, prompt, completion).sum() / len(advantages)
        loss.backward()
    found: torch.Tensor = weight.grad.clone()
    return found


def _update(policy: Policy, plain: Policy, rollouts: Rollouts) -> dict[str, Any]:
    gradient = BatchGradient(
        policy=policy, loss=weighted, temperature=1.0, max_tokens=100_000, kept_tokens=100_000
    )
    with _warnings() as told:
        try:
            gradient = fastest(gradient)
            gradient = RealRows().right(gradient, rollouts, longest_text(rollouts))
        except ConfigError as error:
            return {"update": "refused", "update_told": [*told, str(error)]}
    way = "packed" if gradient.packed else "padded"
    found = {"update": way if gradient.max_tokens > 1 else "one row at a time", "update_told": told}
    exact = _plain_gradient(plain, rollouts)
    noise = _distance(_plain_gradient(policy, rollouts), exact)
    step = gradient.plan(Batch.alone(rollouts, _advantages(rollouts)), num_reads=2)
    for _ in range(2):  # the second time layers may be skipped
        gradient.accumulate(step)
        gap = _distance(policy.steering.weight.grad, exact)
    return {**found, "update_gap": gap, "update_noise": noise}


def _distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def _like(policy: Policy, **settings: Any) -> SteeringVectors:
    """Returns vectors at the place of those of a policy, or at another one."""
    steering: Any = policy.steering
    place = {"layers_path": steering.layers_path, "site": steering.site}
    return SteeringVectors(**place | settings)


def _skipping(policy: Policy) -> dict[str, Any]:
    """Measures the update of the upper layers alone, where the lower ones are skipped."""
    first = policy.steering.num_layers // 2
    layers = list(range(first, 2 * first))
    policy.steer(_like(policy, scale="none", layers=layers))
    _set_vectors(policy)
    return _update(policy, policy, _made_up(policy))


def _units(policy: Policy) -> float | str:
    """Measures units in a batch, and compares them with what single texts give, relatively."""
    policy.steer(_like(policy, scale="rms"))
    texts = [list(prompt.token_ids) for prompt in prompts()]
    try:
        policy.measure_units(texts)
    except ConfigError as error:
        return str(error)
    sizes: list[list[torch.Tensor]] = [[] for _ in policy.steering.layers]

    def keep(number: int, stream: torch.Tensor) -> None:
        sizes[number].append(stream.float().pow(2).mean(-1).sqrt().flatten())

    places = find_sites(policy.layers, policy.steering.layers, policy.steering.site)
    with torch.no_grad(), outputs_seen(places, keep), policy.at_scale(0.0):
        for ids in texts:
            policy.model(input_ids=torch.tensor([ids]), use_cache=False)
    exact = torch.stack([torch.cat(found).median() for found in sizes])
    return float(((policy.steering.unit - exact) / exact).abs().max())


def _moves(policy: Policy, site: Any) -> bool:
    """Tells whether vectors can be set at a site, and move the logits."""
    ids = torch.tensor([prompts()[1].token_ids])
    try:
        policy.steer(_like(policy, scale="none", site=site))
        with torch.no_grad():
            before = policy.model(input_ids=ids, use_cache=False).logits
            _set_vectors(policy)
            after = policy.model(input_ids=ids, use_cache=False).logits
    except ConfigError:
        return False
    return float((after - before).abs().max()) > 1e-3


def _exports(policy: Policy, folder: str, to: str) -> bool:
    """Tells whether vectors can be exported to a format, which then agrees with the model."""
    try:
        policy.steer(_like(policy, scale="none", site="layer_output"))
        _set_vectors(policy)
        steering: Any = policy.steering
        export_vectors(steering, to=to, output=f"{folder}/{to}", merge_from=folder)
    except ConfigError:
        return False
    return True


def faults(found: dict[str, Any]) -> list[str]:
    """Returns what is wrong without a word, and what is no error with an explanation.

    Args:
        found: Result of `measure`, or one with the key `raised`, the error that it raised.
    """
    if "raised" in found:
        return [f"raised {found['raised']}"]
    wrong = []
    for part in ("float32", "bfloat16", "skipping"):
        ways = found.get(part, {})
        gaps = ways.get("sampling_gap", {})
        exact = part != "bfloat16"
        sampled, trained = (1e-3, 0.01) if exact else (0.1, 0.15)
        gap = gaps.get("max" if exact else "mean", 0.0)
        if not gap <= max(sampled, 2 * gaps.get("noise_mean", 0.0)):
            wrong.append(f"{part}: sampled log-probabilities are off by {gap:.2g} nats")
        gap = ways.get("update_gap", 0.0)
        if not gap <= max(trained, 2 * ways.get("update_noise", 0.0)):
            wrong.append(f"{part}: the gradient is off by {gap:.0%}")
    if isinstance(found.get("units"), float) and not found["units"] <= 0.05:
        wrong.append(f"units are off by {found['units']:.0%}")
    return wrong
