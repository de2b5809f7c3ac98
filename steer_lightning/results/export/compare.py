"""What is compared: logits on a few texts and on their greedy continuation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from steer_lightning.results.export.base import device

TEXTS = (
    "57+38=?\n",
    "A train leaves at 9:40 and arrives at 13:05. How long does it travel? Let us think step by "
    "step.",
    "Let f(x) = x^2 - 4x + 7. The smallest value of f is",
    "The capital of France is Paris. It lies on the river",
)
ODD_TEXT = "  Zwölf\tBoxkämpfer, 12345678 \n\n漢字 🙂 <|im_start|> \\boxed{7}"
"""What tokenizers are likely to disagree about."""

NUM_GREEDY = 16
"""Tokens of each greedy continuation."""

TOLERANCE = 1e-5
"""Largest difference of logits in float32 that counts as the same, for logits up to 1."""


@dataclass(frozen=True)
class Probe:
    """Texts as tokens, each with room for its continuation.

    Causal models do not look at what stands behind, so the padding needs no mask.

    Attributes:
        tokens: (B, T) int64, padded on the right.
        lengths: (B,) int64, tokens of each text before its continuation.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor

    @property
    def predicting(self) -> torch.Tensor:
        """(B, NUM_GREEDY) int64, places whose logits predict the continuation."""
        return self.lengths[:, None] - 1 + torch.arange(NUM_GREEDY)

    @property
    def real(self) -> torch.Tensor:
        """(B, T) bool, places that are compared: no padding, and no continuation's last token."""
        end = self.lengths[:, None] + NUM_GREEDY - 1
        return torch.arange(self.tokens.shape[1]) < end


def make_probe(tokenizer: PreTrainedTokenizerBase) -> Probe:
    """`TEXTS` in a model's tokens."""
    rows = [list(tokenizer(text)["input_ids"]) or [0] for text in TEXTS]
    longest = max(map(len, rows)) + NUM_GREEDY
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return Probe(tokens=tokens, lengths=torch.tensor([len(row) for row in rows]))


def read_differently(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str | None:
    """A text that a folder's tokenizer turns into other tokens; None if there is none.

    A tokenizer's class is chosen by the model type, too, which an export changes.

    Args:
        tokenizer: The base's.
        folder: Of the export.
    """
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in (*TEXTS, ODD_TEXT):
        if tokenizer(text)["input_ids"] != theirs(text)["input_ids"]:
            return text
    return None


@torch.no_grad()
def logits_of(model: Any, probe: Probe) -> torch.Tensor:
    """(B, T, V) float32, on the CPU."""
    logits: torch.Tensor = model(input_ids=probe.tokens.to(device()), use_cache=False).logits
    return logits.float().cpu()


@torch.no_grad()
def continue_greedily(model: Any, probe: Probe) -> tuple[Probe, torch.Tensor]:
    """The most likely continuation of each text, with the logits of all of it.

    Whole forward passes, without a cache: a comparison should not depend on one.

    Returns:
        The probe with its continuation, and logits (B, T, V) float32.
    """
    tokens, rows = probe.tokens.clone(), torch.arange(len(probe.lengths))
    for n in tqdm(range(NUM_GREEDY), desc="steered base", unit="token", leave=False):
        last = (probe.lengths + n - 1).to(device())
        ids = tokens.to(device())
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=last).logits  # (B, B, V)
        tokens[rows, probe.lengths + n] = logits[rows, rows].argmax(-1).cpu()
    longer = Probe(tokens, probe.lengths)
    return longer, logits_of(model, longer)


@dataclass(frozen=True)
class Difference:
    """Of a candidate to a reference, over all texts.

    Attributes:
        largest: Of logits, absolute.
        logits: The reference's largest logit, absolute.
        kl: Mean KL divergence of the next token's distributions, in nats.
        largest_kl: The largest.
        num_tokens: Greedy tokens.
        num_equal: Of these, how many are the candidate's choice, too.
        gap: Where a choice differs first: by how much the reference's choice was ahead.
    """

    largest: float
    logits: float
    kl: float
    largest_kl: float
    num_tokens: int
    num_equal: int
    gap: float

    @property
    def same(self) -> bool:
        """Whether it is rounding of float32 alone."""
        return self.largest <= TOLERANCE * max(1.0, self.logits)

    @property
    def greedy(self) -> str:
        """Whether the greedy text is equal, in words."""
        if self.num_equal == self.num_tokens:
            return "greedy text equal"
        return (
            f"greedy choice equal at {self.num_equal} of {self.num_tokens} tokens "
            f"(first difference where the two best logits are {self.gap:.2g} apart)"
        )

    def facts(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def difference(reference: torch.Tensor, candidate: torch.Tensor, probe: Probe) -> Difference:
    """Compares logits at all places that are no padding.

    The greedy text is the same if the candidate, given the reference's text, chooses the next
    token of it at each place.

    Args:
        reference: (B, T, V) float32.
        candidate: (B, T, V) float32.
        probe: What both read, with the continuation.
    """
    real = probe.real
    ours, theirs = reference[real], candidate[real]
    log_p, log_q = ours.log_softmax(-1), theirs.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
    rows = torch.arange(len(reference))[:, None]
    chosen = reference[rows, probe.predicting]  # (B, NUM_GREEDY, V)
    equal = chosen.argmax(-1) == candidate[rows, probe.predicting].argmax(-1)
    best = chosen.topk(2, dim=-1).values
    gaps = (best[..., 0] - best[..., 1])[~equal]
    return Difference(
        largest=float((ours - theirs).abs().max()),
        logits=float(ours.abs().max()),
        kl=float(kl.mean()),
        largest_kl=float(kl.max()),
        num_tokens=equal.numel(),
        num_equal=int(equal.sum()),
        gap=float(gaps[0]) if len(gaps) else 0.0,
    )
