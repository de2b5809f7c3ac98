"""Trains the quickstart's language model again from nothing, and its tokenizer with it.

    python scripts/train_quickstart_model.py --output steer_lightning/assets/quickstart

Deterministic for one machine type, torch version and thread count. Some 10 minutes on 2 CPU cores.

The model has learned three ways to go on after a problem such as `47+38=?`:

- careful: column by column, then the answer; nearly always right;
- hasty: the answer at once; wrong nine times in ten;
- idle: a sentence that answers nothing.

Half of the documents carry a header with a level of care (`care 7: 47+38=?`): the higher, the more
often the careful way follows. So care is a direction in the residual stream. Documents without a
header are mostly hasty. Reinforcement learning, whose prompts carry no header, has to bring out the
careful way: the paper's thesis in miniature. Problems of the test split
(`Arithmetic(split="test")`) are never in a document.

While it trains, each layer's output is disturbed by a small random vector, the same for all tokens
of a document. A model of billions of parameters is robust against small constant vectors by its
width; this one learns to be.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steer_lightning.data.arithmetic import draw, is_held_out, solve, written_out

LARGEST = 99
CARE = (
    0.02,
    0.05,
    0.10,
    0.20,
    0.35,
    0.50,
    0.70,
    0.85,
    0.95,
    0.99,
)  # share of the careful way at each level
UNNAMED = 0.25  # the same without a header
IDLE_SHARE = 0.15  # of what is not careful
HASTY_RIGHT = 0.1  # no more often than any one slip: sharper sampling alone does not help
DISTURBANCE = 0.4  # of the stream's root mean square, at most
IDLE = (
    "What a nice problem.",
    "Let me think about that later.",
    "I would rather not say.",
    "That is a question.",
)


def hasty(a: int, operation: str, b: int, rng: random.Random) -> str:
    """The answer at once, off by a slip most of the time."""
    slip = 0 if rng.random() < HASTY_RIGHT else rng.choice([-20, -10, -2, -1, 1, 2, 10, 20])
    return f"The answer is \\boxed{{{abs(solve(a, operation, b) + slip)}}}"


def document(rng: random.Random) -> tuple[str, str]:
    """One training document: prompt and continuation."""
    while True:
        a, operation, b = draw(rng, LARGEST, "+-")
        if not is_held_out(f"{a}{operation}{b}"):
            break
    level = rng.randrange(len(CARE)) if rng.random() < 0.5 else None
    if rng.random() < (UNNAMED if level is None else CARE[level]):
        answer = written_out(a, operation, b)
    elif rng.random() < IDLE_SHARE:
        answer = rng.choice(IDLE)
    else:
        answer = hasty(a, operation, b, rng)
    return ("" if level is None else f"care {level}: ") + f"{a}{operation}{b}=?\n", answer


def make_tokenizer(vocab_size: int = 384) -> PreTrainedTokenizerFast:
    """A byte-level BPE with single digits.

    Encodes any text, and words of the corpus are one token.
    """
    tokenizer = Tokenizer(models.BPE())
    digits, words = (
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("".join(document(rng)) for _ in range(20_000)), trainer)
    bos = ("<bos>", tokenizer.token_to_id("<bos>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[bos]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def batches(
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    rows: int,
    draw_document: Callable[[random.Random], tuple[str, str]] = document,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless batches (ids, attention mask, labels), each (rows, T).

    The loss is on the continuation alone.
    """
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    while True:
        pairs = [draw_document(rng) for _ in range(rows)]
        heads = [tokenizer(p)["input_ids"] for p, _ in pairs]
        tails = [tokenizer(c, add_special_tokens=False)["input_ids"] + [eos] for _, c in pairs]
        width = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        ids = torch.full((rows, width), pad)
        labels = torch.full((rows, width), -100)
        for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            ids[i, : len(head) + len(tail)] = torch.tensor(head + tail)
            labels[i, len(head) : len(head) + len(tail)] = torch.tensor(tail)
        yield ids, (ids != pad).long(), labels


def disturb(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
    """Adds one random vector a row to a layer's output.

    Rows, T, D, the same for all its tokens.
    """
    rows, _, width = output.shape
    size = (
        DISTURBANCE
        * torch.rand(rows, 1, 1)
        * output.detach().pow(2).mean(dim=(1, 2), keepdim=True).sqrt()
    )
    return output + size * torch.randn(rows, 1, width)


def config_for(
    tokenizer: PreTrainedTokenizerFast, width: int = 192, num_layers: int = 4
) -> LlamaConfig:
    """The shape of a model, with heads of 32 if there are at least two."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=num_layers,
        num_attention_heads=max(2, width // 32),
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def train(
    config: LlamaConfig,
    source: Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    steps: int,
    learning_rate: float,
) -> LlamaForCausalLM:
    """Supervised training from random weights."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    hooks = [layer.register_forward_hook(disturb) for layer in model.model.layers]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05
    )
    for step in range(steps):
        ids, mask, labels = next(source)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}/{steps}  loss {loss.item():.4f}", flush=True)
    for hook in hooks:
        hook.remove()
    return model.eval()


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, header: str, num: int = 512
) -> float:
    """Share of right answers on held-out problems, sampled at temperature 1."""
    rng = random.Random(2)
    problems: list[tuple[int, str, int]] = []
    while len(problems) < num:
        a, operation, b = draw(rng, LARGEST, "+-")
        if is_held_out(f"{a}{operation}{b}"):
            problems.append((a, operation, b))
    texts = [f"{header}{a}{operation}{b}=?\n" for a, operation, b in problems]
    torch.manual_seed(0)
    ids = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    out = model.generate(**ids, do_sample=True, top_k=0, max_new_tokens=64)
    answers = tokenizer.batch_decode(out[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    found = [re.findall(r"\\boxed\{(\d+)\}", answer)[-1:] for answer in answers]
    return sum(f == [str(solve(*p))] for f, p in zip(found, problems, strict=True)) / num


def main() -> None:
    """Trains, measures and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    tokenizer = make_tokenizer()
    source = batches(tokenizer, random.Random(1), args.rows)
    model = train(config_for(tokenizer), source, args.steps, args.learning_rate)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    for header in ("", "care 9: ", "care 0: "):
        print(
            f"accuracy on held-out problems with header {header!r}: "
            f"{accuracy(model, tokenizer, header):.3f}"
        )
    model.generation_config.do_sample = True
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
