"""Compares two models by their logits on a few texts and their greedy continuations."""

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
"""Text with parts that tokenizers are likely to read differently."""

NUM_GREEDY = 16
"""Number of tokens in each greedy continuation."""

TOLERANCE = 1e-5
"""Largest difference of float32 logits that counts as equal, for logits up to 1."""


@dataclass(frozen=True)
class Probe:
    """Texts as tokens, each with space for its continuation.

    Causal models do not look at later tokens, so the padding needs no mask.

    Attributes:
        tokens: Tokens of the texts, (B, T) int64, padded on the right.
        lengths: Number of tokens of each text before its continuation, (B,) int64.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor

    @property
    def predicting(self) -> torch.Tensor:
        """Positions whose logits predict the continuation, (B, NUM_GREEDY) int64."""
        return self.lengths[:, None] - 1 + torch.arange(NUM_GREEDY)

    @property
    def real(self) -> torch.Tensor:
        """Mask of the positions to compare, (B, T) bool: no padding, no last tokens of rows."""
        end = self.lengths[:, None] + NUM_GREEDY - 1
        return torch.arange(self.tokens.shape[1]) < end


def make_probe(tokenizer: PreTrainedTokenizerBase) -> Probe:
    """Tokenizes `TEXTS`."""
    rows = [list(tokenizer(text)["input_ids"]) or [0] for text in TEXTS]
    longest = max(map(len, rows)) + NUM_GREEDY
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return Probe(tokens=tokens, lengths=torch.tensor([len(row) for row in rows]))


def read_differently(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str | None:
    """Finds a text that the tokenizer in a folder turns into other tokens; None if there is none.

    The tokenizers can differ because the class of a tokenizer also depends on the model type, which
    an export changes.

    Args:
        tokenizer: Tokenizer of the base.
        folder: Folder of the export.
    """
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in (*TEXTS, ODD_TEXT):
        if tokenizer(text)["input_ids"] != theirs(text)["input_ids"]:
            return text
    return None


@torch.no_grad()
def logits_of(model: Any, probe: Probe) -> torch.Tensor:
    """Returns the logits of a model on the probe, (B, T, V) float32, on the CPU."""
    logits: torch.Tensor = model(input_ids=probe.tokens.to(device()), use_cache=False).logits
    return logits.float().cpu()


@torch.no_grad()
def continue_greedily(model: Any, probe: Probe) -> tuple[Probe, torch.Tensor]:
    """Continues each text greedily, and computes the logits of the text with its continuation.

    Each token takes a whole forward pass, because the comparison should not depend on a cache.

    Returns:
        The probe with its continuations, and the logits, (B, T, V) float32.
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
    """The difference between a candidate and a reference, over all texts.

    Attributes:
        largest: Largest absolute difference of logits.
        logits: Largest absolute logit of the reference.
        kl: Mean KL divergence of the distributions of the next token, in nats.
        largest_kl: Largest KL divergence, in nats.
        num_tokens: Number of greedy tokens.
        num_equal: Number of those tokens that the candidate also chooses.
        gap: Difference of the reference's two best logits at the first differing choice.
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
        """Whether the logits differ by no more than float32 rounding."""
        return self.largest <= TOLERANCE * max(1.0, self.logits)

    @property
    def greedy(self) -> str:
        """Text that says whether the greedy texts are equal."""
        if self.num_equal == self.num_tokens:
            return "greedy text equal"
        return (
            f"greedy choice equal at {self.num_equal} of {self.num_tokens} tokens "
            f"(first difference where the two best logits are {self.gap:.2g} apart)"
        )

    def facts(self) -> dict[str, float]:
        """Returns the attributes as a dictionary, for JSON."""
        return asdict(self)


def difference(reference: torch.Tensor, candidate: torch.Tensor, probe: Probe) -> Difference:
    """Compares logits at all positions that are not padding.

    The greedy texts are equal if the candidate, given the reference's text, chooses the next token
    of that text at each position.

    Args:
        reference: Logits of the reference, (B, T, V) float32.
        candidate: Logits of the candidate, (B, T, V) float32.
        probe: Texts that both models read, with their continuations.
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
